"""Jobs.settle: who may, when, and who gets what, to the unit."""

from __future__ import annotations

from market.hashing import keccak256
from market.settlement import BondState, JobState, ReplicaState, price
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    INPUT,
    MAX_OUTPUT,
    REPLICAS,
    REVEAL_WINDOW,
    STAKE,
    STRANGER,
    PostedJob,
    World,
    answer,
    request,
)

ONE, TWO, THREE = REPLICAS[:3]
RIGHT, WRONG, OTHER = answer(), answer("wrong"), answer("other")
BOND, MISS, KILL = 10_000, 3_000, 100


def cost(job: PostedJob, tokens: int = 5) -> int:
    return price(job.terms[0], len(INPUT), tokens)


def escrow(job: PostedJob) -> int:
    return sum(price(terms, len(INPUT), MAX_OUTPUT) for terms in job.terms)


def states(world: World, job: PostedJob) -> list[tuple[int, int]]:
    return [(r["state"], r["bondState"]) for r in world.jobs.replicas(job.id)]


LOCKED = (ReplicaState.REVEALED, BondState.LOCKED)
MISSED = (ReplicaState.MISSED, BondState.RELEASED)


def test_settle_pays_the_agreed_and_refunds_the_rest(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    (event,) = world.logs("Settled")
    paid = 2 * cost(job)
    assert event.values == {
        "jobId": job.id,
        "outputHash": RIGHT.output_hash,
        "paid": paid,
        "refunded": escrow(job) - paid,
        "missFees": 0,
    }
    assert [(e.values["provider"], e.values["amount"]) for e in world.logs("ReplicaPaid")] == [
        (ONE.address, cost(job)),
        (TWO.address, cost(job)),
    ]
    assert [world.credit(p) for p in (ONE, TWO, THREE)] == [cost(job), cost(job), 0]
    assert world.credit(CLIENT) == escrow(job) - paid
    assert world.job(job)["state"] == JobState.SETTLED
    assert world.job(job)["finalAt"] == world.chain.now
    assert [r["paid"] for r in world.jobs.replicas(job.id)] == [cost(job), cost(job), 0]


def test_settle_keeps_every_revealed_bond_locked_the_majoritys_too(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    assert states(world, job) == [LOCKED] * 3
    assert [world.staked(p) for p in (ONE, TWO, THREE)] == [STAKE - BOND] * 3
    assert world.held() == 3 * BOND


def test_settle_without_agreement_expires_and_refunds_everything(world: World) -> None:
    job = world.settled(RIGHT, WRONG, OTHER)
    (event,) = world.logs("Expired")
    assert event.values == {"jobId": job.id, "paid": 0, "refunded": escrow(job), "missFees": 0}
    assert world.job(job)["state"] == JobState.EXPIRED
    assert world.credit(CLIENT) == escrow(job)
    assert states(world, job) == [LOCKED] * 3


def test_settle_waits_for_the_silent_until_the_reveal_deadline_and_not_longer(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    deadline = world.chain.now + REVEAL_WINDOW
    world.chain.now = deadline
    with reverts("TooEarly", jobId=job.id, timestamp=deadline, opensAt=deadline + 1):
        world.settle(job)
    world.chain.now = deadline + 1
    world.settle(job)
    assert states(world, job) == [LOCKED, LOCKED, MISSED]


def test_settle_shares_the_miss_fee_among_those_who_revealed_never_to_the_client(world: World) -> None:
    job = world.post(3, quorum=2)
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    (missed,) = world.logs("ReplicaMissed")
    assert missed.values == {"jobId": job.id, "provider": THREE.address, "missFee": MISS}
    (shared,) = world.logs("MissFeesShared")
    assert shared.values == {"jobId": job.id, "share": MISS // 2, "burnt": 0}
    (released,) = world.logs("BondReleased")
    assert released.values == {"jobId": job.id, "provider": THREE.address, "amount": BOND - MISS}
    assert world.credit(ONE) == world.credit(TWO) == cost(job) + MISS // 2
    assert world.credit(CLIENT) == escrow(job) - 2 * cost(job)
    assert world.staked(THREE) == STAKE - MISS
    assert world.held() == 2 * BOND


def test_settle_shares_miss_fees_with_those_who_disagreed_and_burns_the_remainder(world: World) -> None:
    job = world.post(7, quorum=4, terms={"miss_fee": 3_001})
    world.commit(job, *((p, RIGHT) for p in REPLICAS[:6]), (REPLICAS[6], WRONG))
    world.reveal(job, *((p, RIGHT) for p in REPLICAS[:4]), (REPLICAS[6], WRONG))
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    share, rest = divmod(2 * 3_001, 5)
    assert rest == 2
    assert world.logs("MissFeesShared")[0].values == {"jobId": job.id, "share": share, "burnt": rest}
    assert world.burnt() == rest
    assert world.credit(REPLICAS[6]) == share
    assert world.credit(REPLICAS[0]) == cost(job) + share


def test_settle_without_agreement_still_moves_miss_fees(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    world.reveal(job, (ONE, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    assert world.logs("Expired")[0].values["missFees"] == 2 * MISS
    assert world.credit(ONE) == 2 * MISS
    assert world.credit(CLIENT) == escrow(job)


def test_settle_burns_miss_fees_where_nobody_revealed(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    assert world.logs("MissFeesShared")[0].values == {"jobId": job.id, "share": 0, "burnt": 3 * MISS}
    assert world.burnt() == 3 * MISS
    assert world.credit(CLIENT) == escrow(job)
    assert world.held() == 0


def test_settle_pays_a_late_reveal_its_kill_fee_and_takes_no_miss_fee(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.reveal(job, (THREE, RIGHT))
    world.settle(job)
    assert world.credit(THREE) == KILL
    assert world.replica(job, 2)["paid"] == KILL
    assert world.credit(CLIENT) == escrow(job) - 2 * cost(job) - KILL
    assert states(world, job)[2] == (ReplicaState.LATE, BondState.LOCKED)
    assert not world.logs("MissFeesShared")


def test_settle_never_pays_a_late_reveal_more_than_its_price(world: World) -> None:
    job = world.post(terms={"kill_fee": 1_030})
    world.commit(job, (ONE, answer(tokens=1)), (TWO, answer(tokens=1)), (THREE, answer(tokens=1)))
    world.reveal(job, (ONE, answer(tokens=1)), (TWO, answer(tokens=1)))
    world.warp(REVEAL_WINDOW + 1)
    world.reveal(job, (THREE, answer(tokens=1)))
    world.settle(job)
    assert world.credit(THREE) == cost(job, 1) == 1_004


def test_settle_rounds_each_price_up_to_the_providers_side(world: World) -> None:
    world.settled(answer(tokens=1), answer(tokens=1), WRONG)
    metered = len(INPUT) * 500_000 + 2_000_001
    assert metered % 1_000_000 != 0
    assert world.credit(ONE) == 1_000 + metered // 1_000_000 + 1


def test_settle_short_of_a_quorum_pays_kill_fees_and_returns_the_bonds(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT))
    deadline = world.chain.now + COMMIT_WINDOW
    world.chain.now = deadline
    with reverts("TooEarly", jobId=job.id, timestamp=deadline, opensAt=deadline + 1):
        world.settle(job)
    world.chain.now = deadline + 1
    world.settle(job)
    assert world.logs("Expired")[0].values == {
        "jobId": job.id,
        "paid": KILL,
        "refunded": escrow(job) - KILL,
        "missFees": 0,
    }
    assert world.credit(ONE) == KILL
    assert world.staked(ONE) == STAKE
    assert states(world, job)[0] == (ReplicaState.COMMITTED, BondState.RELEASED)
    assert states(world, job)[1] == (ReplicaState.ASSIGNED, BondState.NONE)
    assert world.replica(job, 0)["paid"] == KILL
    assert world.held() == 0


def test_settle_of_a_job_nobody_committed_to_refunds_everything(world: World) -> None:
    job = world.post()
    world.warp(COMMIT_WINDOW + 1)
    world.settle(job)
    assert world.credit(CLIENT) == escrow(job)
    assert world.held() == 0


def test_settle_where_a_quorum_committed_and_nobody_revealed_counts_all_as_silent(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT))
    deadline = world.chain.now + COMMIT_WINDOW + REVEAL_WINDOW
    world.chain.now = deadline
    with reverts("TooEarly", jobId=job.id, timestamp=deadline, opensAt=deadline + 1):
        world.settle(job)
    world.chain.now = deadline + 1
    world.settle(job)
    assert states(world, job) == [MISSED, MISSED, (ReplicaState.ASSIGNED, BondState.NONE)]
    assert world.burnt() == 2 * MISS
    assert world.credit(CLIENT) == escrow(job)


def test_settle_with_two_of_three_commits_and_both_revealed_needs_no_deadline(world: World) -> None:
    job = world.post()
    world.commit(job, (ONE, RIGHT), (THREE, RIGHT))
    world.warp(COMMIT_WINDOW + 1)
    world.reveal(job, (ONE, RIGHT), (THREE, RIGHT))
    world.settle(job)
    assert world.credit(ONE) == world.credit(THREE) == cost(job)
    assert world.credit(TWO) == 0


def test_settle_before_anything_happened_reverts(world: World) -> None:
    job = world.post()
    opens = world.chain.now + COMMIT_WINDOW + 1
    with reverts("TooEarly", jobId=job.id, timestamp=world.chain.now, opensAt=opens):
        world.settle(job)


def test_settle_of_an_unknown_job_reverts(world: World) -> None:
    unknown = keccak256(b"unknown")
    with reverts("UnknownJob", jobId=unknown):
        world.jobs.settle(unknown, sender=STRANGER.address)


def test_invariant_4_settled_job_never_changes_and_never_settles_twice(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    before = (world.job(job), world.jobs.replicas(job.id), world.credit(CLIENT), world.held())
    world.warp(10_000)
    with reverts("WrongState", jobId=job.id, has=JobState.SETTLED, needs=JobState.REVEALING):
        world.settle(job)
    with reverts("WrongState", jobId=job.id, has=JobState.SETTLED, needs=JobState.OPEN):
        world.jobs.cancel(job.id, sender=CLIENT.address)
    with reverts("WrongState", jobId=job.id, has=JobState.SETTLED, needs=JobState.OPEN):
        world.jobs.commit(job.id, keccak256(b"c"), sender=ONE.address)
    with reverts("WrongState", jobId=job.id, has=JobState.SETTLED, needs=JobState.REVEALING):
        world.reveal(job, (ONE, RIGHT))
    assert (world.job(job), world.jobs.replicas(job.id), world.credit(CLIENT), world.held()) == before


def test_settle_in_mode_none_pays_the_one_replica(world: World) -> None:
    job = world.post(1, quorum=1, mode=0, terms={"mode": 0})
    world.commit(job, (ONE, RIGHT))
    world.reveal(job, (ONE, RIGHT))
    world.settle(job)
    assert world.credit(ONE) == cost(job)
    assert states(world, job) == [LOCKED]


def test_settle_pays_a_client_that_was_its_own_replica_both_parts(world: World) -> None:
    world.vault.deposit(world.token.address, CLIENT.address, BOND, sender=CLIENT.address)
    world.vault.stake(BOND, sender=CLIENT.address)
    quotes = (world.quote(CLIENT), world.quote(TWO))
    identity = world.jobs.post(world.params(list(quotes)), sender=CLIENT.address)
    job = PostedJob(identity, request(), quotes)
    world.commit(job, (CLIENT, RIGHT), (TWO, RIGHT))
    world.reveal(job, (CLIENT, RIGHT), (TWO, RIGHT))
    world.settle(job)
    assert world.credit(CLIENT) == escrow(job) - cost(job)


def test_client_that_is_its_own_silent_replica_pays_the_honest_one_at_least_the_price(world: World) -> None:
    """No agreement, so the escrow comes back; but the client's own silence costs its miss fee."""
    world.vault.deposit(world.token.address, CLIENT.address, BOND, sender=CLIENT.address)
    world.vault.stake(BOND, sender=CLIENT.address)
    quotes = (world.quote(CLIENT), world.quote(TWO))
    identity = world.jobs.post(world.params(list(quotes)), sender=CLIENT.address)
    job = PostedJob(identity, request(), quotes)
    world.commit(job, (CLIENT, RIGHT), (TWO, RIGHT))
    world.reveal(job, (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    assert world.credit(TWO) == MISS >= price(job.terms[1], len(INPUT), MAX_OUTPUT)
    assert world.credit(CLIENT) == escrow(job)
    assert world.staked(CLIENT) == BOND - MISS


def test_everybody_withdraws_after_a_job(world: World) -> None:
    job = world.settled(RIGHT, RIGHT, WRONG)
    world.warp(10 * 86_400)
    for provider in (ONE, TWO, THREE):
        world.jobs.releaseBond(job.id, provider.address, sender=STRANGER.address)
    for owner in (CLIENT, ONE, TWO):
        amount, before = world.credit(owner), world.token.balanceOf(owner.address)
        world.vault.withdraw(world.token.address, owner.address, amount, sender=owner.address)
        assert world.token.balanceOf(owner.address) == before + amount
    assert world.held() == 0
    assert [world.staked(p) for p in (ONE, TWO, THREE)] == [STAKE] * 3
    assert world.token.balanceOf(world.vault.address) == world.vault.total(world.token.address)
