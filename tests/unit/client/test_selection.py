import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import NotEnoughProviders, PriceAboveCap
from client.selection import select
from market.hashing import keccak256
from tests.unit.client.examples import account, verified

SEED = keccak256(b"seed")


def chosen(*quotes, **options):  # type: ignore[no-untyped-def]
    options = {"replicas": 2, "seed": SEED, **options}
    return [q.provider for q in select(quotes, **options).chosen]


def test_select_same_seed_gives_the_same_choice_in_any_order() -> None:
    quotes = [verified(n) for n in range(6)]
    assert chosen(*quotes) == chosen(*reversed(quotes))


def test_select_equal_quotes_are_shared_out_by_the_seed() -> None:
    quotes = [verified(n) for n in range(6)]
    first = {select(quotes, replicas=1, seed=keccak256(b"%d" % n)).chosen[0].provider for n in range(60)}
    assert len(first) == 6


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"price": 45}, {"price": 60}),
        ({"latency_ms": 5}, {"latency_ms": 700}),
        ({"jobs_paid": 50}, {"jobs_paid": 25, "jobs_missed": 25}),
        ({"jobs_paid": 50}, {}),
        ({"stake": 65 * 64}, {"stake": 65}),
    ],
)
def test_select_better_quality_wins_for_every_seed(better, worse) -> None:
    good, bad = verified(1, **better), verified(2, **worse)
    for number in range(20):
        assert chosen(bad, good, replicas=1, seed=keccak256(b"%d" % number)) == [good.provider]


def test_select_never_takes_two_quotes_of_one_provider() -> None:
    twice = dataclasses.replace(verified(1), digest=keccak256(b"another"))
    selection = select([verified(1), twice, verified(2, price=400)], replicas=2, seed=SEED)
    assert {q.provider for q in selection.chosen} == {account(1).address, account(2).address}
    assert [item.constraint for item in selection.left_out] == ["independence"]
    with pytest.raises(NotEnoughProviders):
        select([verified(1), twice], replicas=2, seed=SEED)


def test_select_says_why_the_others_were_not_taken() -> None:
    selection = select([verified(1), verified(2), verified(3, price=90)], replicas=2, seed=SEED)
    assert [q.provider for q in selection.alternatives] == [account(3).address]
    assert "it asks 90" in selection.left_out[0].message
    assert selection.escrow == 90


def test_select_cap_makes_the_dearest_give_way() -> None:
    fast_and_dear = verified(1, price=50, jobs_paid=100, latency_ms=1)
    slow_and_cheap = [verified(n, price=40, jobs_missed=3, latency_ms=900) for n in (2, 3)]
    assert account(1).address in chosen(fast_and_dear, *slow_and_cheap)
    assert account(1).address not in chosen(fast_and_dear, *slow_and_cheap, max_escrow=80)


def test_select_cap_below_the_cheapest_is_refused_with_the_numbers() -> None:
    with pytest.raises(PriceAboveCap, match="cost 90 base units together, the cap is 89") as caught:
        select([verified(1), verified(2), verified(3, price=60)], replicas=2, seed=SEED, max_escrow=89)
    assert caught.value.exit_code == 5
    assert caught.value.details == {"least": 90, "cap": 89}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 200), st.integers(0, 1000)), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 900),
)
def test_select_keeps_cap_and_independence_and_takes_an_affordable_choice(table, replicas, cap) -> None:
    quotes = [
        dataclasses.replace(verified(n, price=price, latency_ms=latency), digest=keccak256(b"%d" % index))
        for index, (n, price, latency) in enumerate(table)
    ]
    providers = {q.provider for q in quotes}
    try:
        selection = select(quotes, replicas=replicas, seed=SEED, max_escrow=cap)
    except NotEnoughProviders:
        assert len(providers) < replicas
    except PriceAboveCap:
        cheapest = sorted(min(q.price for q in quotes if q.provider == provider) for provider in providers)
        assert sum(cheapest[:replicas]) > cap
    else:
        assert selection.escrow <= cap
        assert len({q.provider for q in selection.chosen}) == replicas
        assert len(selection.chosen) + len(selection.left_out) == len(quotes)
