"""Jobs whose seed the chain gives (sampler 2): when it is fixed, by whom, and what becomes of a job without one."""

from __future__ import annotations

from typing import Any

import pytest
from pyrevm import AccountInfo

from market.hashing import ZERO32, keccak256, pack_tokens
from market.settlement import BondState, JobState, ReplicaState
from market.types import Mode, Request
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.draws import (
    MODEL_ID,
    blockhash,
    draw,
    drawn_request,
    enlist,
    mine,
    number,
    post_drawn,
    publish,
    seed_of,
    set_stake,
)
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.test_jobs_bonds import dispute
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    GUARDIAN,
    INPUT,
    REPLICAS,
    STAKE,
    STRANGER,
    PostedJob,
    World,
    answer,
    request,
)

ONE, TWO, THREE = REPLICAS[:3]
A, S = CLIENT.address, STRANGER.address
SAMPLED = {"sampler": 2, "temperature_q16": 65_536, "top_k": 40, "top_p_q16": 60_000}
RIGHT = answer()
NOTHING = {"seed": ZERO32, "seedBlock": 0, "isFixed": False}
HISTORY = "0x0000F90827F1C53a10cb7A02335B175320002935"
HISTORY_CODE = bytes.fromhex(
    "3373fffffffffffffffffffffffffffffffffffffffe14604657602036036042575f35600143038111604257611fff8143031160425761"
    "1fff9006545f5260205ff35b5f5ffd5b5f35611fff60014303065500"
)
"""https://eips.ethereum.org/EIPS/eip-2935"""
SYSTEM = "0xfffffffffffffffffffffffffffffffffffffffe"
RING = 8_191  # blocks that it remembers


def sampled(**changes: Any) -> Request:
    return request(**{**SAMPLED, **changes})


def post(world: World, **changes: Any) -> PostedJob:
    return world.post(asked=sampled(), **changes)


def seed(world: World, job: PostedJob) -> dict[str, Any]:
    values = world.jobs.seedOf(job.id)
    return dict(zip(("seed", "seedBlock", "isFixed"), values, strict=True))


def fix(world: World, job: PostedJob) -> None:
    world.jobs.fixSeed(job.id, sender=S)


def fixed(world: World) -> list[dict[str, Any]]:
    return [event.values for event in world.logs("SeedFixed")]


def told(world: World, job: PostedJob) -> bytes:
    """The seed that the arbiter got with the answer of ONE."""
    *_, found, _ = world.arbiter.told(job.id, ONE.address)
    return bytes(found)


@pytest.fixture
def job(world: World) -> PostedJob:
    """In its posting block."""
    mine(world, 1_000)
    return post(world)


# --- post


def test_post_seeded_by_the_chain_names_no_seed(world: World) -> None:
    with reverts("BadSampler", sampler=2):
        world.post(asked=sampled(seed=keccak256(b"mine")))
    assert world.job(world.post(asked=sampled()))["state"] == JobState.OPEN


@pytest.mark.parametrize("fields", [{"temperature_q16": 0}, {"top_k": 0}, {"top_p_q16": 0}, {"top_p_q16": 65_536}])
def test_post_seeded_by_the_chain_takes_any_sampling_fields(world: World, fields: dict[str, int]) -> None:
    assert world.job(world.post(asked=sampled(**fields)))["state"] == JobState.OPEN


def test_job_that_the_client_draws_no_replicas_for_shows_no_draw_block(world: World, job: PostedJob) -> None:
    assert (world.job(job)["drawBlock"], world.job(job)["drawFailed"]) == (0, False)


# --- when the seed is known


def test_nobody_knows_the_seed_in_the_posting_block(world: World, job: PostedJob) -> None:
    block = number(world)
    assert seed(world, job) == {"seed": ZERO32, "seedBlock": block, "isFixed": False}
    with reverts("SeedNotReady", jobId=job.id, seedBlock=block):
        fix(world, job)
    with reverts("SeedNotReady", jobId=job.id, seedBlock=block):
        world.commit(job, (ONE, RIGHT))
    replica = world.replica(job, 0)
    assert (replica["state"], world.staked(ONE)) == (ReplicaState.ASSIGNED, STAKE)


def test_first_commit_fixes_the_seed_and_later_ones_leave_it(world: World, job: PostedJob) -> None:
    block = number(world)
    expected = seed_of(job, block)
    mine(world)
    assert seed(world, job) == {"seed": expected, "seedBlock": block, "isFixed": False}
    world.commit(job, (ONE, RIGHT))
    assert fixed(world) == [{"jobId": job.id, "seed": expected}]
    mine(world, 300)
    world.commit(job, (TWO, RIGHT))
    assert fixed(world) == []
    assert seed(world, job) == {"seed": expected, "seedBlock": block, "isFixed": True}


