"""Jobs.reveal, in time and late."""

from __future__ import annotations

import pytest

from market.hashing import ZERO32, keccak256
from market.settlement import BondState, JobState, ReplicaState
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.world import (
    COMMIT_WINDOW,
    MAX_OUTPUT,
    REPLICAS,
    REVEAL_WINDOW,
    STRANGER,
    PostedJob,
    World,
    answer,
    salt_of,
)

ONE, TWO, THREE = REPLICAS[:3]
RIGHT, WRONG = answer(), answer("wrong")


def committed(world: World, *outputs: object) -> PostedJob:
    """A job of three replicas that committed to these outputs (the right one by default)."""
    job = world.post()
    world.commit(job, *zip(REPLICAS[:3], outputs or (RIGHT,) * 3, strict=False))  # type: ignore[arg-type]
    return job


def test_reveal_opens_the_commitment(world: World) -> None:
    job = committed(world)
    world.reveal(job, (ONE, RIGHT))
    (event,) = world.logs("Revealed")
    assert event.values == {
        "jobId": job.id,
        "provider": ONE.address,
        "outputHash": RIGHT.output_hash,
        "output": {"outputRoot": RIGHT.output_root, "outputTokens": 5, "finish": 1},
        "late": False,
    }
    replica = world.replica(job, 0)
    assert (replica["state"], replica["outputTokens"], replica["finish"]) == (ReplicaState.REVEALED, 5, 1)
    assert (replica["digest"], replica["bondState"]) == (RIGHT.output_hash, BondState.LOCKED)
    assert world.job(job)["revealed"] == 1
    assert world.job(job)["outputHash"] == ZERO32


def test_reveal_that_completes_the_quorum_agrees_the_output_once(world: World) -> None:
    job = committed(world, WRONG, RIGHT, RIGHT)
    world.reveal(job, (ONE, WRONG), (TWO, RIGHT))
    assert not world.logs("Agreed")
    world.reveal(job, (THREE, RIGHT))
    assert [event.values for event in world.logs("Agreed")] == [{"jobId": job.id, "outputHash": RIGHT.output_hash}]
    assert world.job(job)["outputHash"] == RIGHT.output_hash


def test_third_equal_reveal_does_not_agree_again(world: World) -> None:
    job = committed(world)
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    assert len(world.logs("Agreed")) == 1
    world.reveal(job, (THREE, RIGHT))
    assert not world.logs("Agreed")


@pytest.mark.parametrize("other", [answer(tokens=6), answer(tokens=MAX_OUTPUT, finish=2), answer("x")])
def test_outputs_that_differ_in_anything_do_not_agree(world: World, other: object) -> None:
    job = committed(world, RIGHT, other, answer("third"))
    world.reveal(job, (ONE, RIGHT), (TWO, other), (THREE, answer("third")))  # type: ignore[arg-type]
    assert world.job(job)["outputHash"] == ZERO32


def test_reveal_before_all_committed_and_before_the_deadline_reverts(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT))
    opens = world.chain.now + COMMIT_WINDOW + 1
    with reverts("TooEarly", jobId=job.id, timestamp=world.chain.now, opensAt=opens):
        world.reveal(job, (ONE, RIGHT))
    world.chain.now = opens - 1
    with reverts("TooEarly", jobId=job.id, timestamp=opens - 1, opensAt=opens):
        world.reveal(job, (ONE, RIGHT))


def test_first_reveal_after_the_commit_deadline_starts_the_phase_with_a_fixed_end(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT))
    end = world.chain.now + COMMIT_WINDOW + REVEAL_WINDOW
    world.warp(COMMIT_WINDOW + 5)
    world.reveal(job, (ONE, RIGHT))
    assert [e.values for e in world.logs("RevealStarted")] == [{"jobId": job.id, "revealDeadline": end}]
    assert (world.job(job)["state"], world.job(job)["revealDeadline"]) == (JobState.REVEALING, end)
    world.reveal(job, (TWO, RIGHT))
    assert not world.logs("RevealStarted")


def test_reveal_short_of_a_quorum_of_commitments_reverts(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT))
    world.warp(COMMIT_WINDOW + 1)
    with reverts("WrongState", jobId=job.id, has=JobState.OPEN, needs=JobState.REVEALING):
        world.reveal(job, (ONE, RIGHT))


