"""One engine, one thread, a bounded queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import Queue
from typing import Any

import pytest

from market.hashing import keccak256
from market.inference.engine import Generation
from market.inference.errors import PromptError
from market.inference.sampling import Picker, Sampling
from market.types import Finish
from provider.executor import Answer, EngineExecutor, Failure, Work

MODEL = keccak256(b"model")
TIMEOUT = 5


class GatedEngine:
    """Generates a token each time the gate is opened; ids above 100 are refused, 99 makes it crash."""

    config: Any = None

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.started: Queue[int] = Queue()
        self.sampling: list[Picker | None] = []

    def generate(
        self,
        ids: Sequence[int],
        max_output_tokens: int,
        stop_tokens: Sequence[int],
        cancelled: Callable[[], bool] | None = None,
        on_token: Callable[[int], None] | None = None,
        sampling: Picker | None = None,
    ) -> Generation:
        if ids[0] > 100:
            raise PromptError("vocabulary", ids[0], 100, "too large")
        if ids[0] == 99:
            raise RuntimeError("secret of the prompt")
        self.sampling.append(sampling)
        self.started.put(ids[0])
        made: list[int] = []
        while len(made) < max_output_tokens:
            if not self.gate.acquire(timeout=0.01):
                if cancelled is not None and cancelled():
                    return Generation(tuple(made), Finish.CANCELLED)
                continue
            made.append(ids[0])
        return Generation(tuple(made), Finish.LENGTH)


def work(name: int, token: int = 0, length: int = 2) -> Work:
    return Work(bytes([name]) * 32, MODEL, (token or name,), length, ())


class Bench:
    def __init__(self, limit: int = 3) -> None:
        self.engine = GatedEngine()
        self.done: Queue[bytes] = Queue()
        self.executor = EngineExecutor({MODEL: self.engine}, limit, self.done.put)


@pytest.fixture
def bench() -> Any:
    bench = Bench()
    yield bench
    bench.executor.stop()


def test_work_is_sampled_as_it_says(bench: Bench) -> None:
    sampling = Sampling(65536, 0, 65536, bytes(32))
    for item in (work(1), replace(work(2), sampling=sampling)):
        assert bench.executor.submit(item)
        bench.engine.gate.release(2)
        bench.done.get(timeout=TIMEOUT)
    assert bench.engine.sampling == [None, sampling]


def test_work_is_answered_in_order_with_its_time(bench: Bench) -> None:
    assert bench.executor.submit(work(1))
    assert bench.executor.submit(work(2))
    assert bench.executor.load() == 2
    bench.engine.gate.release(4)
    assert [bench.done.get(timeout=TIMEOUT)[0] for _ in range(2)] == [1, 2]
    answer = bench.executor.outcome(work(2).job_id)
    assert isinstance(answer, Answer)
    assert (answer.ids, answer.finish) == ((2, 2), Finish.LENGTH)
    assert answer.milliseconds >= 0
    assert bench.executor.load() == 0


def test_work_beyond_the_limit_is_not_taken(bench: Bench) -> None:
    assert [bench.executor.submit(work(name)) for name in (1, 2, 3, 4)] == [True, True, True, False]
    assert not bench.executor.holds(work(4).job_id)


def test_work_submitted_twice_runs_once(bench: Bench) -> None:
    bench.executor.submit(work(1))
    bench.executor.submit(work(1))
    bench.engine.gate.release(2)
    bench.done.get(timeout=TIMEOUT)
    assert bench.executor.submit(work(1))
    assert bench.executor.load() == 0
    assert bench.engine.started.qsize() == 1


def test_dropped_work_stops_and_leaves_nothing(bench: Bench) -> None:
    bench.executor.submit(work(1))
    bench.engine.started.get(timeout=TIMEOUT)
    bench.executor.submit(work(2))
    bench.executor.submit(work(3))
    bench.executor.drop(work(2).job_id)
    bench.executor.drop(work(1).job_id)
    assert not bench.executor.holds(work(1).job_id)
    assert bench.engine.started.get(timeout=TIMEOUT) == 3
    bench.engine.gate.release(2)
    assert bench.done.get(timeout=TIMEOUT) == work(3).job_id
    assert bench.executor.outcome(work(1).job_id) is None
    assert bench.executor.outcome(work(2).job_id) is None


def test_refusing_engine_is_a_failure_with_its_code(bench: Bench) -> None:
    bench.executor.submit(work(1, token=101))
    bench.done.get(timeout=TIMEOUT)
    failure = bench.executor.outcome(work(1).job_id)
    assert isinstance(failure, Failure)
    assert failure.code == "PromptError"


def test_crashing_engine_is_a_failure_that_tells_nothing_of_the_prompt(bench: Bench) -> None:
    bench.executor.submit(work(1, token=99))
    bench.done.get(timeout=TIMEOUT)
    assert bench.executor.outcome(work(1).job_id) == Failure("ENGINE_FAILED", "The engine raised RuntimeError.")
    bench.executor.submit(work(2))
    bench.engine.gate.release(2)
    assert bench.done.get(timeout=TIMEOUT) == work(2).job_id


def test_stopped_executor_ends_what_runs_and_takes_no_more(bench: Bench) -> None:
    bench.executor.submit(work(1))
    bench.engine.started.get(timeout=TIMEOUT)
    bench.executor.stop()
    assert not bench.executor.submit(work(2))
    assert bench.done.empty()
