"""What a sender has promised to the chain, on disk before the chain hears of it (SQLite, WAL, synchronous=FULL).

One row per nonce, one attempt per signed transaction with that nonce. Only market.transactions writes here.
"""

from __future__ import annotations

import enum
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.chain import Call
from market.errors import ConfigError
from market.fees import Fees

MEMORY = ":memory:"
LOCK_SECONDS = 10.0
"""How long a write waits for another program that has the file open."""
_VERSION = 1
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE transactions (
  id INTEGER PRIMARY KEY, nonce INTEGER NOT NULL, key TEXT, label TEXT NOT NULL, target TEXT NOT NULL,
  data BLOB NOT NULL, value TEXT NOT NULL, gas INTEGER NOT NULL, state TEXT NOT NULL, created_at INTEGER NOT NULL,
  block_number INTEGER, block_hash TEXT, receipt TEXT, error TEXT
);
CREATE UNIQUE INDEX one_row_per_nonce ON transactions (nonce) WHERE state != 'LOST';
CREATE UNIQUE INDEX one_row_per_key ON transactions (key) WHERE state IN ('PENDING', 'MINED');
CREATE INDEX by_state ON transactions (state);
CREATE TABLE attempts (
  hash TEXT PRIMARY KEY, transaction_id INTEGER NOT NULL REFERENCES transactions (id) ON DELETE CASCADE,
  raw BLOB NOT NULL, max_fee TEXT NOT NULL, priority_fee TEXT NOT NULL, created_at INTEGER NOT NULL
);
CREATE INDEX by_transaction ON attempts (transaction_id);
"""


class State(enum.Enum):
    """PENDING → MINED | REVERTED | LOST; a reorg takes MINED and REVERTED back to PENDING."""

    PENDING = "PENDING"
    MINED = "MINED"
    REVERTED = "REVERTED"
    LOST = "LOST"  # somebody else used the nonce: our transaction never happens


@dataclass(frozen=True)
class Attempt:
    """One signed transaction; several attempts of a row differ in fees only."""

    hash: str
    raw: bytes
    fees: Fees


@dataclass(frozen=True)
class Row:
    """One nonce. `attempts` oldest first; `receipt` and `error` as JSON gives them, once there are any."""

    id: int
    nonce: int
    key: str | None
    call: Call
    gas: int
    state: State
    block_number: int | None
    block_hash: str | None
    receipt: dict[str, Any] | None
    error: dict[str, Any] | None
    attempts: tuple[Attempt, ...]


class TransactionQueue:
    """The rows of one sender on one chain. Thread-safe; each method is one durable transaction.

    Raises (constructor):
        ConfigError: the file is unreadable, of another version, or belongs to another key or chain.
    """

    def __init__(self, path: Path | str, *, chain_id: int, address: str) -> None:
        self._lock = threading.RLock()
        self._path = str(path)
        try:
            if isinstance(path, Path):
                path.parent.mkdir(parents=True, exist_ok=True)
            # autocommit; `with self._lock` and explicit BEGIN keep writes whole
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=LOCK_SECONDS)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(self._path, error) from None
        try:
            self._database.row_factory = sqlite3.Row
            self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
            self._prepare(str(path), {"chain_id": str(chain_id), "address": address.lower()})
        except BaseException as error:
            self._database.close()
            if isinstance(error, sqlite3.Error):
                raise _unusable(self._path, error) from None
            raise

    def _prepare(self, path: str, identity: dict[str, str]) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise ConfigError(
                f"The transaction queue {path} has version {version}; this installation writes version {_VERSION}.",
                hint="Use the installation that wrote it until nothing is pending.",
            )
        for name, value in identity.items():
            stored = self.fact(name)
            if stored is None:
                self.set_fact(name, value)
            elif stored != value:
                raise ConfigError(
                    f"The transaction queue {path} belongs to {name.replace('_', ' ')} {stored}, not {value}.",
                    hint="Give each key and chain a queue of its own.",
                )

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def fact(self, name: str) -> str | None:
        with self._lock:
            row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row["value"])

    def set_fact(self, name: str, value: str) -> None:
        with self._lock, self._whole():
            self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # --------------------------------------------------------------------------------------------------- writing

    def add(self, call: Call, *, nonce: int, gas: int, key: str | None, attempt: Attempt, now: int) -> int:
        """Stores a transaction that is about to be broadcast. Returns the row's id."""
        with self._lock, self._whole():
            cursor = self._database.execute(
                "INSERT INTO transactions (nonce, key, label, target, data, value, gas, state, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'PENDING', ?)",
                (nonce, key, call.label, call.to, call.data, str(call.value), gas, now),
            )
            row_id = int(cursor.lastrowid or 0)
            self._insert_attempt(row_id, attempt, now)
        return row_id

    def add_attempt(self, row_id: int, attempt: Attempt, now: int) -> None:
        """Stores a replacement that is about to be broadcast."""
        with self._lock, self._whole():
            self._insert_attempt(row_id, attempt, now)

    def _insert_attempt(self, row_id: int, attempt: Attempt, now: int) -> None:
        fees = attempt.fees
        self._database.execute(
            "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?)",
            (attempt.hash, row_id, attempt.raw, str(fees.max_fee), str(fees.priority_fee), now),
        )

    def forget(self, row_id: int) -> None:
        """Removes a transaction that the endpoint refused for certain: it never happened, its nonce is free."""
        with self._lock, self._whole():
            self._database.execute("DELETE FROM transactions WHERE id = ?", (row_id,))

    def forget_all(self) -> None:
        """Removes everything: the chain it was for is gone."""
        with self._lock, self._whole():
            self._database.execute("DELETE FROM transactions")

    def finish(
        self, row_id: int, state: State, receipt: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> None:
        """Stores how a transaction ended, with its block where there is a receipt."""
        number = int(receipt["blockNumber"], 16) if receipt else None
        block_hash = receipt["blockHash"] if receipt else None
        with self._lock, self._whole():
            self._database.execute(
                "UPDATE transactions SET state=?, block_number=?, block_hash=?, receipt=?, error=? WHERE id=?",
                (state.value, number, block_hash, _dump(receipt), _dump(error), row_id),
            )

    def reopen(self, row_ids: Iterable[int]) -> None:
        """The chain dropped these blocks: their transactions are pending again."""
        with self._lock, self._whole():
            for row_id in row_ids:
                self._reopen(row_id)

    def _reopen(self, row_id: int) -> None:
        pending = (
            "UPDATE transactions SET state='PENDING', block_number=NULL, block_hash=NULL, receipt=NULL, error=NULL"
            " WHERE id = ?"
        )
        try:
            self._database.execute(pending, (row_id,))
        except sqlite3.IntegrityError:  # a reverted one whose key was sent anew: it stays without the key
            self._database.execute("UPDATE transactions SET key=NULL WHERE id = ?", (row_id,))
            self._database.execute(pending, (row_id,))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """BEGIN IMMEDIATE … COMMIT, or ROLLBACK when the body raises."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _unusable(self._path, error) from None
            raise

    # --------------------------------------------------------------------------------------------------- reading

    def get(self, row_id: int) -> Row:
        return self._rows("id = ?", row_id)[0]

    def by_key(self, key: str) -> Row | None:
        """The pending or mined transaction with this idempotency key; a reverted or lost one frees its key."""
        return next(iter(self._rows("key = ? AND state IN ('PENDING', 'MINED')", key)), None)

    def pending(self) -> list[Row]:
        """By nonce."""
        return self._rows("state = 'PENDING'")

    def ended_from_nonce(self, nonce: int) -> list[Row]:
        """Mined and reverted transactions whose nonce is at least this."""
        return self._rows("state IN ('MINED', 'REVERTED') AND nonce >= ?", nonce)

    def ended_after(self, block_number: int) -> list[Row]:
        """Mined and reverted transactions in blocks above this one, by nonce."""
        return self._rows("state IN ('MINED', 'REVERTED') AND block_number > ?", block_number)

    def lost_at(self, nonce: int) -> list[Row]:
        """Transactions of ours whose nonce somebody else used."""
        return self._rows("state = 'LOST' AND nonce = ?", nonce)

    def has_nonce(self, nonce: int) -> bool:
        with self._lock:
            found = self._database.execute(
                "SELECT 1 FROM transactions WHERE nonce = ? AND state != 'LOST'", (nonce,)
            ).fetchone()
        return found is not None

    def _rows(self, condition: str, *arguments: Any) -> list[Row]:
        with self._lock:
            found = self._database.execute(
                f"SELECT * FROM transactions WHERE {condition} ORDER BY nonce",  # noqa: S608 (conditions are ours)
                arguments,
            ).fetchall()
            return [self._row(row) for row in found]

    def _row(self, row: sqlite3.Row) -> Row:
        attempts = self._database.execute(
            "SELECT * FROM attempts WHERE transaction_id = ? ORDER BY rowid", (row["id"],)
        ).fetchall()
        return Row(
            id=row["id"],
            nonce=row["nonce"],
            key=row["key"],
            call=Call(row["target"], row["data"], row["label"], int(row["value"])),
            gas=row["gas"],
            state=State(row["state"]),
            block_number=row["block_number"],
            block_hash=row["block_hash"],
            receipt=_load(row["receipt"]),
            error=_load(row["error"]),
            attempts=tuple(
                Attempt(entry["hash"], entry["raw"], Fees(int(entry["max_fee"]), int(entry["priority_fee"])))
                for entry in attempts
            ),
        )


def _unusable(path: str, error: Exception) -> ConfigError:
    if "locked" in str(error):
        return ConfigError(
            f"The transaction queue {path} is locked by another program. Nothing new was sent.",
            hint="Close whatever has the file open, then try again.",
            code="QueueLocked",
            path=path,
        )
    return ConfigError(
        f"The transaction queue {path} cannot be used: {error}. Nothing new was sent.",
        hint="Free disk space or restore the file; do not delete it while transactions are pending.",
        path=path,
    )


def _dump(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)


def _load(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    loaded: dict[str, Any] = json.loads(text)
    return loaded
