"""Which clock decides: what may be copied waits for a block, and a bond is given up only to one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from market.errors import ContractError
from market.hashing import keccak256
from market.views import JobState
from provider.node import Next
from provider.records import Stage
from tests.unit.provider.desk import JOB, NOW, Desk
from tests.unit.provider.fakes import DOMAIN


def committed(desk: Desk, *, chain_id: int = 1) -> None:
    """This replica and another have committed, a third has not; the chain is none for development."""
    desk.chain.domain = replace(DOMAIN, chain_id=chain_id)
    desk.answered()
    desk.run()
    desk.chain.change(committed=2, replicas=3)


def sent(desk: Desk) -> list[str]:
    return [what for what, _ in desk.chain.sent]


def test_open_job_is_not_revealed_before_a_block_after_the_commit_deadline(desk: Desk) -> None:
    """A commitment is legal in a block stamped with the deadline: a reveal before a later one could be copied."""
    committed(desk)
    desk.chain.time, desk.chain.blocks = NOW + 75, NOW + 60
    assert desk.run() == Next(at=NOW + 76)
    assert sent(desk) == ["commit"]
    desk.chain.blocks = NOW + 61
    desk.run()
    assert sent(desk) == ["commit", "reveal"]


def test_open_job_on_a_development_chain_is_revealed_by_the_clock_after_a_margin(desk: Desk) -> None:
    committed(desk, chain_id=31337)
    desk.chain.time, desk.chain.blocks = NOW + 65, NOW
    assert desk.run() == Next(at=NOW + 66)
    assert sent(desk) == ["commit"]
    desk.chain.time = NOW + 66
    desk.run()
    assert sent(desk) == ["commit", "reveal"]


def test_open_job_is_revealed_once_the_block_after_the_deadline_is_confirmed(desk: Desk) -> None:
    desk.confirmations = 1
    desk.restart()
    committed(desk)
    desk.chain.time, desk.chain.below = NOW + 61, (JobState.OPEN, NOW + 60)
    assert desk.run() == Next(at=NOW + 62)
    assert sent(desk) == ["commit"]
    desk.chain.below = (JobState.OPEN, NOW + 61)
    desk.run()
    assert sent(desk) == ["commit", "reveal"]


def test_job_all_committed_to_is_revealed_once_that_is_confirmed(desk: Desk) -> None:
    desk.confirmations = 1
    desk.restart()
    desk.answered()
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 60)
    desk.chain.below = (JobState.OPEN, NOW)
    assert desk.run() == Next(at=NOW + 1)
    assert sent(desk) == ["commit"]
    desk.chain.below = (JobState.REVEALING, NOW)
    desk.run()
    assert sent(desk) == ["commit", "reveal"]


@pytest.mark.parametrize("state", [JobState.OPEN, JobState.REVEALING])
def test_confirmations_are_waited_for_during_half_of_the_reveal_window_only(desk: Desk, state: JobState) -> None:
    desk.confirmations = 9
    desk.restart()
    committed(desk)
    desk.chain.change(state=state, reveal_deadline=0 if state is JobState.OPEN else NOW + 120)
    desk.chain.below = (JobState.OPEN, NOW)
    desk.chain.time = NOW + 90
    desk.run()
    assert sent(desk) == ["commit"]
    desk.chain.time = NOW + 91
    desk.run()
    assert sent(desk) == ["commit", "reveal"]


def short_windows(desk: Desk) -> None:
    """Windows of 30 s, and then a clock that is 60 s ahead."""
    desk.chain.domain = replace(DOMAIN, chain_id=1)
    desk.chain.change(commit_deadline=NOW + 30, reveal_window=30)
    desk.answered()
    desk.node.step(JOB)  # answer and salt are on disk
    desk.chain.drift = 60


def test_answer_is_committed_in_time_though_the_clock_is_ahead(desk: Desk) -> None:
    short_windows(desk)
    desk.run()
    assert sent(desk) == ["commit"]


def test_inference_goes_on_until_a_block_ends_the_commit_window(desk: Desk) -> None:
    desk.chain.change(commit_deadline=NOW + 30, reveal_window=30)
    desk.deliver()
    desk.run()
    desk.chain.drift = 60
    assert desk.run() == Next(at=NOW + 61)
    assert JOB in desk.executor.work
    desk.chain.time = NOW + 31
    desk.run()
    assert (desk.row().stage, desk.row().reason, desk.executor.work) == (Stage.REFUSED, "COMMIT_WINDOW_MISSED", {})


def test_commit_that_contract_and_clock_call_too_late_ends_the_job_without_a_block(desk: Desk) -> None:
    """On a development chain none may come."""
    short_windows(desk)
    desk.chain.refuse_next = ContractError("too late", code="TooLate")
    assert desk.run() == Next()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "COMMIT_WINDOW_MISSED")


def test_commit_that_the_contract_alone_calls_too_late_is_tried_again(desk: Desk) -> None:
    desk.answered()
    desk.chain.refuse_next = ContractError("too late", code="TooLate")
    assert desk.run() == Next(at=NOW + 1)
    desk.run()
    assert sent(desk) == ["commit"]


@pytest.mark.parametrize("state", [JobState.OPEN, JobState.REVEALING])
def test_answer_is_revealed_in_time_though_the_clock_is_ahead(desk: Desk, state: JobState) -> None:
    """Silence costs the miss fee: only a block may say that it is too late."""
    short_windows(desk)
    desk.run()
    desk.chain.change(state=state, committed=2, reveal_deadline=0 if state is JobState.OPEN else NOW + 40)
    desk.chain.time = NOW + 35
    desk.run()
    assert sent(desk) == ["commit", "reveal"]


def test_reveal_that_the_contract_calls_too_late_settles_the_job(desk: Desk) -> None:
    short_windows(desk)
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 30)
    for seconds in range(11):  # the grace of the settlement
        desk.chain.time, desk.chain.blocks = NOW + seconds, NOW
        desk.chain.refuse_next = ContractError("too late", code="TooLate")
        assert sent(desk) == ["commit"]
        assert desk.run() == Next(at=NOW + 60 + seconds + 1)
    assert sent(desk) == ["commit", "settle"]


def test_late_reveal_of_another_output_than_agreed_is_not_even_tried(desk: Desk) -> None:
    short_windows(desk)
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 30, output_hash=keccak256(b"x"))
    desk.chain.time = NOW + 31
    desk.run()
    assert sent(desk) == ["commit"]


def test_job_that_vanished_is_not_given_up_by_the_clock_alone(desk: Desk) -> None:
    desk.chain.view, desk.chain.drift = None, 10_000
    assert desk.run() == Next(at=NOW + 10_001)
    assert desk.row().stage is Stage.SEEN
