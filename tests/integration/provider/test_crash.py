"""kill -9 anywhere: the restarted agent goes on, commits once, reveals with the salt of the journal, is paid."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from eth_account.signers.local import LocalAccount

from market.types import Commitment
from market.views import JobState
from provider.journal import Journal
from provider.records import JobRow, Stage
from tests.integration.provider.crashing import POINTS
from tests.integration.provider.market import LocalAgent, Market, Program, until

STAGES = {
    "inference": Stage.RUNNING,  # or still SEEN: the engine does not wait for the journal
    "before-commit": Stage.COMMITTING,
    "after-commit": Stage.COMMITTING,
    "before-reveal": Stage.REVEALING,
    "after-reveal": Stage.REVEALING,
    "before-settle": Stage.SETTLING,
    "after-settle": Stage.SETTLING,
}


DEFAULT = ("inference", "before-commit", "after-commit")  # the others take the same paths, and seconds each


@pytest.mark.parametrize(
    "point", [point if point in DEFAULT else pytest.param(point, marks=pytest.mark.slow) for point in POINTS]
)
def test_agent_killed_in_the_middle_of_a_job_goes_on_after_restart(
    market: Market, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"agent {point}")
    config, account = market.provider(tmp_path)
    doomed = Program(market, config, sys.executable, "-m", "tests.integration.provider.crashing", point)
    try:
        doomed.ready()
        job, _ = market.start_job(doomed.url, commit_window=600, reveal_window=600)
        assert doomed.process.wait(60) == -signal.SIGKILL
        before = _row(doomed.config.journal_path, job, account)
        assert before.stage == STAGES[point] or (point, before.stage) == ("inference", Stage.SEEN)
        assert (before.salt is None) == (point == "inference")
    finally:
        doomed.close()

    restarted = LocalAgent(config, account)
    try:
        until(lambda: market.settled(job))
        until(lambda: _row(doomed.config.journal_path, job, account).stage == Stage.FINAL)
        after = _row(doomed.config.journal_path, job, account)
    finally:
        restarted.stop()
    assert before.salt in (None, after.salt)
    assert after.output is not None
    assert after.salt is not None
    (committed,) = market.events("Committed", job)
    commitment = Commitment(job, account.address, after.output.output_hash, after.salt)
    assert committed["commitment"] == market.contracts.jobs.domain.digest(commitment)
    assert len(market.events("Revealed", job)) == len(market.events("Settled", job)) == 1
    assert market.job(job).state is JobState.SETTLED
    assert after.paid > 0
    market.assert_books(job, account.address)


def _row(path: Path, job: bytes, account: LocalAccount) -> JobRow:
    journal = Journal.read_only(path, account)
    try:
        row = journal.job(job)
    finally:
        journal.close()
    assert row is not None
    return row
