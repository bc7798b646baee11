"""Waiting for a posted job to end, and ending it: `settle` is sent as soon as the contract lets anyone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio

from client.progress import Progress, Report
from client.steps import StepClock
from client.watching import Next, Step, next_step
from market.chain import Call, RpcError
from market.contracts import Jobs
from market.errors import AssayError, ChainUnreachable, ContractError
from market.transactions import Sent
from market.views import JobState, JobView

SHORTEST, LONGEST = 0.02, 0.5
"""Seconds between two looks where no block wakes us: short after something happened, longer while nothing does."""
WITH_WAKER = 1.0
DRAW_AGAIN_FIRST, DRAW_AGAIN_LONGEST = 2.0, 30.0
"""Seconds after a draw that found too few, until it is made again; doubled each time, as each costs gas."""
UNKNOWN_SECONDS = 30.0
"""How long a job that was posted may be missing at an endpoint."""
_SOMEBODY_ELSE = frozenset({"WrongState"})
_NOT_YET_OR_DONE = frozenset({"DrawNotReady", "WrongState", "TooLate"})
_MET_ANOTHER_STATE = "Reverted"
_CLOCKS_DIFFER = frozenset({"TooEarly"})


class Waker(Protocol):
    """market.events.HeadWaker."""

    @property
    def connected(self) -> bool: ...

    async def wait(self, timeout: float) -> bool: ...


class Follow:
    """Follows one job to its end.

    Args:
        send: sends a call and awaits its receipt; None = only watch.
        restore: called where the endpoint no longer shows the job: posts it again if a reorg took it back.
        now: unix seconds by the chain's clock.
    """

    def __init__(
        self,
        jobs: Jobs,
        waker: Waker,
        *,
        now: Callable[[], int],
        send: Callable[[Call, str], Sent] | None,
        restore: Callable[[], None] = lambda: None,
        steps: StepClock,
        report: Report,
    ) -> None:
        self._jobs = jobs
        self._waker = waker
        self._now = now
        self._send = send
        self._restore = restore
        self._steps = steps
        self._report = report
        self._last_commit: float | None = None
        self._agreed_seen = False
        self._said = ""
        self._drawn_at: float | None = None
        self._draw_pause = DRAW_AGAIN_FIRST
        self._draw_ran_short: int | None = None

    async def until_final(self, job_id: bytes) -> JobView:
        """Looks, waits and settles until the job is final. Survives an RPC endpoint that goes away for a while.

        Raises:
            ContractError: there is no such job, or settling is refused for another reason than time.
        """
        pause = SHORTEST
        seen = self._steps.now()
        while True:
            try:
                job, step = await anyio.to_thread.run_sync(self._look, job_id, abandon_on_cancel=True)
            except ChainUnreachable as error:
                self._say(error.message, "chain")
                await anyio.sleep(LONGEST)
                continue
            except RpcError as error:  # an endpoint in the middle of a reorg, or one that lost its own node
                if self._steps.now() > seen + UNKNOWN_SECONDS:
                    raise
                self._say(error.message, "chain")
                await anyio.sleep(LONGEST)
                continue
            except ContractError as error:
                if error.code != "UnknownJob" or self._steps.now() > seen + UNKNOWN_SECONDS:
                    raise
                self._say("the endpoint does not show the job", "chain")  # it lags, or a reorg took the post
                await anyio.to_thread.run_sync(self._restored, abandon_on_cancel=True)
                await anyio.sleep(LONGEST)
                continue
            seen = self._steps.now()
            if self._notice(job, step):
                pause = SHORTEST
            if step.next is Next.DONE:
                return job
            if step.next is Next.SETTLE and self._send is not None:
                await self._settle(job_id, self._send)
                continue
            if step.next is Next.DRAW and self._send is not None and await self._draw(job_id, job, self._send):
                continue
            await self._waker.wait(WITH_WAKER if self._waker.connected else pause)
            pause = min(pause * 1.5, LONGEST)

    def _restored(self) -> None:
        try:
            self._restore()
        except AssayError as error:  # the next look tries again, until the job has been missing for too long
            self._say(error.message, "chain")

    def _look(self, job_id: bytes) -> tuple[JobView, Step]:
        job = self._jobs.job(job_id)
        return job, next_step(job, self._now())

    def _notice(self, job: JobView, step: Step) -> bool:
        """Notes times and tells what changed. Returns whether anything did."""
        if self._last_commit is None and (job.state is JobState.REVEALING or job.committed == job.replicas):
            self._last_commit = self._steps.now()
        if job.is_agreed and not self._agreed_seen:
            self._agreed_seen = True
            if self._last_commit is not None:
                self._steps.set("aggregation", self._last_commit, self._steps.now())
        where = {"committing": "inference", "revealing": "aggregation", "agreed": "aggregation"}
        return self._say(step.text, where.get(step.phase, "settlement"), job)

    def _say(self, text: str, where: str, job: JobView | None = None) -> bool:
        if text == self._said:
            return False
        self._said = text
        counts = {} if job is None else {"committed": job.committed, "revealed": job.revealed, "of": job.replicas}
        self._report(Progress(where, text, counts))
        return True

    async def _draw(self, job_id: bytes, job: JobView, send: Callable[[Call, str], Sent]) -> bool:
        """Draws the replicas; False where the posting block is not behind yet, somebody was faster, or a draw that
        found too few was made a moment ago. Also where ours, which was to arm another draw, met one that somebody had
        armed meanwhile: it had too little gas to make it, and is sent again with more, once for each draw."""
        if self._drawn_at is not None and job.draw_failed:
            if self._steps.now() < self._drawn_at + self._draw_pause:
                return False
            self._draw_pause = min(2 * self._draw_pause, DRAW_AGAIN_LONGEST)
        try:
            await anyio.to_thread.run_sync(send, self._jobs.draw(job_id), f"draw:{job_id.hex()}:{job.draw_block}")
        except ChainUnreachable as error:
            self._say(error.message, "chain")
            return False
        except ContractError as error:
            if error.code == _MET_ANOTHER_STATE and self._draw_ran_short != job.draw_block:
                self._draw_ran_short = job.draw_block
            elif error.code not in _NOT_YET_OR_DONE:
                raise
            return False
        self._drawn_at = self._steps.now()
        return True

    async def _settle(self, job_id: bytes, send: Callable[[Call, str], Sent]) -> None:
        call, key = self._jobs.settle(job_id), f"settle:{job_id.hex()}"
        begin = self._steps.now()
        try:
            sent = await anyio.to_thread.run_sync(send, call, key)
        except ChainUnreachable as error:
            self._say(error.message, "chain")
            await anyio.sleep(LONGEST)
            return
        except ContractError as error:
            if error.code in _CLOCKS_DIFFER:
                self._say("waiting for the chain's clock", "settlement")
                await anyio.sleep(1.0)
            elif error.code not in _SOMEBODY_ELSE:
                raise
            else:
                self._steps.set("settlement", begin, self._steps.now())
            return
        self._steps.set("settlement", begin, self._steps.now())
        self._report(Progress("settlement", "settled", {"transaction": sent.hash}))
