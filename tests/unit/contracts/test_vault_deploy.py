"""Vault: constructor, seal, deprecate, renounceGuardian."""

from __future__ import annotations

import pytest

from market.types import ZERO_ADDRESS
from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.world import CAP, CLIENT, GUARDIAN, REPLICAS, STAKE, STRANGER, UNBONDING_WINDOW, World

MODULE = STRANGER.address


def test_constructor_states_what_it_was_given(world: World) -> None:
    vault = world.vault
    assert vault.guardian() == GUARDIAN.address
    assert vault.stakeToken() == world.token.address
    assert vault.unbondingWindow() == UNBONDING_WINDOW
    assert vault.tokens() == [world.token.address]
    assert vault.cap(world.token.address) == CAP
    assert (vault.isSealed(), vault.isDeprecated()) == (True, False)
    assert vault.isModule(world.jobs.address)
    assert not vault.isModule(STRANGER.address)
    assert (vault.MAX_TOKENS(), vault.MAX_UNBONDING_WINDOW()) == (4, 365 * 86_400)


def test_constructor_without_guardian_reverts(world: World) -> None:
    with reverts("ZeroAddress"):
        new_vault(world, guardian=ZERO_ADDRESS)


def test_constructor_with_too_long_a_window_reverts(world: World) -> None:
    year = 365 * 86_400
    new_vault(world, unbonding=year)
    with reverts("UnbondingTooLong", window=year + 1, maximum=year):
        new_vault(world, unbonding=year + 1)


@pytest.mark.parametrize("count", [4, 5])
def test_constructor_takes_four_tokens_and_no_more(world: World, count: int) -> None:
    listed = ((world.token.address, CAP), *((account.address, 1) for account in REPLICAS[: count - 1]))
    if count == 4:
        assert len(new_vault(world, tokens=listed).tokens()) == 4
    else:
        with reverts("TooManyTokens", count=5, limit=4):
            new_vault(world, tokens=listed)


def test_constructor_with_a_zero_token_reverts(world: World) -> None:
    with reverts("ZeroAddress"):
        new_vault(world, tokens=((ZERO_ADDRESS, 1),))


def test_constructor_with_a_zero_cap_reverts(world: World) -> None:
    with reverts("ZeroAmount"):
        new_vault(world, tokens=((world.token.address, 0),))


def test_constructor_with_a_cap_of_stake_that_cannot_be_counted_reverts(world: World) -> None:
    stake, other, limit = world.token.address, STRANGER.address, 2**104 - 1
    assert world.vault.MAX_STAKE_CAP() == limit
    new_vault(world, tokens=((stake, limit), (other, limit + 1)))
    with reverts("CapTooLarge", token=stake, cap=limit + 1, maximum=limit):
        new_vault(world, tokens=((stake, limit + 1),))


def test_constructor_with_a_token_twice_reverts(world: World) -> None:
    with reverts("DuplicateToken", token=world.token.address):
        new_vault(world, tokens=((world.token.address, 1), (world.token.address, 2)))


def test_constructor_with_an_unlisted_stake_token_reverts(world: World) -> None:
    with reverts("TokenNotAllowed", token=CLIENT.address):
        new_vault(world, stake_token=CLIENT.address)


def test_seal_by_a_stranger_reverts(world: World) -> None:
    vault = new_vault(world, modules=None)
    with reverts("NotGuardian", caller=STRANGER.address):
        vault.seal([MODULE], sender=STRANGER.address)


def test_seal_fixes_the_modules_for_ever(world: World) -> None:
    vault = new_vault(world, modules=None)
    assert vault.modules() == []
    vault.seal([MODULE], sender=GUARDIAN.address)
    assert [module.lower() for module in vault.modules()] == [MODULE.lower()]
    assert [event.values for event in world.logs("Sealed")] == [{"modules": [MODULE]}]
    assert vault.isModule(MODULE)
    with reverts("AlreadySealed"):
        vault.seal([], sender=GUARDIAN.address)


def test_seal_with_a_zero_module_reverts(world: World) -> None:
    with reverts("ZeroAddress"):
        new_vault(world, modules=(ZERO_ADDRESS,))


def test_deprecate_by_a_stranger_reverts(world: World) -> None:
    with reverts("NotGuardian", caller=STRANGER.address):
        world.vault.deprecate(sender=STRANGER.address)


def test_deprecate_shuts_what_comes_in_and_nothing_that_goes_out(world: World) -> None:
    provider = REPLICAS[0]
    token = world.token.address
    vault = new_vault(world, modules=(MODULE,))
    world.token.approve(vault.address, STAKE, sender=provider.address)
    vault.deposit(token, provider.address, 1_000, sender=provider.address)
    vault.stake(600, sender=provider.address)
    vault.bond(provider.address, 200, sender=MODULE)
    vault.fund(token, provider.address, 100, b"", sender=MODULE)
    vault.deprecate(sender=GUARDIAN.address)
    assert len(world.logs("Deprecated")) == 1
    assert vault.isDeprecated()

    with reverts("AlreadyDeprecated"):
        vault.deprecate(sender=GUARDIAN.address)
    with reverts("VaultDeprecated"):
        vault.deposit(token, provider.address, 1, sender=provider.address)
    with reverts("VaultDeprecated"):
        vault.stake(1, sender=provider.address)
    with reverts("VaultDeprecated"):
        vault.fund(token, provider.address, 1, b"", sender=MODULE)
    with reverts("VaultDeprecated"):
        vault.bond(provider.address, 1, sender=MODULE)

    vault.unbond(provider.address, 200, sender=MODULE)
    vault.pay(token, provider.address, 100, sender=MODULE)
    vault.requestUnstake(600, sender=provider.address)
    world.warp(UNBONDING_WINDOW)
    vault.finishUnstake(provider.address, sender=STRANGER.address)
    vault.withdraw(token, provider.address, 1_000, sender=provider.address)
    assert world.token.balanceOf(vault.address) == vault.total(token) == 0


def test_renounce_guardian_before_sealing_reverts(world: World) -> None:
    vault = new_vault(world, modules=None)
    with reverts("NotSealed"):
        vault.renounceGuardian(sender=GUARDIAN.address)


def test_renounce_guardian_leaves_nobody_in_the_role(world: World) -> None:
    world.vault.renounceGuardian(sender=GUARDIAN.address)
    assert len(world.logs("GuardianRenounced")) == 1
    assert world.vault.guardian() == ZERO_ADDRESS
    with reverts("NotGuardian", caller=GUARDIAN.address):
        world.vault.deprecate(sender=GUARDIAN.address)
    with reverts("NotGuardian", caller=GUARDIAN.address):
        world.vault.renounceGuardian(sender=GUARDIAN.address)
