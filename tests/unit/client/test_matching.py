import dataclasses

import pytest

from client.endpoints import Reach
from client.matching import match
from market.types import Mode
from tests.unit.client.examples import account, constraints, listed, offer

OTHER_TOKEN = "0x5555555555555555555555555555555555555555"


def test_match_offers_that_fit_are_ranked_by_expected_price() -> None:
    offers = [listed(1, offer=offer(base_fee=30)), listed(2, offer=offer(base_fee=20)), listed(3)]
    candidates, left_out = match(offers, constraints())
    assert [c.provider for c in candidates] == [account(n).address for n in (3, 2, 1)]
    assert candidates[0].expected_price == 10 + 100 + 100
    assert not left_out


@pytest.mark.parametrize(
    ("change", "wanted", "constraint", "words"),
    [
        ({}, {"deny": frozenset({account(1).address.lower()})}, "deny", "deny list"),
        ({}, {"allow": frozenset({account(2).address.lower()})}, "allow", "allow list"),
        ({}, {"labels": frozenset({"eu", "tee"})}, "labels", "lacks the labels tee"),
        ({"endpoint": "ftp://provider.example"}, {}, "endpoint", "not http or https"),
        ({"endpoint": "http://127.0.0.1:1"}, {"reach": Reach.PUBLIC}, "endpoint", "not a public address"),
        ({"offer": offer(modes=1)}, {}, "mode", "does not sell mode quorum, only none"),
        ({"offer": offer(token=OTHER_TOKEN)}, {}, "token", "jobs are paid in 0x3333"),
        (
            {"offer": offer(max_input_tokens=99)},
            {},
            "max_input_tokens",
            "at most 99 prompt tokens, the request has 100",
        ),
        ({"offer": offer(max_output_tokens=49)}, {}, "max_output_tokens", "at most 49 output tokens"),
        ({}, {"max_price": 209}, "max_price", "list price is 210 base units, the cap is 209"),
        ({"stake": 299}, {}, "stake", "stake of 299 does not cover the bond of 300"),
        (
            {"jobs_paid": 9, "jobs_missed": 1},
            {"min_reliability_bps": 9500},
            "record",
            "paid for 9 of 10 jobs, below 95 %",
        ),
    ],
)
def test_match_offer_that_fails_one_constraint_is_named_with_numbers(change, wanted, constraint, words) -> None:
    candidates, left_out = match([listed(1, **change)], constraints(**wanted))
    assert not candidates
    assert (left_out[0].constraint, left_out[0].stage) == (constraint, "matching")
    assert words in left_out[0].message


def test_match_names_the_first_constraint_only() -> None:
    broken = listed(1, offer=offer(modes=1, token=OTHER_TOKEN), stake=0)
    _, left_out = match([broken], constraints())
    assert [item.constraint for item in left_out] == ["mode"]


def test_match_is_exact_at_each_limit() -> None:
    at_the_limit = listed(1, stake=300, offer=offer(max_input_tokens=100, max_output_tokens=50))
    candidates, _ = match([at_the_limit], constraints(max_price=210))
    assert len(candidates) == 1
    assert not match([dataclasses.replace(at_the_limit, stake=299)], constraints())[0]


def test_match_of_a_mode_looks_at_its_own_bit() -> None:
    only_proof = listed(1, offer=offer(modes=1 << Mode.PROOF))
    assert match([only_proof], constraints(mode=Mode.PROOF))[0]
    assert not match([only_proof], constraints(mode=Mode.NONE))[0]
