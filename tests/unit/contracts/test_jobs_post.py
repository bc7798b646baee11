"""Jobs.post: every rule, at its edge."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from market.hashing import ZERO32, keccak256, pack_tokens, tokens_root
from market.settlement import BondState, JobState, ReplicaState, Terms, minimum_bond, price
from market.signing import Domain, sign
from market.types import ZERO_ADDRESS, Mode
from tests.unit.contracts.abi import CHAIN_ID, START, Revert
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    INPUT,
    MAX_OUTPUT,
    MODEL_ID,
    OTHER_CLIENT,
    REPLICAS,
    REVEAL_WINDOW,
    SHARE_BPS,
    STRANGER,
    World,
    account,
    request,
)

A = CLIENT.address
P = REPLICAS[0].address
UINT128 = 2**128 - 1


def post(world: World, quotes: list[Any] | None = None, **changes: Any) -> bytes:
    identity: bytes = world.jobs.post(world.params(quotes, **changes), sender=A)
    return identity


def quotes_with(world: World, **changes: Any) -> list[Any]:
    """Three quotes, the first of them changed."""
    return [world.quote(REPLICAS[0], **changes), *(world.quote(p) for p in REPLICAS[1:3])]


def test_post_opens_the_job_it_describes(world: World) -> None:
    job = world.post(3)
    expected = price(job.terms[0], len(INPUT), MAX_OUTPUT) * 3
    assert world.job(job) == {
        "client": A,
        "state": JobState.OPEN,
        "mode": Mode.QUORUM,
        "quorum": 2,
        "replicas": 3,
        "committed": 0,
        "revealed": 0,
        "inputTokens": len(INPUT),
        "maxOutputTokens": MAX_OUTPUT,
        "revealWindow": REVEAL_WINDOW,
        "commitDeadline": world.chain.now + COMMIT_WINDOW,
        "revealDeadline": 0,
        "finalAt": 0,
        "escrow": expected,
        "modelId": MODEL_ID,
        "requestHash": job.request.request_hash,
        "outputHash": ZERO32,
        "drawBlock": 0,
        "drawFailed": False,
        "inlineInput": False,
    }
    assert world.replica(job, 0) == {
        "provider": P,
        "state": ReplicaState.ASSIGNED,
        "bondState": BondState.NONE,
        "finish": 0,
        "outputTokens": 0,
        "baseFee": 1_000,
        "pricePerMInput": 500_000,
        "pricePerMOutput": 2_000_001,
        "killFee": 100,
        "missFee": 3_000,
        "bond": 10_000,
        "paid": 0,
        "digest": ZERO32,
        "demandDeadline": 0,
        "demander": ZERO_ADDRESS,
    }
    assert world.held() == expected


def test_post_emits_the_job_and_the_accepted_terms(world: World) -> None:
    job = world.post(3)
    (posted,) = world.logs("JobPosted")
    assert (posted.values["jobId"], posted.values["client"], posted.values["modelId"]) == (job.id, A, MODEL_ID)
    assert posted.values["job"] == world.job(job)
    assigned = world.logs("ReplicaAssigned")
    assert [event.values["provider"] for event in assigned] == [p.address for p in REPLICAS[:3]]
    for event, quote in zip(assigned, job.quotes, strict=True):
        assert event.values["quoteDigest"] == world.domain.digest(quote) == world.jobs.hashQuote(quote.values())
        assert tuple(event.values["terms"].values()) == quote.values()
        assert world.jobs.quoteUsed(event.values["quoteDigest"], A)
        assert not world.jobs.quoteUsed(event.values["quoteDigest"], OTHER_CLIENT.address)
    assert not world.logs("RequestPublished")


def test_post_counts_the_clients_nonce_into_the_job_id(world: World) -> None:
    nonce = world.jobs.clientNonce(A)
    first, second = world.post(3), world.post(3)
    assert first.id == world.jobs.jobIdOf(A, nonce)
    assert second.id == world.jobs.jobIdOf(A, nonce + 1)
    assert world.jobs.clientNonce(A) == nonce + 2
    assert world.jobs.clientNonce(OTHER_CLIENT.address) == 0


def test_post_in_mode_none_takes_one_replica(world: World) -> None:
    job = world.post(1, quorum=1, mode=Mode.NONE, terms={"mode": Mode.NONE})
    assert world.job(job)["mode"] == Mode.NONE


@pytest.mark.parametrize("mode", [Mode.PROOF])
def test_post_in_a_mode_that_is_not_built_reverts(world: World, mode: Mode) -> None:
    with reverts("ModeNotBuilt", mode=mode):
        post(world, quotes_with(world, mode=mode), mode=mode)


@pytest.mark.parametrize(
    ("mode", "quorum", "replicas"),
    [(0, 1, 2), (0, 2, 2), (0, 0, 1), (0, 1, 0), (1, 1, 1), (1, 0, 0), (1, 2, 4), (1, 3, 2), (1, 1, 3), (1, 2, 1)],
)
def test_post_with_a_quorum_that_cannot_be_unique_reverts(world: World, mode: int, quorum: int, replicas: int) -> None:
    quotes = [world.quote(p, mode=mode) for p in REPLICAS[:replicas]]
    with reverts("BadQuorum", quorum=quorum, replicas=replicas):
        post(world, quotes, mode=mode, quorum=quorum)


def test_post_with_eight_replicas_reverts_and_with_seven_passes(world: World) -> None:
    extra = account("eighth")
    quotes = [world.signed(world.quote(p)) for p in REPLICAS]
    eighth = world.quote(extra)
    with reverts("BadQuorum", quorum=5, replicas=8):
        post(world, [*quotes, world.signed(eighth, extra)], quorum=5)
    post(world, quotes, quorum=4)


@pytest.mark.parametrize("window", ["commit_window", "reveal_window"])
@pytest.mark.parametrize(("seconds", "holds"), [(29, False), (30, True), (86_400, True), (86_401, False)])
def test_post_bounds_both_windows(world: World, window: str, seconds: int, holds: bool) -> None:
    if holds:
        post(world, **{window: seconds})
    else:
        with reverts("WindowOutOfRange", window=seconds, minimum=30, maximum=86_400):
            post(world, **{window: seconds})


def test_post_of_an_empty_request_reverts(world: World) -> None:
    with reverts("EmptyInput"):
        post(world, asked=request(input_tokens=0))
    with reverts("NoOutputAsked"):
        post(world, asked=request(max_output_tokens=0))


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": 2, "seed": keccak256(b"seed")},
        {"sampler": 3},
        {"sampler": 255},
        {"temperature_q16": 1},
        {"top_k": 1},
        {"top_p_q16": 1},
        {"seed": keccak256(b"seed")},
    ],
)
def test_post_with_a_sampler_that_leaves_a_choice_reverts(world: World, changes: dict[str, Any]) -> None:
    with reverts("BadSampler", sampler=changes.get("sampler", 0)):
        post(world, asked=request(**changes))


def test_post_with_a_seeded_sampler_passes(world: World) -> None:
    post(world, asked=request(sampler=1, temperature_q16=65_536, top_k=40, top_p_q16=60_000, seed=keccak256(b"s")))


@pytest.mark.parametrize("count", [1, 3, 8, 9, 17, 64])
def test_post_with_inline_input_publishes_it(world: World, count: int) -> None:
    ids = list(range(count))
    asked = request(input_root=tokens_root(ids), input_tokens=count)
    job = world.post(3, asked=asked, inline=pack_tokens(ids))
    (event,) = world.logs("RequestPublished")
    assert event.values["ids"] == pack_tokens(ids)
    assert tuple(event.values["request"].values()) == asked.values()
    assert event.values["jobId"] == job.id


def test_post_with_other_inline_input_reverts(world: World) -> None:
    other = [*INPUT[:-1], 9]
    with reverts("InputMismatch", expected=tokens_root(INPUT), got=tokens_root(other)):
        post(world, inline=pack_tokens(other))


@pytest.mark.parametrize("length", [4, 31, 33, 64])
def test_post_with_inline_input_of_another_length_reverts(world: World, length: int) -> None:
    with reverts("InputLengthMismatch", expected=32, got=length):
        post(world, inline=pack_tokens(list(range(16)))[:length])


def test_post_with_inline_input_filled_otherwise_reverts(world: World) -> None:
    ids = pack_tokens([1, 2, 3, 4])
    with reverts("InputFillerMismatch", inputTokens=3):
        post(world, asked=request(input_root=tokens_root([1, 2, 3, 4])), inline=ids)


def test_post_with_an_expired_quote_reverts_and_in_its_last_second_passes(world: World) -> None:
    with reverts("QuoteExpired", provider=P, validUntil=START - 1, timestamp=START):
        post(world, quotes_with(world, valid_until=START - 1))
    post(world, quotes_with(world, valid_until=START))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("client", {"client": OTHER_CLIENT.address}),
        ("modelId", {"model_id": keccak256(b"another model")}),
        ("requestHash", {"request_hash": keccak256(b"another request")}),
        ("mode", {"mode": Mode.NONE}),
        ("mode", {"mode": 7}),
    ],
)
def test_post_with_a_quote_for_something_else_reverts(world: World, field: str, change: dict[str, Any]) -> None:
    with reverts("QuoteMismatch", provider=P, field=field.encode().ljust(32, b"\0")):
        post(world, quotes_with(world, **change))


def test_post_with_a_quote_for_exactly_this_client_and_request_passes(world: World) -> None:
    post(world, quotes_with(world, client=A, request_hash=request().request_hash))


def test_post_with_a_quote_in_another_token_reverts(world: World) -> None:
    with reverts("WrongToken", token=STRANGER.address, expected=world.token.address):
        post(world, quotes_with(world, token=STRANGER.address))


@pytest.mark.parametrize(
    ("field", "change", "needs"),
    [
        ("maxInputTokens", {"max_input_tokens": len(INPUT) - 1}, len(INPUT)),
        ("maxOutputTokens", {"max_output_tokens": MAX_OUTPUT - 1}, MAX_OUTPUT),
    ],
)
def test_post_beyond_a_quotes_limits_reverts(world: World, field: str, change: dict[str, Any], needs: int) -> None:
    with reverts("QuoteLimit", provider=P, field=field.encode().ljust(32, b"\0"), has=needs - 1, needs=needs):
        post(world, quotes_with(world, **change))
    post(world, quotes_with(world, max_input_tokens=len(INPUT), max_output_tokens=MAX_OUTPUT))


def test_post_with_a_quote_the_client_used_reverts_but_another_client_may(world: World) -> None:
    quotes = [world.quote(p) for p in REPLICAS[:3]]
    post(world, quotes)
    digest = world.domain.digest(quotes[0])
    with reverts("QuoteUsed", provider=P, quoteDigest=digest):
        post(world, quotes)
    world.jobs.post(world.params(quotes), sender=OTHER_CLIENT.address)


def test_post_after_a_cancelled_job_still_counts_its_quotes_as_used(world: World) -> None:
    quotes = [world.quote(p) for p in REPLICAS[:3]]
    job = post(world, quotes)
    world.jobs.cancel(job, sender=A)
    with reverts("QuoteUsed", provider=P, quoteDigest=world.domain.digest(quotes[0])):
        post(world, quotes)


def test_post_with_one_provider_twice_reverts(world: World) -> None:
    first, second = world.quote(REPLICAS[0]), world.quote(REPLICAS[0])
    with reverts("DuplicateProvider", provider=P):
        post(world, [first, second, world.quote(REPLICAS[1])])
    with reverts("DuplicateProvider", provider=P):
        post(world, [first, world.quote(REPLICAS[1]), first])


def test_post_with_anothers_signature_reverts(world: World) -> None:
    quote = world.quote(REPLICAS[0])
    rest = [world.quote(p) for p in REPLICAS[1:3]]
    with reverts("BadSignature", provider=P):
        post(world, [world.signed(quote, STRANGER), *rest])


def test_post_with_a_changed_quote_reverts(world: World) -> None:
    quote = world.quote(REPLICAS[0])
    _, signature = world.signed(quote)
    cheaper = dataclasses.replace(quote, base_fee=999)
    with reverts("BadSignature", provider=P):
        post(world, [(cheaper.values(), signature), *(world.quote(p) for p in REPLICAS[1:3])])


@pytest.mark.parametrize("what", ["chain", "contract", "name", "version"])
def test_post_with_a_quote_of_another_domain_reverts(world: World, what: str) -> None:
    domain = {
        "chain": Domain(CHAIN_ID + 1, world.jobs.address),
        "contract": Domain(CHAIN_ID, world.vault.address),
        "name": Domain(CHAIN_ID, world.jobs.address, name="Assay Sessions"),
        "version": Domain(CHAIN_ID, world.jobs.address, version="2"),
    }[what]
    quote = world.quote(REPLICAS[0])
    signed = (quote.values(), sign(domain, quote, REPLICAS[0]))
    with reverts("BadSignature", provider=P):
        post(world, [signed, *(world.quote(p) for p in REPLICAS[1:3])])


def test_post_with_a_malleable_or_cut_signature_reverts(world: World) -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    quote = world.quote(REPLICAS[0])
    values, signature = world.signed(quote)
    r, s, v = signature[:32], int.from_bytes(signature[32:64]), signature[64]
    high = r + (order - s).to_bytes(32) + bytes([55 - v])
    rest = [world.quote(p) for p in REPLICAS[1:3]]
    for forged in (high, signature[:64], signature + b"\0", b"", bytes(65)):
        with reverts("BadSignature", provider=P):
            post(world, [(values, forged), *rest])


def test_post_with_a_quote_of_nobody_reverts(world: World) -> None:
    quote = world.quote(REPLICAS[0], provider="0x" + "00" * 20)
    with reverts("BadSignature", provider="0x" + "00" * 20):
        post(world, [(quote.values(), bytes(65)), *(world.quote(p) for p in REPLICAS[1:3])])


def test_post_with_a_bond_below_the_refund_reverts(world: World) -> None:
    terms = Terms.of(world.quote(REPLICAS[0], miss_fee=2_000))
    needs = minimum_bond(terms, 1_024, 256, SHARE_BPS)
    post(world, quotes_with(world, bond=needs, miss_fee=1_100))
    with reverts("BondTooSmall", provider=P, bond=needs - 1, needs=needs):
        post(world, quotes_with(world, bond=needs - 1, miss_fee=1_100))


def test_post_with_a_kill_fee_above_the_price_reverts(world: World) -> None:
    cost = price(Terms.of(world.quote(REPLICAS[0])), len(INPUT), MAX_OUTPUT)
    post(world, quotes_with(world, kill_fee=cost))
    with reverts("KillFeeTooLarge", provider=P, killFee=cost + 1, price=cost):
        post(world, quotes_with(world, kill_fee=cost + 1))


def test_post_with_a_miss_fee_below_the_price_or_above_the_bond_reverts(world: World) -> None:
    cost = price(Terms.of(world.quote(REPLICAS[0])), len(INPUT), MAX_OUTPUT)
    post(world, quotes_with(world, miss_fee=cost))
    post(world, quotes_with(world, miss_fee=10_000))
    for fee in (cost - 1, 10_001):
        with reverts("MissFeeOutOfRange", provider=P, missFee=fee, price=cost, bond=10_000):
            post(world, quotes_with(world, miss_fee=fee))


def test_post_above_the_clients_cap_reverts_and_at_it_passes(world: World) -> None:
    cost = 3 * price(Terms.of(world.quote(REPLICAS[0])), len(INPUT), MAX_OUTPUT)
    with reverts("EscrowAboveCap", escrow=cost, cap=cost - 1):
        post(world, max_escrow=cost - 1)
    post(world, max_escrow=cost)


def test_post_with_amounts_at_the_end_of_their_types_never_wraps(world: World) -> None:
    huge = {"base_fee": UINT128, "price_per_m_input": UINT128, "price_per_m_output": UINT128, "bond": UINT128}
    terms = Terms.of(world.quote(REPLICAS[0], **huge))
    needs = minimum_bond(terms, 2**32 - 1, 2**32 - 1, SHARE_BPS)
    with reverts("BondTooSmall", provider=P, bond=UINT128, needs=needs):
        post(world, quotes_with(world, **huge, max_input_tokens=2**32 - 1, max_output_tokens=2**32 - 1))


def test_post_of_a_total_beyond_uint128_reverts(world: World) -> None:
    each = UINT128 // 2
    big = {"base_fee": each, "price_per_m_input": 0, "price_per_m_output": 0, "bond": UINT128, "miss_fee": UINT128}
    quotes = [world.quote(p, **big) for p in REPLICAS[:3]]
    with reverts("EscrowAboveCap", escrow=3 * each, cap=UINT128):
        post(world, quotes, max_escrow=UINT128)


def test_post_of_a_free_job_holds_nothing(world: World) -> None:
    zero = dict.fromkeys(("base_fee", "price_per_m_input", "price_per_m_output", "kill_fee", "miss_fee", "bond"), 0)
    job = post(world, [world.quote(p, **zero) for p in REPLICAS[:3]], max_escrow=0)
    assert world.jobs.job(job)["escrow"] == 0
    assert world.held() == 0


def test_post_without_money_reverts(world: World) -> None:
    world.token.transfer(STRANGER.address, world.token.balanceOf(A), sender=A)
    cost = 3 * price(Terms.of(world.quote(REPLICAS[0])), len(INPUT), MAX_OUTPUT)
    with reverts("ERC20InsufficientBalance", sender=A, balance=0, needed=cost):
        post(world)
    assert world.jobs.clientNonce(A) == 0


def test_post_by_a_contract_wallets_quote_passes_and_it_can_commit(world: World) -> None:
    wallet = world.deploy("ContractWallet", REPLICAS[0].address)
    quote = world.quote(REPLICAS[0], provider=wallet.address)
    job = post(world, [world.signed(quote, REPLICAS[0]), *(world.quote(p) for p in REPLICAS[1:3])])
    world.vault.deposit(world.token.address, wallet.address, 10_000, sender=A)
    wallet.execute(world.vault.address, world.vault.encode("stake", 10_000), sender=P)
    call = world.jobs.encode("commit", job, keccak256(b"c"))
    wallet.execute(world.jobs.address, call, sender=P)
    assert world.jobs.replicas(job)[0]["state"] == ReplicaState.COMMITTED


def test_post_with_a_wallet_that_refuses_reverts_or_burns_gas_never_passes(world: World) -> None:
    wallet = world.deploy("ContractWallet", REPLICAS[0].address)
    quote = world.quote(REPLICAS[0], provider=wallet.address)
    rest = [world.quote(p) for p in REPLICAS[1:3]]
    with reverts("ECDSAInvalidSignatureLength", length=0):
        wallet.isValidSignature(bytes(32), b"")
    for behaviour, signer in ((0, STRANGER), (1, REPLICAS[0])):
        wallet.behave(behaviour, sender=A)
        with reverts("BadSignature", provider=wallet.address):
            post(world, [world.signed(quote, signer), *rest])
    wallet.behave(2, sender=A)
    with pytest.raises(Revert):
        post(world, [world.signed(quote, REPLICAS[0]), *rest])
    assert world.jobs.clientNonce(A) == 0
    assert world.held() == 0
