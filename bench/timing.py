"""Seconds by two clocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Took:
    """Seconds, or a ratio of seconds, by the clock on the wall and by what this process had of the processors."""

    wall: float
    cpu: float

    @classmethod
    def best(cls, runs: Sequence[Took]) -> Took:
        return cls(min(run.wall for run in runs), min(run.cpu for run in runs))

    @classmethod
    def median(cls, runs: Sequence[Took]) -> Took:
        return cls(median(run.wall for run in runs), median(run.cpu for run in runs))

    def over(self, other: Took) -> Took:
        return Took(self.wall / other.wall, self.cpu / other.cpu)

    def minus(self, other: Took) -> Took:
        return Took(self.wall - other.wall, self.cpu - other.cpu)


def took(work: Callable[[], object]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)
