"""How the network does when much happens at once or goes wrong: jobs at once, kills, draws, tests of the tests.

`mutants_caught` and `branch_coverage` are read from what `make test-security` wrote: they take an hour to measure.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench import crashes
from bench.common import Row
from market.models.tiny import write_tiny_pack
from tests.e2e import crowd
from tests.gas.draws import LIGHT, unlucky_draws
from tools.security import measured

ROOT = Path(__file__).resolve().parent.parent
SECURITY = ROOT / "build" / "security"
EVENTS_BAR = 2_000
DRAW_BAR = 200_000
UNLUCKY_DRAWS = 16
MUTANTS_BAR = 0.95
COVERAGE_BAR = 0.98


def run() -> list[Row]:
    """All rows; those that `make test-security` measures say so where it did not run."""
    return [*crowd_rows(), *crash_rows(), draw_row(), unlucky_draw_row(), catch_up_row(), mutants_row(), coverage_row()]


def crowd_rows() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
        pack = Path(folder) / "pack"
        write_tiny_pack(pack)
        outcome = crowd.buy(Path(folder) / "network", pack)
    assert all(result.settled for result in outcome.results)
    assert outcome.holes == ()
    assert all(outcome.answers)
    figure = f"{crowd.JOBS} jobs of 3 replicas at once over {crowd.PROVIDERS} providers, tiny model, automine"
    peak = max(outcome.provider_peak_bytes) / 2**20
    return [
        Row(
            key="jobs_settled_per_minute",
            figure=f"{figure}, all settled, no nonce gap, every account's books balance",
            value=round(outcome.settled_per_minute, 1),
            unit="jobs/min",
        ),
        Row(key="provider_peak_memory", figure="largest provider process of them", value=round(peak), unit="MiB"),
    ]


def crash_rows() -> list[Row]:
    """kill -9 at every named point of agent, queue, index, client and deployment, each followed by a restart."""
    found = crashes.tried()
    lost = crashes.lost(found)
    deployment = sum(point.startswith(crashes.DEPLOYMENT) for point in found)
    return [
        Row(
            key="crash_points",
            figure="kill -9 at a named point of agent, transaction queue, index or client, then a restart; besides "
            f"these, {deployment} at a few points of each step of a deployment",
            value=len(found) - deployment,
            unit="tried",
        ),
        Row(
            key="lost",
            figure=", ".join(["of all those: not settled exactly once, or something lost", *lost]),
            value=len(lost),
            unit="",
            bar="= 0",
            holds=not lost,
        ),
    ]


def draw_row() -> Row:
    snapshot: dict[str, Any] = json.loads((ROOT / "tests" / "gas" / "snapshot.json").read_text(encoding="utf-8"))
    gas = int(snapshot["draw"])
    return Row(
        key="draw_gas",
        figure="drawing 3 replicas in the contract, of five full-weight providers (no toss is lost)",
        value=gas,
        unit="gas",
        bar=f"≤ {DRAW_BAR:,}",
        holds=gas <= DRAW_BAR,
    )


def unlucky_draw_row() -> Row:
    dearest = max(unlucky_draws(UNLUCKY_DRAWS), key=lambda draw: draw.gas)
    ended = "" if dearest.providers else ", so that it is armed anew"
    return Row(
        key="draw_gas_unlucky",
        figure=f"the same from one full-weight provider and {LIGHT} of the least weight, dearest of {UNLUCKY_DRAWS}: "
        f"{dearest.rejected} of {dearest.tries} tries rejected{ended}",
        value=dearest.gas,
        unit="gas",
    )


def catch_up_row() -> Row:
    from bench.index_catch_up import index_catch_up

    speed = index_catch_up()
    return Row(
        key="events_per_second",
        figure="a new index reading a chain's past",
        value=round(speed),
        unit="events/s",
        bar=f"≥ {EVENTS_BAR:,}",
        holds=speed >= EVENTS_BAR,
    )


def mutants_row() -> Row:
    what = "mutants of the contracts, by the tests"
    return _share("mutants_caught", "mutants.json", "caught", "tried", MUTANTS_BAR, what, _sample)


def coverage_row() -> Row:
    what = "sides of the branches in the contracts' Solidity, run by the tests"
    return _share("branch_coverage", "branch_coverage.json", "covered", "total", COVERAGE_BAR, what, _not_counted)


def _sample(found: Mapping[str, Any]) -> str:
    sample = found["sample"]
    drawn = f"a sample (seed {sample['seed']}) of the {sample['of']:,} there are"
    return f"{drawn}; {sample['equivalent']} that it drew are left out as equivalent"


def _not_counted(found: Mapping[str, Any]) -> str:
    return f"{found['assembly']} conditions inside assembly are not counted"


def _share(
    key: str, name: str, part: str, whole: str, bar: float, what: str, limits: Callable[[Mapping[str, Any]], str]
) -> Row:
    """What `make test-security` counted last; a row without a verdict where it did not run on these contracts, and one
    that does not hold where its tests failed: what a failing test ran, nobody checked.

    Args:
        limits: what a report says about what was not counted.
    """
    row = partial(Row, key=key, figure=what, unit="", bar=f"≥ {bar}")
    try:
        found: dict[str, Any] = json.loads((SECURITY / name).read_text(encoding="utf-8"))
        share, figure = found[part] / found[whole], f"of {found[whole]:,} {what}: {limits(found)}"
    except (FileNotFoundError, KeyError):  # it did not run, or not to its end
        return row(value="not measured: make test-security")
    if not measured.is_of(found, measured.present()):
        return row(value="not measured since the contracts changed: make test-security")
    if not found.get("passed", True):  # mutants are tried by tests that pass only
        return row(value="not measured, its tests fail: make test-security", holds=False)
    return row(figure=figure, value=round(share, 4), holds=share >= bar)
