"""The journal's tables, and opening the file that has them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from provider.errors import JournalError

BUSY_MILLISECONDS = 5_000  # another process may hold the file for so long

SCHEMA_VERSION = 2
CLEAR_VERSION = 1  # prompts and answers were in the clear
CHAIN = "chain"  # the mark that says which chain and contracts it is about
OWNER = "provider"  # the mark that says whose key opens it
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
    answer BLOB, inference_ms INTEGER, attempts INTEGER NOT NULL DEFAULT 0,
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


def connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_MILLISECONDS / 1000
    )
    connection.row_factory = sqlite3.Row
    return connection


def peek(path: Path, name: str) -> str | None:
    """A mark of a journal of any version, which stays as it is; None where there is none, or no journal."""
    if not path.exists():
        return None
    try:
        with closing(connect(f"file:{path}?mode=ro")) as db:
            row = db.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
    except sqlite3.Error:
        return None  # opening it says why
    return None if row is None else str(row["value"])


def wrong_market(path: Path, has: str, needs: str) -> JournalError:
    return JournalError(
        f"The journal {path} belongs to other contracts or another chain. It was left as it is.",
        hint="Set another data_dir, or the manifest that belongs to this one.",
        path=str(path),
        has=has,
        needs=needs,
    )


def wrong_owner(path: Path, owner: str, account: str) -> JournalError:
    return JournalError(
        f"The journal {path} belongs to the provider {owner}: prompts and answers in it are for its key. "
        "It was left as it is.",
        hint=f"Name that provider's keystore, or set another data_dir for {account}.",
        path=str(path),
        has=owner,
        needs=account,
    )


def wrong_version(path: Path, version: int) -> JournalError:
    return JournalError(
        f"The journal {path} has schema version {version}, this program writes version {SCHEMA_VERSION}. "
        "It was left as it is.",
        hint="Run the version of Assay that wrote it until its jobs are closed, then start with a new data_dir.",
        path=str(path),
        has=version,
        needs=SCHEMA_VERSION,
    )
