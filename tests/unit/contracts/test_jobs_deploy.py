"""Jobs: constructor and constants."""

from __future__ import annotations

import pytest

from market.types import ZERO_ADDRESS
from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.world import (
    DAY,
    DEMAND_FEE,
    DEMAND_WINDOW,
    DISPUTE_DEADLINE,
    DISPUTE_WINDOW,
    SHARE_BPS,
    UNBONDING_WINDOW,
    World,
)


def test_constructor_states_what_it_was_given(world: World) -> None:
    jobs = world.jobs
    assert jobs.vault() == world.vault.address
    assert jobs.stakeToken() == world.token.address
    assert jobs.arbiter() == world.arbiter.address
    assert jobs.registry() == world.registry.address
    assert (jobs.demandWindow(), jobs.demandFee(), jobs.DRAW_FEE_BPS()) == (DEMAND_WINDOW, DEMAND_FEE, 1_000)
    assert jobs.DEMAND_FEE_TOKENS() == 512
    assert (jobs.disputeWindow(), jobs.challengerShareBps()) == (DISPUTE_WINDOW, SHARE_BPS)
    assert (jobs.MAX_REPLICAS(), jobs.MIN_WINDOW(), jobs.MAX_WINDOW()) == (7, 30, DAY)
    assert (jobs.DISPUTE_DEADLINE(), jobs.MAX_CHALLENGER_SHARE_BPS()) == (DISPUTE_DEADLINE, 3_000)


def test_constructor_without_arbiter_passes(world: World) -> None:
    jobs = world.deploy("Jobs", *world.jobs_arguments(arbiter=ZERO_ADDRESS))
    assert jobs.arbiter() == ZERO_ADDRESS


def test_invariant_3_exit_never_outruns_a_dispute_a_shorter_unbonding_reverts(world: World) -> None:
    vault = new_vault(world, unbonding=UNBONDING_WINDOW - 1)
    with reverts("UnbondingTooShort", window=UNBONDING_WINDOW - 1, minimum=UNBONDING_WINDOW):
        world.deploy("Jobs", *world.jobs_arguments(vault=vault.address))


@pytest.mark.parametrize(("share", "holds"), [(0, False), (1, True), (3_000, True), (3_001, False)])
def test_constructor_bounds_the_challengers_share(world: World, share: int, holds: bool) -> None:
    arguments = world.jobs_arguments(challengerShareBps=share)
    if holds:
        assert world.deploy("Jobs", *arguments).challengerShareBps() == share
    else:
        with reverts("ShareOutOfRange", shareBps=share, minimum=1, maximum=3_000):
            world.deploy("Jobs", *arguments)


@pytest.mark.parametrize(("window", "holds"), [(29, False), (30, True), (DAY + 1, False)])
def test_constructor_bounds_the_demand_window(world: World, window: int, holds: bool) -> None:
    vault = new_vault(world, unbonding=30 * DAY)
    arguments = world.jobs_arguments(vault=vault.address, demandWindow=window)
    if holds:
        assert world.deploy("Jobs", *arguments).demandWindow() == window
    else:
        with reverts("WindowOutOfRange", window=window, minimum=30, maximum=DAY):
            world.deploy("Jobs", *arguments)


def test_constructor_without_a_demand_fee_reverts(world: World) -> None:
    with reverts("NoDemandFee"):
        world.deploy("Jobs", *world.jobs_arguments(demandFee=0))
    assert world.deploy("Jobs", *world.jobs_arguments(demandFee=1)).demandFee() == 1
