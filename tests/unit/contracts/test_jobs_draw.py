"""Jobs.post with `draw`, Jobs.draw, and settle of a job that nobody was drawn for."""

from __future__ import annotations

from typing import Any

import pytest

from market.hashing import ZERO32, keccak256, pack_tokens, tokens_root
from market.settlement import (
    JobFacts,
    JobState,
    ReplicaFacts,
    ReplicaState,
    Terms,
    lapse_draw,
    minimum_kill_fee,
    price,
)
from market.types import ZERO_ADDRESS, Mode
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.draws import (
    DRAW_FEE,
    LEAST_STAKE,
    LIST_REST,
    MODEL_ID,
    WEIGHTS,
    blockhash,
    draw,
    drawn_request,
    enlist,
    mine,
    number,
    pick,
    post_drawn,
    publish,
    seed_of,
    set_stake,
    terms,
)
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    INPUT,
    MAX_OUTPUT,
    OTHER_CLIENT,
    REPLICAS,
    STAKE,
    STRANGER,
    PostedJob,
    World,
    answer,
)

A = CLIENT.address
FIVE = REPLICAS[:5]
RIGHT = answer()


@pytest.fixture(autouse=True)
def five_drawable_providers(world: World) -> None:
    publish(world)
    mine(world, 1_000)
    enlist(world, *FIVE)


def state(world: World, job: PostedJob) -> JobState:
    return JobState(world.job(job)["state"])


def cost(draw: int = 1) -> int:
    """Of the job of `post_drawn`, for so many replicas."""
    quoted = Terms(1_000, 500_000, 2_000_001, DRAW_FEE, 3_000, 10_000)
    return draw * price(quoted, len(INPUT), MAX_OUTPUT)


# --- post


def test_post_with_draw_waits_for_the_draw_with_the_escrow_of_all(world: World) -> None:
    job = post_drawn(world, 3)
    view = world.job(job)
    assert (view["state"], view["replicas"], view["escrow"]) == (JobState.DRAWING, 3, cost(3))
    assert (view["drawBlock"], view["drawFailed"]) == (number(world), False)
    assert view["commitDeadline"] == world.chain.now + COMMIT_WINDOW
    assert world.held() == cost(3)
    for replica in world.jobs.replicas(job.id):
        assert (replica["provider"], replica["state"], replica["paid"]) == (ZERO_ADDRESS, ReplicaState.UNDRAWN, 0)
        assert (replica["bond"], replica["killFee"]) == (10_000, DRAW_FEE)


def test_post_with_draw_publishes_the_terms(world: World) -> None:
    job = post_drawn(world, 3)
    (opened,) = world.logs("DrawOpened")
    assert opened.values["jobId"] == job.id
    assert tuple(opened.values["terms"].values()) == job.quotes[0].values()
    (posted,) = world.logs("JobPosted")
    assert posted.values["job"] == world.job(job)
    assert world.logs("ReplicaAssigned") == []


def test_post_with_draw_uses_no_quote_up(world: World) -> None:
    quote = terms(world)
    first, second = post_drawn(world, offered=quote), post_drawn(world, offered=quote)
    assert first.id != second.id
    assert not world.jobs.quoteUsed(world.domain.digest(quote), A)


@pytest.mark.parametrize(("draw_count", "quorum"), [(2, 2), (3, 2), (7, 4)])
def test_post_with_draw_of_a_quorum_passes(world: World, draw_count: int, quorum: int) -> None:
    assert world.job(post_drawn(world, draw_count, quorum=quorum))["replicas"] == draw_count


def test_post_with_draw_of_one_in_mode_none_passes(world: World) -> None:
    assert world.job(post_drawn(world, 1))["mode"] == Mode.NONE


@pytest.mark.parametrize(("draw_count", "quorum"), [(3, 1), (4, 2), (8, 5), (255, 128), (1, 1)])
def test_post_with_draw_of_no_quorum_reverts(world: World, draw_count: int, quorum: int) -> None:
    with reverts("BadQuorum", quorum=quorum, replicas=draw_count):
        post_drawn(world, draw_count, quorum=quorum, mode=Mode.QUORUM)


@pytest.mark.parametrize("quotes", [0, 2])
def test_post_with_draw_and_other_than_one_quote_reverts(world: World, quotes: int) -> None:
    params = world.params([terms(world)] * quotes, asked=drawn_request(), draw=3)
    with reverts("BadDraw", draw=3, quotes=quotes):
        world.jobs.post(params, sender=A)


def test_post_with_draw_names_nobody(world: World) -> None:
    with reverts("QuoteMismatch", provider=REPLICAS[0].address, field=b"provider".ljust(32, b"\0")):
        post_drawn(world, offered=terms(world, provider=REPLICAS[0].address))


