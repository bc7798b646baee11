"""Engines on one thread, a bounded queue."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any, cast

import numpy as np
import pytest

from market.hashing import keccak256
from market.inference.batch import Part, Result, Slot, Want
from market.inference.engine import Engine, load_engine
from market.inference.model import Config, Int64Array
from market.inference.sampling import Sampling
from market.models.pack import load_pack
from market.types import Finish
from provider.executor import Answer, EngineExecutor, Failure, Work

MODEL = keccak256(b"model")
TIMEOUT = 5


class Positions:
    """A slot that holds ids."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.ids: list[int] = []

    @property
    def length(self) -> int:
        return len(self.ids)

    def truncate(self, length: int) -> None:
        del self.ids[length:]


class GatedEngine:
    """Repeats the first id of each prompt, a step each time the gate is opened; 99 makes it crash."""

    config = Config(101, 64, 2, 2, 1, 1, 1, 2, 1, 1)  # ids up to 100

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.started: Queue[int] = Queue()
        self.wanted: list[set[Want]] = []

    def new_slot(self, capacity: int) -> Positions:
        return Positions(capacity)

    def step(self, parts: Sequence[Part]) -> list[Result]:
        slots = [cast(Positions, part.slot) for part in parts]
        for slot, part in zip(slots, parts, strict=True):
            if not slot.ids:
                self.started.put(part.ids[0])
            slot.ids.extend(part.ids)
        if any(slot.ids[0] == 99 for slot in slots):
            raise RuntimeError("secret of the prompt")
        self.wanted.append({part.want for part in parts})
        self.gate.acquire(timeout=TIMEOUT)
        return [
            slot.ids[0] if part.want is Want.TOKEN else np.eye(101, dtype=np.int64)[slot.ids[0]]
            for slot, part in zip(slots, parts, strict=True)
        ]


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
    assert bench.engine.wanted == [{Want.TOKEN}, {Want.TOKEN}, {Want.LOGITS}, {Want.LOGITS}]


def test_work_is_answered_with_its_time(bench: Bench) -> None:
    assert bench.executor.submit(work(1))
    assert bench.executor.submit(work(2))
    assert bench.executor.load() == 2
    bench.engine.gate.release(4)
    assert {bench.done.get(timeout=TIMEOUT)[0] for _ in range(2)} == {1, 2}
    answer = bench.executor.outcome(work(2).job_id)
    assert isinstance(answer, Answer)
    assert (answer.ids, answer.finish) == ((2, 2), Finish.LENGTH)
    assert answer.milliseconds >= 0
    assert bench.executor.load() == 0


def test_work_that_was_dropped_does_not_answer_for_what_is_submitted_after_it(bench: Bench) -> None:
    """The same job, computed with another seed: its first answer comes when the engine's step is over."""
    assert bench.executor.submit(work(1, token=7, length=1))
    assert bench.engine.started.get(timeout=TIMEOUT) == 7
    bench.executor.drop(work(1).job_id)
    assert bench.executor.submit(work(1, token=8, length=1))
    bench.engine.gate.release()
    assert bench.engine.started.get(timeout=TIMEOUT) == 8
    assert bench.done.empty()
    bench.engine.gate.release()
    bench.done.get(timeout=TIMEOUT)
    answer = bench.executor.outcome(work(1).job_id)
    assert isinstance(answer, Answer)
    assert answer.ids == (8,)


def test_work_beyond_the_limit_is_not_taken(bench: Bench) -> None:
    assert [bench.executor.submit(work(name)) for name in (1, 2, 3, 4)] == [True, True, True, False]
    assert not bench.executor.holds(work(4).job_id)


def test_owner_who_fills_the_queue_keeps_nobody_out(bench: Bench) -> None:
    """Refused jobs come again every second, in no order: one of a hundred of another's would never get in."""
    greedy = [replace(work(name), owner=b"greedy") for name in range(1, 5)]
    others = [replace(work(10 + name), owner=bytes([name])) for name in range(4)]
    assert [bench.executor.submit(item) for item in greedy] == [True, True, True, False]
    assert [bench.executor.submit(item) for item in others] == [True, True, True, False]  # twice the limit is the end
    assert not bench.executor.submit(replace(work(20), owner=bytes([1])))
    assert not bench.executor.submit(work(21))  # whose owner nobody knows
    bench.engine.gate.release(100)
    assert len({bench.done.get(timeout=TIMEOUT) for _ in range(6)}) == 6
    assert bench.executor.submit(greedy[3])


def test_log_probabilities_come_with_the_answer_that_asked_for_them(bench: Bench) -> None:
    for item in (work(1), replace(work(2), log_probabilities=3)):
        assert bench.executor.submit(item)
        bench.engine.gate.release(2)
        bench.done.get(timeout=TIMEOUT)
    assert bench.engine.wanted == [{Want.TOKEN}, {Want.TOKEN}, {Want.LOGITS}, {Want.LOGITS}]
    plain, told = (bench.executor.outcome(work(name).job_id) for name in (1, 2))
    assert isinstance(plain, Answer)
    assert isinstance(told, Answer)
    assert plain.log_probabilities == ()
    assert (told.ids, told.finish) == ((2, 2), Finish.LENGTH)
    assert [(each.chosen.token, [top.token for top in each.top]) for each in told.log_probabilities] == [
        (2, [2, 0, 1])
    ] * 2


