"""The terms of a drawn job: ceilings that enough drawable providers take, and why the others do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.drawing import SPREAD, DrawOffer, DrawWanted, plan_draw
from client.errors import BadRequest, NotEnoughProviders, PriceAboveCap
from client.job_options import ChainLimits, JobOptions, check_options
from client.matching import LeftOut
from market.models.pack import load_pack
from market.settlement import Terms, minimum_bond, minimum_kill_fee, price
from market.types import ZERO_ADDRESS, Mode
from tests.unit.client.examples import CLIENT, NOW, SHARE_BPS, TOKEN, Listed, account, listed, offer, request
from tests.unit.client.market_of_one import Street, negotiate

FULL = 65_536
LIST_PRICE = 45  # of examples.offer() for examples.request(): 10 + 3 + 2 · 16


def drawable(number: int, *, stake: int = 1_000_000, weight: int = FULL, **terms: Any) -> Listed:
    terms = {"max_bond": 1_000, **terms}
    return listed(number, stake=stake, weight=weight, offer=offer(**terms))


def wanted(**changes: Any) -> DrawWanted:
    base = DrawWanted(CLIENT, request(), Mode.QUORUM, 3, TOKEN, SHARE_BPS, "tiny", NOW + 600, 7)
    return dataclasses.replace(base, **changes)


def plan(*offers: Listed, **changes: Any) -> tuple[DrawOffer, list[LeftOut]]:
    return plan_draw(offers, wanted(**changes))


def who(drawn: DrawOffer) -> set[str]:
    return {provider.provider for provider in drawn.eligible}


def addresses(*numbers: int) -> set[str]:
    return {account(number).address for number in numbers}


def test_terms_are_the_highest_prices_and_the_least_fees_and_bond_that_post_takes() -> None:
    drawn, left_out = plan(
        drawable(1), drawable(2, base_fee=12), drawable(3, price_per_m_output=2_500_000), drawable(4, base_fee=9)
    )
    quote = drawn.quote
    assert (quote.base_fee, quote.price_per_m_input, quote.price_per_m_output) == (12, 1_000_000, 2_500_000)
    assert drawn.price == 12 + 3 + 40 == 55
    assert (quote.kill_fee, quote.miss_fee, quote.bond) == (6, 55, 79)  # ⌈5.5⌉, the price, ⌈55 / 0.7⌉
    assert (quote.provider, quote.client, quote.valid_until, quote.nonce) == (ZERO_ADDRESS, ZERO_ADDRESS, NOW + 600, 7)
    assert who(drawn) == addresses(1, 2, 3, 4)
    assert left_out == []
    assert [provider.list_price for provider in drawn.eligible] == [44, 45, 47, 53]


def test_single_dear_offer_does_not_make_everybody_dear() -> None:
    drawn, (left,) = plan(drawable(1), drawable(2), drawable(3), drawable(4, base_fee=10 + 2 * LIST_PRICE))
    assert drawn.price == LIST_PRICE
    assert (left.provider, left.stage, left.constraint) == (account(4).address, "draw", "price")
    assert left.details == {"asks": 3 * LIST_PRICE, "offered": LIST_PRICE}


def test_few_cheap_offers_do_not_keep_all_others_out() -> None:
    """Whoever lists three accounts for next to nothing would otherwise be drawn for every job."""
    cheap = [drawable(number, base_fee=10 - number) for number in (1, 2, 3)]
    drawn, _ = plan(*cheap, *[drawable(number, base_fee=40) for number in (4, 5, 6)])
    assert who(drawn) == addresses(1, 2, 3, 4, 5, 6)
    assert drawn.price == LIST_PRICE + 30 <= SPREAD * (LIST_PRICE - 1)


@pytest.mark.parametrize(("cap", "count"), [({"max_price": 74}, 3), ({"max_escrow": 3 * 74 + 2}, 3), ({}, 6)])
def test_cap_of_the_caller_bounds_what_is_offered(cap: dict[str, int], count: int) -> None:
    offers = [drawable(n) for n in (1, 2, 3)] + [drawable(n, base_fee=40) for n in (4, 5, 6)]
    drawn, _ = plan(*offers, **cap)
    assert len(drawn.eligible) == count


@pytest.mark.parametrize("cap", [{"max_price": 44}, {"max_escrow": 3 * 45 - 1}])
def test_cap_below_the_cheapest_terms_says_what_they_cost(cap: dict[str, int]) -> None:
    with pytest.raises(PriceAboveCap, match="cost 45 base units each, the cap is 44") as caught:
        plan(drawable(1), drawable(2), drawable(3), **cap)
    assert "Nothing was spent" in caught.value.hint


@pytest.mark.parametrize(
    ("odd", "constraint"),
    [
        (drawable(4, max_bond=0), "draw"),
        (drawable(4, weight=0), "draw"),
        (drawable(4, modes=0b01), "mode"),
        (drawable(4, token="0x" + "99" * 20), "token"),
        (drawable(4, max_input_tokens=2), "max_input_tokens"),
        (drawable(4, max_output_tokens=15), "max_output_tokens"),
        (drawable(4, max_bond=64), "max_bond"),
        (drawable(4, stake=64), "stake"),
        (dataclasses.replace(drawable(4), provider=CLIENT), "client"),
    ],
)
def test_provider_that_cannot_be_drawn_is_left_out_with_the_reason(odd: Listed, constraint: str) -> None:
    drawn, (left,) = plan(drawable(1), drawable(2), drawable(3), odd)
    assert who(drawn) == addresses(1, 2, 3)
    assert left.constraint == constraint


def test_stake_below_what_is_drawn_at_all_is_told() -> None:
    _, (left,) = plan(drawable(1), drawable(2), drawable(3), drawable(4, stake=999), least_stake=1_000)
    assert (left.constraint, left.details) == ("stake", {"stake": 999, "needs": 1_000})


def test_more_bond_is_asked_for_where_the_caller_wants_it() -> None:
    drawn, (left,) = plan(drawable(1), drawable(2), drawable(3), drawable(4, max_bond=499), bond=500)
    assert drawn.quote.bond == 500
    assert left.constraint == "max_bond"


def test_free_answer_still_puts_something_at_stake() -> None:
    free = {"base_fee": 0, "price_per_m_input": 0, "price_per_m_output": 0}
    drawn, _ = plan(*[drawable(number, **free) for number in (1, 2, 3)])
    assert (drawn.price, drawn.quote.bond) == (0, 1)


def test_too_few_are_named_with_their_reasons_and_what_to_do() -> None:
    with pytest.raises(
        NotEnoughProviders, match=r"3 providers of tiny are to be drawn, 1 can be.*own quotes"
    ) as caught:
        plan(drawable(1), listed(2), drawable(3, max_bond=64))
    assert caught.value.exit_code == 5
    assert (caught.value.details["wanted"], caught.value.details["got"]) == (3, 1)
    assert [item["constraint"] for item in caught.value.details["left_out"]] == ["draw", "max_bond"]
    assert "Nothing was spent" in caught.value.hint


amount = st.integers(0, 3_000_000)
offers_of = st.lists(st.tuples(amount, amount, amount, st.integers(0, 10**7), st.integers(0, 10**7)), max_size=8)


@given(offers_of, st.integers(1, 4))
def test_whatever_is_planned_is_taken_by_enough_and_accepted_by_post(rows: list[tuple[int, ...]], count: int) -> None:
    offers = [
        drawable(n, base_fee=base, price_per_m_input=per_in, price_per_m_output=per_out, max_bond=bond, stake=stake)
        for n, (base, per_in, per_out, bond, stake) in enumerate(rows)
    ]
    try:
        drawn, left_out = plan(*offers, replicas=count)
    except NotEnoughProviders:
        return  # that these are told how many there are is another test's
    assert len(drawn.eligible) + len(left_out) == len(offers)
    assert len(drawn.eligible) >= count
    quote, size = drawn.quote, (3, 16)
    terms = Terms.of(quote)
    assert drawn.price == price(terms, *size) == quote.miss_fee <= max(quote.bond, 1)
    assert minimum_kill_fee(terms, *size) == quote.kill_fee <= drawn.price
    assert quote.bond >= minimum_bond(terms, *size, SHARE_BPS)
    for provider in drawn.eligible:
        taken = offers[next(n for n in range(len(offers)) if account(n).address == provider.provider)]
        assert taken.offer.base_fee <= quote.base_fee
        assert taken.offer.price_per_m_input <= quote.price_per_m_input
        assert taken.offer.price_per_m_output <= quote.price_per_m_output
        assert quote.bond <= min(taken.offer.max_bond, taken.stake)


LIMITS = ChainLimits(30, 86_400, 7)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"draw": True, "allow": frozenset({CLIENT})}, "--allow cannot be used with --draw"),
        ({"draw": True, "deny": frozenset({CLIENT}), "selection_seed": bytes(31) + b"\1"}, "--deny, --selection-seed"),
        ({"draw": True, "labels": frozenset({"eu"})}, "--label"),
        ({"draw": True, "min_reliability_bps": 1}, "--min-reliability"),
        ({"draw": True, "max_kill_fee_bps": 999}, "kill fee of a drawn job"),
        ({"bond": 1}, "least bond is for drawn jobs"),
    ],
)
def test_options_that_contradict_a_draw_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        check_options(JobOptions(**changes), LIMITS)
    assert "Nothing was sent" in str(caught.value)


async def test_nobody_is_asked_where_the_chain_draws(tiny_pack: Path, tmp_path: Path) -> None:
    street = Street({})
    pack = load_pack(tiny_pack)
    with pytest.raises(NotEnoughProviders):  # the market's offers take no bond
        await negotiate(pack, street, tmp_path, draw=True)
    assert street.asked == []
