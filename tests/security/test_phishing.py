"""Somebody with authority is lured into calling a trap: a contract that then calls ours. The authority stays behind.

All rights belong to the caller, never to whoever signed the transaction; and a contract can hold each of them.
"""

from __future__ import annotations

from typing import Any

import pytest

from market.hashing import keccak256
from market.settlement import ReplicaState
from tests.security.money import books, money
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.world import (
    CLIENT,
    GUARDIAN,
    REPLICAS,
    REVEAL_WINDOW,
    STRANGER,
    World,
    answer,
    salt_of,
)

A, P = CLIENT.address, REPLICAS[0].address
MODULE = STRANGER.address
RIGHT = answer()


@pytest.fixture
def trap(world: World) -> Contract:
    return world.deploy("Puppet")


def lure(trap: Contract, victim: str, target: Contract, function: str, *arguments: Any) -> None:
    """The victim sends a transaction to the trap, which makes the call."""
    trap.run(target.address, target.encode(function, *arguments), sender=victim)


def owner_in(world: World, event: str, field: str = "owner") -> Any:
    """Who the one event of that name in the last transaction is about."""
    (found,) = world.logs(event)
    return found.values[field]


@pytest.mark.parametrize("function", ["seal", "deprecate", "renounceGuardian"])
def test_guardian_in_a_trap_seals_and_ends_nothing(world: World, trap: Contract, function: str) -> None:
    vault = new_vault(world, modules=None if function == "seal" else ())
    arguments = ([trap.address],) if function == "seal" else ()
    with reverts("NotGuardian", caller=trap.address):
        lure(trap, GUARDIAN.address, vault, function, *arguments)
    assert vault.guardian() == GUARDIAN.address
    assert (vault.isSealed(), vault.isDeprecated()) == (function != "seal", False)
    getattr(vault, function)(*arguments, sender=GUARDIAN.address)


@pytest.mark.parametrize("function", ["fund", "bond", "pay", "unbond", "forfeit"])
def test_module_in_a_trap_moves_nothing(world: World, trap: Contract, function: str) -> None:
    vault = new_vault(world, modules=(MODULE,))
    token = world.token.address
    world.token.approve(vault.address, 100, sender=A)
    vault.deposit(token, A, 100, sender=A)
    vault.stake(50, sender=A)
    vault.bond(A, 10, sender=MODULE)
    arguments: tuple[Any, ...] = {
        "fund": (token, A, 5, b""),
        "bond": (A, 5),
        "pay": (token, trap.address, 5),
        "unbond": (A, 5),
        "forfeit": (A, 5),
    }[function]
    before = books(vault, (A, MODULE, trap.address))
    with reverts("NotModule", caller=trap.address):
        lure(trap, MODULE, vault, function, *arguments)
    assert books(vault, (A, MODULE, trap.address)) == before
    getattr(vault, function)(*arguments, sender=MODULE)


def test_owner_in_a_trap_loses_no_credit_stake_or_allowance(world: World, trap: Contract) -> None:
    """The victim has credit, stake and an allowance to the vault: none of them is the trap's to use."""
    token, vault = world.token.address, world.vault
    vault.deposit(token, P, 1_000, sender=P)
    before, balance = books(vault), world.token.balanceOf(P)
    with reverts("ERC20InsufficientAllowance", spender=vault.address, allowance=0, needed=5):
        lure(trap, P, vault, "deposit", token, trap.address, 5)
    with reverts("InsufficientCredit", token=token, owner=trap.address, has=0, needs=5):
        lure(trap, P, vault, "withdraw", token, trap.address, 5)
    with reverts("InsufficientCredit", token=token, owner=trap.address, has=0, needs=5):
        lure(trap, P, vault, "stake", 5)
    with reverts("InsufficientStake", owner=trap.address, has=0, needs=5):
        lure(trap, P, vault, "requestUnstake", 5)
    assert (books(vault), world.token.balanceOf(P)) == (before, balance)


def test_client_in_a_trap_pays_for_no_job_and_cancels_none(world: World, trap: Contract) -> None:
    job = world.post()
    with reverts("NotClient", jobId=job.id, caller=trap.address):
        lure(trap, A, world.jobs, "cancel", job.id)
    cost = world.job(job)["escrow"]
    before, balance = books(world.vault), world.token.balanceOf(A)
    params = world.params([world.quote(p) for p in REPLICAS[:3]])
    with reverts("ERC20InsufficientAllowance", spender=world.vault.address, allowance=0, needed=cost):
        lure(trap, A, world.jobs, "post", params)
    named = world.params([world.quote(p, client=A) for p in REPLICAS[:3]])
    with reverts("QuoteMismatch", provider=P, field=b"client".ljust(32, b"\0")):
        lure(trap, A, world.jobs, "post", named)
    assert (books(world.vault), world.token.balanceOf(A)) == (before, balance)
    world.jobs.cancel(job.id, sender=A)


