import dataclasses

import pytest

from client.watching import Next, next_step
from market.types import Mode
from market.views import JobState, JobView

JOB = JobView(
    client="0x2222222222222222222222222222222222222222",
    state=JobState.OPEN,
    mode=Mode.QUORUM,
    quorum=2,
    replicas=3,
    committed=0,
    revealed=0,
    input_tokens=3,
    max_output_tokens=16,
    reveal_window=40,
    commit_deadline=1000,
    reveal_deadline=0,
    final_at=0,
    escrow=135,
    model_id=bytes(32),
    request_hash=bytes(32),
    output_hash=bytes(32),
)
AGREED = b"\1" * 32


def job(**changes) -> JobView:  # type: ignore[no-untyped-def]
    return dataclasses.replace(JOB, **changes)


@pytest.mark.parametrize(
    ("view", "now", "expected", "phase", "until"),
    [
        (job(state=JobState.DRAWING, draw_block=7), 1000, Next.DRAW, "drawing", 1000),
        (job(state=JobState.DRAWING, draw_block=7, draw_failed=True), 1000, Next.DRAW, "drawing", 1000),
        (job(state=JobState.DRAWING, draw_block=7), 1001, Next.SETTLE, "settling", 0),
        (job(committed=1), 1000, Next.WAIT, "committing", 1000),
        (job(committed=1), 1001, Next.SETTLE, "settling", 0),
        (job(committed=2), 1001, Next.WAIT, "revealing", 1040),
        (job(committed=2), 1041, Next.SETTLE, "settling", 0),
        (job(state=JobState.REVEALING, committed=3, revealed=1, reveal_deadline=990), 990, Next.WAIT, "revealing", 990),
        (
            job(state=JobState.REVEALING, committed=3, revealed=2, reveal_deadline=990, output_hash=AGREED),
            990,
            Next.WAIT,
            "agreed",
            990,
        ),
        (job(state=JobState.REVEALING, committed=3, revealed=2, reveal_deadline=990), 991, Next.SETTLE, "settling", 0),
        (job(state=JobState.REVEALING, committed=3, revealed=3, reveal_deadline=990), 900, Next.SETTLE, "settling", 0),
        (job(state=JobState.REVEALING, committed=2, revealed=2, reveal_deadline=990), 900, Next.SETTLE, "settling", 0),
        (
            job(
                state=JobState.REVEALING,
                mode=Mode.OPTIMISTIC,
                quorum=1,
                replicas=1,
                committed=1,
                revealed=1,
                reveal_deadline=990,
                output_hash=AGREED,
            ),
            900,
            Next.DONE,  # whoever waits for the answer need not wait for its window
            "agreed",
            0,
        ),
        (job(state=JobState.SETTLED), 900, Next.DONE, "settled", 0),
        (job(state=JobState.EXPIRED), 900, Next.DONE, "expired", 0),
        (job(state=JobState.CANCELLED), 900, Next.DONE, "cancelled", 0),
    ],
)
def test_next_step_of_a_job_follows_the_contract_to_the_second(view, now, expected, phase, until) -> None:
    step = next_step(view, now)
    assert (step.next, step.phase, step.until) == (expected, phase, until)


def test_next_step_of_no_agreement_says_so() -> None:
    view = job(state=JobState.REVEALING, committed=3, revealed=3, reveal_deadline=990)
    assert "they do not agree" in next_step(view, 900).text
    assert "they agree" in next_step(dataclasses.replace(view, output_hash=AGREED), 900).text
