"""No step of a dispute costs more than its bar: not of the demo's model, nor of any program that the judge accepts."""

from __future__ import annotations

import pytest

from tests.gas.steps import LENGTHS, LIMITS, Cost, acceptance, measure

BAR = 500_000
MEASURED = [*(f"{tokens} tokens" for tokens in LENGTHS), *LIMITS]
TRANSACTION = 1 << 24  # the most gas that a transaction may have (EIP-7825)


@pytest.fixture(scope="module")
def costs() -> dict[str, dict[str, Cost]]:
    return measure()


@pytest.mark.parametrize("what", MEASURED)
def test_no_step_costs_more_than_the_bar(costs: dict[str, dict[str, Cost]], what: str) -> None:
    assert {name: cost for name, cost in costs[what].items() if cost.gas > BAR} == {}


@pytest.mark.parametrize("what", MEASURED)
def test_calldata_is_what_a_step_costs(costs: dict[str, dict[str, Cost]], what: str) -> None:
    """Where EIP-7623 holds, execution costs next to nothing beside the openings."""
    assert {name: cost for name, cost in costs[what].items() if cost.executed > 1.1 * cost.floor} == {}


def test_largest_program_is_accepted_in_one_transaction() -> None:
    assert max(acceptance().values()) < TRANSACTION