def test_post_with_draw_and_a_signature_reverts(world: World) -> None:
    params = world.params([(terms(world).values(), bytes(65))], asked=drawn_request(), draw=3)
    with reverts("BadSignature", provider=ZERO_ADDRESS):
        world.jobs.post(params, sender=A)


def test_post_with_draw_and_a_kill_fee_below_a_tenth_of_the_price_reverts(world: World) -> None:
    least = minimum_kill_fee(Terms.of(terms(world)), len(INPUT), MAX_OUTPUT)
    assert (least - 1) * 10 < cost() <= least * 10
    with reverts("DrawFeeTooSmall", killFee=least - 1, minimum=least):
        post_drawn(world, offered=terms(world, kill_fee=least - 1))
    post_drawn(world, offered=terms(world, kill_fee=least))


def test_post_with_draw_of_a_free_job_has_no_fee(world: World) -> None:
    zero = dict.fromkeys(("base_fee", "price_per_m_input", "price_per_m_output", "kill_fee", "miss_fee", "bond"), 0)
    job = post_drawn(world, offered=terms(world, **zero))
    assert world.job(job)["escrow"] == 0


@pytest.mark.parametrize(
    ("changes", "name", "values"),
    [
        ({"valid_until": 1}, "QuoteExpired", {"validUntil": 1}),
        ({"client": STRANGER.address}, "QuoteMismatch", {"field": b"client".ljust(32, b"\0")}),
        ({"bond": 1}, "BondTooSmall", {"bond": 1}),
        ({"miss_fee": 1}, "MissFeeOutOfRange", {"missFee": 1, "bond": 10_000}),
        ({"max_input_tokens": 2}, "QuoteLimit", {"field": b"maxInputTokens".ljust(32, b"\0")}),
    ],
)
def test_post_with_draw_holds_the_terms_to_the_rules_of_quotes(
    world: World, changes: dict[str, Any], name: str, values: dict[str, Any]
) -> None:
    with pytest.raises(Revert) as caught:
        post_drawn(world, offered=terms(world, **changes))
    assert caught.value.name == name
    assert values.items() <= caught.value.values.items()


def test_post_with_draw_above_the_clients_cap_reverts(world: World) -> None:
    with reverts("EscrowAboveCap", escrow=cost(3), cap=cost(3) - 1):
        post_drawn(world, 3, max_escrow=cost(3) - 1)


# --- the posting transaction


def test_draw_cannot_be_computed_in_the_posting_transaction(world: World) -> None:
    client = world.deploy("PostAndDraw", world.jobs.address)
    world.token.mint(client.address, 10**6, sender=A)
    params = world.params([terms(world)], asked=drawn_request(), draw=3, max_escrow=cost(3))
    block, job_id = number(world), world.jobs.jobIdOf(client.address, 0)
    with reverts("DrawNotReady", jobId=job_id, drawBlock=block):
        client.postAndDraw(params, sender=A)
    client.post(params, sender=A)
    assert (client.jobId(), client.seen()) == (job_id, ZERO32)
    mine(world)
    world.jobs.draw(job_id, sender=STRANGER.address)
    weights = [WEIGHTS] * 5
    seed = keccak256(job_id + blockhash(block))
    drawn = [r["provider"] for r in world.jobs.replicas(job_id)]
    assert drawn == [FIVE[i].address for i in pick(seed, weights, 3)]


# --- draw


def test_draw_by_anybody_assigns_the_replicas_and_starts_the_commit_window(world: World) -> None:
    job = post_drawn(world, 3)
    block = number(world)
    world.warp(7)
    world.jobs.draw(job.id, sender=STRANGER.address)
    expected = [FIVE[i].address for i in pick(seed_of(job, block), [WEIGHTS] * 5, 3)]
    assert [e.values for e in world.logs("ReplicaDrawn")] == [{"jobId": job.id, "provider": p} for p in expected]
    deadline = world.chain.now + COMMIT_WINDOW
    assert [e.values for e in world.logs("Drawn")] == [{"jobId": job.id, "commitDeadline": deadline}]
    view = world.job(job)
    assert (view["state"], view["commitDeadline"], view["drawBlock"]) == (JobState.OPEN, deadline, block)
    assert [(r["provider"], r["state"]) for r in world.jobs.replicas(job.id)] == [
        (p, ReplicaState.ASSIGNED) for p in expected
    ]


def test_draw_in_the_posting_block_reverts(world: World) -> None:
    job = post_drawn(world)
    with reverts("DrawNotReady", jobId=job.id, drawBlock=number(world)):
        world.jobs.draw(job.id, sender=A)


