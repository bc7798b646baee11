"""Serving many at once: every answer is the one it would be alone, nobody starves, nobody sees another's prefix."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.inference.batch import Part, Result, Slot, Want
from market.inference.engine import Engine, Generation, load_engine
from market.inference.errors import PromptError
from market.inference.log_probabilities import fitting_top, log_probabilities, recomputed
from market.inference.model import Int64Array
from market.inference.native import library
from market.inference.sampling import Sampling
from market.inference.scheduler import Overloaded, Scheduler, SchedulerLimits, Task
from market.inference.torch_engine import TorchEngine
from market.models.pack import Pack
from market.types import Finish

IDS = st.integers(3, 200)


class Watched:
    """An engine that remembers how many ids each step computed, per slot."""

    def __init__(self, engine: TorchEngine) -> None:
        self.engine = engine
        self.config = engine.config
        self.steps: list[list[int]] = []
        self.slots = 0

    def new_slot(self, capacity: int) -> Slot:
        self.slots += 1
        return self.engine.new_slot(capacity)

    def step(self, parts: Sequence[Part]) -> list[Result]:
        assert len({id(part.slot) for part in parts}) == len(parts)
        self.steps.append([len(part.ids) for part in parts])
        return self.engine.step(parts)


@pytest.fixture
def watched(tiny_engine: TorchEngine) -> Watched:
    return Watched(tiny_engine)


def task(name: int, prompt: Sequence[int], length: int = 4, **changes: Any) -> Task:
    return replace(Task(bytes([name]) * 32, tuple(prompt), length), **changes)


def drain(scheduler: Scheduler) -> dict[bytes, Generation]:
    ended: dict[bytes, Generation] = {}
    while scheduler.busy:
        ended.update(scheduler.step())
    return ended


@pytest.fixture(
    scope="module",
    params=[("torch", 1), ("numpy", 1), *((kernels, threads) for kernels in library.KERNELS for threads in (1, 2))],
    ids=lambda param: f"{param[0]}-{param[1]}t",
)
def serving(request: pytest.FixtureRequest, tiny_pack: Pack, tiny_engine: TorchEngine) -> Engine:
    kernels, threads = request.param
    if kernels == "torch":
        return tiny_engine
    if kernels not in (*library.supported(), "numpy"):
        pytest.skip(f"this machine or this installation has no {kernels}")
    return load_engine(tiny_pack, kernels=kernels, threads=threads)


def by_itself(engine: Engine, t: Task) -> Generation:
    answer = engine.generate(t.ids, t.max_output_tokens, t.stop_tokens, sampling=t.sampling)
    told = recomputed(engine, t.ids, answer.ids, t.log_probabilities) if t.log_probabilities else ()
    return replace(answer, log_probabilities=told)


@settings(deadline=None, max_examples=25)
@given(
    prompts=st.lists(st.lists(IDS, min_size=1, max_size=24), min_size=1, max_size=7),
    owners=st.lists(st.sampled_from([b"", b"a", b"b"]), min_size=7, max_size=7),
    lengths=st.lists(st.integers(1, 8), min_size=7, max_size=7),
    limits=st.builds(
        SchedulerLimits, st.integers(1, 4), st.integers(1, 16), st.just(9), st.integers(1, 8), st.integers(0, 2)
    ),
    order=st.randoms(use_true_random=False),
)
def test_answer_does_not_depend_on_its_neighbours(
    serving: Engine,
    prompts: list[list[int]],
    owners: list[bytes],
    lengths: list[int],
    limits: SchedulerLimits,
    order: random.Random,
) -> None:
    """Whoever comes when, is cancelled or shares a prefix: what is answered is what the engine says alone."""
    prompts = [prompt if order.random() < 0.5 else (prompts[0] + prompt)[:24] for prompt in prompts]
    pickers = (None, Sampling(1 << 15, 9, 1 << 16, bytes(32)))
    tasks = [
        task(
            n,
            prompt,
            lengths[n],
            owner=owners[n],
            stop_tokens=(2,),
            sampling=order.choice(pickers),
            log_probabilities=order.choice((0, 0, 3)),
        )
        for n, prompt in enumerate(prompts)
    ]
    alone = {t.key: by_itself(serving, t) for t in tasks}
    scheduler, pending, got = Scheduler(serving, limits), list(tasks), dict[bytes, Generation]()
    cancelled: dict[bytes, Generation] = {}
    while pending or scheduler.busy:
        if pending and (not scheduler.busy or order.random() < 0.4):
            scheduler.submit(pending.pop(order.randrange(len(pending))))
        elif order.random() < 0.05:
            key = order.choice(tasks).key
            end = scheduler.cancel(key)
            if end is not None:
                cancelled[key] = end
        else:
            got.update(scheduler.step())
    assert got == {key: answer for key, answer in alone.items() if key not in cancelled}
    for key, end in cancelled.items():
        assert end.finish is Finish.CANCELLED
        assert end.ids == alone[key].ids[: len(end.ids)]
        assert end.log_probabilities == alone[key].log_probabilities[: len(end.ids)]


def test_ids_are_heard_as_they_come(tiny_engine: TorchEngine) -> None:
    heard: list[int] = []
    scheduler = Scheduler(tiny_engine)
    scheduler.submit(task(1, [1, 70, 80], 5, on_token=heard.append))
    scheduler.step()
    assert len(heard) == 1
    (answer,) = drain(scheduler).values()
    assert tuple(heard) == answer.ids


def test_log_probabilities_are_those_of_the_logits_that_chose(tiny_engine: TorchEngine) -> None:
    scheduler = Scheduler(tiny_engine)
    scheduler.submit(task(1, [1, 70, 80], 5, log_probabilities=4))
    (answer,) = drain(scheduler).values()
    assert answer.ids == tiny_engine.generate([1, 70, 80], 5, ()).ids
    slot, pending = tiny_engine.new_slot(8), [1, 70, 80]
    for token, told in zip(answer.ids, answer.log_probabilities, strict=True):
        (logits,) = tiny_engine.step([Part(slot, pending, Want.LOGITS)])
        own, top = log_probabilities(np.asarray(logits), token, 4)
        assert (told.chosen, list(told.top)) == (own, top)
        assert told.top[0].token == token  # greedy
        pending = [token]


def test_log_probabilities_of_more_tokens_than_there_are_tell_of_all(tiny_engine: TorchEngine) -> None:
    (told,) = recomputed(tiny_engine, [1, 70], [80], 10_000)
    assert sorted(each.token for each in told.top) == list(range(tiny_engine.config.vocabulary))


@pytest.mark.parametrize(
    ("top", "length", "fits"),
    [
        (0, 5, 0),
        (3, 5, 3),
        (20, 2048, 20),
        (21, 1, 20),
        (20, 2049, 19),
        (20, 21_504, 1),
        (20, 21_505, 0),
        (5, 10**9, 0),
    ],
)
def test_log_probabilities_fit_the_body_of_an_answer(top: int, length: int, fits: int) -> None:
    assert fitting_top(top, length) == fits


def test_other_choice_of_ids_is_the_tasks(tiny_engine: TorchEngine) -> None:
    scheduler = Scheduler(tiny_engine)
    sampling = [Sampling(1 << 16, 0, 1 << 16, bytes([seed]) * 32) for seed in range(3)]
    for seed, picker in enumerate(sampling):
        scheduler.submit(task(seed, [1, 70], 6, sampling=picker))
    answers = drain(scheduler)
    assert len({answer.ids for answer in answers.values()}) == 3
    for seed, picker in enumerate(sampling):
        assert answers[bytes([seed]) * 32] == tiny_engine.generate([1, 70], 6, (), sampling=picker)


def test_prompt_of_the_same_owner_is_computed_once(watched: Watched) -> None:
    scheduler = Scheduler(watched, SchedulerLimits(reuse=4))
    first = task(1, range(10, 40), owner=b"a")
    scheduler.submit(first)
    answer = drain(scheduler)[first.key]
    watched.steps.clear()
    following = task(2, [*first.ids, *answer.ids, 7, 8], owner=b"a")
    scheduler.submit(following)
    got = drain(scheduler)
    assert scheduler.reused_tokens == 30 + len(answer.ids) - 1  # the last id of an answer is never computed
    assert watched.steps[0] == [3]
    assert got[following.key] == watched.engine.generate(following.ids, 4, ())


def test_same_prompt_again_computes_its_last_id(watched: Watched) -> None:
    scheduler = Scheduler(watched, SchedulerLimits(reuse=4))
    for name in (1, 2):
        scheduler.submit(task(name, range(10, 40), owner=b"a"))
        answers = drain(scheduler)
    assert watched.steps[-4][0] == 1
    assert answers[bytes([2]) * 32] == watched.engine.generate(range(10, 40), 4, ())


@pytest.mark.parametrize(("first", "second"), [(b"a", b"b"), (b"", b""), (b"a", b""), (b"", b"a")])
def test_prefix_of_another_owner_or_of_nobody_is_computed_again(watched: Watched, first: bytes, second: bytes) -> None:
    """Else the time to the first token tells whether somebody else has sent the same prompt."""
    scheduler = Scheduler(watched, SchedulerLimits(reuse=4))
    for name, owner in ((1, first), (2, second)):
        watched.steps.clear()
        scheduler.submit(task(name, range(10, 40), owner=owner))
        drain(scheduler)
        assert watched.steps[0] == [30]
    assert scheduler.reused_tokens == 0


def test_answers_in_progress_go_on_while_a_long_prompt_is_read(watched: Watched) -> None:
    scheduler = Scheduler(watched, SchedulerLimits(step_tokens=8))
    scheduler.submit(task(1, [5], 12))
    scheduler.step()
    scheduler.submit(task(2, range(10, 50), 1))
    watched.steps.clear()
    assert bytes([2]) * 32 in drain(scheduler)
    assert watched.steps[:6] == [[1, 7]] * 5 + [[1, 5]]
    assert max(map(sum, watched.steps)) <= 8


def test_short_prompt_is_not_held_up_by_a_long_one(watched: Watched) -> None:
    scheduler = Scheduler(watched, SchedulerLimits(step_tokens=8))
    scheduler.submit(task(1, range(10, 50), 1))
    scheduler.submit(task(2, [5, 6], 1))
    ended = scheduler.step()
    assert [key[0] for key, _ in ended] == [2]
    assert watched.steps == [[2, 6]]


def test_owner_with_many_requests_does_not_hold_up_the_others(tiny_engine: TorchEngine) -> None:
    """Whoever has fewest answers in progress gets the next slot, also if others of the line have waited for longer."""
    scheduler = Scheduler(tiny_engine, SchedulerLimits(slots=2, spare=0))
    for name in range(6):
        scheduler.submit(task(name, [5 + name], 3 + name, owner=b"greedy"))
    assert [admitted.key[0] for admitted in scheduler.admit()] == [0, 1]
    scheduler.submit(task(9, [50], 3, owner=b"modest"))
    assert [key[0] for _ in range(3) for key, _ in scheduler.step()] == [0]
    assert [admitted.key[0] for admitted in scheduler.admit()] == [9]


def test_owner_whose_long_answers_fill_the_slots_does_not_hold_up_the_others(watched: Watched) -> None:
    scheduler = Scheduler(watched, SchedulerLimits(slots=2, spare=2))
    for name in range(4):
        scheduler.submit(task(name, [5 + name], 30, owner=b"greedy"))
    assert [admitted.key[0] for admitted in scheduler.admit()] == [0, 1]
    for name in range(4):
        scheduler.submit(task(10 + name, [50 + name], 2, owner=bytes([name])))
    assert [admitted.key[0] for admitted in scheduler.admit()] == [10, 11]  # and no more: 2 slots and 2 spare ones
    assert [key[0] for _ in range(4) for key, _ in scheduler.step()] == [10, 11, 12, 13]
    assert [admitted.key[0] for admitted in scheduler.admit()] == []  # spare slots are not for who has answers
    assert len(drain(scheduler)) == 4
    assert watched.slots == 4


def test_owners_with_as_many_answers_take_turns(tiny_engine: TorchEngine) -> None:
    scheduler = Scheduler(tiny_engine, SchedulerLimits(slots=1, spare=0))
    for name in range(6):
        scheduler.submit(task(name, [5 + name], 1, owner=b"a" if name < 4 else b"b"))
    assert [key[0] for _ in range(6) for key, _ in scheduler.step()] == [0, 4, 1, 5, 2, 3]


def test_waiting_beyond_the_limit_is_refused_and_nothing_else_changes(tiny_engine: TorchEngine) -> None:
    scheduler = Scheduler(tiny_engine, SchedulerLimits(slots=1, waiting=2))
    for name in (1, 2):
        scheduler.submit(task(name, [5], 1))
    with pytest.raises(Overloaded, match="Nothing was computed"):
        scheduler.submit(task(3, [5], 1))
    assert (scheduler.waiting, scheduler.running) == (2, 0)
    assert len(drain(scheduler)) == 2


def test_what_does_not_fit_the_model_is_refused_before_it_waits(tiny_engine: TorchEngine) -> None:
    scheduler = Scheduler(tiny_engine)
    with pytest.raises(PromptError):
        scheduler.submit(task(1, [], 1))
    assert not scheduler.busy


def test_key_that_is_here_is_refused(tiny_engine: TorchEngine) -> None:
    scheduler = Scheduler(tiny_engine)
    scheduler.submit(task(1, [5], 1))
    with pytest.raises(ValueError, match="key"):
        scheduler.submit(task(1, [6], 1))


@pytest.mark.parametrize("spare", [0, 2])
def test_memory_is_that_of_the_slots(watched: Watched, spare: int) -> None:
    scheduler = Scheduler(watched, SchedulerLimits(slots=3, spare=spare))
    for _ in range(2):
        for name in range(9):
            scheduler.submit(task(name, [5 + name], 3, owner=bytes([name])))
        assert len(drain(scheduler)) == 9
    assert watched.slots == 3 + spare


class Broken:
    """A picker that works for a while."""

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def pick(self, logits: Int64Array, position: int) -> int:
        if position == self.positions:
            raise RuntimeError(len(logits), "secret of the prompt")
        return int(logits.argmax())


def test_answer_whose_choice_raises_ends_alone(tiny_engine: TorchEngine, caplog: pytest.LogCaptureFixture) -> None:
    """Its neighbours in the same step lose nothing, whether they come before or after it."""
    scheduler = Scheduler(tiny_engine)
    for name in range(3):
        scheduler.submit(task(name, [5 + name, 9], 4, sampling=Broken(2) if name == 1 else None))
    ended = drain(scheduler)
    for name in (0, 2):
        assert ended[bytes([name]) * 32] == tiny_engine.generate([5 + name, 9], 4, ())
    broken = ended[bytes([1]) * 32]
    assert (len(broken.ids), broken.finish) == (2, Finish.ERROR)
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


class Failing(Watched):
    """Its second step fails."""

    def step(self, parts: Sequence[Part]) -> list[Result]:
        if len(self.steps) == 1:
            self.steps.append([])
            raise RuntimeError
        return super().step(parts)


def test_step_that_raised_loses_what_was_in_it_and_nothing_else(tiny_engine: TorchEngine) -> None:
    scheduler = Scheduler(Failing(tiny_engine), SchedulerLimits(slots=1))
    scheduler.submit(task(1, [5], 3))
    scheduler.submit(task(2, [6], 2))
    scheduler.step()
    with pytest.raises(RuntimeError):
        scheduler.step()
    assert scheduler.abandon() == [bytes([1]) * 32]
    assert drain(scheduler) == {bytes([2]) * 32: tiny_engine.generate([6], 2, ())}


def test_step_of_nobody_does_nothing(watched: Watched) -> None:
    assert Scheduler(watched).step() == []
    assert watched.steps == []


class Cramped(Watched):
    """No memory for more than so many slots."""

    room = 1

    def new_slot(self, capacity: int) -> Slot:
        if self.slots == self.room:
            raise MemoryError
        return super().new_slot(capacity)


def test_slot_that_cannot_be_had_loses_no_task_unseen(tiny_engine: TorchEngine) -> None:
    """Who waited for it waits on while others can still end, and is told where nothing can."""
    engine = Cramped(tiny_engine)
    scheduler = Scheduler(engine)
    for name in (1, 2):
        scheduler.submit(task(name, [5 + name], 2))
    with pytest.raises(MemoryError):
        scheduler.admit()
    assert (scheduler.running, scheduler.waiting) == (1, 1)
    assert scheduler.abandon() == [bytes([1]) * 32]
    assert scheduler.busy
    with pytest.raises(MemoryError):
        scheduler.admit()
    assert scheduler.abandon() == [bytes([2]) * 32]
    assert not scheduler.busy


def test_real_answers_together_are_those_alone(real_pack: Pack) -> None:
    engine = TorchEngine(real_pack.model)
    prompts = [[1, 9690, 198], [504, 3575, 282, 4649, 314], [1, 2683, 28]]
    scheduler = Scheduler(engine, SchedulerLimits(slots=2, step_tokens=4))
    tasks = [task(n, prompt, 6) for n, prompt in enumerate(prompts)]
    for t in tasks:
        scheduler.submit(t)
    assert drain(scheduler) == {t.key: engine.generate(t.ids, 6, ()) for t in tasks}