def test_reveal_by_a_replica_that_did_not_commit_reverts(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(COMMIT_WINDOW + 1)
    with reverts(
        "WrongReplicaState",
        jobId=job.id,
        provider=THREE.address,
        has=ReplicaState.ASSIGNED,
        needs=ReplicaState.COMMITTED,
    ):
        world.reveal(job, (THREE, RIGHT))


def test_reveal_twice_reverts(world: World) -> None:
    job = committed(world)
    world.reveal(job, (ONE, RIGHT))
    with reverts(
        "WrongReplicaState",
        jobId=job.id,
        provider=ONE.address,
        has=ReplicaState.REVEALED,
        needs=ReplicaState.COMMITTED,
    ):
        world.reveal(job, (ONE, RIGHT))


def test_reveal_by_a_stranger_or_of_an_unknown_job_reverts(world: World) -> None:
    job = committed(world)
    with reverts("NotReplica", jobId=job.id, caller=STRANGER.address):
        world.jobs.reveal(job.id, RIGHT.values(), salt_of(ONE), sender=STRANGER.address)
    unknown = keccak256(b"unknown")
    with reverts("UnknownJob", jobId=unknown):
        world.jobs.reveal(unknown, RIGHT.values(), salt_of(ONE), sender=ONE.address)


@pytest.mark.parametrize("what", ["output", "tokens", "finish", "salt"])
def test_reveal_of_something_else_than_committed_reverts(world: World, what: str) -> None:
    job = committed(world)
    output = {"output": WRONG, "tokens": answer(tokens=4), "finish": answer(finish=2)}.get(what, RIGHT)
    salt = salt_of(TWO) if what == "salt" else salt_of(ONE)
    got = world.jobs.hashCommitment(job.id, ONE.address, output.output_hash, salt)
    expected = world.commitment(job, ONE, RIGHT)
    with reverts("BadReveal", jobId=job.id, provider=ONE.address, expected=expected, got=got):
        world.jobs.reveal(job.id, output.values(), salt, sender=ONE.address)


def test_commitment_copied_from_another_replica_cannot_be_opened(world: World) -> None:
    job = world.post()
    copied = world.commitment(job, ONE, RIGHT)
    for provider in (ONE, TWO, THREE):
        world.jobs.commit(job.id, copied, sender=provider.address)
    world.reveal(job, (ONE, RIGHT))
    got = world.jobs.hashCommitment(job.id, TWO.address, RIGHT.output_hash, salt_of(ONE))
    with reverts("BadReveal", jobId=job.id, provider=TWO.address, expected=copied, got=got):
        world.jobs.reveal(job.id, RIGHT.values(), salt_of(ONE), sender=TWO.address)


@pytest.mark.parametrize(
    ("tokens", "finish"),
    [(0, 1), (MAX_OUTPUT + 1, 1), (0, 2), (MAX_OUTPUT - 1, 2), (MAX_OUTPUT + 1, 2), (5, 0), (5, 3), (5, 4), (5, 255)],
)
def test_reveal_of_an_output_that_is_no_answer_reverts(world: World, tokens: int, finish: int) -> None:
    output = answer(tokens=tokens, finish=finish)
    job = committed(world, output, RIGHT, RIGHT)
    with reverts("BadOutput", jobId=job.id, outputTokens=tokens, finish=finish):
        world.reveal(job, (ONE, output))


@pytest.mark.parametrize(("tokens", "finish"), [(1, 1), (MAX_OUTPUT, 1), (MAX_OUTPUT, 2)])
def test_reveal_takes_outputs_up_to_the_limit(world: World, tokens: int, finish: int) -> None:
    output = answer(tokens=tokens, finish=finish)
    job = committed(world, output, RIGHT, RIGHT)
    world.reveal(job, (ONE, output))
    assert world.replica(job, 0)["finish"] == finish


def test_reveal_in_the_last_second_is_in_time(world: World) -> None:
    job = committed(world)
    world.warp(REVEAL_WINDOW)
    world.reveal(job, (ONE, RIGHT))
    assert world.replica(job, 0)["state"] == ReplicaState.REVEALED


def test_late_reveal_of_the_agreed_output_is_taken_until_settlement(world: World) -> None:
    job = committed(world)
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.reveal(job, (THREE, RIGHT))
    assert world.logs("Revealed")[0].values["late"] is True
    replica = world.replica(job, 2)
    assert (replica["state"], replica["bondState"]) == (ReplicaState.LATE, BondState.LOCKED)
    assert world.job(job)["revealed"] == 2


def test_late_reveal_of_another_output_reverts(world: World) -> None:
    job = committed(world, RIGHT, RIGHT, WRONG)
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    with reverts("LateAndNotAgreed", jobId=job.id, provider=THREE.address):
        world.reveal(job, (THREE, WRONG))


def test_late_reveal_never_completes_a_quorum(world: World) -> None:
    job = committed(world)
    world.reveal(job, (ONE, RIGHT))
    deadline = world.chain.now + REVEAL_WINDOW
    world.chain.now = deadline + 1
    with reverts("TooLate", jobId=job.id, timestamp=deadline + 1, deadline=deadline):
        world.reveal(job, (TWO, RIGHT))


def test_first_reveal_after_both_windows_reverts(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT))
    deadline = world.chain.now + COMMIT_WINDOW + REVEAL_WINDOW
    world.chain.now = deadline + 1
    with reverts("TooLate", jobId=job.id, timestamp=deadline + 1, deadline=deadline):
        world.reveal(job, (ONE, RIGHT))


def test_reveal_after_settlement_reverts(world: World) -> None:
    job = committed(world)
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    with reverts("WrongState", jobId=job.id, has=JobState.SETTLED, needs=JobState.REVEALING):
        world.reveal(job, (THREE, RIGHT))
