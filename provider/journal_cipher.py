"""What is encrypted in a journal, under the provider's key, and how an older journal comes to be."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from eth_account.signers.local import LocalAccount

from market.at_rest import Cipher
from market.hashing import unpack_tokens
from market.types import Output, Request
from provider.journal_schema import (
    ADDED,
    CLEAR_VERSION,
    OWNER,
    SCHEMA,
    SCHEMA_VERSION,
    wrong_owner,
    wrong_version,
)
from provider.records import Answered

PURPOSE = "journal"


class JournalCipher:
    """A request with its prompt; an answer with its output and salt; what was likely beside its tokens.

    The output is in it, for its root is a hash that likely answers can be tried against, and the salt, with which
    somebody else could commit to the same. Raises Undecipherable where it opens something.
    """

    def __init__(self, account: LocalAccount) -> None:
        self._cipher = Cipher(account, PURPOSE)

    def question(self, request: Request, ids: Sequence[int]) -> bytes:
        """A request and its prompt's ids, for the row of its hash; `open_question` gives them back."""
        content = json.dumps({"request": request.to_json(), "ids": list(ids)}).encode()
        return self._cipher.encrypt(content, b"requests:" + request.request_hash)

    def open_question(self, request_hash: bytes, encrypted: bytes) -> tuple[Request, tuple[int, ...]]:
        content = json.loads(self._cipher.decrypt(encrypted, b"requests:" + request_hash))
        return Request.from_json(content["request"]), tuple(content["ids"])

    def answer(self, job_id: bytes, answered: Answered) -> bytes:
        """What a job was answered with, for its row; `open_answer` gives it back."""
        ids = None if answered.ids is None else list(answered.ids)
        content = {"ids": ids, "output": answered.output.to_json(), "salt": answered.salt.hex()}
        return self._cipher.encrypt(json.dumps(content).encode(), b"jobs:" + job_id)

    def open_answer(self, job_id: bytes, encrypted: bytes) -> Answered:
        content = json.loads(self._cipher.decrypt(encrypted, b"jobs:" + job_id))
        ids = None if content["ids"] is None else tuple(content["ids"])
        return Answered(ids, Output.from_json(content["output"]), bytes.fromhex(content["salt"]))

    def log_probabilities(self, job_id: bytes, body: str) -> bytes:
        """JSON of what was likely beside a job's answer, for its row; `open_log_probabilities` gives it back."""
        return self._cipher.encrypt(body.encode(), b"log_probabilities:" + job_id)

    def open_log_probabilities(self, job_id: bytes, encrypted: bytes) -> str:
        return self._cipher.decrypt(encrypted, b"log_probabilities:" + job_id).decode()


def bring_up_to_date(db: sqlite3.Connection, path: Path, account: LocalAccount, cipher: JournalCipher) -> bool:
    """Makes the tables of a new journal, or encrypts what an older version wrote, in the caller's transaction. Returns
    whether something was in the clear: its traces in the write-ahead log are the caller's to empty.

    Raises:
        JournalError: of another version, or another provider's. It is left as it is.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version not in (0, CLEAR_VERSION, SCHEMA_VERSION):
        raise wrong_version(path, version)
    if version == 0:
        for statement in SCHEMA.split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute(ADDED)
    address = account.address.lower()
    owner = _owner_of_clear(db, path, address) if version == CLEAR_VERSION else _mark(db, OWNER)
    if owner not in (None, address):
        raise wrong_owner(path, str(owner), address)
    if version == CLEAR_VERSION:
        _encrypt_clear(db, cipher)
    db.execute("INSERT OR REPLACE INTO marks VALUES (?,?)", (OWNER, address))
    return version == CLEAR_VERSION


def _mark(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _owner_of_clear(db: sqlite3.Connection, path: Path, address: str) -> str | None:
    """Whose a journal of `CLEAR_VERSION` is, which did not say it; None where nobody's answers are in it.

    Every quote names its provider. Jobs that were drawn have none: then the queue beside it, of which there is one for
    each key that ever sent something, must be of one provider alone.
    """
    quote = "SELECT json_extract(body, '$.provider') FROM quotes ORDER BY issued_at DESC, rowid DESC LIMIT 1"
    found = db.execute(quote).fetchone()
    if found is not None:
        return str(found[0]).lower()
    if db.execute("SELECT 1 FROM jobs UNION ALL SELECT 1 FROM requests LIMIT 1").fetchone() is None:
        return None
    senders = {file.stem.rpartition("-")[2] for file in path.parent.glob("transactions-*-0x*.sqlite")} - {address}
    return min(senders, default=address)


def _encrypt_clear(db: sqlite3.Connection, cipher: JournalCipher) -> None:
    """From `CLEAR_VERSION` to `SCHEMA_VERSION`; what was in the clear is overwritten in the file (secure_delete).

    The columns have other names than before, so that an older program beside this one fails instead of writing to them.
    """
    kept = db.execute("SELECT request_hash, body, ids, keep_until FROM requests").fetchall()
    db.execute("DROP TABLE requests")
    db.execute(_statement("TABLE requests"))
    for row in kept:
        request = Request.from_json(json.loads(row["body"]))
        question = cipher.question(request, unpack_tokens(row["ids"], request.input_tokens))
        db.execute("INSERT INTO requests VALUES (?,?,?)", (row["request_hash"], question, row["keep_until"]))
    db.execute("ALTER TABLE jobs ADD COLUMN answer BLOB")
    for row in db.execute("SELECT job_id, salt, ids, output FROM jobs WHERE salt IS NOT NULL").fetchall():
        output = Output.from_json(json.loads(row["output"]))
        ids = None if row["ids"] is None else tuple(unpack_tokens(row["ids"], output.output_tokens))
        answer = cipher.answer(row["job_id"], Answered(ids, output, row["salt"]))
        db.execute("UPDATE jobs SET answer = ? WHERE job_id = ?", (answer, row["job_id"]))
    views = ("open_jobs", "unbonded_jobs")
    for view in views:
        db.execute(f"DROP VIEW {view}")
    for column in ("ids", "output", "salt"):
        db.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
    for view in views:
        db.execute(_statement(f"VIEW {view}"))
    for row in db.execute("SELECT job_id, body FROM log_probabilities WHERE body IS NOT NULL").fetchall():
        encrypted = cipher.log_probabilities(row["job_id"], row["body"])
        db.execute("UPDATE log_probabilities SET body = ? WHERE job_id = ?", (encrypted, row["job_id"]))
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _statement(what: str) -> str:
    return next(statement for statement in SCHEMA.split(";\n") if f"CREATE {what}" in statement)
