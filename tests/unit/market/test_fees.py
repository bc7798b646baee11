"""EIP-1559 fees: bounded above, and raised far enough to replace."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.fees import GWEI, FeeAboveCap, FeePolicy, Fees

POLICY = FeePolicy(ceiling=300 * GWEI, min_priority_fee=GWEI // 10)
WEI = st.integers(0, 1000 * GWEI)


@given(WEI, st.lists(WEI, max_size=5))
def test_fees_never_exceed_the_ceiling_and_cover_the_next_block(base_fee: int, rewards: list[int]) -> None:
    try:
        fees = POLICY.choose(base_fee, rewards)
    except FeeAboveCap:
        assert base_fee + POLICY.min_priority_fee > POLICY.ceiling
        return
    assert fees.max_fee <= POLICY.ceiling
    assert 0 < fees.priority_fee <= fees.max_fee
    assert fees.max_fee >= base_fee + min(fees.priority_fee, POLICY.min_priority_fee)


def test_fees_leave_room_for_the_base_fee_to_double() -> None:
    assert POLICY.choose(10 * GWEI, [2 * GWEI]) == Fees(22 * GWEI, 2 * GWEI)


def test_fees_without_recent_tips_offer_the_least_tip() -> None:
    assert POLICY.choose(GWEI, []).priority_fee == POLICY.min_priority_fee
    assert POLICY.choose(GWEI, [0, 0, 0]).priority_fee == POLICY.min_priority_fee


def test_fees_above_the_ceiling_are_refused_with_numbers() -> None:
    with pytest.raises(FeeAboveCap) as refused:
        POLICY.choose(301 * GWEI, [])
    assert refused.value.details == {"base_fee": 301 * GWEI, "ceiling": 300 * GWEI}
    assert "Nothing was sent" in refused.value.message


@given(st.integers(1, 200 * GWEI), st.integers(1, 200 * GWEI), WEI, WEI)
def test_replacement_offers_an_eighth_more_in_both_fields(
    max_fee: int, priority_fee: int, now_max: int, now_priority: int
) -> None:
    previous = Fees(max(max_fee, priority_fee), priority_fee)
    replacement = POLICY.replacement(previous, Fees(max(now_max, now_priority), now_priority))
    if replacement is None:
        return
    assert Fraction(replacement.max_fee, previous.max_fee) >= Fraction(9, 8)
    assert Fraction(replacement.priority_fee, previous.priority_fee) >= Fraction(9, 8)
    assert replacement.priority_fee <= replacement.max_fee <= POLICY.ceiling


def test_replacement_follows_a_market_that_rose_faster() -> None:
    assert POLICY.replacement(Fees(10, 1), Fees(100, 50)) == Fees(100, 50)


def test_replacement_above_the_ceiling_is_none() -> None:
    assert POLICY.replacement(Fees(290 * GWEI, GWEI), Fees(1, 1)) is None


def test_replacement_of_one_wei_is_two() -> None:
    assert POLICY.replacement(Fees(1, 1), Fees(0, 0)) == Fees(2, 2)


@pytest.mark.parametrize(("before", "after"), [(8, 9), (9, 11), (15, 17), (16, 18), (1_000_000_001, 1_125_000_002)])
def test_replacement_rounds_up(before: int, after: int) -> None:
    assert POLICY.replacement(Fees(before, before), Fees(0, 0)) == Fees(after, after)
