"""The client's own memory of its jobs: one SQLite file, readable by its owner only.

A job is written here before anything is sent, so that a client that dies at any point can go on with `watch`: the
chain knows the money, this file knows what the chain does not (the prompt's ids, the nonce, the quotes, who accepted).
Prompts and answers are encrypted under the key of the account that posted the job (market.at_rest); `forget` removes
and overwrites them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eth_account.signers.local import LocalAccount

from market.at_rest import Cipher, Undecipherable, emptied_log
from market.chain import DEVELOPMENT_CHAIN_IDS, Chain
from market.errors import ConfigError
from market.hashing import ZERO32, unpack_tokens
from market.types import Acceptance, Mode, Quote, Request

PREPARED, POSTED, FINAL, FAILED = "prepared", "posted", "final", "failed"
LOCK_SECONDS = 10.0
"""How long to wait for another program that is writing."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    market TEXT NOT NULL,
    job_id BLOB NOT NULL,
    client TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    ids BLOB NOT NULL,
    body TEXT NOT NULL,
    result TEXT NOT NULL DEFAULT '{}',
    secret BLOB,
    PRIMARY KEY (market, job_id)
) STRICT
"""
"""`secret` is encrypted: the request, the prompt, the stop strings, what providers said, the result. Where it is NULL
an older version wrote the row: `ids`, `body` and `result` have these in the clear, until the job's account opens the
store.
"""


@dataclass(frozen=True)
class StoredQuote:
    """One replica's quote, its signature and where the replica is reached."""

    quote: Quote
    signature: bytes
    endpoint: str


@dataclass(frozen=True)
class StoredAcceptance:
    """A replica's signed statement that it holds the request."""

    acceptance: Acceptance
    signature: bytes


@dataclass(frozen=True)
class JobRecord:
    """Everything needed to go on with a job after a restart.

    Attributes:
        selection_seed: what decided between equal quotes; the seed of the answer is in the request.
        stop_strings: where this client cuts the answer's text.
        ids: the prompt's token ids; messages: what they were rendered from, None for a prompt given as ids.
        state: prepared (nothing sent yet), posted, final, or failed (the chain refused the post).
        post_transaction: hash, "" before.
        acceptances, refusals: provider (lower case) → signed acceptance, or why the request could not be delivered.
        steps_ms: what was measured before a restart.
        draw: how many replicas the chain draws, and terms: what it offers them; then there are no quotes. Else 0, None.
        is_encrypted: the key of `client` is not here, so ids, stop_strings, refusals and result are empty, messages
            None, and the request is zero but for its model. `JobStore.put` leaves all of these as they are there.
    """

    job_id: bytes
    client: str
    created_at: int
    mode: Mode
    quorum: int
    commit_window: int
    reveal_window: int
    request: Request
    ids: tuple[int, ...]
    messages: tuple[dict[str, str], ...] | None
    quotes: tuple[StoredQuote, ...]
    selection_seed: bytes
    stop_strings: tuple[str, ...] = ()
    log_probabilities: int = 0
    state: str = PREPARED
    post_transaction: str = ""
    acceptances: Mapping[str, StoredAcceptance] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    steps_ms: Mapping[str, int] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    draw: int = 0
    terms: Quote | None = None
    is_encrypted: bool = False

    @property
    def replicas(self) -> int:
        return self.draw or len(self.quotes)

    @property
    def question(self) -> tuple[Request, tuple[int, ...]] | None:
        """The request and its prompt's ids; None where they cannot be read."""
        return None if self.is_encrypted else (self.request, self.ids)


class DamagedRecord(ConfigError):
    """A row of the store that nobody can read."""

    assurance = "It was left as it is."


