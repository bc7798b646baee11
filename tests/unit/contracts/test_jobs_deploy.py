"""Jobs: constructor and constants."""

from __future__ import annotations

import pytest

from market.types import ZERO_ADDRESS
from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.world import (
    DAY,
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
    assert (jobs.disputeWindow(), jobs.challengerShareBps()) == (DISPUTE_WINDOW, SHARE_BPS)
    assert (jobs.MAX_REPLICAS(), jobs.MIN_WINDOW(), jobs.MAX_WINDOW()) == (7, 30, DAY)
    assert (jobs.DISPUTE_DEADLINE(), jobs.MAX_CHALLENGER_SHARE_BPS()) == (DISPUTE_DEADLINE, 3_000)


def test_constructor_without_arbiter_passes(world: World) -> None:
    jobs = world.deploy("Jobs", world.vault.address, ZERO_ADDRESS, DISPUTE_WINDOW, SHARE_BPS)
    assert jobs.arbiter() == ZERO_ADDRESS


def test_invariant_3_exit_never_outruns_a_dispute_a_shorter_unbonding_reverts(world: World) -> None:
    vault = new_vault(world, unbonding=UNBONDING_WINDOW - 1)
    with reverts("UnbondingTooShort", window=UNBONDING_WINDOW - 1, minimum=UNBONDING_WINDOW):
        world.deploy("Jobs", vault.address, ZERO_ADDRESS, DISPUTE_WINDOW, SHARE_BPS)


@pytest.mark.parametrize(("share", "holds"), [(0, False), (1, True), (3_000, True), (3_001, False)])
def test_constructor_bounds_the_challengers_share(world: World, share: int, holds: bool) -> None:
    arguments = (world.vault.address, ZERO_ADDRESS, DISPUTE_WINDOW, share)
    if holds:
        assert world.deploy("Jobs", *arguments).challengerShareBps() == share
    else:
        with reverts("ShareOutOfRange", shareBps=share, minimum=1, maximum=3_000):
            world.deploy("Jobs", *arguments)
