"""A state machine that catches nothing proves nothing: it must tell each broken twin from the contracts."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest

from tests.stateful.machine import run_machine
from tests.stateful.pair import HOSTILE
from tests.stateful.twins import DEMANDS, TWINS, Twin, compile_each, compile_twins
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.world import World

ROUNDS = 10
compiled = cache(compile_twins)
CASES = [
    pytest.param(twin, id=twin.name.replace(" ", "-"), marks=[pytest.mark.slow] if twin.slow else []) for twin in TWINS
]


def run_rounds(world: World) -> None:
    for start in range(ROUNDS):
        run_machine(world, examples=40, steps=30, start=start, shrink=False)


@pytest.mark.parametrize("twin", CASES)
def test_broken_twin_is_caught(twin: Twin) -> None:
    world = World(compiled(twin.slow)[twin.name], hostile_tokens=HOSTILE)
    with pytest.raises((AssertionError, Revert)):
        run_rounds(world)


def test_twin_that_is_the_honest_contract_is_refused() -> None:
    """Nothing in Demands calls what is bent there: the code of Verdicts has it."""
    bent = next(twin for twin in TWINS if twin.name == "demand's fee kept by nobody")
    with pytest.raises(ValueError, match="is the honest Demands"):
        compile_each([dataclasses.replace(bent, contract=DEMANDS)])