class Unlucky:
    def pick(self, logits: Int64Array, position: int) -> int:
        raise ValueError(len(logits), position)


def test_answer_whose_choice_raises_is_a_failure_and_its_neighbours_are_answered(bench: Bench) -> None:
    bench.executor.submit(replace(work(1), sampling=Unlucky()))
    bench.executor.submit(work(2))
    bench.engine.gate.release(10)
    assert {bench.done.get(timeout=TIMEOUT)[0] for _ in range(2)} == {1, 2}
    assert bench.executor.outcome(work(1).job_id) == Failure("ENGINE_FAILED", "The next token could not be chosen.")
    answer = bench.executor.outcome(work(2).job_id)
    assert isinstance(answer, Answer)
    assert answer.ids == (2, 2)


def test_work_for_a_model_that_is_not_here_fails_and_the_thread_lives(bench: Bench) -> None:
    bench.executor.submit(replace(work(1), model_id=keccak256(b"nobody's")))
    assert bench.done.get(timeout=TIMEOUT) == work(1).job_id
    assert bench.executor.outcome(work(1).job_id) == Failure("ENGINE_FAILED", "The engine raised KeyError.")
    bench.executor.submit(work(2))
    bench.engine.gate.release(2)
    assert bench.done.get(timeout=TIMEOUT) == work(2).job_id


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
    bench.engine.gate.release(3)  # the step that the first was in, and two of the third
    assert bench.engine.started.get(timeout=TIMEOUT) == 3
    assert bench.done.get(timeout=TIMEOUT) == work(3).job_id
    assert bench.executor.outcome(work(1).job_id) is None
    assert bench.executor.outcome(work(2).job_id) is None


def test_short_work_overtakes_long_work_that_began_before(bench: Bench) -> None:
    bench.executor.submit(work(1, length=60))
    bench.engine.started.get(timeout=TIMEOUT)
    bench.executor.submit(work(2))
    bench.engine.gate.release(3)
    assert bench.done.get(timeout=TIMEOUT) == work(2).job_id
    assert bench.executor.outcome(work(1).job_id) is None


def test_models_take_turns() -> None:
    other, engines, done = keccak256(b"other"), [GatedEngine(), GatedEngine()], Queue[bytes]()
    executor = EngineExecutor(dict(zip((MODEL, other), engines, strict=True)), 3, done.put)
    executor.submit(work(1, length=60))
    executor.submit(replace(work(2), model_id=other))
    for engine in engines:
        engine.gate.release(3)
    assert done.get(timeout=TIMEOUT) == work(2).job_id
    executor.stop()


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


def test_engine_without_memory_for_a_slot_is_a_failure_and_the_thread_lives(bench: Bench) -> None:
    made, bench.engine.new_slot = bench.engine.new_slot, no_memory  # type: ignore[method-assign]
    bench.executor.submit(work(1))
    assert bench.done.get(timeout=TIMEOUT) == work(1).job_id
    assert bench.executor.outcome(work(1).job_id) == Failure("ENGINE_FAILED", "The engine raised MemoryError.")
    bench.engine.new_slot = made  # type: ignore[method-assign]
    bench.executor.submit(work(2))
    bench.engine.gate.release(2)
    assert bench.done.get(timeout=TIMEOUT) == work(2).job_id


def no_memory(_capacity: int) -> Positions:
    raise MemoryError


class Counted:
    """The tiny model's engine; remembers how many ids each step computed."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.config = engine, engine.config
        self.steps: list[list[int]] = []

    def new_slot(self, capacity: int) -> Slot:
        return self.engine.new_slot(capacity)

    def step(self, parts: Sequence[Part]) -> list[Result]:
        self.steps.append([len(part.ids) for part in parts])
        return self.engine.step(parts)


def test_prompt_of_another_client_is_computed_whole_and_that_of_the_same_is_not(tiny_pack: Path) -> None:
    """Else the time to the first token tells a client that somebody else has sent the same prompt."""
    engine, done = Counted(load_engine(load_pack(tiny_pack), threads=1)), Queue[bytes]()
    executor = EngineExecutor({MODEL: engine}, 3, done.put)
    prompt, computed, answers = tuple(range(10, 50)), [], set()
    for name, client in enumerate((b"a" * 20, b"b" * 20, b"a" * 20, b"b" * 20, b"c" * 20)):
        engine.steps.clear()
        assert executor.submit(Work(bytes([name]) * 32, MODEL, prompt, 3, (), owner=client))
        answer = executor.outcome(done.get(timeout=TIMEOUT))
        assert isinstance(answer, Answer)
        computed.append(engine.steps[0])
        answers.add(answer.ids)
    executor.stop()
    assert computed == [[40], [40], [1], [1], [40]]  # the last id is always computed, for what follows it
    assert len(answers) == 1


def test_stopped_executor_ends_what_runs_and_takes_no_more(bench: Bench) -> None:
    bench.executor.submit(work(1))
    bench.engine.started.get(timeout=TIMEOUT)
    bench.executor.stop()
    assert not bench.executor.submit(work(2))
    assert bench.done.empty()
