"""Attacks that win nothing and are meant to cost others: money, time, or gas."""

from __future__ import annotations

import pytest

from market.hashing import keccak256
from market.settlement import JobState
from market.types import ZERO_ADDRESS
from tests.security.money import EVERYBODY, books, money
from tests.unit.contracts.abi import GAS_LIMIT, Revert
from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.world import (
    CAP,
    CLIENT,
    COMMIT_WINDOW,
    DISPUTE_WINDOW,
    GUARDIAN,
    INPUT,
    OTHER_CLIENT,
    REPLICAS,
    REVEAL_WINDOW,
    STAKE,
    STRANGER,
    UNBONDING_WINDOW,
    World,
    answer,
)

A, B, S = CLIENT.address, OTHER_CLIENT.address, STRANGER.address
ONE, TWO, THREE = REPLICAS[:3]
P = ONE.address
RIGHT = answer()


# --- exits


def test_nobody_restarts_or_lengthens_anothers_exit(world: World) -> None:
    """Livepeer's lesson: a call for somebody else must not touch that one's exit."""
    world.vault.requestUnstake(1_000, sender=P)
    ready_at = world.chain.now + UNBONDING_WINDOW
    world.warp(100)
    world.vault.deposit(world.token.address, P, 1, sender=S)
    with reverts("InsufficientStake", owner=S, has=0, needs=1):
        world.vault.requestUnstake(1, sender=S)
    with reverts("ExitNotReady", owner=P, readyAt=ready_at):
        world.vault.finishUnstake(P, sender=S)
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    world.settle(job)
    world.warp(DISPUTE_WINDOW + 1)
    world.jobs.releaseBond(job.id, P, sender=S)
    assert world.vault.exits(P) == (1_000, ready_at)
    world.chain.now = ready_at
    world.vault.finishUnstake(P, sender=S)
    assert world.vault.exits(P) == (0, 0)


def test_finishing_a_ready_exit_again_and_again_gives_nothing(world: World) -> None:
    world.vault.requestUnstake(1_000, sender=P)
    world.warp(UNBONDING_WINDOW)
    world.vault.finishUnstake(P, sender=S)
    before = books(world.vault)
    with reverts("NothingExiting", owner=P):
        world.vault.finishUnstake(P, sender=S)
    assert books(world.vault) == before


def test_guardian_cannot_hold_anybody_back(world: World) -> None:
    """All it can do is deprecate: everything still ends and everybody gets out."""
    open_, revealing = world.post(), world.post()
    world.commit(revealing, *((p, RIGHT) for p in REPLICAS[:3]))
    world.vault.requestUnstake(1_000, sender=P)
    world.vault.deprecate(sender=GUARDIAN.address)
    world.reveal(revealing, *((p, RIGHT) for p in REPLICAS[:3]))
    world.settle(revealing)
    world.warp(COMMIT_WINDOW + 1)
    world.settle(open_)
    world.warp(UNBONDING_WINDOW)
    for provider in REPLICAS[:3]:
        world.jobs.releaseBond(revealing.id, provider.address, sender=S)
        world.vault.requestUnstake(world.staked(provider), sender=provider.address)
    world.warp(UNBONDING_WINDOW)
    for provider in REPLICAS[:3]:
        world.vault.finishUnstake(provider.address, sender=S)
    for owner in (A, *(p.address for p in REPLICAS[:3])):
        world.vault.withdraw(world.token.address, owner, world.credit(owner), sender=owner)
    assert world.held() == 0
    with reverts("AlreadyDeprecated"):
        world.vault.deprecate(sender=GUARDIAN.address)


# --- the cap


def test_filled_cap_stops_new_money_and_nothing_else(world: World) -> None:
    world.vault.deposit(world.token.address, A, 10**6, sender=A)
    job = world.post()
    world.commit(job, *((p, RIGHT) for p in REPLICAS[:3]))
    room = CAP - world.vault.total(world.token.address)
    world.token.mint(S, room, sender=S)
    world.token.approve(world.vault.address, room, sender=S)
    world.vault.deposit(world.token.address, S, room, sender=S)
    with reverts("CapExceeded", token=world.token.address, total=CAP + 1, cap=CAP):
        world.vault.deposit(world.token.address, B, 1, sender=B)
    world.post()  # from credit
    world.reveal(job, *((p, RIGHT) for p in REPLICAS[:3]))
    world.settle(job)
    world.warp(DISPUTE_WINDOW + 1)
    world.jobs.releaseBond(job.id, P, sender=S)
    world.vault.withdraw(world.token.address, P, world.credit(ONE), sender=P)
    world.vault.deposit(world.token.address, B, 1, sender=B)  # the room the withdrawal made
    world.vault.stake(1, sender=B)


