"""Private inputs of proof jobs: one SQLite file, synced before a client is told that its input is kept.

Write-ahead log with synchronous=FULL, as the journal (provider.journal): what `put` returned from survives kill -9 and
power loss. Inputs are encrypted in it under the prover's key (market.at_rest) until their job is over; then they go.
An input that a job on chain waits for is never given up before that job's deadline, whoever else delivers what.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eth_account.signers.local import LocalAccount

from market.at_rest import Cipher, Undecipherable, emptied_log
from market.hashing import unpack_tokens
from provider.errors import JournalError

SCHEMA_VERSION = 2
_CLEAR_VERSION = 1  # ids and blinding were in the clear
UNPOSTED_INPUTS = 256
"""Inputs that no job names yet: of more, the oldest is given up. Its client delivers again once its job is on chain."""
UNPOSTED_SECONDS = 3_600
"""After so long without a job an input is given up."""
BUSY_MILLISECONDS = 5_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS inputs (
    request_hash BLOB PRIMARY KEY, input BLOB NOT NULL, received INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS claims (
    job_id BLOB PRIMARY KEY, request_hash BLOB NOT NULL, deadline INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS claims_by_request ON claims (request_hash)"""
_UNCLAIMED = "request_hash NOT IN (SELECT request_hash FROM claims)"


@dataclass(frozen=True)
class PrivateInput:
    """What a client delivers for a job whose input is hashed on chain."""

    ids: tuple[int, ...]
    blinding: int


class InputStore:
    """See the module. Thread-safe; every method is one transaction. Times are unix seconds.

    Args:
        path: the file, or ":memory:" to forget with the process.
        account: the prover's; its key opens the inputs. What an older version left in the clear is encrypted first.
    Raises (every method):
        JournalError: the disk is full, the file locked or damaged. Nothing was written.
    """

    def __init__(self, path: Path | str, account: LocalAccount) -> None:
        self._path = path
        self._cipher = Cipher(account, "proof-inputs")
        self._lock = threading.RLock()
        self._log_holds_dropped = False
        with self._mapped():
            if isinstance(path, Path):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)
            self._db = sqlite3.connect(
                str(path), isolation_level=None, check_same_thread=False, timeout=BUSY_MILLISECONDS / 1000
            )
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                self._db.execute(f"PRAGMA {pragma}")
        try:
            self._bring_up_to_date()
        except BaseException:
            self._db.close()
            raise
        self._overwrite()  # an earlier process may have ended between dropping and overwriting

    def _bring_up_to_date(self) -> None:
        with self._writing() as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version not in (0, _CLEAR_VERSION, SCHEMA_VERSION):
                raise JournalError(
                    f"{self._path} has schema version {version}, this program writes version {SCHEMA_VERSION}. It was "
                    "left as it is.",
                    hint="Run the version of Assay that wrote it until its jobs are closed, then move the file away.",
                    path=str(self._path),
                    has=version,
                )
            clear = self._taken_out(db) if version == _CLEAR_VERSION else []
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            for request_hash, given, received in clear:
                self._insert(db, request_hash, given, received)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def put(self, request_hash: bytes, given: PrivateInput, now: int) -> None:
        """Keeps an input; one for the same request takes its place."""
        with self._writing() as db:
            self._insert(db, request_hash, given, now)
            db.execute(
                f"DELETE FROM inputs WHERE rowid IN (SELECT rowid FROM inputs WHERE {_UNCLAIMED} ORDER BY received, "  # noqa: S608 - no foreign text
                f"rowid LIMIT max(0, (SELECT count(*) FROM inputs WHERE {_UNCLAIMED}) - ?))",
                (UNPOSTED_INPUTS,),
            )
        if self._log_holds_dropped:
            self._overwrite()

    def get(self, request_hash: bytes) -> PrivateInput | None:
        with self._lock, self._mapped():
            row = self._db.execute("SELECT input FROM inputs WHERE request_hash = ?", (request_hash,)).fetchone()
            if row is None:
                return None
            content = json.loads(self._cipher.decrypt(row[0], b"inputs:" + request_hash))
        return PrivateInput(tuple(content["ids"]), int(content["blinding"], 16))

    def claim(self, job_id: bytes, request_hash: bytes, deadline: int) -> None:
        """A job on chain waits for this input, delivered or not, until its deadline."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO claims VALUES (?,?,?)", (job_id, request_hash, deadline))

    def release(self, job_id: bytes) -> None:
        """The job is over: its input goes, unless another job waits for the same."""
        with self._writing() as db:
            row = db.execute("DELETE FROM claims WHERE job_id = ? RETURNING request_hash", (job_id,)).fetchone()
            if row is None:
                return
            db.execute(f"DELETE FROM inputs WHERE request_hash = ? AND {_UNCLAIMED}", row)  # noqa: S608
        self._overwrite()

    def forget(self, now: int) -> None:
        """Gives up inputs of jobs whose deadline is past, and those for which no job came."""
        with self._writing() as db:
            late: Sequence[tuple[bytes]] = db.execute(
                "DELETE FROM claims WHERE deadline < ? RETURNING request_hash", (now,)
            ).fetchall()
            db.executemany(f"DELETE FROM inputs WHERE request_hash = ? AND {_UNCLAIMED}", late)  # noqa: S608
            stale = db.execute(
                f"DELETE FROM inputs WHERE received < ? AND {_UNCLAIMED}",  # noqa: S608
                (now - UNPOSTED_SECONDS,),
            ).rowcount
        if late or stale or self._log_holds_dropped:
            self._overwrite()

    def _insert(self, db: sqlite3.Connection, request_hash: bytes, given: PrivateInput, received: int) -> None:
        content = json.dumps({"ids": given.ids, "blinding": hex(given.blinding)}).encode()
        encrypted = self._cipher.encrypt(content, b"inputs:" + request_hash)
        db.execute("INSERT OR REPLACE INTO inputs VALUES (?,?,?)", (request_hash, encrypted, received))

    @staticmethod
    def _taken_out(db: sqlite3.Connection) -> list[tuple[bytes, PrivateInput, int]]:
        """The inputs that version 1 kept, oldest first; its table, which is overwritten, is gone."""
        rows = db.execute("SELECT request_hash, ids, count, blinding, received FROM inputs ORDER BY rowid").fetchall()
        db.execute("DROP TABLE inputs")
        return [
            (request_hash, PrivateInput(tuple(unpack_tokens(ids, count)), int.from_bytes(blinding)), received)
            for request_hash, ids, count, blinding, received in rows
        ]

    def _overwrite(self) -> None:
        """Brings the write-ahead log into the file and cuts it to nothing: what was dropped is nowhere any more.

        Where a reader holds the log, it is tried again at the next change.
        """
        with self._lock, self._mapped():
            self._log_holds_dropped = not emptied_log(self._db, BUSY_MILLISECONDS)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except Undecipherable as error:
            raise JournalError(f"The file {self._path}: {error}", path=str(self._path)) from None
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                f"The file {self._path} cannot be used: {error}. The last change was not made.",
                hint="Check the disk's space and that no other program holds the file.",
                path=str(self._path),
            ) from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._mapped():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