@pytest.mark.parametrize("later", [1, 2, 255, 256])
def test_anyone_fixes_the_seed_while_the_hash_is_in_reach(world: World, job: PostedJob, later: int) -> None:
    block = number(world)
    mine(world, later)
    fix(world, job)
    assert fixed(world) == [{"jobId": job.id, "seed": seed_of(job, block)}]
    mine(world, 300)
    fix(world, job)
    assert fixed(world) == []
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    assert seed(world, job)["seed"] == seed_of(job, block)


def test_seed_out_of_reach_is_never_another_one(world: World, job: PostedJob) -> None:
    """Fails closed: a provider that could wait for another block would choose between two answers."""
    block = number(world)
    mine(world, 257)
    assert seed(world, job) == {"seed": ZERO32, "seedBlock": block, "isFixed": False}
    for _ in range(2):
        with reverts("SeedOutOfReach", jobId=job.id, seedBlock=block):
            fix(world, job)
        with reverts("SeedOutOfReach", jobId=job.id, seedBlock=block):
            world.commit(job, (ONE, RIGHT))
        mine(world)


def test_job_whose_seed_nobody_fixed_costs_its_providers_nothing(world: World, job: PostedJob) -> None:
    mine(world, 257)
    before = world.credit(CLIENT)
    world.warp(COMMIT_WINDOW + 1)
    world.settle(job)
    assert world.job(job)["state"] == JobState.EXPIRED
    assert world.credit(CLIENT) - before == world.job(job)["escrow"]
    assert [world.staked(provider) for provider in REPLICAS] == [STAKE] * len(REPLICAS)
    assert seed(world, job)["seed"] == ZERO32


def test_seed_out_of_reach_leaves_the_client_its_cancel(world: World, job: PostedJob) -> None:
    mine(world, 257)
    world.jobs.cancel(job.id, sender=A)
    assert world.job(job)["state"] == JobState.CANCELLED


@pytest.mark.parametrize("later", [257, RING, RING + 1])
def test_longer_history_keeps_the_hash_in_reach(world: World, job: PostedJob, later: int) -> None:
    """With the contract of EIP-2935, which the system tells of each block's parent in its first call."""
    chain = world.chain
    assert isinstance(chain, RevmChain)
    chain._evm.insert_account_info(HISTORY, AccountInfo(code=HISTORY_CODE))
    block = number(world)
    mine(world)
    chain.run_call(SYSTEM, HISTORY, blockhash(block), static=False)
    mine(world, later - 1)
    if later <= RING:
        expected = seed_of(job, block)
        assert seed(world, job) == {"seed": expected, "seedBlock": block, "isFixed": False}
        world.commit(job, (ONE, RIGHT))
        assert seed(world, job) == {"seed": expected, "seedBlock": block, "isFixed": True}
    else:
        with reverts("SeedOutOfReach", jobId=job.id, seedBlock=block):
            fix(world, job)


def test_two_jobs_of_one_block_have_two_seeds(world: World, job: PostedJob) -> None:
    other = post(world)
    mine(world)
    assert seed(world, job)["seedBlock"] == seed(world, other)["seedBlock"]
    assert seed(world, job)["seed"] != seed(world, other)["seed"]


# --- which jobs


@pytest.mark.parametrize("asked", [request(), request(sampler=1, seed=keccak256(b"mine"), top_p_q16=65_536)])
def test_job_that_has_its_answer_from_the_request_has_no_such_seed(world: World, asked: Request) -> None:
    job = world.post(asked=asked)
    assert seed(world, job) == NOTHING
    world.commit(job, (ONE, RIGHT))  # in the posting block
    assert fixed(world) == []
    mine(world)
    with reverts("NotSeededByChain", jobId=job.id):
        fix(world, job)


def test_seed_of_an_unknown_job_reverts(world: World) -> None:
    for call in (lambda: world.jobs.seedOf(ZERO32), lambda: world.jobs.fixSeed(ZERO32, sender=S)):
        with reverts("UnknownJob", jobId=ZERO32):
            call()


def test_final_job_gets_no_seed(world: World, job: PostedJob) -> None:
    mine(world)
    world.jobs.cancel(job.id, sender=A)
    assert seed(world, job)["seed"] == ZERO32
    with reverts("WrongState", jobId=job.id, has=JobState.CANCELLED, needs=JobState.OPEN):
        fix(world, job)


def test_final_job_keeps_its_seed(world: World, job: PostedJob) -> None:
    expected = seed_of(job, number(world))
    mine(world)
    answers = [(ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT)]
    world.commit(job, *answers)
    world.reveal(job, *answers)
    world.settle(job)
    assert world.job(job)["state"] == JobState.SETTLED
    mine(world, 10_000)
    fix(world, job)
    assert fixed(world) == []
    assert seed(world, job)["seed"] == expected


def test_commit_after_the_deadline_is_too_late_whatever_the_seed(world: World, job: PostedJob) -> None:
    world.warp(COMMIT_WINDOW + 1)
    with pytest.raises(Exception, match="TooLate"):
        world.commit(job, (ONE, RIGHT))
    assert not seed(world, job)["isFixed"]


