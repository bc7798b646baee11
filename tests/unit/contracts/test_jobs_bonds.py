"""Jobs.releaseBond, freeze and resolve."""

from __future__ import annotations

from typing import Any

import pytest
from eth_abi import encode

from market.hashing import ZERO32, keccak256
from market.settlement import BPS, BondState, JobState, ReplicaState, Slash, price, slash
from market.types import ZERO_ADDRESS, Request
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    DISPUTE_DEADLINE,
    DISPUTE_WINDOW,
    INPUT,
    OTHER_CLIENT,
    REPLICAS,
    REVEAL_WINDOW,
    SHARE_BPS,
    STAKE,
    STRANGER,
    PostedJob,
    World,
    answer,
)

ONE, TWO, THREE = REPLICAS[:3]
P = ONE.address
RIGHT, WRONG = answer(), answer("wrong")
BOND = 10_000
CHALLENGER = STRANGER
PROVER = OTHER_CLIENT


def evidence(request: Request) -> bytes:
    return encode([kind for _, _, kind in request.members()], list(request.values()))


def dispute(world: World, job: PostedJob, provider: str = P, data: bytes | None = None) -> None:
    proof = evidence(job.request) if data is None else data
    world.arbiter.dispute(world.jobs.address, job.id, provider, proof, sender=CHALLENGER.address)


def decide(world: World, job: PostedJob, guilty: bool, provider: str = P) -> None:
    world.arbiter.decide(world.jobs.address, job.id, provider, guilty, PROVER.address, sender=STRANGER.address)


def bond_state(world: World, job: PostedJob, index: int = 0) -> BondState:
    return BondState(world.replica(job, index)["bondState"])


def release(world: World, job: PostedJob, provider: str = P) -> None:
    world.jobs.releaseBond(job.id, provider, sender=STRANGER.address)


# --- releaseBond


