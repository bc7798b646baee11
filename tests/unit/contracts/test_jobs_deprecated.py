"""A deprecated vault in the middle of a job: whatever state the job is in, everybody takes out everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from market.settlement import BURNT_ADDRESS, BondState, JobState
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    DISPUTE_WINDOW,
    GUARDIAN,
    OTHER_CLIENT,
    REPLICAS,
    REVEAL_WINDOW,
    STRANGER,
    UNBONDING_WINDOW,
    PostedJob,
    World,
    answer,
)

ANSWERS = tuple((provider, answer()) for provider in REPLICAS[:3])
LONGEST = COMMIT_WINDOW + REVEAL_WINDOW + 1


@pytest.fixture(scope="module")
def own() -> World:
    """A chain of its own: emptying the vault takes everybody's money."""
    return World()


@pytest.fixture
def world(own: World) -> Iterator[World]:
    assert isinstance(own.chain, RevmChain)
    with own.chain.undone():
        yield own


def close(world: World, job: PostedJob) -> None:
    """Settles by the last deadline, unless that was done, and returns every bond that is still locked."""
    if world.job(job)["finalAt"] == 0:
        world.warp(LONGEST)
        world.settle(job)
    world.warp(DISPUTE_WINDOW + 1)
    for i, provider in enumerate(REPLICAS[:3]):
        if world.replica(job, i)["bondState"] == BondState.LOCKED:
            world.jobs.releaseBond(job.id, provider.address, sender=STRANGER.address)


def empty(world: World) -> int:
    """Everybody leaves. Returns what nobody can take: the burnt miss fees."""
    for provider in REPLICAS:
        world.vault.requestUnstake(world.staked(provider), sender=provider.address)
    world.warp(UNBONDING_WINDOW)
    for provider in REPLICAS:
        world.vault.finishUnstake(provider.address, sender=STRANGER.address)
    for owner in (CLIENT, OTHER_CLIENT, STRANGER, *REPLICAS):
        if world.credit(owner):
            world.vault.withdraw(world.token.address, owner.address, world.credit(owner), sender=owner.address)
    return world.credit(BURNT_ADDRESS)


@pytest.mark.parametrize(
    ("commits", "reveals", "settles", "state", "missed"),
    [
        (0, 0, False, JobState.EXPIRED, 0),
        (1, 0, False, JobState.EXPIRED, 0),
        (2, 0, False, JobState.EXPIRED, 2),
        (3, 0, False, JobState.EXPIRED, 3),
        (3, 1, False, JobState.EXPIRED, 2),
        (3, 2, False, JobState.SETTLED, 1),
        (3, 3, False, JobState.SETTLED, 0),
        (3, 3, True, JobState.SETTLED, 0),
    ],
)
def test_deprecation_in_any_state_of_a_job_holds_nobodys_money(
    world: World, commits: int, reveals: int, settles: bool, state: JobState, missed: int
) -> None:
    before = world.vault.total(world.token.address)
    job = world.post()
    escrow = world.job(job)["escrow"]
    assert world.vault.total(world.token.address) == before + escrow
    world.commit(job, *ANSWERS[:commits])
    world.reveal(job, *ANSWERS[:reveals])
    if settles:
        world.settle(job)
    world.vault.deprecate(sender=GUARDIAN.address)

    close(world, job)
    assert world.job(job)["state"] == state
    assert world.held() == 0
    silent_fees = sum(terms.miss_fee for terms in job.terms[:missed])
    burnt = empty(world)
    assert burnt == (0 if reveals else silent_fees)
    assert world.vault.total(world.token.address) == world.token.balanceOf(world.vault.address) == burnt


def test_deprecation_while_a_job_is_revealed_lets_the_reveals_go_on(world: World) -> None:
    job = world.post()
    world.commit(job, *ANSWERS)
    world.reveal(job, ANSWERS[0])
    world.vault.deprecate(sender=GUARDIAN.address)
    world.reveal(job, *ANSWERS[1:])
    world.settle(job)
    assert world.job(job)["state"] == JobState.SETTLED
    close(world, job)
    assert empty(world) == world.vault.total(world.token.address) == 0


def test_deprecation_before_the_first_commit_leaves_the_client_its_cancel(world: World) -> None:
    job = world.post()
    world.vault.deprecate(sender=GUARDIAN.address)
    world.jobs.cancel(job.id, sender=CLIENT.address)
    assert world.held() == 0
    assert empty(world) == world.vault.total(world.token.address) == 0
