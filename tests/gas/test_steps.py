"""No step of a dispute costs more than its bar, at the lengths and shapes of the demo's model."""

from __future__ import annotations

import pytest

from tests.gas.steps import LENGTHS, Cost, measure

BAR = 500_000


@pytest.fixture(scope="module")
def costs() -> dict[int, dict[str, Cost]]:
    return measure()


@pytest.mark.parametrize("tokens", LENGTHS)
def test_no_step_costs_more_than_the_bar(costs: dict[int, dict[str, Cost]], tokens: int) -> None:
    assert {name: cost for name, cost in costs[tokens].items() if cost.gas > BAR} == {}


@pytest.mark.parametrize("tokens", LENGTHS)
def test_calldata_is_what_a_step_costs(costs: dict[int, dict[str, Cost]], tokens: int) -> None:
    """Where EIP-7623 holds, execution costs next to nothing beside the openings."""
    assert {name: cost for name, cost in costs[tokens].items() if cost.executed > 1.1 * cost.floor} == {}