def test_release_bond_by_anybody_exactly_after_the_window(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    end = world.chain.now + DISPUTE_WINDOW
    world.chain.now = end
    with reverts("TooEarly", jobId=job.id, timestamp=end, opensAt=end + 1):
        release(world, job)
    world.chain.now = end + 1
    for provider in (ONE, TWO, THREE):
        release(world, job, provider.address)
        (event,) = world.logs("BondReleased")
        assert event.values == {"jobId": job.id, "provider": provider.address, "amount": BOND}
        assert world.staked(provider) == STAKE
    assert world.held() == 0
    assert bond_state(world, job) is BondState.RELEASED


def test_release_bond_twice_reverts(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    world.warp(DISPUTE_WINDOW + 1)
    release(world, job)
    with reverts("WrongBondState", jobId=job.id, provider=P, has=BondState.RELEASED, needs=BondState.LOCKED):
        release(world, job)


def test_release_bond_that_was_never_locked_reverts(world: World) -> None:
    job = world.post()
    with reverts("WrongBondState", jobId=job.id, provider=P, has=BondState.NONE, needs=BondState.LOCKED):
        release(world, job)


def test_release_bond_before_the_job_is_final_reverts(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT))
    world.warp(10 * DISPUTE_WINDOW)
    with reverts("WrongState", jobId=job.id, has=JobState.OPEN, needs=JobState.SETTLED):
        release(world, job)


def test_release_bond_of_no_replica_or_no_job_reverts(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    with reverts("NotReplica", jobId=job.id, caller=STRANGER.address):
        release(world, job, STRANGER.address)
    unknown = keccak256(b"unknown")
    with reverts("UnknownJob", jobId=unknown):
        world.jobs.releaseBond(unknown, P, sender=STRANGER.address)


def test_release_bond_of_a_disputed_bond_waits_for_the_arbiters_deadline(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    end = world.chain.now + DISPUTE_WINDOW + DISPUTE_DEADLINE
    dispute(world, job)
    world.chain.now = end
    with reverts("TooEarly", jobId=job.id, timestamp=end, opensAt=end + 1):
        release(world, job)
    world.chain.now = end + 1
    with reverts("TooLate", jobId=job.id, timestamp=end + 1, deadline=end):
        decide(world, job, guilty=True)
    release(world, job)
    assert world.staked(ONE) == STAKE


# --- freeze


def test_freeze_tells_the_arbiter_what_is_disputed(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    dispute(world, job, THREE.address)
    assert [e.values for e in world.logs("BondFrozen")] == [{"jobId": job.id, "provider": THREE.address}]
    told = world.arbiter.told(job.id, THREE.address)
    assert told == (
        job.request.model_id,
        job.request.request_hash,
        WRONG.output_hash,
        BOND,
        world.job(job)["finalAt"] + DISPUTE_WINDOW,
        ZERO32,  # a greedy answer has no seed
        CHALLENGER.address,
    )
    assert bond_state(world, job, 2) is BondState.DISPUTED


@pytest.mark.parametrize("function", ["freeze", "resolve"])
def test_freeze_and_resolve_by_anybody_else_reverts(world: World, function: str) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    arguments: tuple[Any, ...] = {
        "freeze": (job.id, P, evidence(job.request)),
        "resolve": (job.id, P, True, STRANGER.address, STRANGER.address),
    }[function]
    for caller in (STRANGER.address, CLIENT.address, P):
        with reverts("NotArbiter", caller=caller):
            getattr(world.jobs, function)(*arguments, sender=caller)


def test_without_an_arbiter_nobody_freezes(world: World) -> None:
    jobs: Contract = world.deploy("Jobs", *world.jobs_arguments(arbiter=ZERO_ADDRESS))
    with reverts("NotArbiter", caller=STRANGER.address):
        jobs.freeze(bytes(32), P, b"", sender=STRANGER.address)


def test_freeze_of_an_unknown_job_or_replica_reverts(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    unknown = keccak256(b"unknown")
    with reverts("UnknownJob", jobId=unknown):
        world.arbiter.dispute(world.jobs.address, unknown, P, b"", sender=STRANGER.address)
    with reverts("NotReplica", jobId=job.id, caller=STRANGER.address):
        dispute(world, job, STRANGER.address)


def test_freeze_before_the_job_is_final_reverts(world: World) -> None:
    job = world.post()
    with reverts("WrongState", jobId=job.id, has=JobState.OPEN, needs=JobState.SETTLED):
        dispute(world, job)
    world.commit(job, *((p, RIGHT) for p in (ONE, TWO, THREE)))
    world.reveal(job, (ONE, RIGHT))
    with reverts("WrongState", jobId=job.id, has=JobState.REVEALING, needs=JobState.SETTLED):
        dispute(world, job)


def test_freeze_of_a_replica_that_revealed_nothing_reverts(world: World) -> None:
    job = world.post()
    world.commit(job, *((p, RIGHT) for p in (ONE, TWO, THREE)))
    world.reveal(job, (TWO, RIGHT), (THREE, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    with reverts("WrongReplicaState", jobId=job.id, provider=P, has=ReplicaState.MISSED, needs=ReplicaState.REVEALED):
        dispute(world, job)


def test_freeze_twice_reverts(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    dispute(world, job)
    with reverts("WrongBondState", jobId=job.id, provider=P, has=BondState.DISPUTED, needs=BondState.LOCKED):
        dispute(world, job)


def test_freeze_in_the_windows_last_second_passes_and_after_it_reverts(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    end = world.chain.now + DISPUTE_WINDOW
    world.chain.now = end
    dispute(world, job)
    world.chain.now = end + 1
    with reverts("TooLate", jobId=job.id, timestamp=end + 1, deadline=end):
        dispute(world, job, TWO.address)


@pytest.mark.parametrize("cut", [0, 32, 351])
def test_freeze_with_other_evidence_reverts(world: World, cut: int) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    data = evidence(job.request)[:cut]
    type_hash = keccak256(Request.type_string().encode())
    got = keccak256(type_hash + data)
    with reverts("EvidenceMismatch", expected=job.request.request_hash, got=got):
        dispute(world, job, data=data)


def test_freeze_of_an_expired_job_and_of_a_late_reveal_passes(world: World) -> None:
    expired = world.settled(RIGHT, WRONG, answer("other"))
    dispute(world, expired)
    late = world.post()
    world.commit(late, *((p, RIGHT) for p in (ONE, TWO, THREE)))
    world.reveal(late, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.reveal(late, (THREE, RIGHT))
    world.settle(late)
    dispute(world, late, THREE.address)
    assert bond_state(world, late, 2) is BondState.DISPUTED


# --- resolve


def test_resolve_not_guilty_locks_the_bond_until_its_window_is_over(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    dispute(world, job)
    decide(world, job, guilty=False)
    assert [e.values for e in world.logs("BondUnfrozen")] == [{"jobId": job.id, "provider": P}]
    assert bond_state(world, job) is BondState.LOCKED
    world.warp(DISPUTE_WINDOW + 1)
    release(world, job)
    assert world.staked(ONE) == STAKE


@pytest.mark.parametrize(("index", "paid"), [(0, True), (2, False)])
def test_resolve_guilty_refunds_first_then_rewards_then_burns(world: World, index: int, paid: bool) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    refund = price(job.terms[0], len(INPUT), 5) if paid else 0
    provider = REPLICAS[index]
    before = {who: world.credit(who) for who in (CLIENT, CHALLENGER, PROVER, provider)}
    dispute(world, job, provider.address)
    decide(world, job, guilty=True, provider=provider.address)
    expected = slash(BOND, refund, SHARE_BPS)
    (event,) = world.logs("BondSlashed")
    assert event.values == {
        "jobId": job.id,
        "provider": provider.address,
        "prover": PROVER.address,
        "requester": CHALLENGER.address,
        "refunded": refund,
        "reward": expected.reward,
        "burnt": expected.burnt,
    }
    assert refund + expected.reward + expected.burnt == BOND
    assert world.credit(CLIENT) == before[CLIENT] + refund
    assert world.credit(CHALLENGER) == before[CHALLENGER] + expected.reward // 2
    assert world.credit(PROVER) == before[PROVER] + expected.reward - expected.reward // 2
    assert world.credit(provider) == before[provider]
    assert world.burnt() == expected.burnt
    assert world.staked(provider) == STAKE - BOND
    assert bond_state(world, job, index) is BondState.SLASHED


def test_resolve_guilty_refunds_a_price_that_was_withdrawn_already(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    world.vault.withdraw(world.token.address, P, world.credit(ONE), sender=P)
    dispute(world, job)
    decide(world, job, guilty=True)
    assert world.credit(CLIENT) == world.job(job)["escrow"] - price(job.terms[1], len(INPUT), 5)


def test_resolve_without_a_dispute_reverts(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    with reverts("WrongBondState", jobId=job.id, provider=P, has=BondState.LOCKED, needs=BondState.DISPUTED):
        decide(world, job, guilty=True)
    dispute(world, job)
    decide(world, job, guilty=True)
    with reverts("WrongBondState", jobId=job.id, provider=P, has=BondState.SLASHED, needs=BondState.DISPUTED):
        decide(world, job, guilty=True)
    with reverts("WrongBondState", jobId=job.id, provider=P, has=BondState.SLASHED, needs=BondState.LOCKED):
        world.warp(DISPUTE_WINDOW + DISPUTE_DEADLINE + 1)
        release(world, job)


def test_resolve_in_the_deadlines_last_second_passes(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    end = world.chain.now + DISPUTE_WINDOW + DISPUTE_DEADLINE
    dispute(world, job)
    world.chain.now = end
    decide(world, job, guilty=True)
    assert bond_state(world, job) is BondState.SLASHED


@pytest.mark.parametrize(
    ("bond", "refund", "share"), [(10_000, 0, 3_000), (10_000, 9_000, 3_000), (1, 0, 1), (0, 0, 1)]
)
def test_slash_burns_at_least_half_of_what_the_client_leaves(bond: int, refund: int, share: int) -> None:
    divided = slash(bond, refund, share)
    assert divided == Slash(refund, min(bond * share // BPS, (bond - refund) // 2), divided.burnt)
    assert divided.burnt >= divided.reward
    assert divided.refunded + divided.reward + divided.burnt == bond


def test_slash_of_less_than_the_refund_raises() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        slash(10, 11, 1)


def test_release_of_a_bond_whose_job_lapsed_reverts(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT))
    world.warp(COMMIT_WINDOW + 1)
    world.settle(job)
    with reverts("WrongBondState", jobId=job.id, provider=P, has=BondState.RELEASED, needs=BondState.LOCKED):
        release(world, job)
