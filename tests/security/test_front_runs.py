"""Somebody sees a transaction before it is in a block and sends its own first."""

from __future__ import annotations

import pytest

from market.hashing import keccak256
from market.settlement import JobState, ReplicaState
from market.types import Quote
from tests.security.money import money
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    OTHER_CLIENT,
    REPLICAS,
    REVEAL_WINDOW,
    STAKE,
    STRANGER,
    UNBONDING_WINDOW,
    World,
    answer,
    pack_permit,
    salt_of,
)

A, B, S = CLIENT.address, OTHER_CLIENT.address, STRANGER.address
ONE, TWO, THREE = REPLICAS[:3]
RIGHT, WRONG = answer(), answer("wrong")
MISS_FEE = 3_000


def open_quotes(world: World) -> list[Quote]:
    return [world.quote(p) for p in REPLICAS[:3]]


def test_permit_taken_out_of_the_pool_and_sent_first_serves_its_owner_all_the_same(world: World) -> None:
    world.token.approve(world.vault.address, 0, sender=A)
    value, deadline, v, r, s = world.permit(CLIENT, world.vault.address, 10**8)
    before = world.token.balanceOf(S)
    world.token.permit(A, world.vault.address, value, deadline, v, r, s, sender=S)
    job = world.post(permit=pack_permit((value, deadline, v, r, s)))
    assert world.job(job)["state"] == JobState.OPEN
    assert world.token.balanceOf(S) == before
    # what is left of the allowance is the vault's to take for its owner's next call, and for nobody else's
    with reverts("ERC20InsufficientAllowance", spender=world.vault.address, allowance=0, needed=1):
        world.token.approve(world.vault.address, 0, sender=S)
        world.vault.deposit(world.token.address, S, 1, sender=S)


def test_open_quote_posted_first_by_a_stranger_serves_the_client_too(world: World) -> None:
    quotes = open_quotes(world)
    world.jobs.post(world.params(quotes), sender=S)
    job_id = world.jobs.post(world.params(quotes), sender=A)
    assert world.jobs.job(job_id)["client"] == A


def test_job_posted_first_by_a_stranger_takes_no_job_id_of_the_client(world: World) -> None:
    expected = world.jobs.jobIdOf(A, world.jobs.clientNonce(A))
    world.post(client=OTHER_CLIENT)
    assert world.post().id == expected


def test_copied_commitment_costs_the_copier_its_miss_fee_and_pays_the_copied(world: World) -> None:
    job = world.post()
    commitment = world.commitment(job, ONE, RIGHT)
    world.jobs.commit(job.id, commitment, sender=THREE.address)  # the copy is first
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT))
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    got = world.commitment(job, THREE, RIGHT)
    for salt, output in ((salt_of(ONE), RIGHT), (salt_of(THREE), RIGHT)):
        opened = world.jobs.hashCommitment(job.id, THREE.address, output.output_hash, salt)
        with reverts("BadReveal", jobId=job.id, provider=THREE.address, expected=commitment, got=opened):
            world.jobs.reveal(job.id, output.values(), salt, sender=THREE.address)
    assert got != commitment
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    assert world.replica(job, 2)["state"] == ReplicaState.MISSED
    assert world.staked(THREE) == STAKE - MISS_FEE
    assert world.credit(ONE) == world.replica(job, 0)["paid"] + MISS_FEE // 2


def test_copied_reveal_opens_nothing_for_whoever_committed_to_junk(world: World) -> None:
    job = world.post()
    junk = keccak256(b"junk")
    world.jobs.commit(job.id, junk, sender=THREE.address)
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT))
    opened = world.jobs.hashCommitment(job.id, THREE.address, RIGHT.output_hash, salt_of(ONE))
    with reverts("BadReveal", jobId=job.id, provider=THREE.address, expected=junk, got=opened):
        world.jobs.reveal(job.id, RIGHT.values(), salt_of(ONE), sender=THREE.address)
    world.reveal(job, (ONE, RIGHT))
    assert world.replica(job, 2)["state"] == ReplicaState.COMMITTED


@pytest.mark.parametrize("committed", [2, 3])
def test_nobody_can_commit_once_an_answer_may_be_seen(world: World, committed: int) -> None:
    """No reveal before the commit window is over (or all have committed), no commit after it."""
    job = world.post(4, quorum=3) if committed == 3 else world.post()
    world.commit(job, *((p, RIGHT) for p in REPLICAS[:committed]))
    deadline = world.job(job)["commitDeadline"]
    world.chain.now = deadline
    with reverts("TooEarly", jobId=job.id, timestamp=deadline, opensAt=deadline + 1):
        world.reveal(job, (ONE, RIGHT))
    world.chain.now = deadline + 1
    last = REPLICAS[committed]
    with reverts("TooLate", jobId=job.id, timestamp=deadline + 1, deadline=deadline):
        world.commit(job, (last, RIGHT))
    world.reveal(job, (ONE, RIGHT))
    with reverts("WrongState", jobId=job.id, has=JobState.REVEALING, needs=JobState.OPEN):
        world.commit(job, (last, RIGHT))


