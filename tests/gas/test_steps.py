"""No step of a dispute costs more than its bar: not of the demo's model, nor of any program that the judge accepts."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from market.dispute_gas import Measured, measured, moves, opening
from market.verification.limits import beyond_judge
from tests.gas import snapshot
from tests.gas.plan import plan
from tests.gas.steps import LENGTHS, LIMITS, REFUSED, Cost, acceptance, floors, measure

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


def test_gas_that_a_challenger_plans_with_is_what_its_moves_take(costs: dict[str, dict[str, Cost]]) -> None:
    """Within 15 %, which the plan adds: where it differs, python -m tests.gas.plan."""
    now, planned = asdict(plan(snapshot.read(), costs)), asdict(measured())
    assert {name: (planned[name], used) for name, used in now.items() if abs(planned[name] - used) > 0.15 * used} == {}
    known = Measured(**now)
    assert opening(known.open_ids) >= known.open
    assert moves(6) >= 6 * known.request + known.proof
    assert moves(0) == 0


def test_larger_models_of_the_family_are_refused_because_a_step_would_cost_too_much() -> None:
    """ADR 34 and docs/disputes.md say these numbers."""
    beyond = {
        model: {step: round(gas, -3) for step, gas in least.items() if gas > BAR} for model, least in floors().items()
    }
    assert beyond == {
        "SmolLM2-360M": {"down": 502_000},
        "SmolLM2-1.7B": {
            "down": 1_175_000,
            "norm, s or v": 593_000,
            "output norm, s or v": 587_000,
        },
    }
    assert [beyond_judge(shape) for shape in REFUSED.values()] == [
        "feed-forward width F = 2,560 (at most 2,048)",
        "width D = 2,048 (at most 1,536), feed-forward width F = 8,192 (at most 2,048)",
    ]


def test_largest_program_is_accepted_in_one_transaction() -> None:
    assert max(acceptance().values()) < TRANSACTION
