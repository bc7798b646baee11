"""The contracts beside their model, call by call: same money, same errors, same states."""

from __future__ import annotations

import pytest

from tests.depth import DEPTH, alone
from tests.stateful.machine import run_machine
from tests.stateful.pair import HOSTILE
from tests.unit.contracts.test_coverage import MARKET, UNREACHABLE
from tests.unit.contracts.world import World

EXAMPLES, ROUNDS_MIN, ROUNDS_MAX = 50, 3, 24


def missed(world: World) -> set[str]:
    """External functions never called and custom errors never seen."""
    entries = [(name, entry) for name in MARKET for entry in world.artefacts[name]["abi"]]
    functions = {(name, entry["name"]) for name, entry in entries if entry["type"] == "function"}
    errors = {entry["name"] for _, entry in entries if entry["type"] == "error"} - set(UNREACHABLE)
    called, seen = world.chain.coverage.functions, world.chain.coverage.errors
    return {f"{name}.{function}" for name, function in functions - set(called)} | (errors - set(seen))


def test_market_beside_its_model_reaches_every_function_and_every_error() -> None:
    """At least three rounds, and more where a rare error has not come up yet."""
    world = World(hostile_tokens=HOSTILE)
    for start in range(ROUNDS_MAX):
        if start >= ROUNDS_MIN and not missed(world):
            break
        run_machine(world, examples=EXAMPLES, steps=20, start=start)
    assert missed(world) == set()


@pytest.mark.slow
@pytest.mark.parametrize("start", alone("market", range(1_000, 1_008)))
def test_market_beside_its_model_for_a_long_time(start: int) -> None:
    run_machine(World(hostile_tokens=HOSTILE), examples=200 * DEPTH, steps=100, start=start)
