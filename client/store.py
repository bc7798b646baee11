"""The client's own memory of its jobs: one SQLite file, readable by its owner only.

A job is written here before anything is sent, so that a client that dies at any point can go on with `watch`: the
chain knows the money, this file knows what the chain does not (the prompt's ids, the nonce, the quotes, who accepted).
It holds prompts in the clear; `forget` removes and overwrites them.
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

from market.chain import DEVELOPMENT_CHAIN_IDS, Chain
from market.errors import ConfigError
from market.hashing import pack_tokens, unpack_tokens
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
    PRIMARY KEY (market, job_id)
) STRICT
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

    @property
    def replicas(self) -> int:
        return self.draw or len(self.quotes)


class JobStore:
    """Jobs of one market in a SQLite file (":memory:" for none). Safe to use from threads.

    Args:
        market: what tells this market from every other (see `market_key`).

    Raises (constructor):
        ConfigError: the file cannot be opened or is no database.
    """

    def __init__(self, path: Path | str, market: str) -> None:
        self._market = market
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
        except (OSError, sqlite3.DatabaseError) as error:
            raise ConfigError(
                f"The store of jobs at {path} cannot be opened: {error}.",
                hint="Give another folder with --data-dir, or repair its permissions. Nothing was sent.",
            ) from None

    def put(self, record: JobRecord) -> None:
        """Writes a job, replacing what was known of it."""
        self._write(
            "INSERT OR REPLACE INTO job VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._market,
            record.job_id,
            record.client,
            record.created_at,
            record.state,
            len(record.ids),
            pack_tokens(record.ids),
            json.dumps(_body(record)),
            json.dumps(dict(record.result)),
        )

    def get(self, job_id: bytes) -> JobRecord | None:
        rows = self._read("SELECT * FROM job WHERE market = ? AND job_id = ?", self._market, job_id)
        return _record(rows[0]) if rows else None

    def find(self, prefix: str) -> list[bytes]:
        """Ids of the jobs whose hex begins with `prefix` (0x or not)."""
        wanted = prefix.lower().removeprefix("0x")
        rows = self._read("SELECT job_id FROM job WHERE market = ?", self._market)
        return [row[0] for row in rows if row[0].hex().startswith(wanted)]

    def all(self, limit: int = 1000) -> list[JobRecord]:
        """Newest first."""
        query = "SELECT * FROM job WHERE market = ? ORDER BY created_at DESC, rowid DESC LIMIT ?"
        return [_record(row) for row in self._read(query, self._market, limit)]

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


def _body(record: JobRecord) -> dict[str, Any]:
    return {
        "mode": int(record.mode),
        "quorum": record.quorum,
        "commitWindow": record.commit_window,
        "revealWindow": record.reveal_window,
        "request": record.request.to_json(),
        "messages": record.messages,
        "quotes": [
            {"quote": q.quote.to_json(), "signature": "0x" + q.signature.hex(), "endpoint": q.endpoint}
            for q in record.quotes
        ],
        "seed": record.selection_seed.hex(),
        "stopStrings": list(record.stop_strings),
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


def _record(row: tuple[Any, ...]) -> JobRecord:
    _, job_id, client, created_at, state, input_tokens, ids, text, result = row
    body = json.loads(text)
    return JobRecord(
        job_id=job_id,
        client=client,
        created_at=created_at,
        mode=Mode(body["mode"]),
        quorum=body["quorum"],
        commit_window=body["commitWindow"],
        reveal_window=body["revealWindow"],
        request=Request.from_json(body["request"]),
        ids=tuple(unpack_tokens(ids, input_tokens)),
        messages=None if body["messages"] is None else tuple(body["messages"]),
        quotes=tuple(
            StoredQuote(Quote.from_json(q["quote"]), bytes.fromhex(q["signature"][2:]), q["endpoint"])
            for q in body["quotes"]
        ),
        selection_seed=bytes.fromhex(body["seed"]),
        stop_strings=tuple(body.get("stopStrings", ())),  # absent in records of older clients
        log_probabilities=body.get("logProbabilities", 0),
        state=state,
        post_transaction=body["postTransaction"],
        acceptances={
            provider: StoredAcceptance(Acceptance.from_json(a["acceptance"]), bytes.fromhex(a["signature"][2:]))
            for provider, a in body["acceptances"].items()
        },
        refusals=body["refusals"],
        steps_ms=body["stepsMs"],
        result=json.loads(result),
        draw=body.get("draw", 0),
        terms=Quote.from_json(body["terms"]) if body.get("terms") else None,
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