def test_contract_that_posts_is_the_client_itself(world: World, trap: Contract) -> None:
    """Its nonce, its quotes, its escrow; the account behind the transaction has no part in it."""
    world.vault.deposit(world.token.address, trap.address, 10**6, sender=A)
    quotes = [world.quote(p) for p in REPLICAS[:3]]
    job_id = world.jobs.jobIdOf(trap.address, 0)
    lure(trap, A, world.jobs, "post", world.params(quotes))
    assert owner_in(world, "JobPosted", "client") == trap.address
    assert owner_in(world, "Funded", "from") == trap.address
    assert world.jobs.job(job_id)["client"] == trap.address
    assert (world.jobs.clientNonce(trap.address), world.jobs.clientNonce(A)) == (1, 0)
    digest = world.domain.digest(quotes[0])
    assert world.jobs.quoteUsed(digest, trap.address)
    assert not world.jobs.quoteUsed(digest, A)
    with reverts("QuoteUsed", provider=P, quoteDigest=digest):
        lure(trap, A, world.jobs, "post", world.params(quotes))
    world.jobs.post(world.params(quotes), sender=A)
    with reverts("NotClient", jobId=job_id, caller=A):
        world.jobs.cancel(job_id, sender=A)
    lure(trap, STRANGER.address, world.jobs, "cancel", job_id)


def test_provider_in_a_trap_commits_reveals_and_offers_nothing(world: World, trap: Contract) -> None:
    job = world.post()
    with reverts("NotReplica", jobId=job.id, caller=trap.address):
        lure(trap, P, world.jobs, "commit", job.id, keccak256(b"junk"))
    world.commit(job, *((p, RIGHT) for p in REPLICAS[:3]))
    with reverts("NotReplica", jobId=job.id, caller=trap.address):
        lure(trap, P, world.jobs, "reveal", job.id, RIGHT.values(), salt_of(REPLICAS[0]))
    roots = tuple(keccak256(bytes([i])) for i in range(5))
    model_id = world.registry.publishModel(roots, "m", "", sender=P)
    offer = (world.token.address, 1, 1, 1, 1, 1, 2, 0)
    world.registry.setProvider("https://p.example", bytes(32), sender=P)
    world.registry.setOffer(model_id, offer, sender=P)
    for function, arguments in (("setOffer", (model_id, offer)), ("removeProvider", ())):
        with reverts("UnknownProvider", provider=trap.address):
            lure(trap, P, world.registry, function, *arguments)
    with reverts("UnknownOffer", provider=trap.address, modelId=model_id):
        lure(trap, P, world.registry, "removeOffer", model_id)
    lure(trap, P, world.registry, "setProvider", "https://trap.example", bytes(32))
    assert owner_in(world, "ProviderSet", "provider") == trap.address
    lure(trap, P, world.registry, "setOffer", model_id, offer)
    assert owner_in(world, "OfferSet", "provider") == trap.address
    lure(trap, P, world.registry, "removeOffer", model_id)
    assert owner_in(world, "OfferRemoved", "provider") == trap.address
    lure(trap, P, world.registry, "removeProvider")
    assert owner_in(world, "ProviderRemoved", "provider") == trap.address
    assert world.registry.providers(P)[0] == "https://p.example"
    assert tuple(world.registry.offers(P, model_id).values()) == offer


