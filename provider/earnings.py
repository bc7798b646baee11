"""What the provider earned and what that cost, by day, model or job: out of the journal and the transaction queue.

Token amounts in base units, gas in gas units and wei; exact integers throughout. A day is one of UTC.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from market.errors import ConfigError
from market.transaction_history import PastTransaction
from provider.journal import Journal
from provider.keys import job_of
from provider.records import JobRow, Stage

DAY = 86_400
NO_JOB = "none"
"""Where a transaction belongs to no job: announcements, stake, withdrawals, disputes."""
_ENDED = (Stage.FINAL, Stage.RELEASING, Stage.CLOSED)


class By(enum.StrEnum):
    """What a line of the report stands for."""

    DAY = "day"
    MODEL = "model"
    JOB = "job"


@dataclass(frozen=True)
class Sums:
    """What adds up.

    Attributes:
        jobs: that became final; paid_jobs: of them, that paid; refused_jobs: assigned and not worked on.
        income: escrow paid to this provider; missed_fees: taken from its bonds for silence. Base units.
        transactions: in a block, whether they succeeded or not; gas: used by them; gas_wei: paid for it.
    """

    jobs: int = 0
    paid_jobs: int = 0
    refused_jobs: int = 0
    income: int = 0
    missed_fees: int = 0
    transactions: int = 0
    gas: int = 0
    gas_wei: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Sums)))

    def to_json(self) -> dict[str, Any]:
        """wei as a decimal string, as everywhere in JSON."""
        return asdict(self) | {"gas_wei": str(self.gas_wei)}


@dataclass(frozen=True)
class Entry:
    """One thing that happened: a job's end or a transaction. `at`: unix seconds."""

    at: int
    model: str
    job: str
    sums: Sums
    refused: str = ""

    def key(self, by: By) -> str:
        if by is By.DAY:
            return datetime.fromtimestamp(self.at, UTC).date().isoformat()
        return self.model if by is By.MODEL else self.job


@dataclass(frozen=True)
class Report:
    """`lines` by day ascending, else by name; `refusals`: reason → jobs."""

    by: By
    lines: tuple[tuple[str, Sums], ...]
    total: Sums
    refusals: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        lines = [{self.by.value: name} | sums.to_json() for name, sums in self.lines]
        return {"by": self.by.value, "lines": lines, "total": self.total.to_json(), "refusals": dict(self.refusals)}

    def to_rows(self) -> list[list[str]]:
        """Head and lines, for CSV; no total, so that columns add up."""
        head = [self.by.value, *(field.name for field in fields(Sums))]
        return [head, *([name, *(str(value) for value in asdict(sums).values())] for name, sums in self.lines)]


def entries(
    jobs: Iterable[JobRow],
    sent: Iterable[PastTransaction],
    missed: Callable[[JobRow], int],
) -> list[Entry]:
    """What happened, in no order.

    Args:
        missed: the miss fee a final job cost this provider, base units.
    """
    found: list[Entry] = []
    models: dict[str, str] = {}
    for row in jobs:
        job, model = _hex(row.job_id), _hex(row.model_id)
        models[job] = model
        if row.stage is Stage.REFUSED:
            found.append(Entry(row.updated_at, model, job, Sums(refused_jobs=1), row.reason))
        elif row.stage in _ENDED:
            sums = Sums(jobs=1, paid_jobs=int(row.paid > 0), income=row.paid, missed_fees=missed(row))
            found.append(Entry(row.final_at, model, job, sums))
    for transaction in sent:
        if not transaction.gas_used:
            continue
        job_id = job_of(transaction.key)
        job = NO_JOB if job_id is None else _hex(job_id)
        sums = Sums(transactions=1, gas=transaction.gas_used, gas_wei=transaction.fee_wei)
        found.append(Entry(transaction.created_at, models.get(job, NO_JOB), job, sums))
    return found


def report(found: Sequence[Entry], by: By, since: int = 0) -> Report:
    """Adds up what happened at or after `since` (unix seconds)."""
    lines: dict[str, Sums] = {}
    refusals: dict[str, int] = {}
    total = Sums()
    for entry in found:
        if entry.at < since:
            continue
        key = entry.key(by)
        lines[key] = lines.get(key, Sums()) + entry.sums
        total += entry.sums
        if entry.refused:
            refusals[entry.refused] = refusals.get(entry.refused, 0) + 1
    return Report(by, tuple(sorted(lines.items())), total, dict(sorted(refusals.items())))


def was_silent(journal: Journal, row: JobRow) -> bool:
    """Whether the journal holds a commitment that was never revealed: only then the chain may have taken a miss fee."""
    stages = journal.history(row.job_id)
    return Stage.COMMITTED in stages and Stage.REVEALED not in stages


def since_of(text: str | None, now: int) -> int:
    """`2026-01-31` (UTC) or `30d` as unix seconds; 0 for None.

    Raises:
        ConfigError: it is neither.
    """
    if text is None:
        return 0
    if re.fullmatch(r"[0-9]{1,5}d", text):
        return max(0, now - int(text[:-1]) * DAY)
    try:
        return max(0, int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()))
    except ValueError:
        raise ConfigError(
            f"--since: {text!r} is neither a date nor a number of days.", hint="2026-01-31, or 30d.", option="--since"
        ) from None


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
