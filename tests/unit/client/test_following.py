"""A draw that met another state than it was made for."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from client.following import Follow
from client.progress import silent
from client.steps import StepClock
from market.chain import Call
from market.errors import ContractError
from market.views import JobState
from tests.unit.client.test_watching import JOB

JOB_ID = b"\1" * 32
DRAWING = dataclasses.replace(JOB, state=JobState.DRAWING, draw_block=7)


def follow(send: Any) -> Follow:
    jobs: Any = SimpleNamespace(draw=lambda _job: Call("0x" + "11" * 20, b"", "Jobs.draw"))
    waker: Any = SimpleNamespace()
    return Follow(jobs, waker, now=lambda: 0, send=send, steps=StepClock(), report=silent)


@pytest.mark.parametrize("code", ["DrawNotReady", "WrongState", "TooLate"])
def test_draw_that_comes_too_early_or_too_late_is_no_error(code: str) -> None:
    def send(_call: Call, _key: str) -> None:
        raise ContractError("no", code=code)

    following = follow(send)
    for _ in range(3):
        assert anyio.run(following._draw, JOB_ID, DRAWING, send) is False


def test_draw_without_enough_gas_is_sent_again_once_for_each_draw() -> None:
    """It was to arm another draw, and somebody else had armed it: what it met is a draw, which takes more gas."""
    keys: list[str] = []

    def send(_call: Call, key: str) -> None:
        keys.append(key)
        raise ContractError("The transaction reverted.", code="Reverted")

    following = follow(send)
    assert anyio.run(following._draw, JOB_ID, DRAWING, send) is False
    with pytest.raises(ContractError, match="reverted"):
        anyio.run(following._draw, JOB_ID, DRAWING, send)
    armed = dataclasses.replace(DRAWING, draw_block=8)
    assert anyio.run(following._draw, JOB_ID, armed, send) is False
    with pytest.raises(ContractError, match="reverted"):
        anyio.run(following._draw, JOB_ID, armed, send)
    assert keys == [f"draw:{JOB_ID.hex()}:{block}" for block in (7, 7, 8, 8)]
