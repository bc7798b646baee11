"""Jobs.commit."""

from __future__ import annotations

from market.hashing import ZERO32, keccak256
from market.settlement import BondState, JobState, ReplicaState
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    GUARDIAN,
    REPLICAS,
    REVEAL_WINDOW,
    STAKE,
    STRANGER,
    World,
)

P, Q, R = (p.address for p in REPLICAS[:3])
C = keccak256(b"commitment")


def test_commit_stores_the_commitment_and_locks_the_bond(world: World) -> None:
    job = world.post()
    held = world.held()
    world.jobs.commit(job.id, C, sender=P)
    (event,) = world.logs("Committed")
    assert event.values == {"jobId": job.id, "provider": P, "commitment": C}
    replica = world.replica(job, 0)
    assert (replica["state"], replica["bondState"], replica["digest"]) == (
        ReplicaState.COMMITTED,
        BondState.LOCKED,
        C,
    )
    assert world.job(job)["committed"] == 1
    assert world.staked(REPLICAS[0]) == STAKE - 10_000
    assert world.held() == held + 10_000


def test_last_commit_starts_the_reveal(world: World) -> None:
    job = world.post()
    for provider in (P, Q):
        world.jobs.commit(job.id, C, sender=provider)
        assert not world.logs("RevealStarted")
    world.warp(7)
    world.jobs.commit(job.id, C, sender=R)
    (event,) = world.logs("RevealStarted")
    assert event.values == {"jobId": job.id, "revealDeadline": world.chain.now + REVEAL_WINDOW}
    assert world.job(job)["state"] == JobState.REVEALING
    assert world.job(job)["revealDeadline"] == world.chain.now + REVEAL_WINDOW


def test_commit_in_the_last_second_passes_and_after_it_reverts(world: World) -> None:
    job = world.post()
    deadline = world.chain.now + COMMIT_WINDOW
    world.chain.now = deadline
    world.jobs.commit(job.id, C, sender=P)
    world.chain.now = deadline + 1
    with reverts("TooLate", jobId=job.id, timestamp=deadline + 1, deadline=deadline):
        world.jobs.commit(job.id, C, sender=Q)


def test_commit_by_no_replica_reverts(world: World) -> None:
    job = world.post()
    for caller in (STRANGER.address, CLIENT.address, REPLICAS[3].address):
        with reverts("NotReplica", jobId=job.id, caller=caller):
            world.jobs.commit(job.id, C, sender=caller)


def test_commit_twice_reverts(world: World) -> None:
    job = world.post()
    world.jobs.commit(job.id, C, sender=P)
    with reverts(
        "WrongReplicaState",
        jobId=job.id,
        provider=P,
        has=ReplicaState.COMMITTED,
        needs=ReplicaState.ASSIGNED,
    ):
        world.jobs.commit(job.id, keccak256(b"other"), sender=P)


def test_commit_of_nothing_reverts(world: World) -> None:
    job = world.post()
    with reverts("EmptyCommitment", jobId=job.id):
        world.jobs.commit(job.id, ZERO32, sender=P)


def test_commit_to_an_unknown_job_reverts(world: World) -> None:
    with reverts("UnknownJob", jobId=C):
        world.jobs.commit(C, C, sender=P)


def test_commit_after_the_reveal_started_reverts(world: World) -> None:
    job = world.post()
    for provider in (P, Q, R):
        world.jobs.commit(job.id, C, sender=provider)
    with reverts("WrongState", jobId=job.id, has=JobState.REVEALING, needs=JobState.OPEN):
        world.jobs.commit(job.id, C, sender=P)


def test_commit_without_the_stake_for_its_bond_reverts(world: World) -> None:
    job = world.post()
    world.vault.requestUnstake(STAKE - 9_999, sender=P)
    with reverts("InsufficientStake", owner=P, has=9_999, needs=10_000):
        world.jobs.commit(job.id, C, sender=P)


def test_commit_in_a_deprecated_vault_reverts_and_the_client_still_gets_out(world: World) -> None:
    job = world.post()
    world.vault.deprecate(sender=GUARDIAN.address)
    with reverts("VaultDeprecated"):
        world.jobs.commit(job.id, C, sender=P)
    world.warp(COMMIT_WINDOW + 1)
    world.settle(job)
    assert world.credit(CLIENT) == world.job(job)["escrow"]
