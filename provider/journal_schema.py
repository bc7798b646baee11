"""The journal's tables, and opening the file that has them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from market.at_rest import Cipher
from market.hashing import unpack_tokens
from market.types import Output, Request
from provider.errors import JournalError

BUSY_MILLISECONDS = 5_000  # another process may hold the file for so long

PURPOSE = "journal"
SCHEMA_VERSION = 2
CLEAR_VERSION = 1  # prompts and answers were in the clear
SCHEMA = """
CREATE TABLE quotes (
    digest BLOB PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, client TEXT NOT NULL, model_id BLOB NOT NULL,
    request_hash BLOB NOT NULL, body TEXT NOT NULL, signature BLOB NOT NULL, bond TEXT NOT NULL,
    issued_at INTEGER NOT NULL, valid_until INTEGER NOT NULL, job_id BLOB);
CREATE INDEX quotes_by_request ON quotes (request_hash, valid_until);
CREATE INDEX quotes_by_expiry ON quotes (valid_until) WHERE job_id IS NULL;
CREATE TABLE requests (request_hash BLOB PRIMARY KEY, question BLOB NOT NULL, keep_until INTEGER NOT NULL);
CREATE TABLE acceptances (
    subject_id BLOB NOT NULL, request_hash BLOB NOT NULL, accepted_at INTEGER NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (subject_id, request_hash));
CREATE INDEX acceptances_by_request ON acceptances (request_hash);
CREATE TABLE jobs (
    job_id BLOB PRIMARY KEY, client TEXT NOT NULL, model_id BLOB NOT NULL, request_hash BLOB NOT NULL,
    quote_digest BLOB NOT NULL, bond TEXT NOT NULL, commit_deadline INTEGER NOT NULL, public INTEGER NOT NULL,
    stage TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '',
    salt BLOB, ids BLOB, output TEXT, inference_ms INTEGER, attempts INTEGER NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL DEFAULT '', paid TEXT NOT NULL DEFAULT '0', final_at INTEGER NOT NULL DEFAULT 0,
    release_at INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);
CREATE INDEX jobs_by_stage ON jobs (stage);
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job_id BLOB NOT NULL, stage TEXT NOT NULL, at INTEGER NOT NULL);
CREATE INDEX history_by_job ON history (job_id);
CREATE VIEW open_jobs AS SELECT * FROM jobs WHERE stage NOT IN ('CLOSED', 'REFUSED');
CREATE VIEW unbonded_jobs AS SELECT * FROM jobs WHERE stage IN ('SEEN', 'RUNNING', 'ANSWERED', 'COMMITTING');
CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
ADDED = "CREATE TABLE IF NOT EXISTS log_probabilities (job_id BLOB PRIMARY KEY, top INTEGER NOT NULL, body BLOB)"
"""What older journals lack; programs that do not know it never read it."""


class JournalCipher:
    """What is encrypted in a journal, under the provider's key: a request with its prompt, an answer's ids, and what
    was likely beside them. The rest says nothing that the chain does not show."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher

    def question(self, request: Request, ids: Sequence[int]) -> bytes:
        content = json.dumps({"request": request.to_json(), "ids": list(ids)}).encode()
        return self._cipher.encrypt(content, b"requests:" + request.request_hash)

    def open_question(self, request_hash: bytes, encrypted: bytes) -> tuple[Request, tuple[int, ...]]:
        content = json.loads(self._cipher.decrypt(encrypted, b"requests:" + request_hash))
        return Request.from_json(content["request"]), tuple(content["ids"])

    def answer(self, job_id: bytes, ids: Sequence[int]) -> bytes:
        return self._cipher.encrypt(json.dumps(list(ids)).encode(), b"jobs.ids:" + job_id)

    def open_answer(self, job_id: bytes, encrypted: bytes) -> tuple[int, ...]:
        return tuple(json.loads(self._cipher.decrypt(encrypted, b"jobs.ids:" + job_id)))

    def log_probabilities(self, job_id: bytes, body: str) -> bytes:
        return self._cipher.encrypt(body.encode(), b"log_probabilities:" + job_id)

    def open_log_probabilities(self, job_id: bytes, encrypted: bytes) -> str:
        return self._cipher.decrypt(encrypted, b"log_probabilities:" + job_id).decode()


def encrypt_clear(db: sqlite3.Connection, cipher: JournalCipher) -> None:
    """Brings a journal of `CLEAR_VERSION` to `SCHEMA_VERSION`, in the caller's transaction, which must have ADDED.

    What was in the clear is overwritten in the file (secure_delete); the write-ahead log is the caller's to empty.
    """
    kept = db.execute("SELECT request_hash, body, ids, keep_until FROM requests").fetchall()
    db.execute("DROP TABLE requests")
    db.execute(next(statement for statement in SCHEMA.split(";\n") if "TABLE requests" in statement))
    for row in kept:
        request = Request.from_json(json.loads(row["body"]))
        question = cipher.question(request, unpack_tokens(row["ids"], request.input_tokens))
        db.execute("INSERT INTO requests VALUES (?,?,?)", (row["request_hash"], question, row["keep_until"]))
    for row in db.execute("SELECT job_id, ids, output FROM jobs WHERE ids IS NOT NULL").fetchall():
        ids = unpack_tokens(row["ids"], Output.from_json(json.loads(row["output"])).output_tokens)
        db.execute("UPDATE jobs SET ids = ? WHERE job_id = ?", (cipher.answer(row["job_id"], ids), row["job_id"]))
    for row in db.execute("SELECT job_id, body FROM log_probabilities WHERE body IS NOT NULL").fetchall():
        encrypted = cipher.log_probabilities(row["job_id"], row["body"])
        db.execute("UPDATE log_probabilities SET body = ? WHERE job_id = ?", (encrypted, row["job_id"]))
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_MILLISECONDS / 1000
    )
    connection.row_factory = sqlite3.Row
    return connection


def wrong_version(path: Path, version: int) -> JournalError:
    return JournalError(
        f"The journal {path} has schema version {version}, this program writes version {SCHEMA_VERSION}. "
        "It was left as it is.",
        hint="Run the version of Assay that wrote it until its jobs are closed, then start with a new data_dir.",
        path=str(path),
        has=version,
        needs=SCHEMA_VERSION,
    )
