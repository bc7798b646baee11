"""What a transaction queue has sent and what it cost, read beside its writer."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from market.errors import ConfigError
from market.transaction_queue import State

DEPTH = 64
"""Blocks below the newest of ours that a reorganisation is not expected to reach: their gas is added up once."""
_COLUMNS = (
    "id, key, label, state, created_at, block_number, json_extract(receipt, '$.transactionHash') AS hash, "
    "json_extract(receipt, '$.gasUsed') AS gas, json_extract(receipt, '$.effectiveGasPrice') AS price"
)


@dataclass(frozen=True)
class PastTransaction:
    """One nonce; `created_at` in unix seconds. In no block yet: no gas, no fee, and `hash` is ""."""

    id: int
    key: str | None
    label: str
    state: State
    created_at: int
    block_number: int
    hash: str
    gas_used: int
    fee_wei: int


@dataclass(frozen=True)
class Totals:
    """Sums over a whole queue: transactions by state, replacements, gas, and wei paid for it."""

    by_state: dict[State, int]
    replaced: int
    gas_used: int
    fee_wei: int


@dataclass(frozen=True)
class _Settled:
    """What was added up for good: everything up to an id."""

    up_to: int = 0
    gas_used: int = 0
    fee_wei: int = 0


class TransactionHistory:
    """Reads the file of one queue; one that does not exist yet is empty. Not for two threads at once.

    Raises (every method): ConfigError when the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._settled = _Settled()

    def transactions(self, since: int = 0) -> list[PastTransaction]:
        """Those made at or after `since` (unix seconds), oldest first."""
        rows = self._read(f"SELECT {_COLUMNS} FROM transactions WHERE created_at >= ? ORDER BY id", since)  # noqa: S608
        return [_transaction(row) for row in rows]

    def totals(self) -> Totals:
        """Sums up; what is deep in the chain is read once, so that a long history stays cheap."""
        counts = {
            State(row["state"]): int(row["count"])
            for row in self._read("SELECT state, count(*) AS count FROM transactions GROUP BY state")
        }
        total = sum(counts.values())
        if total == 0:
            self._settled = _Settled()  # a development chain started anew
        attempts = sum(int(row["count"]) for row in self._read("SELECT count(*) AS count FROM attempts"))
        found = self._read(f"SELECT {_COLUMNS} FROM transactions WHERE id > ? ORDER BY id", self._settled.up_to)  # noqa: S608
        rows = [_transaction(row) for row in found]
        newest = max((row.block_number for row in rows), default=0)
        settled, gas, wei = self._settled, self._settled.gas_used, self._settled.fee_wei
        firm = True
        for row in rows:
            gas, wei = gas + row.gas_used, wei + row.fee_wei
            firm = firm and row.state is not State.PENDING and row.block_number <= newest - DEPTH
            if firm:
                settled = replace(settled, up_to=row.id, gas_used=gas, fee_wei=wei)
        self._settled = settled
        return Totals(counts, max(attempts - total, 0), gas, wei)

    def _read(self, query: str, *values: object) -> list[sqlite3.Row]:
        if not self._path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=5.0)) as database:
                database.row_factory = sqlite3.Row
                return database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise ConfigError(
                f"The transaction queue {self._path} cannot be read: {error}.", path=str(self._path)
            ) from None


def _transaction(row: sqlite3.Row) -> PastTransaction:
    gas, price = int(row["gas"] or "0x0", 16), int(row["price"] or "0x0", 16)
    return PastTransaction(
        id=row["id"],
        key=row["key"],
        label=row["label"],
        state=State(row["state"]),
        created_at=row["created_at"],
        block_number=row["block_number"] or 0,
        hash=row["hash"] or "",
        gas_used=gas,
        fee_wei=gas * price,
    )
