"""How long each step of a job took, in the words of the reference article's table (docs/benchmarks.md).

discovery    index look-up: bringing the local index up to date and reading the offers
matching     local filter
negotiation  first byte of the first RFQ to the chosen quotes
distribution post sent to the last provider having the request
inference    the slower agreeing replica, by its own clock
aggregation  last needed commit seen to agreement seen
settlement   settle sent to its receipt
total        the call to the verified answer and the final job, without breaks (`post` alone, then `watch`): what
             providers did in a break is in their step alone, so steps of such a job can exceed its total
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

STEPS = (
    "discovery",
    "matching",
    "negotiation",
    "distribution",
    "inference",
    "aggregation",
    "settlement",
    "total",
)


class StepClock:
    """Collects milliseconds per step. Steps not measured stay absent until `as_milliseconds` gives them 0.

    Args:
        clock: seconds, monotonic.
        known: milliseconds measured before a restart.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, known: Mapping[str, int] | None = None) -> None:
        self._clock = clock
        self._milliseconds: dict[str, int] = dict(known or {})
        self._begun = clock()

    def now(self) -> float:
        return self._clock()

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        begin = self._clock()
        try:
            yield
        finally:
            self.set(step, begin, self._clock())

    def set(self, step: str, begin: float, end: float) -> None:
        """Notes a step from two readings of `now`."""
        self.note(step, round(max(0.0, end - begin) * 1000))

    def note(self, step: str, milliseconds: int) -> None:
        if step not in STEPS:
            raise ValueError(f"no such step: {step}")
        self._milliseconds[step] = milliseconds

    def pause(self, at: float | None = None) -> None:
        """Adds the time since the clock was made or resumed to `total`: a person may be thinking now.

        Args:
            at: a reading of `now` that counts as the end instead of this moment.
        """
        end = self._clock() if at is None else at
        self._milliseconds["total"] = round((end - self._begun) * 1000) + self._milliseconds.get("total", 0)
        self._begun = end

    def resume(self) -> None:
        """The time since `pause` does not count."""
        self._begun = self._clock()

    def measured(self) -> dict[str, int]:
        return dict(self._milliseconds)

    def as_milliseconds(self) -> dict[str, int]:
        """Every step, 0 where nothing was measured."""
        return {step: self._milliseconds.get(step, 0) for step in STEPS}