def test_cap_of_one_token_is_not_anothers(world: World) -> None:
    token = world.deploy("TestToken")
    vault = new_vault(world, tokens=((world.token.address, 100), (token.address, 100)))
    for made, owner in ((world.token, A), (token, B)):
        made.mint(owner, 1_000, sender=owner)
        made.approve(vault.address, 1_000, sender=owner)
    vault.deposit(world.token.address, A, 100, sender=A)
    vault.deposit(token.address, B, 100, sender=B)


# --- dust and strangers


def test_dust_given_to_everybody_changes_nothing_but_their_credit(world: World) -> None:
    before = money(world.vault)
    for owner in EVERYBODY:
        world.vault.deposit(world.token.address, owner, 1, sender=S)
    after = money(world.vault)
    assert {after[name] - before[name] for name in after if name.startswith("credit")} == {1}
    assert all(after[name] == before[name] for name in after if not name.startswith("credit"))


def test_tokens_sent_to_the_vault_past_its_books_are_nobodys_and_harm_nobody(world: World) -> None:
    before = books(world.vault)
    world.token.transfer(world.vault.address, 12_345, sender=S)
    assert books(world.vault) == before
    world.vault.deposit(world.token.address, A, 10, sender=A)
    with reverts("InsufficientCredit", token=world.token.address, owner=A, has=10, needs=12_355):
        world.vault.withdraw(world.token.address, A, 12_355, sender=A)


def test_price_of_one_unit_is_paid_and_rounds_up_for_the_provider(world: World) -> None:
    terms = {"base_fee": 0, "price_per_m_input": 1, "price_per_m_output": 0, "kill_fee": 0, "miss_fee": 1, "bond": 2}
    job = world.post(terms=terms)
    assert world.job(job)["escrow"] == 3
    world.commit(job, *((p, RIGHT) for p in REPLICAS[:3]))
    world.reveal(job, *((p, RIGHT) for p in REPLICAS[:3]))
    world.settle(job)
    assert [world.credit(p) for p in REPLICAS[:3]] == [1, 1, 1]
    assert len(INPUT) > 1


@pytest.mark.parametrize("function", ["commit", "reveal", "cancel", "settle", "releaseBond"])
def test_stranger_to_a_job_moves_nothing_of_it(world: World, function: str) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT))
    arguments = {
        "commit": (job.id, keccak256(b"x")),
        "reveal": (job.id, RIGHT.values(), bytes(32)),
        "cancel": (job.id,),
        "settle": (job.id,),
        "releaseBond": (job.id, P),
    }[function]
    before = books(world.vault), world.job(job), world.jobs.replicas(job.id)
    with pytest.raises(Revert):
        getattr(world.jobs, function)(*arguments, sender=S)
    assert (books(world.vault), world.job(job), world.jobs.replicas(job.id)) == before


def test_client_that_vanishes_costs_its_providers_nothing(world: World) -> None:
    job = world.post()
    world.commit(job, *((p, RIGHT) for p in REPLICAS[:3]))
    world.reveal(job, *((p, RIGHT) for p in REPLICAS[:3]))
    world.settle(job, ONE)
    world.warp(DISPUTE_WINDOW + 1)
    for provider in REPLICAS[:3]:
        world.jobs.releaseBond(job.id, provider.address, sender=provider.address)
        assert world.staked(provider) == STAKE
        assert world.credit(provider) > 0


