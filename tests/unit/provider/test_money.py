"""Small arithmetic of stake and display."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.onboard import StakePlan, stake_problem
from provider.status import Bond, Status, amount

AMOUNTS = st.integers(0, 2**100)


@given(target=AMOUNTS, staked=AMOUNTS, locked=AMOUNTS, credit=AMOUNTS, wallet=AMOUNTS)
def test_stake_plan_reaches_the_target_or_says_what_is_missing(**money: int) -> None:
    plan = StakePlan.of(**money)
    assert 0 <= plan.from_credit <= money["credit"]
    assert 0 <= plan.from_wallet <= money["wallet"]
    reached = money["staked"] + money["locked"] + plan.from_credit + plan.from_wallet
    assert reached + plan.missing == max(money["target"], money["staked"] + money["locked"])
    assert bool(stake_problem(plan, money["target"])) == (plan.missing > 0)
    if plan.missing:
        assert (plan.from_credit, plan.from_wallet) == (money["credit"], money["wallet"])


@pytest.mark.parametrize(
    ("units", "decimals", "shown"),
    [(0, 6, "0 ABC"), (1_234_567, 6, "1.234567 ABC"), (10**9, 6, "1,000 ABC"), (5, 6, "0.000005 ABC"), (7, 0, "7 ABC")],
)
def test_amounts_are_shown_exactly(units: int, decimals: int, shown: str) -> None:
    assert amount(units, decimals, "ABC") == shown


def test_status_json_has_amounts_as_strings_and_times_as_numbers() -> None:
    numbers: dict[str, Any] = dict.fromkeys(("stake", "credit", "wallet", "gas", "exiting", "earned"), 2**100)
    status = Status(
        address="0xa",
        endpoint="",
        token="0xb",
        symbol="ABC",
        decimals=6,
        exit_ready_at=5,
        settled_jobs=1,
        bonds=(Bond("0x1", 7, 9), Bond("0x2", 2**90, 0)),
        open_jobs=(),
        refused_jobs=(),
        **numbers,
    )
    shown = status.to_json()
    assert shown["stake"] == str(2**100)
    assert shown["exitReadyAt"] == 5
    assert shown["bonds"][0] == {"jobId": "0x1", "amount": "7", "freeAt": 9}
    assert shown["locked"] == str(7 + 2**90)
