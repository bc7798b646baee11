"""A journal, what tests put into it, and one that the version before wrote, in the clear."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

from market.hashing import keccak256, pack_tokens, tokens_root
from market.types import Finish, Mode, Output, Quote
from provider.journal import Journal
from provider.pricing import Ask
from tests.unit.provider import samples

NOW = samples.NOW
JOB = keccak256(b"job")
SALT = keccak256(b"salt")
ANSWER = (7, 8, 2)
OUTPUT = Output(tokens_root(ANSWER), len(ANSWER), Finish.STOP)


def quote(nonce: int = 7, **fields: object) -> Quote:
    made = samples.shop().quote(Ask(samples.CLIENT, Mode.QUORUM, samples.request()), samples.situation(), nonce)
    return replace(made, **fields)  # type: ignore[arg-type]


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def add_job(journal: Journal, job_id: bytes = JOB, digest: bytes = b"d" * 32) -> bool:
    return journal.add_job(
        job_id,
        client=samples.CLIENT,
        model_id=samples.MODEL_ID,
        request_hash=samples.request().request_hash,
        quote_digest=digest,
        bond=2**100,
        commit_deadline=NOW + 60,
        now=NOW,
    )


CLEAR_SCHEMA = """
CREATE TABLE quotes (
    digest BLOB PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, client TEXT NOT NULL, model_id BLOB NOT NULL,
    request_hash BLOB NOT NULL, body TEXT NOT NULL, signature BLOB NOT NULL, bond TEXT NOT NULL,
    issued_at INTEGER NOT NULL, valid_until INTEGER NOT NULL, job_id BLOB);
CREATE INDEX quotes_by_request ON quotes (request_hash, valid_until);
CREATE INDEX quotes_by_expiry ON quotes (valid_until) WHERE job_id IS NULL;
CREATE TABLE requests (
    request_hash BLOB PRIMARY KEY, body TEXT NOT NULL, ids BLOB NOT NULL, keep_until INTEGER NOT NULL);
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
CREATE TABLE log_probabilities (job_id BLOB PRIMARY KEY, top INTEGER NOT NULL, body TEXT);
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


IDS, FORMER_ANSWER = (1_234_567, 7_654_321, 9), (2_345_678, 8_765_432)
CLOSED = keccak256(b"closed")
FORMER_OUTPUT = Output(tokens_root(FORMER_ANSWER), 2, Finish.STOP)
NEEDLES = (
    *(token.to_bytes(4) for token in (*IDS[:2], *FORMER_ANSWER)),
    b"likely canaries",
    samples.request(IDS).nonce.hex().encode(),
    FORMER_OUTPUT.output_root.hex().encode(),
    SALT,
)


def in_the_clear(path: Path) -> sqlite3.Connection:
    """What version 1 wrote, with its log full, as kill -9 leaves it."""
    request = samples.request(IDS)
    path.parent.mkdir(exist_ok=True)
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(CLEAR_SCHEMA)
    row = (request.request_hash, json.dumps(request.to_json()), pack_tokens(IDS), NOW)
    old.execute("INSERT INTO requests VALUES (?,?,?,?)", row)
    for job, stage, kept in ((JOB, "ANSWERED", pack_tokens(FORMER_ANSWER)), (CLOSED, "CLOSED", None)):
        old.execute(
            "INSERT INTO jobs (job_id, client, model_id, request_hash, quote_digest, bond, commit_deadline, public, "
            "stage, salt, ids, output, created_at, updated_at) VALUES (?,?,?,?,?,'5',?,0,?,?,?,?,?,?)",
            (job, samples.CLIENT, samples.MODEL_ID, request.request_hash, b"q", NOW, stage, SALT, kept,
             json.dumps(FORMER_OUTPUT.to_json()), NOW, NOW),
        )  # fmt: skip
    made = replace(quote(), provider=samples.OWNER.address)
    old.execute(
        "INSERT INTO quotes VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        (b"q", "7", samples.CLIENT, samples.MODEL_ID, request.request_hash, json.dumps(made.to_json()), b"s" * 65, "5",
         NOW, made.valid_until, JOB),
    )  # fmt: skip
    old.execute("INSERT INTO log_probabilities VALUES (?, 3, 'likely canaries')", (JOB,))
    old.execute("INSERT INTO marks VALUES ('drain', 'kept')")
    assert all(needle in bytes_of(path) for needle in NEEDLES)
    return old