def test_replicas_that_vanish_cost_their_client_nothing_but_time(world: World) -> None:
    world.vault.deposit(world.token.address, A, 10**6, sender=A)
    before = world.credit(A)
    job = world.post()
    world.warp(COMMIT_WINDOW + 1)
    world.settle(job, CLIENT)
    assert world.credit(A) == before
    silent = world.post()
    world.commit(silent, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(COMMIT_WINDOW + REVEAL_WINDOW + 1)
    world.settle(silent, CLIENT)
    assert world.credit(A) == before
    assert (world.staked(ONE), world.staked(TWO)) == (STAKE - 3_000, STAKE - 3_000)


def test_registry_full_of_strangers_changes_nothing_of_a_provider(world: World) -> None:
    roots = tuple(keccak256(bytes([i])) for i in range(5))
    model_id = world.registry.publishModel(roots, "m", "", sender=P)
    world.registry.setProvider("https://p.example", bytes(32), sender=P)
    world.registry.setOffer(model_id, (world.token.address, 1, 1, 1, 1, 1, 2, 0), sender=P)
    before = world.registry.offers(P, model_id), world.registry.providers(P)
    for i in range(20):
        stranger = "0x" + f"{i + 1:040x}"
        world.registry.setProvider("https://p.example", bytes(32), sender=stranger)
        world.registry.setOffer(model_id, (S, 9, 9, 9, 9, 9, 15, 0), sender=stranger)
        world.registry.removeProvider(sender=stranger)
    assert (world.registry.offers(P, model_id), world.registry.providers(P)) == before


# --- wallets and payees that waste gas


def test_wallet_that_returns_a_megabyte_costs_no_more_than_one_that_refuses(world: World) -> None:
    """Only the first word of an answer is copied; the bomb goes off in its own memory, on its own share of the gas."""
    wallet = world.deploy("ContractWallet", P)
    quote = world.quote(ONE, provider=wallet.address)
    params = world.params([world.signed(quote, ONE), *(world.quote(p) for p in (TWO, THREE))])
    wallet.behave(3, sender=A)
    before = books(world.vault)
    with reverts("BadSignature", provider=wallet.address):
        world.jobs.post(params, sender=A)
    assert books(world.vault) == before
    wallet.behave(0, sender=A)
    world.jobs.post(params, sender=A)


def test_wallet_that_burns_all_gas_fails_its_own_posts_and_nobody_elses(world: World) -> None:
    wallet = world.deploy("ContractWallet", P)
    wallet.behave(2, sender=A)
    quote = world.quote(ONE, provider=wallet.address)
    before = books(world.vault)
    with pytest.raises(Revert):
        world.jobs.post(world.params([world.signed(quote, ONE), *(world.quote(p) for p in (TWO, THREE))]), sender=A)
    assert books(world.vault) == before
    assert world.jobs.clientNonce(A) == 0
    job = world.post()
    assert world.job(job)["state"] == JobState.OPEN


def test_wallet_that_turns_bad_after_its_quote_cannot_hold_up_the_job(world: World) -> None:
    """It is asked once, by post; from then on nobody calls it: neither to settle nor to pay."""
    wallet = world.deploy("ContractWallet", P)
    world.vault.deposit(world.token.address, wallet.address, 20_000, sender=A)
    wallet.execute(world.vault.address, world.vault.encode("stake", 20_000), sender=P)
    quote = world.quote(ONE, provider=wallet.address)
    quotes = [world.signed(quote, ONE), *(world.quote(p) for p in (TWO, THREE))]
    job_id = world.jobs.post(world.params(quotes), sender=A)
    commitment = world.jobs.hashCommitment(job_id, wallet.address, RIGHT.output_hash, bytes(32))
    wallet.execute(world.jobs.address, world.jobs.encode("commit", job_id, commitment), sender=P)
    for provider in (TWO, THREE):
        made = world.jobs.hashCommitment(job_id, provider.address, RIGHT.output_hash, bytes(32))
        world.jobs.commit(job_id, made, sender=provider.address)
    reveal = world.jobs.encode("reveal", job_id, RIGHT.values(), bytes(32))
    wallet.execute(world.jobs.address, reveal, sender=P)
    for provider in (TWO, THREE):
        world.jobs.reveal(job_id, RIGHT.values(), bytes(32), sender=provider.address)
    wallet.behave(2, sender=A)
    world.jobs.settle(job_id, sender=S)
    assert world.chain.gas_used < GAS_LIMIT // 60
    assert world.credit(wallet.address) == world.credit(TWO) > 0
    world.warp(DISPUTE_WINDOW + 1)
    world.jobs.releaseBond(job_id, wallet.address, sender=S)


def test_provider_of_no_address_is_never_paid(world: World) -> None:
    quote = world.quote(ONE, provider=ZERO_ADDRESS)
    for signature in (b"", bytes(65)):
        quotes = [(quote.values(), signature), *(world.quote(p) for p in (TWO, THREE))]
        with reverts("BadSignature", provider=ZERO_ADDRESS):
            world.jobs.post(world.params(quotes), sender=A)
