"""Request for quote: the best few providers asked at once, slow ones hedged, never longer than a hard time-out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import anyio
from anyio.abc import TaskGroup

from client.matching import Candidate, LeftOut
from client.selection import VerifiedQuote

GRACE_SHARE = 0.15
"""Part of the time-out that late quotes get once there are enough."""

Ask = Callable[[Candidate], Awaitable[VerifiedQuote | LeftOut]]


@dataclass(frozen=True)
class RfqPolicy:
    """How long and how widely to ask. Seconds are floats: they are waits, no protocol times.

    Attributes:
        width: providers asked at the start; most: asked at all.
        timeout: hard limit of the whole negotiation.
        hedge_after: with too few quotes after this long, the next providers are asked too, and again after as long.
        grace: once there are enough quotes, how long to wait for the rest of those asked: a better one may come.
    """

    width: int = 8
    most: int = 16
    timeout: float = 1.0
    hedge_after: float = 0.25
    grace: float = 0.15


async def gather_quotes(
    candidates: Sequence[Candidate],
    ask: Ask,
    *,
    enough: int,
    policy: RfqPolicy,
    clock: Callable[[], float] = monotonic,
) -> tuple[list[VerifiedQuote], list[LeftOut]]:
    """Asks candidates, in their order, until enough quotes are there, all have answered, or time is up.

    Args:
        ask: asks one candidate and verifies its quote; returns the reason where it fails, raises nothing.
    Returns:
        the quotes in the order of the candidates, and every candidate without one with the reason.
    """
    negotiation = _Negotiation(candidates, ask, enough, policy, clock)
    await negotiation.run()
    return negotiation.outcome()


class _Negotiation:
    def __init__(
        self, candidates: Sequence[Candidate], ask: Ask, enough: int, policy: RfqPolicy, clock: Callable[[], float]
    ) -> None:
        self._candidates = candidates
        self._ask = ask
        self._enough = enough
        self._policy = policy
        self._clock = clock
        self._answers: dict[int, VerifiedQuote | LeftOut] = {}
        self._started = 0
        self._quotes = 0
        self._changed = anyio.Event()
        self._hard_stop = False

    async def run(self) -> None:
        with anyio.move_on_after(self._policy.timeout) as scope:
            async with anyio.create_task_group() as group:
                self._start(group, self._policy.width)
                await self._until_enough(group)
                if len(self._answers) < self._started:
                    await self._until_all(self._policy.grace)
                group.cancel_scope.cancel()
        self._hard_stop = scope.cancelled_caught

    async def _until_enough(self, group: TaskGroup) -> None:
        hedge_at = self._clock() + self._policy.hedge_after
        while self._quotes < self._enough:
            if len(self._answers) == self._started and not self._start(group, self._enough - self._quotes):
                return  # everybody has answered and nobody is left to ask
            if self._clock() >= hedge_at:
                self._start(group, self._enough - self._quotes)
                hedge_at = self._clock() + self._policy.hedge_after
            with anyio.move_on_after(max(0.001, hedge_at - self._clock())):
                await self._changed.wait()
            self._changed = anyio.Event()

    async def _until_all(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            while len(self._answers) < self._started:
                await self._changed.wait()
                self._changed = anyio.Event()

    def _start(self, group: TaskGroup, count: int) -> bool:
        end = min(self._started + count, len(self._candidates), self._policy.most)
        begin, self._started = self._started, end
        for index in range(begin, end):
            group.start_soon(self._one, index)
        return end > begin

    async def _one(self, index: int) -> None:
        answer = await self._ask(self._candidates[index])
        self._answers[index] = answer
        self._quotes += isinstance(answer, VerifiedQuote)
        self._changed.set()

    def outcome(self) -> tuple[list[VerifiedQuote], list[LeftOut]]:
        quotes: list[VerifiedQuote] = []
        left_out: list[LeftOut] = []
        for index, candidate in enumerate(self._candidates):
            answer = self._answers.get(index) or self._missing(index, candidate)
            if isinstance(answer, VerifiedQuote):
                quotes.append(answer)
            else:
                left_out.append(answer)
        return quotes, left_out

    def _missing(self, index: int, candidate: Candidate) -> LeftOut:
        milliseconds = round(self._policy.timeout * 1000)
        if index >= self._started:
            constraint, message = "not_asked", f"{self._started} better ranked providers were asked first"
        elif self._hard_stop:
            constraint, message = "timeout", f"it did not answer within {milliseconds} ms"
        else:
            grace = round(self._policy.grace * 1000)
            constraint, message = "timeout", f"it had not answered {grace} ms after {self._quotes} others had"
        return LeftOut(candidate.provider, candidate.endpoint, "negotiation", constraint, message)
