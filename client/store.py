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
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eth_account.signers.local import LocalAccount

from market.at_rest import Cipher, Undecipherable
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
"""`secret` is encrypted: the request, the prompt, the stop strings, the result. Where it is NULL an older version wrote
the row: `ids`, `body` and `result` have these in the clear, until the job's account opens the store."""


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
        is_encrypted: the key of `client` is not here, so ids, stop_strings and result are empty, messages None, the
            request's root and nonce zero. `JobStore.put` leaves all of these as they are in the store.
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
            self._connection.execute(_SCHEMA)
            self._bring_up_to_date()
        except (OSError, sqlite3.DatabaseError) as error:
            raise ConfigError(
                f"The store of jobs at {path} cannot be opened: {error}.",
                hint="Give another folder with --data-dir, or repair its permissions. Nothing was sent.",
            ) from None

    def put(self, record: JobRecord) -> None:
        """Writes a job, replacing what was known of it. Raises ValueError: a new job of an account that is not here."""
        if record.is_encrypted:  # the rest of the row stays, in the clear or not
            body = _body(record)
            del body["request"]
            statement = "UPDATE job SET state = ?, body = json_patch(body, ?) WHERE market = ? AND job_id = ?"
            self._write(statement, record.state, json.dumps(body), self._market, record.job_id)
        else:
            self._insert(self._market, record)

    def get(self, job_id: bytes) -> JobRecord | None:
        rows = self._read("SELECT * FROM job WHERE market = ? AND job_id = ?", self._market, job_id)
        return self._record(rows[0]) if rows else None

    def find(self, prefix: str) -> list[bytes]:
        """Ids of the jobs whose hex begins with `prefix` (0x or not)."""
        wanted = prefix.lower().removeprefix("0x")
        rows = self._read("SELECT job_id FROM job WHERE market = ?", self._market)
        return [row[0] for row in rows if row[0].hex().startswith(wanted)]

    def all(self, limit: int = 1000) -> list[JobRecord]:
        """Newest first."""
        query = "SELECT * FROM job WHERE market = ? ORDER BY created_at DESC, rowid DESC LIMIT ?"
        return [self._record(row) for row in self._read(query, self._market, limit)]

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
        if not self._has_secrets():
            self._write("ALTER TABLE job ADD COLUMN secret BLOB")
        for row in self._in_the_clear():
            body = json.loads(row[7])
            secret = body | {"ids": unpack_tokens(row[6], row[5]), "result": json.loads(row[8])}
            self._insert(row[0], _record(row, body, secret))
        self._write("COMMIT")
        self._write("PRAGMA wal_checkpoint(TRUNCATE)")

    def _in_the_clear(self) -> list[tuple[Any, ...]]:
        question = "SELECT * FROM job WHERE secret IS NULL AND lower(client) = ?"
        return [] if self._cipher is None else self._read(question, self._cipher.address.lower())

    def _has_secrets(self) -> bool:
        return any(row[1] == "secret" for row in self._read("PRAGMA table_info(job)"))

    def _insert(self, market: str, record: JobRecord) -> None:
        if self._cipher is None or not self._is_ours(record.client):
            raise ValueError(f"a job of {record.client} is written with its key alone")
        self._write(
            "INSERT OR REPLACE INTO job VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            market,
            record.job_id,
            record.client,
            record.created_at,
            record.state,
            len(record.ids),
            b"",
            json.dumps(_body(record)),
            "{}",
            self._cipher.encrypt(json.dumps(_secret(record)).encode(), b"job:" + market.encode() + record.job_id),
        )

    def _is_ours(self, client: str) -> bool:
        return self._cipher is not None and self._cipher.address.lower() == client.lower()

    def _record(self, row: tuple[Any, ...]) -> JobRecord:
        market, job_id, client, body, encrypted = row[0], row[1], row[2], json.loads(row[7]), row[9]
        if self._cipher is None or not self._is_ours(client):
            return _record(row, body, None)
        try:
            secret = self._cipher.decrypt(encrypted, b"job:" + market.encode() + job_id)
        except Undecipherable as error:
            raise Undecipherable(f"The job 0x{job_id.hex()} of the store: {error.message}", hint=error.hint) from None
        return _record(row, body, json.loads(secret))

    def _write(self, statement: str, *values: Any) -> None:
        try:
            with self._lock:
                self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise ConfigError(
                f"The store of jobs cannot be written: {error}.",
                hint="Free some space or close the other program that holds it. Nothing more was sent.",
            ) from None

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()


def _secret(record: JobRecord) -> dict[str, Any]:
    return {
        "request": record.request.to_json(),
        "ids": list(record.ids),
        "messages": record.messages,
        "stopStrings": list(record.stop_strings),
        "result": dict(record.result),
    }


def _body(record: JobRecord) -> dict[str, Any]:
    return {
        "mode": int(record.mode),
        "quorum": record.quorum,
        "commitWindow": record.commit_window,
        "revealWindow": record.reveal_window,
        # without them nobody can try likely prompts against a hash
        "request": dataclasses.replace(record.request, input_root=ZERO32, nonce=ZERO32).to_json(),
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
        "refusals": dict(record.refusals),
        "stepsMs": dict(record.steps_ms),
        "draw": record.draw,
        "terms": None if record.terms is None else record.terms.to_json(),
    }


def _record(row: tuple[Any, ...], body: Mapping[str, Any], secret: Mapping[str, Any] | None) -> JobRecord:
    """`secret`: as `_secret` gives it, None where it cannot be read."""
    _, job_id, client, created_at, state, *_ = row
    kept = {"request": body["request"]} if secret is None else secret
    return JobRecord(
        job_id=job_id,
        client=client,
        created_at=created_at,
        mode=Mode(body["mode"]),
        quorum=body["quorum"],
        commit_window=body["commitWindow"],
        reveal_window=body["revealWindow"],
        request=Request.from_json(kept["request"]),
        ids=tuple(kept.get("ids", ())),
        messages=None if kept.get("messages") is None else tuple(kept["messages"]),
        quotes=tuple(
            StoredQuote(Quote.from_json(q["quote"]), bytes.fromhex(q["signature"][2:]), q["endpoint"])
            for q in body["quotes"]
        ),
        selection_seed=bytes.fromhex(body["seed"]),
        stop_strings=tuple(kept.get("stopStrings", ())),  # absent in records of older clients
        log_probabilities=body.get("logProbabilities", 0),
        state=state,
        post_transaction=body["postTransaction"],
        acceptances={
            provider: StoredAcceptance(Acceptance.from_json(a["acceptance"]), bytes.fromhex(a["signature"][2:]))
            for provider, a in body["acceptances"].items()
        },
        refusals=body["refusals"],
        steps_ms=body["stepsMs"],
        result=kept.get("result", {}),
        draw=body.get("draw", 0),
        terms=Quote.from_json(body["terms"]) if body.get("terms") else None,
        is_encrypted=secret is None,
    )


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
