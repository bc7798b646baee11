"""What a demand does to a release and to a dispute, and what a deprecated vault does to a demand."""

from __future__ import annotations

from typing import Any

from market.settlement import BondState
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.demands import (
    BOND,
    ONE,
    PRICE_PAID,
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
from tests.unit.contracts.test_jobs_bonds import PROVER, decide, dispute
from tests.unit.contracts.world import (
    DEMAND_FEE,
    DEMAND_WINDOW,
    DISPUTE_DEADLINE,
    DISPUTE_WINDOW,
    GUARDIAN,
    REPLICAS,
    STAKE,
    STRANGER,
    World,
)

# --- a demand beside a release


def test_release_waits_a_whole_window_after_the_demands_deadline(world: World) -> None:
    job = settled(world)
    world.warp(DISPUTE_WINDOW)
    demand(world, job)
    publish(world, job)
    end = world.chain.now + DEMAND_WINDOW + DISPUTE_WINDOW
    world.chain.now = end
    with reverts("TooEarly", jobId=job.id, timestamp=end, opensAt=end + 1):
        release(world, job)
    release(world, job, Q)
    world.chain.now = end + 1
    release(world, job)
    assert world.staked(ONE) == STAKE


def test_release_of_a_bond_whose_output_is_withheld_reverts_for_ever(world: World) -> None:
    job = settled(world)
    demand(world, job)
    deadline = world.chain.now + DEMAND_WINDOW
    world.warp(50 * DISPUTE_WINDOW)
    with reverts("DemandOpen", jobId=job.id, provider=P, deadline=deadline):
        release(world, job)
    slash_withheld(world, job)


# --- a demand beside a dispute


def test_dispute_is_open_while_and_a_whole_window_after_an_output_is_demanded(world: World) -> None:
    job = settled(world)
    world.warp(DISPUTE_WINDOW)
    demand(world, job)
    demand(world, job, provider=Q)
    end = world.chain.now + DEMAND_WINDOW + DISPUTE_WINDOW
    publish(world, job)
    world.chain.now = end
    dispute(world, job)
    world.chain.now = end + 1
    with reverts("TooLate", jobId=job.id, timestamp=end + 1, deadline=end):
        dispute(world, job, Q)


def test_demand_of_a_disputed_bond_passes_and_is_answered(world: World) -> None:
    """Else a provider would dispute itself to be spared the demand."""
    job = settled(world)
    dispute(world, job)
    demand(world, job)
    publish(world, job)
    decide(world, job, guilty=False)
    assert bond_state(world, job) is BondState.LOCKED


def test_arbiters_slash_gives_the_demander_its_fee_back(world: World) -> None:
    job = settled(world)
    dispute(world, job)
    demand(world, job)
    before = money(world, A)[A]
    decide(world, job, guilty=True)
    assert money(world, A)[A] == before + PRICE_PAID + DEMAND_FEE
    assert [e.values["feeTo"] for e in world.logs("DemandClosed")] == [A]
    assert world.held() == 2 * BOND
    with reverts("NotDemanded", jobId=job.id, provider=P):
        publish(world, job)
    world.warp(DEMAND_WINDOW + 1)
    with reverts("NotDemanded", jobId=job.id, provider=P):
        slash_withheld(world, job)


def test_slash_withheld_of_a_disputed_bond_waits_for_the_arbiter(world: World) -> None:
    job = settled(world)
    demand(world, job)
    end = world.chain.now + DEMAND_WINDOW + DISPUTE_WINDOW + DISPUTE_DEADLINE
    dispute(world, job)
    world.warp(DEMAND_WINDOW + 1)
    with reverts("TooEarly", jobId=job.id, timestamp=world.chain.now, opensAt=end + 1):
        slash_withheld(world, job)
    decide(world, job, guilty=False)
    slash_withheld(world, job)
    assert bond_state(world, job) is BondState.SLASHED


def test_silent_arbiter_frees_a_withheld_bond_for_slashing_only(world: World) -> None:
    job = settled(world)
    demand(world, job)
    deadline = world.chain.now + DEMAND_WINDOW
    end = deadline + DISPUTE_WINDOW + DISPUTE_DEADLINE
    dispute(world, job)
    world.chain.now = end
    for call in (release, slash_withheld):
        with reverts("TooEarly", jobId=job.id, timestamp=end, opensAt=end + 1):
            call(world, job)
    world.chain.now = end + 1
    with reverts("TooLate", jobId=job.id, timestamp=end + 1, deadline=end):
        decide(world, job, guilty=True)
    with reverts("DemandOpen", jobId=job.id, provider=P, deadline=deadline):
        release(world, job)
    slash_withheld(world, job)
    assert world.held() == 2 * BOND


def test_dispute_after_a_demand_was_ignored_decides_before_the_slash(world: World) -> None:
    job = settled(world)
    demand(world, job)
    world.warp(DEMAND_WINDOW + 1)
    dispute(world, job)
    with reverts("TooLate", jobId=job.id, timestamp=world.chain.now, deadline=world.chain.now - 1):
        publish(world, job)
    decide(world, job, guilty=True)
    assert world.held() == 2 * BOND


def test_demands_go_on_in_a_deprecated_vault(world: World) -> None:
    job = settled(world)
    demand(world, job)
    demand(world, job, provider=Q)
    world.vault.deprecate(sender=GUARDIAN.address)
    publish(world, job)
    world.warp(DEMAND_WINDOW + 1)
    slash_withheld(world, job, Q)
    world.warp(DISPUTE_WINDOW + DISPUTE_DEADLINE)
    release(world, job)
    release(world, job, R)
    assert world.held() == 0


def test_every_demand_ends_and_the_money_adds_up(world: World) -> None:
    """From every state funds leave by a deadline, through a transaction of anybody."""
    outcomes: list[Any] = [None, "publish", "slash", "guilty", "not guilty, slash", "silent arbiter"]
    parties = [A, STRANGER.address, PROVER.address, *(p.address for p in REPLICAS)]
    for outcome in outcomes:
        before = sum(money(world, *parties).values()) + world.burnt()
        job = settled(world)
        if outcome:
            demand(world, job)
        if outcome == "publish":
            publish(world, job)
        if outcome in ("guilty", "not guilty, slash", "silent arbiter"):
            dispute(world, job)
        if outcome in ("guilty", "not guilty, slash"):
            decide(world, job, guilty=outcome == "guilty")
        world.warp(DEMAND_WINDOW + 2 * DISPUTE_WINDOW + DISPUTE_DEADLINE + 1)
        if bond_state(world, job) is not BondState.SLASHED:
            (slash_withheld if outcome not in (None, "publish") else release)(world, job)
        release(world, job, Q)
        release(world, job, R)
        assert world.held() == 0
        assert sum(money(world, *parties).values()) + world.burnt() == before