def test_commit_that_is_refused_fixes_nothing(world: World, job: PostedJob) -> None:
    mine(world)
    with reverts("EmptyCommitment", jobId=job.id):
        world.jobs.commit(job.id, ZERO32, sender=ONE.address)
    with reverts("NotReplica", jobId=job.id, caller=S):
        world.jobs.commit(job.id, keccak256(b"c"), sender=S)
    assert not seed(world, job)["isFixed"]


def test_seed_can_be_fixed_while_the_vault_takes_no_money_in(world: World, job: PostedJob) -> None:
    mine(world)
    world.vault.deprecate(sender=GUARDIAN.address)
    fix(world, job)
    assert seed(world, job)["isFixed"]


# --- drawn replicas


@pytest.fixture
def drawable(world: World) -> None:
    publish(world)
    mine(world, 1_000)
    enlist(world, *REPLICAS[:5])


@pytest.mark.usefixtures("drawable")
def test_draw_fixes_the_seed_by_its_own_block(world: World) -> None:
    job = post_drawn(world, asked=drawn_request(**SAMPLED))
    block = number(world)
    mine(world)
    assert seed(world, job) == {"seed": ZERO32, "seedBlock": block, "isFixed": False}
    world.jobs.draw(job.id, sender=S)
    assert fixed(world) == [{"jobId": job.id, "seed": seed_of(job, block)}]
    assert seed(world, job) == {"seed": seed_of(job, block), "seedBlock": block, "isFixed": True}
    assert world.job(job)["drawBlock"] == block


@pytest.mark.usefixtures("drawable")
def test_drawn_replica_commits_in_the_block_of_the_draw(world: World) -> None:
    job = post_drawn(world, asked=drawn_request(**SAMPLED))
    who = {provider.address: provider for provider in REPLICAS}
    drawn = [who[address] for address in draw(world, job)]
    world.commit(job, *((provider, RIGHT) for provider in drawn))
    assert fixed(world) == []
    assert world.job(job)["state"] == JobState.REVEALING


@pytest.mark.usefixtures("drawable")
def test_draw_that_is_armed_anew_arms_the_seed_anew(world: World) -> None:
    """Nobody is assigned, so nobody has computed: no harm, and nothing is lost."""
    job = post_drawn(world, asked=drawn_request(**SAMPLED))
    mine(world, 257)
    assert draw(world, job) == []
    again = number(world)
    assert seed(world, job) == {"seed": ZERO32, "seedBlock": again, "isFixed": False}
    assert len(draw(world, job)) == 3
    assert seed(world, job) == {"seed": seed_of(job, again), "seedBlock": again, "isFixed": True}


@pytest.mark.usefixtures("drawable")
def test_draw_that_found_too_few_fixes_nothing(world: World) -> None:
    for provider in REPLICAS[:5]:
        set_stake(world, provider, 1_000)
    job = post_drawn(world, asked=drawn_request(**SAMPLED))
    assert draw(world, job) == []
    assert fixed(world) == []
    assert seed(world, job) == {"seed": ZERO32, "seedBlock": number(world), "isFixed": False}


@pytest.mark.usefixtures("drawable")
def test_seed_of_a_job_that_is_to_be_drawn_cannot_be_fixed(world: World) -> None:
    """Else a draw that is armed anew would leave a seed that was known before."""
    job = post_drawn(world, asked=drawn_request(**SAMPLED))
    mine(world)
    with reverts("WrongState", jobId=job.id, has=JobState.DRAWING, needs=JobState.OPEN):
        fix(world, job)


@pytest.mark.usefixtures("drawable")
def test_greedy_drawn_job_has_no_seed(world: World) -> None:
    job = post_drawn(world)
    draw(world, job)
    assert fixed(world) == []
    assert seed(world, job) == NOTHING


# --- disputes


def test_arbiter_is_told_the_seed(world: World, job: PostedJob) -> None:
    expected = seed_of(job, number(world))
    mine(world)
    answers = [(ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT)]
    world.commit(job, *answers)
    world.reveal(job, *answers)
    world.settle(job)
    dispute(world, job, ONE.address)
    assert told(world, job) == expected
    plain = world.settled(RIGHT, RIGHT, RIGHT)
    dispute(world, plain, ONE.address)
    assert told(world, plain) == ZERO32


def test_optimistic_job_has_its_seed_from_the_chain(world: World) -> None:
    publish(world)
    job = world.post(
        1,
        quorum=1,
        mode=Mode.OPTIMISTIC,
        asked=sampled(model_id=MODEL_ID),
        terms={"mode": Mode.OPTIMISTIC, "model_id": MODEL_ID},
        inline=pack_tokens(INPUT),
    )
    block = number(world)
    mine(world)
    world.commit(job, (ONE, RIGHT))
    world.reveal(job, (ONE, RIGHT))
    dispute(world, job, ONE.address)
    assert told(world, job) == keccak256(job.id + blockhash(block))
    assert world.replica(job, 0)["bondState"] == BondState.DISPUTED