def test_draw_reaches_back_256_blocks_and_then_arms_anew(world: World) -> None:
    near, far = post_drawn(world), post_drawn(world)
    posted = number(world)
    mine(world, 256)
    world.jobs.draw(near.id, sender=A)
    assert state(world, near) is JobState.OPEN
    mine(world)
    world.jobs.draw(far.id, sender=A)
    armed = number(world)
    assert [e.values for e in world.logs("DrawArmed")] == [{"jobId": far.id, "drawBlock": armed, "failed": False}]
    view = world.job(far)
    assert (view["state"], view["drawBlock"], view["drawFailed"]) == (JobState.DRAWING, armed, False)
    assert armed == posted + 257
    with reverts("DrawNotReady", jobId=far.id, drawBlock=armed):
        world.jobs.draw(far.id, sender=A)
    drawn = draw(world, far)
    assert drawn == [FIVE[i].address for i in pick(seed_of(far, armed), [WEIGHTS] * 5, 3)]


def test_draw_sees_providers_that_were_there_when_it_was_armed(world: World) -> None:
    job = post_drawn(world)
    block = number(world)
    enlist(world, *REPLICAS[5:])
    assert draw(world, job) == [FIVE[i].address for i in pick(seed_of(job, block), [WEIGHTS] * 5, 3)]
    far = post_drawn(world)
    mine(world, 257)
    world.jobs.draw(far.id, sender=A)
    armed = number(world)
    assert draw(world, far) == [REPLICAS[i].address for i in pick(seed_of(far, armed), [WEIGHTS] * 7, 3)]


def test_draw_that_finds_too_few_is_repeated_and_costs_nothing(world: World) -> None:
    job = post_drawn(world, 7, quorum=4)
    assert draw(world, job) == []
    assert [e.values for e in world.logs("DrawArmed")] == [
        {"jobId": job.id, "drawBlock": number(world), "failed": True}
    ]
    assert world.job(job)["drawFailed"]
    assert all(r["provider"] == ZERO_ADDRESS for r in world.jobs.replicas(job.id))
    mine(world, 257)
    world.jobs.draw(job.id, sender=A)
    assert world.logs("DrawArmed")[0].values["failed"]
    enlist(world, *REPLICAS[5:])
    assert draw(world, job) == []
    assert len(draw(world, job)) == 7
    assert state(world, job) is JobState.OPEN


def test_draw_leaves_out_a_client_that_is_a_provider(world: World) -> None:
    job = post_drawn(world, 5, quorum=3, client=REPLICAS[0])
    assert draw(world, job) == []
    enlist(world, *REPLICAS[5:6])
    assert draw(world, job) == []
    assert sorted(draw(world, job)) == sorted(p.address for p in REPLICAS[1:6])


def test_draw_in_the_deadlines_last_second_passes_and_after_it_reverts(world: World) -> None:
    job, other = post_drawn(world), post_drawn(world)
    end = world.chain.now + COMMIT_WINDOW
    world.chain.now = end
    world.jobs.draw(job.id, sender=A)
    world.chain.now = end + 1
    with reverts("TooLate", jobId=other.id, timestamp=end + 1, deadline=end):
        world.jobs.draw(other.id, sender=A)


def test_draw_twice_of_a_quoted_or_of_an_unknown_job_reverts(world: World) -> None:
    drawn, quoted = post_drawn(world), world.post()
    draw(world, drawn)
    for job in (drawn, quoted):
        with reverts("WrongState", jobId=job.id, has=JobState.OPEN, needs=JobState.DRAWING):
            world.jobs.draw(job.id, sender=A)
    unknown = keccak256(b"unknown")
    with reverts("UnknownJob", jobId=unknown):
        world.jobs.draw(unknown, sender=A)


# --- while nobody is drawn


def test_cancel_before_the_draw_reverts_and_after_it_pays_the_kill_fees(world: World) -> None:
    job = post_drawn(world)
    with reverts("WrongState", jobId=job.id, has=JobState.DRAWING, needs=JobState.OPEN):
        world.jobs.cancel(job.id, sender=A)
    drawn = draw(world, job)
    world.jobs.cancel(job.id, sender=A)
    assert [world.credit(p) for p in drawn] == [DRAW_FEE] * 3
    assert world.credit(CLIENT) == cost(3) - 3 * DRAW_FEE


def test_nobody_commits_reveals_or_is_paid_before_the_draw(world: World) -> None:
    job = post_drawn(world)
    with reverts("WrongState", jobId=job.id, has=JobState.DRAWING, needs=JobState.OPEN):
        world.commit(job, (REPLICAS[0], RIGHT))
    with reverts("WrongState", jobId=job.id, has=JobState.DRAWING, needs=JobState.REVEALING):
        world.reveal(job, (REPLICAS[0], RIGHT))
    with reverts("WrongBondState", jobId=job.id, provider=ZERO_ADDRESS, has=0, needs=1):
        world.jobs.releaseBond(job.id, ZERO_ADDRESS, sender=A)
    with reverts("NotReplica", jobId=job.id, caller=REPLICAS[0].address):
        world.jobs.releaseBond(job.id, REPLICAS[0].address, sender=A)


