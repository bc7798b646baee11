"""No kick is lost, no job is stepped twice at once, no failure ends the rest."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from market.errors import ChainUnreachable
from provider.node import AGAIN, IDLE, Next
from provider.worklist import Worklist

JOB, OTHER = b"j" * 32, b"o" * 32


class Stepper:
    """Plays what it was given, then IDLE; notes who is stepped and whether twice at once."""

    def __init__(self) -> None:
        self.steps: list[bytes] = []
        self.plays: list[Next | Exception] = []
        self.busy: set[bytes] = set()
        self.overlapped = False
        self.gate = threading.Event()
        self.gate.set()
        self.time = 100

    def step(self, job_id: bytes) -> Next:
        self.overlapped |= job_id in self.busy
        self.busy.add(job_id)
        self.steps.append(job_id)
        self.gate.wait(30)
        self.busy.discard(job_id)
        play = self.plays.pop(0) if self.plays else IDLE
        if isinstance(play, Exception):
            raise play
        return play


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        await asyncio.sleep(0.005)


@pytest.fixture
def stepper() -> Stepper:
    return Stepper()


@pytest.fixture
async def worklist(stepper: Stepper) -> AsyncIterator[Worklist]:
    worklist = Worklist(stepper.step, lambda: stepper.time)
    task = asyncio.create_task(worklist.run())
    await asyncio.sleep(0)
    yield worklist
    stepper.gate.set()
    await worklist.stop(1)
    await task


async def test_kicked_job_is_stepped_until_it_rests(worklist: Worklist, stepper: Stepper) -> None:
    stepper.plays = [AGAIN, AGAIN, IDLE]
    worklist.kick(JOB)
    await until(lambda: len(stepper.steps) == 3)


async def test_kick_during_a_step_steps_once_more_after_it(worklist: Worklist, stepper: Stepper) -> None:
    stepper.gate.clear()
    worklist.kick(JOB)
    await until(lambda: len(stepper.steps) == 1)
    for _ in range(5):
        worklist.kick(JOB)
    await asyncio.sleep(0.05)
    stepper.gate.set()
    await until(lambda: len(stepper.steps) == 2)
    await asyncio.sleep(0.05)
    assert len(stepper.steps) == 2
    assert not stepper.overlapped


async def test_slow_job_does_not_hold_up_another(worklist: Worklist, stepper: Stepper) -> None:
    stepper.gate.clear()
    worklist.kick(JOB)
    worklist.kick(OTHER)
    await until(lambda: set(stepper.steps) == {JOB, OTHER})


async def test_job_with_a_time_is_stepped_when_the_chain_reaches_it(worklist: Worklist, stepper: Stepper) -> None:
    stepper.plays = [Next(at=101)]
    worklist.kick(JOB)
    await asyncio.sleep(0.3)
    assert len(stepper.steps) == 1
    stepper.time = 101
    await until(lambda: len(stepper.steps) == 2)


@pytest.mark.parametrize("failure", [ChainUnreachable("down"), RuntimeError("bug")])
async def test_failed_step_is_tried_again(worklist: Worklist, stepper: Stepper, failure: Exception) -> None:
    stepper.plays = [failure, IDLE]
    worklist.kick(JOB)
    await until(lambda: len(stepper.steps) == 2)


async def test_stopped_worklist_starts_nothing_more(worklist: Worklist, stepper: Stepper) -> None:
    stepper.gate.clear()
    worklist.kick(JOB)
    await until(lambda: len(stepper.steps) == 1)
    assert not await worklist.stop(0.05)
    worklist.kick(OTHER)
    stepper.gate.set()
    await asyncio.sleep(0.05)
    assert stepper.steps == [JOB]
