"""The games of disputes tell each broken twin from the contract."""

from __future__ import annotations

from functools import cache

import pytest

from tests.stateful.dispute_machine import run_dispute_machine
from tests.stateful.dispute_stage import ToyStage
from tests.stateful.dispute_table import BEHAVIOURS
from tests.stateful.dispute_twins import TWINS
from tests.stateful.twins import Twin, compile_each
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.disputes import DisputeWorld
from tools.compiler import Artefact

ROUNDS = range(5)
CASES = [
    pytest.param(twin, id=twin.name.replace(" ", "-"), marks=[pytest.mark.slow] if twin.slow else []) for twin in TWINS
]


@cache
def compiled(slow: bool) -> dict[str, dict[str, Artefact]]:
    return compile_each([twin for twin in TWINS if twin.slow == slow])


@pytest.mark.parametrize("twin", CASES)
def test_broken_twin_is_caught(twin: Twin) -> None:
    stage = ToyStage(DisputeWorld(compiled(twin.slow)[twin.name]))
    with pytest.raises((AssertionError, Revert)):  # noqa: PT012 (whichever game it is that finds it)
        for start in ROUNDS:
            for behaviour in BEHAVIOURS:
                only = (behaviour,)
                run_dispute_machine(stage, examples=25, steps=25, start=start, behaviours=only, shrink=False)