def test_reveal_by_another_account_with_everything_right_reverts(world: World) -> None:
    job = world.post()
    world.commit(job, *((p, RIGHT) for p in REPLICAS[:3]))
    with reverts("NotReplica", jobId=job.id, caller=S):
        world.jobs.reveal(job.id, RIGHT.values(), salt_of(ONE), sender=S)


def test_cancel_sent_before_a_commit_pays_the_kill_fees_and_after_it_reverts(world: World) -> None:
    """The race that a client may win: what it then owes is in the quote."""
    won, lost = world.post(), world.post()
    world.jobs.cancel(won.id, sender=A)
    assert [world.credit(p) for p in REPLICAS[:3]] == [100] * 3
    with reverts("WrongState", jobId=won.id, has=JobState.CANCELLED, needs=JobState.OPEN):
        world.commit(won, (ONE, RIGHT))
    assert world.staked(ONE) == STAKE
    world.commit(lost, (ONE, RIGHT))
    with reverts("AlreadyCommitted", jobId=lost.id, committed=1):
        world.jobs.cancel(lost.id, sender=A)


def test_settle_by_a_stranger_in_the_first_possible_second_gives_everybody_the_same(world: World) -> None:
    assert isinstance(world.chain, RevmChain)
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, WRONG), (THREE, RIGHT))
    world.reveal(job, (ONE, RIGHT), (TWO, WRONG))
    world.warp(REVEAL_WINDOW + 1)
    ends = []
    for sender in (CLIENT, ONE, STRANGER):
        with world.chain.undone():
            world.settle(job, sender)
            ends.append(money(world.vault))
    assert ends[0] == ends[1] == ends[2]


def test_withdrawal_seen_in_the_pool_cannot_be_directed_elsewhere(world: World) -> None:
    world.vault.deposit(world.token.address, A, 500, sender=A)
    with reverts("InsufficientCredit", token=world.token.address, owner=S, has=0, needs=500):
        world.vault.withdraw(world.token.address, S, 500, sender=S)
    world.vault.withdraw(world.token.address, A, 500, sender=A)


def test_exit_finished_first_by_a_stranger_is_its_owners(world: World) -> None:
    world.vault.requestUnstake(STAKE, sender=ONE.address)
    world.warp(UNBONDING_WINDOW)
    world.vault.finishUnstake(ONE.address, sender=S)
    assert (world.credit(ONE), world.credit(STRANGER)) == (STAKE, 0)
    with reverts("NothingExiting", owner=ONE.address):
        world.vault.finishUnstake(ONE.address, sender=ONE.address)


def test_exit_requested_before_a_commit_cannot_dodge_the_bond(world: World) -> None:
    """What is leaving cannot be bonded, and what is bonded cannot leave."""
    job = world.post()
    world.vault.requestUnstake(STAKE - 9_999, sender=ONE.address)
    with reverts("InsufficientStake", owner=ONE.address, has=9_999, needs=10_000):
        world.commit(job, (ONE, RIGHT))
    world.commit(job, (TWO, RIGHT))
    with reverts("InsufficientStake", owner=TWO.address, has=STAKE - 10_000, needs=STAKE):
        world.vault.requestUnstake(STAKE, sender=TWO.address)


def test_model_published_first_by_a_stranger_is_the_same_model(world: World) -> None:
    roots = tuple(keccak256(bytes([i])) for i in range(5))
    model_id = world.registry.publishModel(roots, "theirs", "https://evil.example", sender=S)
    with reverts("ModelAlreadyPublished", modelId=model_id):
        world.registry.publishModel(roots, "ours", "https://good.example", sender=ONE.address)
    assert tuple(world.registry.models(model_id).values()) == roots
    world.registry.setProvider("https://p.example", bytes(32), sender=ONE.address)
    world.registry.setOffer(model_id, (world.token.address, 1, 1, 1, 1, 1, 2, 0), sender=ONE.address)


def test_deadline_is_the_same_for_who_comes_first_and_who_comes_last_in_a_block(world: World) -> None:
    """A block producer orders transactions of one second as it likes: no order changes what any of them may do."""
    job = world.post()
    world.chain.now += COMMIT_WINDOW
    world.commit(job, (THREE, RIGHT), (TWO, RIGHT), (ONE, RIGHT))
    deadline = world.job(job)["revealDeadline"]
    assert deadline == world.chain.now + REVEAL_WINDOW
    world.chain.now = deadline
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    with reverts("TooEarly", jobId=job.id, timestamp=deadline, opensAt=deadline + 1):
        world.settle(job)
    world.reveal(job, (THREE, RIGHT))
    world.settle(job)
