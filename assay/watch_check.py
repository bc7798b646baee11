"""Whether a watcher has worked: the keyed roots that it left of its audits, computed again.

A keyed root is keccak256("assay watch" ‖ the watcher's address ‖ root of the trace) (assay.watch.keyed_root). Nobody
makes one without the trace's root, and another watcher's is worth nothing under this one's address. What it does not
show: that the watcher computed the root before a dispute about the answer published it, and that it told what it found.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from assay.watch import keyed_root
from market.dispute_evidence import Evidence
from market.errors import ConfigError, ContractError, MarketError, WireError
from market.verification.traces import Traces

_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Claimed:
    """An audit that somebody says to have made. `provider`: 0x address; `root`: the 32 bytes that it left."""

    job_id: bytes
    provider: str
    root: bytes


@dataclass(frozen=True)
class Checked:
    """What came of checking one. `worked`: None where it could not be checked, then `why` says why."""

    claimed: Claimed
    worked: bool | None
    why: str = ""


def claims_in(path: Path) -> list[Claimed]:
    """The audits with a keyed root in a watcher's record (`watch.sqlite`) or in what `assay watch --json` printed; each
    once, in the file's order.

    Raises:
        ConfigError: code BadWatchFile: it is neither.
    """
    try:
        with path.open("rb") as file:
            kept = file.read(len(_SQLITE)) == _SQLITE
        found = _in_record(path) if kept else _in_lines(path.read_text(encoding="utf-8"))
    except (OSError, sqlite3.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is neither a watcher's record nor lines of `assay watch --json`: {error}",
            hint="Nothing was checked.",
            code="BadWatchFile",
            path=str(path),
        ) from None
    return list(dict.fromkeys(found))


def check(
    claims: Iterable[Claimed], address: str, evidence: Callable[[bytes, str], Evidence], traces: Traces
) -> Iterator[Checked]:
    """Computes the trace of each audited answer, one after the other.

    Args:
        address: of the watcher that says to have made them.
        evidence: about a provider's answer in a job, by the chain.

    Raises:
        ChainError: the chain could not be asked.
    """
    for claimed in claims:
        try:
            about = evidence(claimed.job_id, claimed.provider)
            root = traces.trace(about.claim(), about.input_ids, about.output_ids).root()
        except (MarketError, WireError, ContractError, ConfigError) as error:  # a stranger's file can claim anything
            yield Checked(claimed, None, error.message)
            continue
        worked = claimed.root == keyed_root(address, root)
        yield Checked(claimed, worked, "" if worked else "the root is not that of this answer's trace for this address")


def _in_record(path: Path) -> list[Claimed]:
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        rows = database.execute(
            "SELECT job, provider, keyed_root FROM audit WHERE keyed_root IS NOT NULL ORDER BY at, rowid"
        )
        return [Claimed(bytes(job), str(provider).lower(), bytes(root)) for job, provider, root in rows]
    finally:
        database.close()


def _in_lines(text: str) -> list[Claimed]:
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [
        Claimed(_word(line["job_id"]), str(line["provider"]).lower(), _word(line["keyed_root"]))
        for line in lines
        if line["event"] == "audit" and "keyed_root" in line
    ]


def _word(text: str) -> bytes:
    found = bytes.fromhex(text.removeprefix("0x"))
    if len(found) != 32:
        raise ValueError(f"{text[:70]} has {len(found)} bytes, not 32")
    return found
