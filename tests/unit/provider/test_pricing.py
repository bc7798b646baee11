"""Quotes obey the contract's rules; refusals carry a code and the numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.hashing import ZERO32, keccak256
from market.settlement import Terms as JobTerms
from market.settlement import minimum_bond, price
from market.types import Mode, Sampler
from provider.config import Gas, Limits, Prices, Terms
from provider.errors import Refusal
from provider.pricing import Ask, has_step
from tests.unit.provider import samples

ASK = Ask(client=samples.CLIENT, mode=Mode.QUORUM, request=samples.request())


def refusal(ask: Ask = ASK, *, shop: Any = None, **situation: int) -> Refusal:
    with pytest.raises(Refusal) as caught:
        (shop or samples.shop()).quote(ask, samples.situation(**situation), 7)
    return caught.value


def test_quote_for_a_request_binds_it_with_its_own_limits() -> None:
    quote = samples.shop().quote(ASK, samples.situation(), nonce=7)
    assert ASK.request is not None
    assert quote.request_hash == ASK.request.request_hash
    assert (quote.max_input_tokens, quote.max_output_tokens) == (4, 16)
    assert (quote.provider, quote.client, quote.token) == (samples.PROVIDER, samples.CLIENT, samples.TOKEN)
    assert (quote.base_fee, quote.price_per_m_input, quote.price_per_m_output) == (10, 50_000, 200_000)
    assert quote.miss_fee == 14  # 10 + ceil(3.4)
    assert quote.kill_fee == 1  # a tenth, rounded down
    assert quote.bond == 1_000
    assert quote.valid_until == samples.NOW + 60
    assert quote.nonce == 7


def test_quote_for_a_model_takes_the_limits_of_the_provider() -> None:
    quote = samples.shop().quote(Ask(samples.CLIENT, Mode.QUORUM, model_id=samples.MODEL_ID), samples.situation(), 7)
    assert quote.request_hash == ZERO32
    assert (quote.max_input_tokens, quote.max_output_tokens) == (100, 64)


@given(
    base=st.integers(0, 2**96),
    per_input=st.integers(0, 2**96),
    per_output=st.integers(0, 2**96),
    kill=st.integers(0, 10_000),
    miss=st.integers(10_000, 1_000_000),
    bond=st.integers(0, 2**96),
    share=st.integers(1, 3_000),
    tokens=st.tuples(st.integers(1, 100), st.integers(1, 64)),
    bound=st.booleans(),
)
def test_every_quote_obeys_the_rules_of_the_contract(
    base: int,
    per_input: int,
    per_output: int,
    kill: int,
    miss: int,
    bond: int,
    share: int,
    tokens: tuple[int, int],
    bound: bool,
) -> None:
    product = replace(samples.PRODUCT, prices=Prices(base_fee=base, per_m_input=per_input, per_m_output=per_output))
    shop = samples.shop(
        products={samples.MODEL_ID: product},
        terms=Terms(bond=bond, kill_fee_bps=kill, miss_fee_bps=miss),
        challenger_share_bps=share,
    )
    request = samples.request(tuple(range(tokens[0])), tokens[1])
    ask = (
        Ask(samples.CLIENT, Mode.QUORUM, request)
        if bound
        else Ask(samples.CLIENT, Mode.QUORUM, model_id=samples.MODEL_ID)
    )
    quote = shop.quote(ask, samples.situation(stake=2**140), 7)
    # contracts/libraries/QuoteRules.sol checkAmounts, for this request or any the quote covers
    of_job = price(JobTerms.of(quote), *tokens)
    assert quote.bond >= minimum_bond(JobTerms.of(quote), quote.max_input_tokens, quote.max_output_tokens, share)
    assert quote.kill_fee <= of_job
    assert of_job <= quote.miss_fee <= quote.bond
    assert quote.bond > 0
    assert max(quote.bond, quote.miss_fee, quote.kill_fee, of_job) < 2**128


def test_quote_for_another_model_is_refused() -> None:
    other = keccak256(b"other")
    error = refusal(Ask(samples.CLIENT, Mode.QUORUM, model_id=other))
    assert (error.code, error.details) == ("UnknownModel", {"modelId": "0x" + other.hex()})


def test_quote_for_a_mode_that_is_not_sold_is_refused() -> None:
    error = refusal(replace(ASK, mode=Mode.PROOF))
    assert (error.code, error.details) == ("MODE_NOT_OFFERED", {"mode": 3, "offered": [1]})


@pytest.mark.parametrize(
    ("fields", "judged"),
    [
        ({}, True),
        ({"sampler": 1, "top_p_q16": 65_536}, True),
        ({"sampler": 1, "top_p_q16": 0}, False),
        ({"sampler": 1, "top_p_q16": 65_535}, False),
        ({"sampler": 1, "top_p_q16": 65_536, "top_k": 1}, False),
        ({"sampler": 2, "top_p_q16": 65_536}, True),
        ({"sampler": 2, "top_p_q16": 65_536, "top_k": 1}, False),
        ({"sampler": 3, "top_p_q16": 65_536}, False),
    ],
)
def test_only_samplers_that_the_contract_judges_are_sold_as_optimistic(fields: dict[str, Any], judged: bool) -> None:
    assert has_step(samples.request(**fields)) is judged


@pytest.mark.parametrize(
    ("fields", "code", "details"),
    [
        ({"sampler": 7}, "SAMPLER_NOT_OFFERED", {"sampler": 7, "offered": [0, 1, 2]}),
        ({"sampler": 2}, "BAD_SAMPLING", {"sampler": 2, "field": "topPQ16", "value": 0}),
        (
            {"sampler": 2, "top_p_q16": 65_536, "seed": keccak256(b"seed")},
            "BAD_SAMPLING",
            {"sampler": 2, "field": "seed", "value": 2},
        ),
        ({"seed": keccak256(b"seed")}, "BadSampler", {"sampler": 0, "field": "sampler", "value": 0}),
        ({"temperature_q16": 1}, "BadSampler", {"sampler": 0, "field": "sampler", "value": 0}),
        ({"sampler": 1}, "BAD_SAMPLING", {"sampler": 1, "field": "topPQ16", "value": 0}),
        ({"sampler": 1, "top_p_q16": 65537}, "BAD_SAMPLING", {"sampler": 1, "field": "topPQ16", "value": 65537}),
        ({"input_tokens": 0}, "EmptyInput", {"inputTokens": 0}),
        ({"max_output_tokens": 0}, "NoOutputAsked", {"maxOutputTokens": 0}),
        ({"input_tokens": 101}, "INPUT_TOO_LONG", {"inputTokens": 101, "limit": 100}),
        ({"max_output_tokens": 65}, "OUTPUT_TOO_LONG", {"maxOutputTokens": 65, "limit": 64}),
        ({"stop_tokens": bytes(32)}, "BAD_STOP_TOKENS", {}),
        ({"stop_tokens": (512).to_bytes(4) + b"\xff" * 28}, "BAD_STOP_TOKENS", {"token": 512, "limit": 511}),
    ],
)
def test_quote_for_a_request_that_cannot_run_is_refused(fields: dict[str, Any], code: str, details: Any) -> None:
    error = refusal(replace(ASK, request=samples.request(**fields)))
    assert (error.code, error.details) == (code, details)


@pytest.mark.parametrize("count", [1, 1000, 2047])
def test_quote_with_the_usual_limits_fills_the_context_of_2048(count: int) -> None:
    product = replace(samples.PRODUCT, context=2048)
    shop = samples.shop(limits=Limits(), products={samples.MODEL_ID: product})
    asked = samples.request(input_tokens=count, max_output_tokens=2048 - count)
    quote = shop.quote(replace(ASK, request=asked), samples.situation(), nonce=1)
    assert (quote.max_input_tokens, quote.max_output_tokens) == (count, 2048 - count)
    more = replace(asked, max_output_tokens=2049 - count)
    with pytest.raises(Refusal, match=str(2048 - count)):
        shop.quote(replace(ASK, request=more), samples.situation(), nonce=1)


@pytest.mark.parametrize("sampler", [1, 2])
def test_quote_for_a_seeded_request_is_given_where_that_sampler_is_on(sampler: int) -> None:
    fields = {"sampler": sampler, "temperature_q16": 45875, "top_k": 40, "top_p_q16": 62259}
    seeded = samples.request(**fields, seed=keccak256(b"seed") if sampler == 1 else ZERO32)
    ask = replace(ASK, request=seeded)
    assert samples.shop().quote(ask, samples.situation(), nonce=1).request_hash == seeded.request_hash
    with pytest.raises(Refusal) as caught:
        samples.shop(samplers=(Sampler.GREEDY,)).quote(ask, samples.situation(), nonce=1)
    assert (caught.value.code, caught.value.details) == ("SAMPLER_NOT_OFFERED", {"sampler": sampler, "offered": [0]})


def test_quote_for_the_chains_seed_pays_for_the_gas_of_storing_it() -> None:
    gas = Gas(token_per_coin=10**18, commit_gas=5, reveal_gas=5, seed_gas=4)
    earned = price(JobTerms(10, 50_000, 200_000, 0, 0, 0), 3, 16)
    shop = samples.shop(gas=gas)
    for sampler, spent in ((0, 10), (2, 14)):
        request = samples.request(sampler=sampler, top_p_q16=65_536 if sampler else 0)
        ask, most = replace(ASK, request=request), earned // spent
        shop.quote(ask, samples.situation(fee_per_gas=most), nonce=1)
        assert refusal(ask, shop=shop, fee_per_gas=most + 1).code == "UNPROFITABLE"


def test_quote_beyond_the_context_is_refused_with_what_is_left() -> None:
    shop = samples.shop(limits=Limits(max_input_tokens=250, max_output_tokens=250))
    error = refusal(replace(ASK, request=samples.request(tuple(range(200)), 57)), shop=shop)
    assert (error.code, error.details) == ("OUTPUT_TOO_LONG", {"maxOutputTokens": 57, "limit": 56})


def test_quote_of_an_overloaded_provider_is_refused_for_now() -> None:
    error = refusal(load=8)
    assert (error.code, error.status, error.details) == ("OVERLOADED", 429, {"count": 8, "limit": 8})
    assert error.retry_after
    samples.shop().quote(ASK, samples.situation(load=7), 7)


def test_quote_for_a_free_answer_puts_something_at_stake() -> None:
    free = replace(samples.PRODUCT, prices=Prices())
    quote = samples.shop(products={samples.MODEL_ID: free}, terms=Terms(bond=0)).quote(ASK, samples.situation(), 7)
    assert (quote.bond, quote.miss_fee, quote.kill_fee) == (1, 0, 0)


def test_quote_without_free_stake_is_refused_with_the_numbers() -> None:
    error = refusal(stake=5_000, reserved=4_001)
    assert (error.code, error.details) == ("InsufficientStake", {"bond": "1000", "free": "999", "stake": "5000"})
    samples.shop().quote(ASK, samples.situation(stake=5_000, reserved=4_000), 7)


def test_quote_that_does_not_pay_its_gas_is_refused() -> None:
    gas = Gas(token_per_coin=10**6, commit_gas=100, reveal_gas=100)  # 200 gas at 70 gwei = 14e-6 coins = 14 units
    shop = samples.shop(gas=gas)
    shop.quote(ASK, samples.situation(fee_per_gas=7 * 10**10), 7)
    error = refusal(shop=shop, fee_per_gas=7 * 10**10 + 1)
    assert (error.code, error.details) == ("UNPROFITABLE", {"price": "14", "gas": "15"})


def test_quote_without_an_exchange_rate_never_looks_at_gas() -> None:
    samples.shop(gas=Gas(token_per_coin=0)).quote(ASK, samples.situation(fee_per_gas=10**18), 7)


OPTIMISTIC = {"modes": (Mode.OPTIMISTIC,)}


@pytest.mark.parametrize(
    ("request_fields", "sold"),
    [
        ({}, True),
        ({"sampler": Sampler.SEEDED_BY_REQUEST, "temperature_q16": 65_536, "top_p_q16": 65_536}, True),
        ({"sampler": Sampler.SEEDED_BY_REQUEST, "temperature_q16": 65_536, "top_p_q16": 65_536, "top_k": 40}, False),
        ({"sampler": Sampler.SEEDED_BY_REQUEST, "temperature_q16": 65_536, "top_p_q16": 60_000}, False),
    ],
)
def test_optimistic_answer_is_sold_only_where_two_logits_show_a_wrong_token(
    request_fields: dict[str, int], sold: bool
) -> None:
    ask = Ask(samples.CLIENT, Mode.OPTIMISTIC, request=samples.request(**request_fields))
    if sold:
        assert samples.shop(**OPTIMISTIC).quote(ask, samples.situation(), 7).mode == Mode.OPTIMISTIC
    else:
        assert refusal(ask, shop=samples.shop(**OPTIMISTIC)).code == "NotJudged"


def test_model_whose_values_no_leaf_holds_is_not_sold_as_optimistic() -> None:
    product = replace(samples.PRODUCT, indisputable="value of scores may need 41 bits, a leaf holds 39")
    shop = samples.shop(**OPTIMISTIC, products={samples.MODEL_ID: product})
    found = refusal(Ask(samples.CLIENT, Mode.OPTIMISTIC, request=samples.request()), shop=shop)
    assert found.code == "NotJudged"
    assert "41 bits" in found.message