def test_provider_that_is_a_contract_bonds_its_own_stake(world: World, trap: Contract) -> None:
    world.vault.deposit(world.token.address, trap.address, 20_000, sender=A)
    lure(trap, P, world.vault, "stake", 20_000)
    quotes = [(world.quote(REPLICAS[0], provider=trap.address).values(), b""), *(world.quote(p) for p in REPLICAS[1:3])]
    job_id = world.jobs.post(world.params(quotes), sender=A)
    before = world.staked(REPLICAS[0])
    commitment = world.jobs.hashCommitment(job_id, trap.address, RIGHT.output_hash, bytes(32))
    lure(trap, P, world.jobs, "commit", job_id, commitment)
    assert owner_in(world, "Committed", "provider") == trap.address
    assert owner_in(world, "Bonded") == trap.address
    assert world.vault.staked(trap.address) == 10_000
    assert world.staked(REPLICAS[0]) == before
    assigned, committed = ReplicaState.ASSIGNED, ReplicaState.COMMITTED
    with reverts("WrongReplicaState", jobId=job_id, provider=trap.address, has=committed, needs=assigned):
        lure(trap, P, world.jobs, "commit", job_id, commitment)
    for provider in REPLICAS[1:3]:
        made = world.jobs.hashCommitment(job_id, provider.address, RIGHT.output_hash, bytes(32))
        world.jobs.commit(job_id, made, sender=provider.address)
    opened = world.jobs.hashCommitment(job_id, trap.address, RIGHT.output_hash, b"\1" * 32)
    with reverts("BadReveal", jobId=job_id, provider=trap.address, expected=commitment, got=opened):
        lure(trap, P, world.jobs, "reveal", job_id, RIGHT.values(), b"\1" * 32)
    lure(trap, P, world.jobs, "reveal", job_id, RIGHT.values(), bytes(32))
    assert owner_in(world, "Revealed", "provider") == trap.address
    revealed = ReplicaState.REVEALED
    with reverts("WrongReplicaState", jobId=job_id, provider=trap.address, has=revealed, needs=committed):
        lure(trap, P, world.jobs, "reveal", job_id, RIGHT.values(), bytes(32))


def test_late_provider_that_is_a_contract_is_named_in_its_refusal(world: World, trap: Contract) -> None:
    world.vault.deposit(world.token.address, trap.address, 20_000, sender=A)
    lure(trap, P, world.vault, "stake", 20_000)
    quotes = [(world.quote(REPLICAS[0], provider=trap.address).values(), b""), *(world.quote(p) for p in REPLICAS[1:3])]
    job_id = world.jobs.post(world.params(quotes), sender=A)
    wrong = answer("wrong")
    made = world.jobs.hashCommitment(job_id, trap.address, wrong.output_hash, bytes(32))
    lure(trap, P, world.jobs, "commit", job_id, made)
    for provider in REPLICAS[1:3]:
        made = world.jobs.hashCommitment(job_id, provider.address, RIGHT.output_hash, bytes(32))
        world.jobs.commit(job_id, made, sender=provider.address)
    for provider in REPLICAS[1:3]:
        world.jobs.reveal(job_id, RIGHT.values(), bytes(32), sender=provider.address)
    world.warp(REVEAL_WINDOW + 1)
    with reverts("LateAndNotAgreed", jobId=job_id, provider=trap.address):
        lure(trap, P, world.jobs, "reveal", job_id, wrong.values(), bytes(32))


@pytest.mark.parametrize("function", ["freeze", "resolve"])
def test_arbiter_in_a_trap_judges_nothing(world: World, trap: Contract, function: str) -> None:
    judge = STRANGER.address
    jobs = world.deploy("Jobs", *world.jobs_arguments(arbiter=judge))
    arguments = (bytes(32), P, b"") if function == "freeze" else (bytes(32), P, True, trap.address, P)
    with reverts("NotArbiter", caller=trap.address):
        lure(trap, judge, jobs, function, *arguments)
    with reverts("UnknownJob", jobId=bytes(32)):
        getattr(jobs, function)(*arguments, sender=judge)


def test_stake_and_exit_are_the_contracts_that_asked(world: World, trap: Contract) -> None:
    world.vault.deposit(world.token.address, trap.address, 100, sender=A)
    before = money(world.vault)
    lure(trap, P, world.vault, "stake", 100)
    assert owner_in(world, "Staked") == trap.address
    lure(trap, P, world.vault, "requestUnstake", 40)
    assert owner_in(world, "UnstakeRequested") == trap.address
    assert world.vault.staked(trap.address) == 60
    assert world.vault.exits(trap.address)[0] == 40
    lure(trap, P, world.vault, "requestUnstake", 10)
    world.chain.now += world.vault.unbondingWindow()
    with reverts("NothingExiting", owner=P):
        world.vault.finishUnstake(P, sender=P)
    lure(trap, P, world.vault, "finishUnstake", trap.address)
    lure(trap, P, world.vault, "withdraw", world.token.address, trap.address, 50)
    assert owner_in(world, "Withdrawn") == trap.address
    assert world.token.balanceOf(trap.address) == 50
    assert money(world.vault) == before