def test_settle_before_the_draws_deadline_reverts(world: World) -> None:
    job = post_drawn(world)
    end = world.chain.now + COMMIT_WINDOW
    world.chain.now = end
    with reverts("TooEarly", jobId=job.id, timestamp=end, opensAt=end + 1):
        world.settle(job)


@pytest.mark.parametrize("failed", [False, True])
def test_settle_of_a_draw_that_lapsed_burns_the_fee_unless_nobody_was_found(world: World, failed: bool) -> None:
    job = post_drawn(world, 7 if failed else 3, quorum=4 if failed else 2)
    if failed:
        assert draw(world, job) == []
    escrow = world.job(job)["escrow"]
    world.warp(COMMIT_WINDOW + 1)
    world.settle(job)
    replicas = tuple(ReplicaFacts("", ReplicaState.UNDRAWN, t) for t in job.terms)
    payout = lapse_draw(JobFacts(A, len(INPUT), MAX_OUTPUT, replicas), failed=failed)
    assert payout.refunded + payout.burnt == escrow
    assert payout.burnt == (0 if failed else 3 * DRAW_FEE)
    (event,) = world.logs("DrawLapsed")
    assert event.values == {"jobId": job.id, "refunded": payout.refunded, "burnt": payout.burnt}
    assert (world.credit(CLIENT), world.burnt()) == (payout.refunded, payout.burnt)
    assert world.held() == 0
    assert state(world, job) is JobState.EXPIRED
    assert world.job(job)["finalAt"] == world.chain.now
    assert [r["paid"] for r in world.jobs.replicas(job.id)] == [0] * len(job.quotes)


def test_settle_of_a_lapsed_draw_twice_reverts_and_nothing_else_is_left_to_do(world: World) -> None:
    job = post_drawn(world)
    world.warp(COMMIT_WINDOW + 1)
    world.settle(job)
    with reverts("WrongState", jobId=job.id, has=JobState.EXPIRED, needs=JobState.REVEALING):
        world.settle(job)
    with reverts("WrongState", jobId=job.id, has=JobState.EXPIRED, needs=JobState.DRAWING):
        world.jobs.draw(job.id, sender=A)
    with reverts("WrongState", jobId=job.id, has=JobState.EXPIRED, needs=JobState.OPEN):
        world.jobs.cancel(job.id, sender=A)


# --- after the draw


def test_drawn_job_goes_on_like_a_quoted_one(world: World) -> None:
    job = post_drawn(world)
    drawn = [account_of(p) for p in draw(world, job)]
    world.commit(job, *((p, RIGHT) for p in drawn))
    world.reveal(job, *((p, RIGHT) for p in drawn))
    world.settle(job)
    paid = price(job.terms[0], len(INPUT), RIGHT.output_tokens)
    assert [world.credit(p) for p in drawn] == [paid] * 3
    assert world.credit(CLIENT) == cost(3) - 3 * paid
    assert state(world, job) is JobState.SETTLED


def test_whoever_is_drawn_and_does_not_commit_loses_nothing(world: World) -> None:
    job = post_drawn(world)
    draw(world, job)
    world.warp(COMMIT_WINDOW + 1)
    world.settle(job)
    assert world.credit(CLIENT) == cost(3)
    assert [world.staked(p) for p in FIVE] == [STAKE] * 5


def test_drawn_provider_that_lost_its_stake_cannot_commit(world: World) -> None:
    job = post_drawn(world)
    drawn = [account_of(p) for p in draw(world, job)]
    set_stake(world, drawn[0], 9_999)
    with reverts("InsufficientStake", owner=drawn[0].address, has=9_999, needs=10_000):
        world.commit(job, (drawn[0], RIGHT))


def test_draw_from_a_list_of_the_poorest_still_finds_three(world: World) -> None:
    """Every entry at a 16th of the weight: 64 tries give four on average, and a draw that fails is repeated."""
    for provider in FIVE:
        set_stake(world, provider, LEAST_STAKE)
    job = post_drawn(world, commit_window=86_400, client=OTHER_CLIENT)
    for _ in range(20):
        if draw(world, job):
            break
    assert state(world, job) is JobState.OPEN


def test_inline_drawn_job_is_public(world: World) -> None:
    ids = list(range(3, 13))
    asked = drawn_request(input_root=tokens_root(ids), input_tokens=len(ids))
    job = post_drawn(world, asked=asked, inline=pack_tokens(ids))
    assert world.job(job)["inlineInput"]
    assert len(world.logs("RequestPublished")) == 1
    mine(world, LIST_REST)
    assert world.registry.drawableLength(MODEL_ID) == 5


def account_of(address: str) -> Any:
    return next(p for p in REPLICAS if p.address == address)