class JobStore:
    """Jobs of one market in a SQLite file (":memory:" for none). Safe to use from threads.

    Args:
        market: what tells this market from every other (see `market_key`).
        account: opens the jobs that it posted, and may add some. What an older version left of them in the clear is
            encrypted first.

    Raises (constructor):
        ConfigError: the file cannot be opened or is no database.
    """

    def __init__(self, path: Path | str, market: str, account: LocalAccount | None) -> None:
        self._market = market
        self._cipher = None if account is None else Cipher(account, "jobs")
        self._log_is_full = account is not None
        self._lock = threading.Lock()
        try:
            if str(path) != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=LOCK_SECONDS, check_same_thread=False, isolation_level=None
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.row_factory = sqlite3.Row
            self._connection.execute(_SCHEMA)
            if self._cipher is not None:
                self._bring_up_to_date()
                self._empty_log()
        except (OSError, sqlite3.DatabaseError) as error:
            raise ConfigError(
                f"The store of jobs at {path} cannot be opened: {error}.",
                hint="Give another folder with --data-dir, or repair its permissions. Nothing was sent.",
            ) from None

    def put(self, record: JobRecord) -> None:
        """Writes a job, replacing what was known of it.

        Without the key of the account that posted it, only what is not secret. Raises ValueError where it is new.
        """
        if self._is_ours(record.client) and not record.is_encrypted:
            self._insert(self._market, record)
        else:
            statement = "UPDATE job SET state = ?, body = json_patch(body, ?) WHERE market = ? AND job_id = ?"
            changed = self._write(statement, record.state, json.dumps(_body(record)), self._market, record.job_id)
            if not changed:
                raise ValueError(f"a job of {record.client} is written with its key alone")
        self._empty_log()

    def get(self, job_id: bytes) -> JobRecord | None:
        rows = self._read("SELECT * FROM job WHERE market = ? AND job_id = ?", self._market, job_id)
        return self._record(rows[0]) if rows else None

    def find(self, prefix: str) -> list[bytes]:
        """Ids of the jobs whose hex begins with `prefix` (0x or not)."""
        wanted = prefix.lower().removeprefix("0x")
        rows = self._read("SELECT job_id FROM job WHERE market = ?", self._market)
        return [row[0] for row in rows if row[0].hex().startswith(wanted)]

    def all(self, limit: int = 1000) -> list[JobRecord]:
        """Newest first. One that cannot be decrypted is there as of another key; one that is damaged is left out."""
        query = "SELECT * FROM job WHERE market = ? ORDER BY created_at DESC, rowid DESC LIMIT ?"
        records = [self._record_or_less(row) for row in self._read(query, self._market, limit)]
        return [record for record in records if record is not None]

    def forget(self, job_id: bytes) -> None:
        """Removes a job, its prompt and its answer from this machine, and overwrites them. The chain's record stays."""
        self._write("DELETE FROM job WHERE market = ? AND job_id = ?", self._market, job_id)
        self._write("VACUUM")  # no page keeps an older copy
        self._write("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _bring_up_to_date(self) -> None:
        """Encrypts what an older version left in the clear of this account's jobs, on all markets."""
        if self._has_secrets() and not self._in_the_clear():
            return
        self._write("BEGIN IMMEDIATE")  # another program may be at it: it is looked at again
        try:
            if not self._has_secrets():
                self._write("ALTER TABLE job ADD COLUMN secret BLOB")
            for row in self._in_the_clear():
                with suppress(DamagedRecord):  # it stays as it is, and says so when it is read
                    self._insert(row["market"], self._record(row))
            self._write("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise

    def _has_secrets(self) -> bool:
        return any(row["name"] == "secret" for row in self._read("PRAGMA table_info(job)"))

    def _in_the_clear(self) -> list[sqlite3.Row]:
        question = "SELECT * FROM job WHERE secret IS NULL AND lower(client) = ?"
        return [] if self._cipher is None else self._read(question, self._cipher.address.lower())

    def _insert(self, market: str, record: JobRecord) -> None:
        if self._cipher is None:
            raise ValueError("nothing is encrypted without a key")
        self._write(
            "INSERT OR REPLACE INTO job (market, job_id, client, created_at, state, input_tokens, ids, body, secret) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            market,
            record.job_id,
            record.client,
            record.created_at,
            record.state,
            len(record.ids),
            b"",
            json.dumps(_body(record)),
            self._cipher.encrypt(json.dumps(_secret(record)).encode(), _place(market, record.job_id)),
        )

    def _is_ours(self, client: str) -> bool:
        return self._cipher is not None and self._cipher.address.lower() == client.lower()

    def _record(self, row: sqlite3.Row) -> JobRecord:
        """Raises DamagedRecord, Undecipherable."""
        job = f"The job 0x{row['job_id'].hex()} of the store"
        try:
            if "secret" not in row.keys() or row["secret"] is None:  # noqa: SIM118 - a Row is no mapping
                return _record(row, _secret_in_the_clear(row))
            if self._cipher is None or not self._is_ours(row["client"]):
                return _record(row, None)
            return _record(row, json.loads(self._cipher.decrypt(row["secret"], _place(row["market"], row["job_id"]))))
        except Undecipherable as error:
            raise Undecipherable(f"{job}: {error.message}", hint=error.hint) from None
        except (KeyError, TypeError, ValueError) as error:
            kind = type(error).__name__
            raise DamagedRecord(f"{job} is damaged ({kind}).", hint="Restore it from a backup.") from None

    def _record_or_less(self, row: sqlite3.Row) -> JobRecord | None:
        try:
            return self._record(row)
        except Undecipherable:
            return _record(row, None)
        except DamagedRecord:
            return None

    def _empty_log(self) -> None:
        """Once an older version's rows are encrypted, brings the write-ahead log into the file and cuts it to nothing.

        Also at each start with a key: an earlier process may have ended in between. Where a reader holds the log, it is
        tried again at the next `put`.
        """
        if not self._log_is_full:
            return
        with self._lock, suppress(sqlite3.OperationalError):
            self._log_is_full = not emptied_log(self._connection, int(1000 * LOCK_SECONDS))

    def _write(self, statement: str, *values: Any) -> int:
        """Returns how many rows it changed."""
        try:
            with self._lock:
                return self._connection.execute(statement, values).rowcount
        except sqlite3.Error as error:
            raise ConfigError(
                f"The store of jobs cannot be written: {error}.",
                hint="Free some space or close the other program that holds it. Nothing more was sent.",
            ) from None

    def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()


def _place(market: str, job_id: bytes) -> bytes:
    return b"job:" + market.encode() + job_id


def _secret(record: JobRecord) -> dict[str, Any]:
    return {
        "request": record.request.to_json(),
        "ids": list(record.ids),
        "messages": record.messages,
        "stopStrings": list(record.stop_strings),
        "refusals": dict(record.refusals),  # in the words of providers, who know the prompt
        "result": dict(record.result),
    }


def _secret_in_the_clear(row: sqlite3.Row) -> dict[str, Any]:
    """The same, of a row that an older version wrote."""
    body: dict[str, Any] = json.loads(row["body"])
    return body | {"ids": unpack_tokens(row["ids"], row["input_tokens"]), "result": json.loads(row["result"])}


def _body(record: JobRecord) -> dict[str, Any]:
    return {
        "modelId": "0x" + record.request.model_id.hex(),
        "mode": int(record.mode),
        "quorum": record.quorum,
        "commitWindow": record.commit_window,
        "revealWindow": record.reveal_window,
        "quotes": [
            {"quote": q.quote.to_json(), "signature": "0x" + q.signature.hex(), "endpoint": q.endpoint}
            for q in record.quotes
        ],
        "seed": record.selection_seed.hex(),
        "logProbabilities": record.log_probabilities,
        "postTransaction": record.post_transaction,
        "acceptances": {
            provider: {"acceptance": item.acceptance.to_json(), "signature": "0x" + item.signature.hex()}
            for provider, item in record.acceptances.items()
        },
        "stepsMs": dict(record.steps_ms),
        "draw": record.draw,
        "terms": None if record.terms is None else record.terms.to_json(),
    }


def _record(row: sqlite3.Row, secret: Mapping[str, Any] | None) -> JobRecord:
    """`secret`: as `_secret` gives it, None where it cannot be read."""
    body = json.loads(row["body"])
    if secret is None:
        known = _unknown_request(bytes.fromhex(body["modelId"][2:]))
        kept: Mapping[str, Any] = {"ids": (), "messages": None, "refusals": {}, "result": {}}
    else:
        kept, known = secret, Request.from_json(secret["request"])
    return JobRecord(
        job_id=row["job_id"],
        client=row["client"],
        created_at=row["created_at"],
        mode=Mode(body["mode"]),
        quorum=body["quorum"],
        commit_window=body["commitWindow"],
        reveal_window=body["revealWindow"],
        request=known,
        ids=tuple(kept["ids"]),
        messages=None if kept["messages"] is None else tuple(kept["messages"]),
        quotes=tuple(
            StoredQuote(Quote.from_json(q["quote"]), bytes.fromhex(q["signature"][2:]), q["endpoint"])
            for q in body["quotes"]
        ),
        selection_seed=bytes.fromhex(body["seed"]),
        stop_strings=tuple(kept.get("stopStrings", ())),  # absent in records of older clients
        log_probabilities=body.get("logProbabilities", 0),
        state=row["state"],
        post_transaction=body["postTransaction"],
        acceptances={
            provider: StoredAcceptance(Acceptance.from_json(a["acceptance"]), bytes.fromhex(a["signature"][2:]))
            for provider, a in body["acceptances"].items()
        },
        refusals=kept["refusals"],
        steps_ms=body["stepsMs"],
        result=kept["result"],
        draw=body.get("draw", 0),
        terms=Quote.from_json(body["terms"]) if body.get("terms") else None,
        is_encrypted=secret is None,
    )


def _unknown_request(model_id: bytes) -> Request:
    """What shows of a request that cannot be read: its model."""
    return Request(model_id, ZERO32, 0, 0, ZERO32, 0, 0, 0, 0, ZERO32, ZERO32)


def updated(store: JobStore, record: JobRecord, **changes: Any) -> JobRecord:
    """The record with these fields changed, written to the store."""
    record = dataclasses.replace(record, **changes)
    store.put(record)
    return record


def market_key(chain: Chain, jobs: str) -> str:
    """Chain, contract and, on a development chain, its first block: one that is started anew is another market, though
    its contracts and job ids come out the same."""
    key = f"{chain.chain_id}:{jobs.lower()}"
    return f"{key}:{chain.block(0).hash}" if chain.chain_id in DEVELOPMENT_CHAIN_IDS else key
