"""What to do next with a posted job: a pure function of what the chain stores and of the time."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from market.types import Mode
from market.views import JobState, JobView


class Next(enum.Enum):
    """WAIT for somebody else, DRAW or SETTLE now (anyone may), or DONE."""

    WAIT = "wait"
    DRAW = "draw"
    SETTLE = "settle"
    DONE = "done"


@dataclass(frozen=True)
class Step:
    """The next thing, and why in words.

    Attributes:
        until: unix seconds after which this answer changes though nobody does anything; 0 = never.
        phase: drawing, committing, revealing, agreed, settling or the final state, for progress.
    """

    next: Next
    phase: str
    text: str
    until: int = 0


def reveal_end(job: JobView) -> int:
    """Last second for reveals (JobRecords.revealEnd)."""
    return job.commit_deadline + job.reveal_window if job.state is JobState.OPEN else job.reveal_deadline


def next_step(job: JobView, now: int) -> Step:
    """Mirrors the conditions of `Jobs.draw` and `Jobs.settle`. A deadline's own second still belongs to it.

    Args:
        now: unix seconds by the chain's clock.
    """
    if job.state.is_final:
        return Step(Next.DONE, job.state.name.lower(), f"the job is {job.state.name.lower()}")
    if job.state is JobState.DRAWING:
        if now <= job.commit_deadline:
            text = f"{job.replicas} providers are to be drawn"
            if job.draw_failed:
                text = f"the last draw found fewer than {job.replicas} providers that take the terms; it is made again"
            return Step(Next.DRAW, "drawing", text, job.commit_deadline)
        return Step(Next.SETTLE, "settling", "nobody was drawn in time")
    counts = f"{job.committed} of {job.replicas} committed"
    if job.state is JobState.OPEN:
        if now <= job.commit_deadline:
            return Step(Next.WAIT, "committing", counts, job.commit_deadline)
        if job.committed < job.quorum:
            return Step(Next.SETTLE, "settling", f"the commit window ended with {counts}, {job.quorum} are needed")
    elif job.mode is Mode.OPTIMISTIC and job.is_agreed:
        # the provider settles once its window is over; whoever waits for the answer need not
        return Step(Next.DONE, "agreed", "the answer is there; it is paid unless somebody proves it wrong in time")
    elif job.revealed == job.committed:
        agreement = "they agree" if job.is_agreed else "they do not agree"
        return Step(Next.SETTLE, "settling", f"all {job.committed} that committed revealed: {agreement}")
    end = reveal_end(job)
    if now > end:
        return Step(Next.SETTLE, "settling", f"the reveal window ended with {job.revealed} of {job.committed} revealed")
    phase = "agreed" if job.is_agreed else "revealing"
    return Step(Next.WAIT, phase, f"{job.revealed} of {job.committed} revealed", end)
