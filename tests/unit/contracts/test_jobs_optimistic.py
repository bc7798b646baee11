"""Jobs in mode OPTIMISTIC: one replica, and money that waits until nobody can doubt the answer any more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from market.hashing import ZERO32, pack_tokens, tokens_root
from market.settlement import BondState, JobState, ReplicaState, price, slash
from market.types import ZERO_ADDRESS, Mode, Model, Output
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.draws import MODEL, publish
from tests.unit.contracts.test_jobs_bonds import PROVER, decide, dispute
from tests.unit.contracts.world import (
    CLIENT,
    DEMAND_FEE,
    DEMAND_WINDOW,
    DISPUTE_DEADLINE,
    DISPUTE_WINDOW,
    INPUT,
    REPLICAS,
    REVEAL_WINDOW,
    SHARE_BPS,
    STAKE,
    STRANGER,
    PostedJob,
    World,
    answer,
    request,
)

ONE = REPLICAS[0]
P = ONE.address
IDS = [4, 5, 6, 7, 2]
RIGHT = Output(tokens_root(IDS), len(IDS), 1)
BOND = 10_000
UNJUDGED = replace(MODEL, tables_root=ZERO32)


def post(world: World, model: Model = MODEL, **changes: Any) -> PostedJob:
    asked = request(model_id=model.model_id, **changes.pop("request", {}))
    terms = {"mode": Mode.OPTIMISTIC, "model_id": model.model_id}
    return world.post(1, quorum=1, mode=Mode.OPTIMISTIC, asked=asked, terms=terms, **changes)


@pytest.fixture
def revealed(world: World) -> PostedJob:
    publish(world)
    return until_revealed(world, inline=pack_tokens(INPUT))


def until_revealed(world: World, **changes: Any) -> PostedJob:
    job = post(world, **changes)
    world.commit(job, (ONE, RIGHT))
    world.reveal(job, (ONE, RIGHT))
    return job


def paid(job: PostedJob) -> int:
    return price(job.terms[0], len(INPUT), RIGHT.output_tokens)


def settle_too_early(world: World, job: PostedJob, end: int) -> None:
    world.chain.now = end
    with reverts("TooEarly", jobId=job.id, timestamp=end, opensAt=end + 1):
        world.settle(job)


# --- post


def test_only_models_that_the_arbiter_judges_are_sold(world: World) -> None:
    with reverts("UnknownModel", modelId=MODEL.model_id):
        post(world)
    publish(world)
    assert world.job(post(world))["mode"] == Mode.OPTIMISTIC
    world.registry.publishModel(UNJUDGED.values(), "", "", sender=CLIENT.address)
    with reverts("NotJudged", modelId=UNJUDGED.model_id, sampler=0):
        post(world, UNJUDGED)


def test_without_an_arbiter_nothing_is_sold(world: World) -> None:
    publish(world)
    jobs: Contract = world.deploy("Jobs", *world.jobs_arguments(arbiter=ZERO_ADDRESS))
    quote = world.quote(ONE, mode=Mode.OPTIMISTIC, model_id=MODEL.model_id)
    asked = request(model_id=MODEL.model_id)
    params = world.params([quote], quorum=1, mode=Mode.OPTIMISTIC, asked=asked)
    with reverts("NotJudged", modelId=MODEL.model_id, sampler=0):
        jobs.post(params, sender=CLIENT.address)


@pytest.mark.parametrize(("quorum", "replicas"), [(1, 2), (2, 2), (0, 1)])
def test_it_takes_one_replica(world: World, quorum: int, replicas: int) -> None:
    with reverts("BadQuorum", quorum=quorum, replicas=replicas):
        world.post(replicas, quorum=quorum, mode=Mode.OPTIMISTIC, terms={"mode": Mode.OPTIMISTIC})


# --- paying


def test_answer_that_nobody_doubts_is_paid_after_its_window(world: World, revealed: PostedJob) -> None:
    end = world.chain.now + DISPUTE_WINDOW
    assert world.job(revealed)["outputHash"] == RIGHT.output_hash
    settle_too_early(world, revealed, end)
    assert world.credit(ONE) == 0
    world.chain.now = end + 1
    world.settle(revealed)
    assert world.job(revealed)["state"] == JobState.SETTLED
    assert world.credit(ONE) == paid(revealed)
    assert world.credit(CLIENT) == world.job(revealed)["escrow"] - paid(revealed)
    world.jobs.releaseBond(revealed.id, P)
    assert (world.staked(ONE), world.held()) == (STAKE, 0)


def test_window_counts_from_the_reveal_however_late_somebody_settles(world: World, revealed: PostedJob) -> None:
    world.warp(3 * DISPUTE_WINDOW)
    with reverts(
        "TooLate",
        jobId=revealed.id,
        timestamp=world.chain.now,
        deadline=world.chain.now - 2 * DISPUTE_WINDOW,
    ):
        dispute(world, revealed)
    world.settle(revealed)
    assert world.credit(ONE) == paid(revealed)


def test_silent_replica_loses_its_miss_fee_and_is_not_disputed(world: World) -> None:
    publish(world)
    job = post(world)
    world.commit(job, (ONE, RIGHT))
    has, needs = ReplicaState.COMMITTED, ReplicaState.REVEALED
    with reverts("WrongReplicaState", jobId=job.id, provider=P, has=has, needs=needs):
        dispute(world, job)
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    assert world.job(job)["state"] == JobState.EXPIRED
    assert world.credit(CLIENT) == world.job(job)["escrow"]
    assert world.burnt() == job.quotes[0].miss_fee


# --- disputes before the money moved


def test_disputed_answer_is_not_paid_before_the_arbiters_word(world: World, revealed: PostedJob) -> None:
    end = world.chain.now + DISPUTE_WINDOW
    dispute(world, revealed)
    assert world.replica(revealed, 0)["bondState"] == BondState.DISPUTED
    settle_too_early(world, revealed, end + DISPUTE_DEADLINE)
    decide(world, revealed, guilty=False)
    world.settle(revealed)
    assert world.credit(ONE) == paid(revealed)
    world.jobs.releaseBond(revealed.id, P)
    assert world.staked(ONE) == STAKE


def test_silent_arbiter_keeps_no_money(world: World, revealed: PostedJob) -> None:
    dispute(world, revealed)
    world.warp(DISPUTE_WINDOW + DISPUTE_DEADLINE + 1)
    world.settle(revealed)
    world.jobs.releaseBond(revealed.id, P)
    assert (world.credit(ONE), world.staked(ONE), world.held()) == (paid(revealed), STAKE, 0)


def test_wrong_answer_gives_the_whole_escrow_back_and_costs_the_bond(world: World, revealed: PostedJob) -> None:
    escrow = world.job(revealed)["escrow"]
    dispute(world, revealed)
    decide(world, revealed, guilty=True)
    parts = slash(BOND, 0, SHARE_BPS)
    (slashed,), (expired,) = world.logs("BondSlashed"), world.logs("Expired")
    assert (slashed.values["refunded"], slashed.values["reward"]) == (0, parts.reward)
    assert expired.values == {"jobId": revealed.id, "paid": 0, "refunded": escrow, "missFees": 0}
    view = world.job(revealed)
    assert (view["state"], view["finalAt"]) == (JobState.EXPIRED, world.chain.now)
    assert world.credit(CLIENT) == escrow
    assert world.credit(STRANGER) == parts.reward // 2
    assert world.credit(PROVER) == parts.reward - parts.reward // 2
    assert world.burnt() == parts.burnt
    assert (world.credit(ONE), world.staked(ONE), world.held()) == (0, STAKE - BOND, 0)
    with reverts("WrongState", jobId=revealed.id, has=JobState.EXPIRED, needs=JobState.REVEALING):
        world.settle(revealed)


# --- publishing


def publish_output(world: World, job: PostedJob, ids: list[int] | None = None) -> None:
    world.jobs.publishOutput(job.id, pack_tokens(IDS if ids is None else ids), sender=P)


def test_provider_may_publish_by_itself_and_nobody_pays(world: World, revealed: PostedJob) -> None:
    world.warp(100)
    publish_output(world, revealed)
    (event,) = world.logs("OutputPublished")
    assert event.values["ids"] == pack_tokens(IDS)
    assert not world.logs("DemandClosed")
    assert world.credit(ONE) == 0
    with reverts("AlreadyDemanded", jobId=revealed.id, provider=P):
        world.jobs.demandReveal(revealed.id, P, b"", sender=CLIENT.address)
    with reverts("NotDemanded", jobId=revealed.id, provider=P):
        publish_output(world, revealed)
    settle_too_early(world, revealed, world.chain.now + DISPUTE_WINDOW)


def test_published_ids_are_those_that_were_revealed(world: World, revealed: PostedJob) -> None:
    other = [4, 5, 6, 7, 3]
    got = Output(tokens_root(other), len(other), 1).output_hash
    with reverts("OutputMismatch", expected=RIGHT.output_hash, got=got):
        publish_output(world, revealed, other)


def test_nothing_is_published_before_the_reveal_after_the_end_or_in_other_modes(world: World) -> None:
    publish(world)
    job = post(world)
    with reverts("NotDemanded", jobId=job.id, provider=P):
        publish_output(world, job)
    world.commit(job, (ONE, RIGHT))
    world.reveal(job, (ONE, RIGHT))
    world.warp(DISPUTE_WINDOW + 1)
    world.settle(job)
    with reverts("NotDemanded", jobId=job.id, provider=P):
        publish_output(world, job)
    several = world.settled(RIGHT, RIGHT, answer("other"))
    with reverts("NotDemanded", jobId=several.id, provider=P):
        publish_output(world, several)


def test_output_is_demanded_before_it_is_paid(world: World, revealed: PostedJob) -> None:
    world.jobs.demandReveal(revealed.id, P, b"", sender=STRANGER.address)
    publish_output(world, revealed)
    assert world.credit(ONE) == DEMAND_FEE
    end = world.chain.now + DEMAND_WINDOW + DISPUTE_WINDOW
    settle_too_early(world, revealed, end)
    world.chain.now = end + 1
    world.settle(revealed)
    with reverts("WrongState", jobId=revealed.id, has=JobState.SETTLED, needs=JobState.REVEALING):
        world.jobs.demandReveal(revealed.id, P, b"", sender=STRANGER.address)


def test_output_of_a_job_that_pays_first_is_demanded_afterwards(world: World) -> None:
    job = world.post(3)
    world.commit(job, *((p, RIGHT) for p in REPLICAS[:3]))
    world.reveal(job, (ONE, RIGHT))
    with reverts("WrongState", jobId=job.id, has=JobState.REVEALING, needs=JobState.SETTLED):
        world.jobs.demandReveal(job.id, P, b"", sender=CLIENT.address)


def test_withheld_output_is_not_paid_and_costs_the_bond(world: World, revealed: PostedJob) -> None:
    escrow = world.job(revealed)["escrow"]
    world.jobs.demandReveal(revealed.id, P, b"", sender=STRANGER.address)
    deadline = world.chain.now + DEMAND_WINDOW
    world.chain.now = deadline + DISPUTE_WINDOW + 1
    with reverts("DemandOpen", jobId=revealed.id, provider=P, deadline=deadline):
        world.settle(revealed)
    world.jobs.slashWithheld(revealed.id, P)
    parts = slash(BOND, 0, SHARE_BPS)
    assert world.job(revealed)["state"] == JobState.EXPIRED
    assert world.credit(CLIENT) == escrow
    assert world.credit(STRANGER) == DEMAND_FEE + parts.reward
    assert (world.credit(ONE), world.held()) == (0, 0)
