"""Vault: stake, requestUnstake, finishUnstake."""

from __future__ import annotations

from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.draws import mine, number
from tests.unit.contracts.world import CLIENT, REPLICAS, STAKE, STRANGER, UNBONDING_WINDOW, World

PROVIDER = REPLICAS[0]
P = PROVIDER.address


def test_stake_turns_credit_into_stake(world: World) -> None:
    world.vault.deposit(world.token.address, P, 5, sender=P)
    world.vault.stake(5, sender=P)
    (event,) = world.logs("Staked")
    assert event.values == {"owner": P, "amount": 5}
    assert (world.credit(PROVIDER), world.staked(PROVIDER)) == (0, STAKE + 5)


def test_stake_is_as_old_as_its_last_addition(world: World) -> None:
    """And nothing else makes it younger: not what leaves, is locked, comes back or is lost."""
    vault = new_vault(world, modules=(STRANGER.address,))
    world.token.approve(vault.address, 100, sender=P)
    vault.deposit(world.token.address, P, 100, sender=P)
    assert vault.stakeOf(P) == (0, 0, 0)
    mine(world, 3)
    vault.stake(60, sender=P)
    first = number(world)
    assert vault.stakeOf(P) == (60, 0, first)
    mine(world, 3)
    vault.requestUnstake(10, sender=P)
    vault.bond(P, 30, sender=STRANGER.address)
    vault.unbond(P, 20, sender=STRANGER.address)
    vault.forfeit(P, 4, sender=STRANGER.address)
    world.warp(UNBONDING_WINDOW)
    vault.finishUnstake(P, sender=STRANGER.address)
    assert vault.stakeOf(P) == (40, 6, first)
    vault.stake(1, sender=P)
    assert vault.stakeOf(P) == (41, 6, number(world))


def test_stake_of_more_than_credit_reverts(world: World) -> None:
    with reverts("InsufficientCredit", token=world.token.address, owner=P, has=0, needs=1):
        world.vault.stake(1, sender=P)


def test_stake_of_nothing_reverts(world: World) -> None:
    with reverts("ZeroAmount"):
        world.vault.stake(0, sender=P)


def test_unstake_becomes_credit_exactly_at_the_end_of_the_window(world: World) -> None:
    ready = world.chain.now + UNBONDING_WINDOW
    world.vault.requestUnstake(100, sender=P)
    (event,) = world.logs("UnstakeRequested")
    assert event.values == {"owner": P, "amount": 100, "exiting": 100, "readyAt": ready}
    assert world.vault.exits(P) == (100, ready)
    assert world.staked(PROVIDER) == STAKE - 100
    world.chain.now = ready - 1
    with reverts("ExitNotReady", owner=P, readyAt=ready):
        world.vault.finishUnstake(P, sender=STRANGER.address)
    world.chain.now = ready
    world.vault.finishUnstake(P, sender=STRANGER.address)
    (event,) = world.logs("Unstaked")
    assert event.values == {"owner": P, "amount": 100}
    assert world.credit(PROVIDER) == 100
    assert world.vault.exits(P) == (0, 0)


def test_second_request_restarts_the_window_of_the_whole_exit(world: World) -> None:
    world.vault.requestUnstake(100, sender=P)
    world.warp(UNBONDING_WINDOW - 1)
    ready = world.chain.now + UNBONDING_WINDOW
    world.vault.requestUnstake(1, sender=P)
    assert world.vault.exits(P) == (101, ready)
    world.warp(1)
    with reverts("ExitNotReady", owner=P, readyAt=ready):
        world.vault.finishUnstake(P, sender=P)


def test_request_of_more_than_stake_reverts(world: World) -> None:
    with reverts("InsufficientStake", owner=P, has=STAKE, needs=STAKE + 1):
        world.vault.requestUnstake(STAKE + 1, sender=P)


def test_request_of_nothing_reverts(world: World) -> None:
    with reverts("ZeroAmount"):
        world.vault.requestUnstake(0, sender=P)


def test_finish_without_an_exit_reverts(world: World) -> None:
    with reverts("NothingExiting", owner=CLIENT.address):
        world.vault.finishUnstake(CLIENT.address, sender=P)


def test_finish_twice_reverts(world: World) -> None:
    world.vault.requestUnstake(100, sender=P)
    world.warp(UNBONDING_WINDOW)
    world.vault.finishUnstake(P, sender=P)
    with reverts("NothingExiting", owner=P):
        world.vault.finishUnstake(P, sender=P)
