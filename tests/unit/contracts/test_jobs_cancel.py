"""Jobs.cancel."""

from __future__ import annotations

from market.hashing import keccak256
from market.settlement import JobState
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.world import CLIENT, COMMIT_WINDOW, REPLICAS, STRANGER, World, answer

A = CLIENT.address
KILL = 100


def test_cancel_pays_kill_fees_and_refunds_the_rest(world: World) -> None:
    job = world.post()
    escrow = world.job(job)["escrow"]
    world.jobs.cancel(job.id, sender=A)
    (event,) = world.logs("Cancelled")
    assert event.values == {"jobId": job.id, "paid": 3 * KILL, "refunded": escrow - 3 * KILL}
    assert [world.credit(p) for p in REPLICAS[:3]] == [KILL] * 3
    assert world.credit(CLIENT) == escrow - 3 * KILL
    assert world.held() == 0
    assert world.job(job)["state"] == JobState.CANCELLED
    assert world.job(job)["finalAt"] == world.chain.now
    assert [r["paid"] for r in world.jobs.replicas(job.id)] == [KILL] * 3


def test_cancel_by_anybody_else_reverts(world: World) -> None:
    job = world.post()
    for caller in (STRANGER.address, REPLICAS[0].address):
        with reverts("NotClient", jobId=job.id, caller=caller):
            world.jobs.cancel(job.id, sender=caller)


def test_cancel_after_a_commit_reverts(world: World) -> None:
    job = world.post()
    world.commit(job, (REPLICAS[0], answer()))
    with reverts("AlreadyCommitted", jobId=job.id, committed=1):
        world.jobs.cancel(job.id, sender=A)


def test_cancel_in_the_last_second_passes_and_after_it_reverts(world: World) -> None:
    job, other = world.post(), world.post()
    deadline = world.chain.now + COMMIT_WINDOW
    world.chain.now = deadline
    world.jobs.cancel(job.id, sender=A)
    world.chain.now = deadline + 1
    with reverts("TooLate", jobId=other.id, timestamp=deadline + 1, deadline=deadline):
        world.jobs.cancel(other.id, sender=A)


def test_cancel_twice_or_of_an_unknown_job_reverts(world: World) -> None:
    job = world.post()
    world.jobs.cancel(job.id, sender=A)
    with reverts("WrongState", jobId=job.id, has=JobState.CANCELLED, needs=JobState.OPEN):
        world.jobs.cancel(job.id, sender=A)
    unknown = keccak256(b"unknown")
    with reverts("UnknownJob", jobId=unknown):
        world.jobs.cancel(unknown, sender=A)


def test_commit_to_a_cancelled_job_reverts(world: World) -> None:
    job = world.post()
    world.jobs.cancel(job.id, sender=A)
    with reverts("WrongState", jobId=job.id, has=JobState.CANCELLED, needs=JobState.OPEN):
        world.commit(job, (REPLICAS[0], answer()))
