"""Jobs.demandReveal, publishOutput and slashWithheld."""

from __future__ import annotations

import pytest

from market.hashing import keccak256, pack_tokens, tokens_root
from market.settlement import BondState, JobState, demand_fee, price, slash
from market.types import ZERO_ADDRESS, Output
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.demands import (
    BOND,
    IDS,
    ONE,
    PRICE_PAID,
    RIGHT,
    THREE,
    TWO,
    WRONG,
    A,
    P,
    Q,
    R,
    bond_state,
    demand,
    money,
    publish,
    release,
    settled,
    slash_withheld,
)
from tests.unit.contracts.test_jobs_bonds import decide, dispute
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    DEMAND_FEE,
    DEMAND_WINDOW,
    DISPUTE_WINDOW,
    GUARDIAN,
    MAX_OUTPUT,
    OTHER_CLIENT,
    REPLICAS,
    REVEAL_WINDOW,
    SHARE_BPS,
    STAKE,
    STRANGER,
    World,
    pack_permit,
    request,
)

# --- demandReveal


def test_demand_by_the_client_takes_the_fee_and_sets_the_deadline(world: World) -> None:
    job = settled(world)
    credit, held = world.credit(CLIENT), world.held()
    demand(world, job)
    deadline = world.chain.now + DEMAND_WINDOW
    (event,) = world.logs("RevealDemanded")
    assert event.values == {"jobId": job.id, "provider": P, "demander": A, "deadline": deadline, "price": 0}
    replica = world.replica(job, 0)
    assert (replica["demandDeadline"], replica["demander"]) == (deadline, A)
    assert (replica["bondState"], replica["paid"]) == (BondState.LOCKED, PRICE_PAID)
    assert (world.credit(CLIENT), world.held()) == (credit - DEMAND_FEE, held + DEMAND_FEE)
    assert world.replica(job, 1)["demandDeadline"] == 0


def test_demand_is_paid_by_permit_too(world: World) -> None:
    job = settled(world)
    world.vault.withdraw(world.token.address, A, world.credit(CLIENT), sender=A)
    world.token.approve(world.vault.address, 0, sender=A)
    permit = pack_permit(world.permit(CLIENT, world.vault.address, DEMAND_FEE))
    demand(world, job, permit=permit)
    assert world.held() == 3 * BOND + DEMAND_FEE


