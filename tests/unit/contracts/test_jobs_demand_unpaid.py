"""Whoever disagreed can be asked for its output too: its demander pays the price that the client did not."""

from __future__ import annotations

import pytest

from market.hashing import tokens_root
from market.settlement import BondState, JobState, price, slash
from market.types import Output
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.demands import (
    BOND,
    RIGHT,
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
from tests.unit.contracts.test_jobs_bonds import CHALLENGER, PROVER, decide, dispute
from tests.unit.contracts.world import (
    CLIENT,
    DEMAND_FEE,
    DEMAND_WINDOW,
    DISPUTE_WINDOW,
    GUARDIAN,
    REPLICAS,
    SHARE_BPS,
    PostedJob,
    World,
)

S = REPLICAS[4].address  # of another job; a stranger here
LIE = [5, 6, 2]  # WRONG's ids
ALONE = [7, 2]


def price_of(job: PostedJob, index: int, output: Output) -> int:
    return price(job.terms[index], job.request.input_tokens, output.output_tokens)


def torn(world: World, *, inline: bool = False) -> PostedJob:
    """A job whose three replicas disagree with one another."""
    job = settled(world, RIGHT, WRONG, Output(tokens_root(ALONE), len(ALONE), 1), inline=inline)
    assert world.jobs.job(job.id)["state"] == JobState.EXPIRED
    return job


def test_demand_of_the_minority_takes_fee_and_price(world: World) -> None:
    job = settled(world, inline=True)
    owed = price_of(job, 2, WRONG)
    assert world.cost_of_demand(job, R) == (DEMAND_FEE, owed)
    assert world.cost_of_demand(job, P) == (DEMAND_FEE, 0)
    before, held = money(world, S, R), world.held()
    demand(world, job, provider=R, sender=S)
    (event,) = world.logs("RevealDemanded")
    assert (event.values["demander"], event.values["price"]) == (S, owed)
    assert money(world, S, R) == {S: before[S] - DEMAND_FEE - owed, R: before[R]}
    assert world.held() == held + DEMAND_FEE + owed


def test_publisher_of_the_minority_has_the_fee_at_once_and_the_price_with_its_bond(world: World) -> None:
    """An honest minority gives its answer to nobody for less than its price."""
    job = settled(world, inline=True)
    owed = price_of(job, 2, WRONG)
    before = money(world, R)[R] + BOND  # locked
    demand(world, job, provider=R, sender=S)
    publish(world, job, provider=R, ids=LIE)
    assert money(world, R)[R] == before - BOND + DEMAND_FEE
    world.warp(DEMAND_WINDOW + DISPUTE_WINDOW)
    with reverts("TooEarly", jobId=job.id, timestamp=world.chain.now, opensAt=world.chain.now + 1):
        release(world, job, R)
    world.warp(1)
    release(world, job, R)
    (event,) = world.logs("DemandPricePaid")
    assert event.values == {"jobId": job.id, "provider": R, "to": R, "price": owed}
    assert money(world, R)[R] == before + DEMAND_FEE + owed
    assert world.held() == 2 * BOND
    with reverts("WrongBondState", jobId=job.id, provider=R, has=BondState.RELEASED, needs=BondState.LOCKED):
        release(world, job, R)


def test_price_comes_back_where_the_minority_is_found_guilty(world: World) -> None:
    job = settled(world, inline=True)
    demand(world, job, provider=R, sender=S)
    owed = price_of(job, 2, WRONG)
    publish(world, job, provider=R, ids=LIE)
    before, burnt = money(world, S, R, A, PROVER.address, CHALLENGER.address), world.burnt()
    dispute(world, job, R)
    decide(world, job, guilty=True, provider=R)
    (event,) = world.logs("DemandPricePaid")
    assert (event.values["to"], event.values["price"]) == (S, owed)
    parts = slash(BOND, 0, SHARE_BPS)  # it was not paid by the client, which is refunded nothing
    after = money(world, S, R, A, PROVER.address, CHALLENGER.address)
    assert after[S] == before[S] + owed
    assert (after[A], after[R]) == (before[A], before[R])
    assert after[PROVER.address] == before[PROVER.address] + parts.reward - parts.reward // 2
    assert after[CHALLENGER.address] == before[CHALLENGER.address] + parts.reward // 2
    assert world.burnt() == burnt + parts.burnt
    assert bond_state(world, job, 2) is BondState.SLASHED
    assert world.held() == 2 * BOND


def test_price_is_the_providers_where_it_is_cleared(world: World) -> None:
    job = settled(world, inline=True)
    demand(world, job, provider=R, sender=S)
    publish(world, job, provider=R, ids=LIE)
    dispute(world, job, R)
    decide(world, job, guilty=False, provider=R)
    before = money(world, R)[R]
    world.warp(DEMAND_WINDOW + DISPUTE_WINDOW + 1)
    release(world, job, R)
    assert money(world, R)[R] == before + BOND + price_of(job, 2, WRONG)


def test_minority_that_keeps_its_output_back_loses_its_bond_and_everything_comes_back(world: World) -> None:
    job = settled(world, inline=True)
    before = money(world, S)[S]
    demand(world, job, provider=R, sender=S)
    world.warp(DEMAND_WINDOW + 1)
    slash_withheld(world, job, R)
    parts = slash(BOND, 0, SHARE_BPS)
    assert money(world, S)[S] == before + parts.reward
    assert bond_state(world, job, 2) is BondState.SLASHED
    assert world.held() == 2 * BOND
    with reverts("NotDemanded", jobId=job.id, provider=R):
        slash_withheld(world, job, R)


def test_buying_from_oneself_saves_a_liar_nothing(world: World) -> None:
    """The price goes back to whoever paid it and comes out of no bond."""
    job = settled(world, inline=True)
    before = sum(money(world, R, S).values())
    demand(world, job, provider=R, sender=S)
    publish(world, job, provider=R, ids=LIE)
    dispute(world, job, R)
    decide(world, job, guilty=True, provider=R)
    assert sum(money(world, R, S).values()) == before


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_replica_of_a_job_without_agreement_can_be_asked(world: World, index: int) -> None:
    job = torn(world)
    provider = (P, Q, R)[index]
    ids = ([5, 6, 7, 8, 9, 10, 11, 12, 2], LIE, ALONE)[index]
    output = Output(tokens_root(ids), len(ids), 1)
    assert world.cost_of_demand(job, provider) == (DEMAND_FEE, price_of(job, index, output))
    with reverts("NotClient", jobId=job.id, caller=S):
        demand(world, job, provider=provider, sender=S)
    before = money(world, provider)[provider]
    demand(world, job, provider=provider)
    publish(world, job, provider=provider, ids=ids)
    dispute(world, job, provider)
    decide(world, job, guilty=False, provider=provider)
    world.warp(DEMAND_WINDOW + DISPUTE_WINDOW + 1)
    release(world, job, provider)
    assert money(world, provider)[provider] == before + BOND + DEMAND_FEE + price_of(job, index, output)


def test_demand_of_the_minority_lengthens_its_window_once(world: World) -> None:
    job = settled(world, inline=True)
    world.warp(DISPUTE_WINDOW)
    demand(world, job, provider=R, sender=S)
    publish(world, job, provider=R, ids=LIE)
    world.warp(DEMAND_WINDOW)
    for sender in (S, A):
        with reverts("AlreadyDemanded", jobId=job.id, provider=R):
            demand(world, job, provider=R, sender=sender)
    world.warp(DISPUTE_WINDOW + 1)
    release(world, job, R)


def test_deprecated_vault_pays_the_price_of_an_old_demand(world: World) -> None:
    job = settled(world, inline=True)
    demand(world, job, provider=R, sender=S)
    publish(world, job, provider=R, ids=LIE)
    world.vault.deprecate(sender=GUARDIAN.address)
    world.warp(DEMAND_WINDOW + DISPUTE_WINDOW + 1)
    before = world.credit(CLIENT), money(world, R)[R]
    release(world, job, R)
    assert (world.credit(CLIENT), money(world, R)[R]) == (
        before[0],
        before[1] + BOND + price_of(job, 2, WRONG),
    )
