"""docs/protocol.md §7, one test an invariant, over jobs that Hypothesis plans. No model: the chain alone is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
from eth_abi import encode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market.settlement import (
    BURNT_ADDRESS,
    BondState,
    JobFacts,
    JobState,
    Payout,
    ReplicaFacts,
    ReplicaState,
    cancel,
    lapse,
    price,
    settle,
)
from market.types import Request
from tests.stateful.plans import Plan, plans, play
from tests.unit.contracts.abi import Event, Revert
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import (
    CLIENT,
    DISPUTE_DEADLINE,
    DISPUTE_WINDOW,
    REPLICAS,
    STAKE,
    STRANGER,
    UNBONDING_WINDOW,
    PostedJob,
    World,
)

PARTIES = (CLIENT, *REPLICAS, STRANGER)
many = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@contextmanager
def undone(world: World) -> Iterator[None]:
    """What happens inside is undone."""
    assert isinstance(world.chain, RevmChain)
    with world.chain.undone():
        yield


def dispute(world: World, job: PostedJob, provider: str) -> None:
    """Proves the provider guilty, as far as the toy arbiter goes."""
    kinds = [kind for _, _, kind in Request.members()]
    evidence = encode(kinds, list(job.request.values()))
    jobs, who = world.jobs.address, STRANGER.address
    world.arbiter.dispute(jobs, job.id, provider, evidence, sender=who)
    world.arbiter.decide(jobs, job.id, provider, True, who, sender=who)


def last(world: World, plan: Plan) -> PostedJob:
    """Plays the plan to its end."""
    *_, job = play(world, plan)
    return job


def owed(world: World) -> int:
    """Σ held by modules + Σ stake + Σ exits + Σ credits."""
    addresses = [*(p.address for p in PARTIES), BURNT_ADDRESS]
    credits_ = sum(world.credit(address) for address in addresses)
    stakes = sum(world.vault.staked(a) + world.vault.exits(a)[0] for a in addresses)
    return int(credits_ + stakes + world.held())


def facts(world: World, job: PostedJob, before: list[dict[str, Any]]) -> JobFacts:
    """What the pure payout function takes, read from the views before the job was closed."""
    view = world.job(job)
    replicas = tuple(
        ReplicaFacts(r["provider"], ReplicaState(r["state"]), terms, r["outputTokens"], r["digest"])
        for r, terms in zip(before, job.terms, strict=True)
    )
    agreed = view["outputHash"] if view["outputHash"] != bytes(32) else None
    return JobFacts(view["client"], view["inputTokens"], view["maxOutputTokens"], replicas, agreed)


@given(plan=plans)
@many
def test_invariant_1_vaults_balance_covers_what_it_owes_after_every_transaction(world: World, plan: Plan) -> None:
    with undone(world):
        for _ in play(world, plan):
            balance = world.token.balanceOf(world.vault.address)
            assert balance == world.vault.total(world.token.address) == owed(world)


@given(plan=plans)
@many
def test_invariant_2_paid_refunded_and_slashed_out_are_escrow_and_collateral(world: World, plan: Plan) -> None:
    with undone(world):
        history = [(job, world.chain.logs) for job in play(world, plan)]
        job = history[-1][0]
        events: list[Event] = [event for _, logs in history for event in logs]
        for replica in world.jobs.replicas(job.id)[:1]:
            if replica["state"] in (ReplicaState.REVEALED, ReplicaState.LATE):
                dispute(world, job, replica["provider"])
                events += world.chain.logs
        world.warp(DISPUTE_WINDOW + 1)
        for replica in world.jobs.replicas(job.id):
            if replica["bondState"] == BondState.LOCKED:
                world.jobs.releaseBond(job.id, replica["provider"], sender=STRANGER.address)
                events += world.chain.logs

        def total(name: str, *fields: str) -> int:
            return sum(e.values[f] for e in events if e.name == name for f in fields)

        out = sum(total(name, "paid", "refunded") for name in ("Settled", "Expired", "Cancelled"))
        assert out == world.job(job)["escrow"]
        assert total("ReplicaPaid", "amount") == sum(r["paid"] for r in world.jobs.replicas(job.id))
        collateral = sum(r["bond"] for r in world.jobs.replicas(job.id) if r["bondState"] != BondState.NONE)
        slashed = total("BondSlashed", "refunded", "reward", "burnt")
        assert total("BondReleased", "amount") + total("ReplicaMissed", "missFee") + slashed == collateral
        assert world.held() == 0


@given(plan=plans, amount=st.integers(1, STAKE))
@many
def test_invariant_3_locked_stake_never_leaves_before_its_dispute_is_over(
    world: World, plan: Plan, amount: int
) -> None:
    with undone(world):
        for job in play(world, plan):
            for provider, replica in zip(REPLICAS, world.jobs.replicas(job.id), strict=False):
                locked = replica["bond"] if replica["bondState"] == BondState.LOCKED else 0
                assert world.staked(provider) + locked <= STAKE
                assert locked <= world.held()
        view = world.job(job)
        provider = REPLICAS[0]
        left = min(amount, world.staked(provider))
        world.vault.requestUnstake(left, sender=provider.address)
        assert world.vault.exits(provider.address)[1] >= view["finalAt"] + DISPUTE_WINDOW + DISPUTE_DEADLINE
        if world.replica(job, 0)["bondState"] == BondState.LOCKED:
            with pytest.raises(Revert):
                world.vault.requestUnstake(world.staked(provider) + 1, sender=provider.address)


@given(plan=plans, after=st.integers(0, 30 * 86_400))
@many
def test_invariant_4_final_job_never_changes(world: World, plan: Plan, after: int) -> None:
    with undone(world):
        job = last(world, plan)
        before = (world.job(job), world.jobs.replicas(job.id), owed(world))
        world.warp(after)
        for call in (
            lambda: world.settle(job),
            lambda: world.jobs.cancel(job.id, sender=CLIENT.address),
            lambda: world.jobs.commit(job.id, b"c" * 32, sender=REPLICAS[0].address),
            lambda: (
                world.reveal(job, (REPLICAS[0], plan.parts[0].answer)) if plan.parts[0].answer else world.settle(job)
            ),
        ):
            with pytest.raises(Revert) as caught:
                call()
            assert caught.value.name == "WrongState"
        assert (world.job(job), world.jobs.replicas(job.id), owed(world)) == before


@given(plan=plans, stop=st.integers(0, 15))
@many
def test_invariant_5_every_job_becomes_final_once_time_passes_whoever_is_silent(
    world: World, plan: Plan, stop: int
) -> None:
    with undone(world):
        job = list(islice(play(world, plan), stop + 1))[-1]
        world.warp(3 * 86_400)
        if not JobState(world.job(job)["state"]).is_final:
            world.settle(job)
        assert JobState(world.job(job)["state"]).is_final
        world.warp(DISPUTE_WINDOW + 1)
        for provider, replica in zip(REPLICAS, world.jobs.replicas(job.id), strict=False):
            if replica["bondState"] == BondState.LOCKED:
                world.jobs.releaseBond(job.id, provider.address, sender=STRANGER.address)
        assert world.held() == 0


@given(plan=plans)
@many
def test_invariant_6_chains_payout_equals_the_pure_payout_to_the_unit(world: World, plan: Plan) -> None:
    with undone(world):
        before: list[dict[str, Any]] = []
        money: dict[str, tuple[int, int]] = {}
        for job in play(world, plan):
            view = world.job(job)
            if JobState(view["state"]).is_final:
                break
            before = world.jobs.replicas(job.id)
            money = {p.address: (world.credit(p), world.staked(p)) for p in PARTIES}
            money[BURNT_ADDRESS] = (world.burnt(), 0)
        known = facts(world, job, before)
        committed = sum(r["state"] != ReplicaState.ASSIGNED for r in before)
        close: Callable[[JobFacts], Payout] = settle
        if plan.cancelled:
            close = cancel
        elif committed < plan.quorum:
            close = lapse
        payout = close(known)
        assert payout.state == view["state"]
        for address, (credit, stake) in money.items():
            assert world.credit(address) - credit == payout.credit.get(address, 0)
            assert world.vault.staked(address) - stake == payout.stake.get(address, 0)


@given(plan=plans)
@many
def test_invariant_7_only_a_party_to_a_job_can_lose_on_it(world: World, plan: Plan) -> None:
    with undone(world):
        parties = {CLIENT, *REPLICAS[: len(plan.parts)]}
        others = [p for p in PARTIES if p not in parties]

        def wealth() -> list[tuple[int, int, int]]:
            token = world.token
            return [(world.credit(p), world.staked(p), token.balanceOf(p.address)) for p in others]

        before = wealth()
        job = last(world, plan)
        assert wealth() == before
        for provider, part in zip(REPLICAS, plan.parts, strict=False):
            if part.answer is None:
                assert world.staked(provider) == STAKE
        assert world.replica(job, 0)["provider"] == REPLICAS[0].address


@given(plan=plans, accused=st.integers(0, 6))
@many
def test_invariant_8_honest_loses_at_most_the_miss_fee_and_a_proved_liar_its_bond(
    world: World, plan: Plan, accused: int
) -> None:
    with undone(world):
        job = last(world, plan)
        index = accused % len(plan.parts)
        replica = world.replica(job, index)
        disputed = replica["state"] in (ReplicaState.REVEALED, ReplicaState.LATE)
        if disputed:
            dispute(world, job, replica["provider"])
        world.warp(DISPUTE_WINDOW + 1)
        for i, (provider, part) in enumerate(zip(REPLICAS, plan.parts, strict=False)):
            seen = world.replica(job, i)
            if seen["bondState"] == BondState.LOCKED:
                world.jobs.releaseBond(job.id, provider.address, sender=STRANGER.address)
            lost = STAKE - world.staked(provider)
            if disputed and i == index:
                assert lost == seen["bond"]
            elif part.answer is None or seen["state"] in (ReplicaState.REVEALED, ReplicaState.LATE):
                assert lost == 0
            else:
                assert lost in (0, seen["missFee"])
            highest = price(job.terms[i], job.request.input_tokens, job.request.max_output_tokens)
            assert seen["paid"] <= highest


def test_exit_takes_longer_than_any_job_and_its_dispute(world: World) -> None:
    demanded = world.jobs.demandWindow() + world.jobs.disputeWindow()
    longest = 2 * world.jobs.MAX_WINDOW() + world.jobs.disputeWindow() + demanded + world.jobs.DISPUTE_DEADLINE()
    assert world.vault.unbondingWindow() == UNBONDING_WINDOW >= longest