@pytest.mark.parametrize("tokens", [1, 512, 513, 1_024])
@pytest.mark.parametrize("answers", [True, False])
def test_demand_costs_as_many_fees_as_the_output_has_begun_512_tokens(world: World, tokens: int, answers: bool) -> None:
    """Publishing costs gas by the token, and one fee for all would let a client make a provider pay it."""
    ids = list(range(tokens))
    output = Output(tokens_root(ids), tokens, 1)
    terms = {"max_output_tokens": 1_024, "bond": 10**5, "miss_fee": 10**4}
    job = world.post(asked=request(max_output_tokens=1_024), terms=terms)
    assert world.cost_of_demand(job, P) == (0, 0)
    world.commit(job, *((p, output) for p in (ONE, TWO, THREE)))
    world.reveal(job, *((p, output) for p in (ONE, TWO, THREE)))
    world.settle(job)
    world.vault.deposit(world.token.address, A, 2 * DEMAND_FEE, sender=A)
    fee = DEMAND_FEE * -(-tokens // 512)
    assert world.cost_of_demand(job, P) == (fee, 0)
    assert demand_fee(DEMAND_FEE, tokens) == fee
    held, client, provider = world.held(), world.credit(CLIENT), world.credit(ONE)
    demand(world, job)
    assert (world.held(), world.credit(CLIENT)) == (held + fee, client - fee)
    if answers:
        publish(world, job, ids=ids)
        assert (world.held(), world.credit(ONE)) == (held, provider + fee)
    else:
        world.warp(DEMAND_WINDOW + 1)
        slash_withheld(world, job)
        paid = world.replica(job, 0)["paid"]
        parts = slash(10**5, paid, SHARE_BPS)
        assert world.held() == held - 10**5
        assert world.credit(CLIENT) == client + parts.refunded + parts.reward


def test_demand_of_a_private_answer_by_anybody_but_the_client_reverts(world: World) -> None:
    job = settled(world)
    for caller in (STRANGER.address, OTHER_CLIENT.address, P, Q):
        with reverts("NotClient", jobId=job.id, caller=caller):
            demand(world, job, sender=caller)


def test_demand_of_a_public_jobs_answer_by_anybody_passes(world: World) -> None:
    job = settled(world, inline=True)
    demand(world, job, sender=STRANGER.address)
    demand(world, job, provider=Q)
    assert [world.replica(job, i)["demander"] for i in (0, 1)] == [STRANGER.address, A]


def test_demand_of_whoever_revealed_nothing_reverts(world: World) -> None:
    silent = world.post()
    world.commit(silent, *((p, RIGHT) for p in (ONE, TWO, THREE)))
    world.reveal(silent, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.settle(silent)
    with reverts("NothingOwed", jobId=silent.id, provider=R):
        demand(world, silent, provider=R)


def test_demand_of_a_late_replica_that_got_its_kill_fee_passes(world: World) -> None:
    job = world.post()
    world.commit(job, *((p, RIGHT) for p in (ONE, TWO, THREE)))
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    world.reveal(job, (THREE, RIGHT))
    world.settle(job)
    demand(world, job, provider=R)
    publish(world, job, provider=R)


@pytest.mark.parametrize("stage", ["open", "revealing"])
def test_demand_of_a_job_that_is_not_over_reverts(world: World, stage: str) -> None:
    job = world.post()
    if stage == "revealing":
        answers = list(zip(REPLICAS, (RIGHT, WRONG, RIGHT), strict=False))
        world.commit(job, *answers)
        world.reveal(job, answers[0])
    with reverts("WrongState", jobId=job.id, has=JobState[stage.upper()], needs=JobState.SETTLED):
        demand(world, job)


def test_demand_of_a_cancelled_or_lapsed_job_reverts(world: World) -> None:
    cancelled, lapsed = world.post(), world.post()
    world.jobs.cancel(cancelled.id, sender=A)
    world.commit(lapsed, (ONE, RIGHT))
    world.warp(COMMIT_WINDOW + 1)
    world.settle(lapsed)
    for job in (cancelled, lapsed):
        with reverts("NothingOwed", jobId=job.id, provider=P):
            demand(world, job)


def test_demand_twice_reverts_even_after_an_answer(world: World) -> None:
    job = settled(world, inline=True)
    demand(world, job)
    for caller in (A, STRANGER.address):
        with reverts("AlreadyDemanded", jobId=job.id, provider=P):
            demand(world, job, sender=caller)
    publish(world, job)
    with reverts("AlreadyDemanded", jobId=job.id, provider=P):
        demand(world, job)


def test_demand_in_the_windows_last_second_passes_and_after_it_reverts(world: World) -> None:
    job = settled(world)
    end = world.chain.now + DISPUTE_WINDOW
    world.chain.now = end
    demand(world, job)
    world.chain.now = end + 1
    with reverts("TooLate", jobId=job.id, timestamp=end + 1, deadline=end):
        demand(world, job, provider=Q)


def test_demand_of_a_released_or_slashed_bond_reverts(world: World) -> None:
    job = settled(world)
    dispute(world, job, Q)
    decide(world, job, guilty=True, provider=Q)
    with reverts("WrongBondState", jobId=job.id, provider=Q, has=BondState.SLASHED, needs=BondState.LOCKED):
        demand(world, job, provider=Q)
    world.warp(DISPUTE_WINDOW + 1)
    release(world, job)
    with reverts("WrongBondState", jobId=job.id, provider=P, has=BondState.RELEASED, needs=BondState.LOCKED):
        demand(world, job)


def test_demand_of_no_replica_or_no_job_reverts(world: World) -> None:
    job = settled(world)
    with reverts("NotReplica", jobId=job.id, caller=STRANGER.address):
        demand(world, job, provider=STRANGER.address)
    unknown = keccak256(b"unknown")
    for call in (
        lambda: world.jobs.demandReveal(unknown, P, b"", sender=A),
        lambda: world.jobs.publishOutput(unknown, b"", sender=P),
        lambda: world.jobs.slashWithheld(unknown, P, sender=A),
    ):
        with reverts("UnknownJob", jobId=unknown):
            call()


def test_demand_without_money_or_in_a_deprecated_vault_reverts(world: World) -> None:
    job = settled(world)
    world.vault.withdraw(world.token.address, A, world.credit(CLIENT), sender=A)
    world.token.transfer(STRANGER.address, world.token.balanceOf(A), sender=A)
    with reverts("ERC20InsufficientBalance", sender=A, balance=0, needed=DEMAND_FEE):
        demand(world, job)
    assert world.replica(job, 0)["demandDeadline"] == 0
    world.vault.deprecate(sender=GUARDIAN.address)
    with reverts("VaultDeprecated"):
        demand(world, job)


# --- publishOutput


def test_publish_earns_the_fee_and_brings_the_ids_into_the_open(world: World) -> None:
    job = settled(world)
    demand(world, job)
    before = money(world, P, A)
    publish(world, job)
    (event,) = world.logs("OutputPublished")
    output = event.values.pop("output")
    assert event.values == {"jobId": job.id, "provider": P, "ids": pack_tokens(IDS)}
    assert tuple(output.values()) == RIGHT.values()
    assert [e.values for e in world.logs("DemandClosed")] == [{"jobId": job.id, "provider": P, "feeTo": P}]
    assert money(world, P, A) == {P: before[P] + DEMAND_FEE, A: before[A]}
    assert world.held() == 3 * BOND
    replica = world.replica(job, 0)
    assert (replica["demander"], replica["bondState"]) == (ZERO_ADDRESS, BondState.LOCKED)


def test_publish_in_the_deadlines_last_second_passes_and_after_it_reverts(world: World) -> None:
    job = settled(world)
    demand(world, job)
    demand(world, job, provider=Q)
    end = world.chain.now + DEMAND_WINDOW
    world.chain.now = end
    publish(world, job)
    world.chain.now = end + 1
    with reverts("TooLate", jobId=job.id, timestamp=end + 1, deadline=end):
        publish(world, job, provider=Q)


def test_publish_without_a_demand_or_twice_reverts(world: World) -> None:
    job = settled(world)
    with reverts("NotDemanded", jobId=job.id, provider=P):
        publish(world, job)
    demand(world, job)
    publish(world, job)
    with reverts("NotDemanded", jobId=job.id, provider=P):
        publish(world, job)


def test_publish_by_another_replica_or_by_a_stranger_reverts(world: World) -> None:
    job = settled(world)
    demand(world, job)
    with reverts("NotDemanded", jobId=job.id, provider=Q):
        publish(world, job, provider=Q)
    with reverts("NotReplica", jobId=job.id, caller=STRANGER.address):
        publish(world, job, provider=STRANGER.address)


def test_publish_of_other_ids_reverts(world: World) -> None:
    job = settled(world)
    demand(world, job)
    other = [*IDS[:-1], 3]
    got = Output(tokens_root(other), len(other), 1).output_hash
    with reverts("OutputMismatch", expected=RIGHT.output_hash, got=got):
        publish(world, job, ids=other)
    assert world.replica(job, 0)["demander"] == A


@pytest.mark.parametrize("ids", [[], IDS[:8], [*IDS, 4], [*IDS, *IDS]])
def test_publish_of_ids_that_are_not_in_their_canonical_form_reverts(world: World, ids: list[int]) -> None:
    job = settled(world)
    demand(world, job)
    with reverts("OutputMalformed", outputTokens=len(IDS), length=len(pack_tokens(ids))):
        publish(world, job, ids=ids)


def test_output_whose_root_has_an_id_in_the_filler_can_never_be_published(world: World) -> None:
    """A root that is not of the canonical form hides an answer nobody can check: it costs the bond."""
    hidden = Output(tokens_root([*IDS, 4]), len(IDS), 1)
    job = settled(world, hidden, hidden, RIGHT)
    demand(world, job)
    with reverts("OutputMalformed", outputTokens=len(IDS), length=64):
        publish(world, job, ids=[*IDS, 4])
    with reverts("OutputMismatch", expected=hidden.output_hash, got=RIGHT.output_hash):
        publish(world, job)
    world.warp(DEMAND_WINDOW + 1)
    slash_withheld(world, job)


def test_publish_of_an_output_of_length_states_its_finish(world: World) -> None:
    ids = list(range(MAX_OUTPUT))
    whole = Output(tokens_root(ids), MAX_OUTPUT, 2)
    job = settled(world, whole, whole, RIGHT)
    demand(world, job)
    publish(world, job, ids=ids)
    assert world.logs("OutputPublished")[0].values["output"]["finish"] == 2


# --- slashWithheld


def test_slash_withheld_refunds_the_client_rewards_the_demander_and_burns_the_rest(world: World) -> None:
    job = settled(world, inline=True)
    refund = price(job.terms[0], 10, len(IDS))
    demand(world, job, sender=STRANGER.address)
    before = money(world, A, STRANGER.address, P)
    burnt = world.burnt()
    world.warp(DEMAND_WINDOW + 1)
    slash_withheld(world, job)
    parts = slash(BOND, refund, SHARE_BPS)
    (event,) = world.logs("BondSlashed")
    assert event.values == {
        "jobId": job.id,
        "provider": P,
        "prover": STRANGER.address,
        "requester": STRANGER.address,
        "refunded": parts.refunded,
        "reward": parts.reward,
        "burnt": parts.burnt,
    }
    (closed,) = world.logs("DemandClosed")
    assert closed.values == {"jobId": job.id, "provider": P, "feeTo": STRANGER.address}
    after = money(world, A, STRANGER.address, P)
    assert after[A] == before[A] + refund
    assert after[STRANGER.address] == before[STRANGER.address] + parts.reward + DEMAND_FEE
    assert after[P] == before[P]
    assert world.burnt() == burnt + parts.burnt
    assert world.staked(ONE) == STAKE - BOND
    assert world.held() == 2 * BOND
    assert bond_state(world, job) is BondState.SLASHED
    assert world.replica(job, 0)["demander"] == ZERO_ADDRESS


def test_slash_withheld_in_the_deadlines_last_second_reverts(world: World) -> None:
    job = settled(world)
    demand(world, job)
    end = world.chain.now + DEMAND_WINDOW
    world.chain.now = end
    with reverts("TooEarly", jobId=job.id, timestamp=end, opensAt=end + 1):
        slash_withheld(world, job)
    world.chain.now = end + 1
    slash_withheld(world, job)
    with reverts("NotDemanded", jobId=job.id, provider=P):
        slash_withheld(world, job)


def test_slash_withheld_without_a_demand_or_after_an_answer_reverts(world: World) -> None:
    job = settled(world)
    demand(world, job)
    publish(world, job)
    world.warp(DEMAND_WINDOW + 1)
    for provider in (P, Q):
        with reverts("NotDemanded", jobId=job.id, provider=provider):
            slash_withheld(world, job, provider)


def test_slash_withheld_never_gets_too_late(world: World) -> None:
    job = settled(world)
    demand(world, job)
    world.warp(100 * DISPUTE_WINDOW)
    slash_withheld(world, job)
    assert world.held() == 2 * BOND


def test_demanding_of_oneself_costs_a_provider_half_its_bond_and_more(world: World) -> None:
    job = settled(world, inline=True)
    before = sum(money(world, P, STRANGER.address).values()) + BOND
    demand(world, job, sender=STRANGER.address)
    world.warp(DEMAND_WINDOW + 1)
    slash_withheld(world, job)
    after = sum(money(world, P, STRANGER.address).values())
    refund = price(job.terms[0], 10, len(IDS))
    assert before - after >= (BOND - refund) // 2
