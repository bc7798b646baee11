"""Vault: deposit, withdraw, and what hostile tokens can do to them."""

from __future__ import annotations

import pytest

from market.types import ZERO_ADDRESS
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.world import CAP, CLIENT, OTHER_CLIENT, STRANGER, World

A, B = CLIENT.address, OTHER_CLIENT.address
MODULE = STRANGER.address


def hostile(world: World, name: str) -> tuple[Contract, Contract]:
    """(token, vault that lists it as its second token), with 1,000 units minted to the client and allowed."""
    token = world.deploy(name)
    vault = new_vault(world, modules=(MODULE,), tokens=((world.token.address, CAP), (token.address, CAP)))
    token.mint(A, 1_000, sender=A)
    token.approve(vault.address, 1_000, sender=A)
    return token, vault


def test_deposit_is_credit_of_whom_it_names(world: World) -> None:
    before = world.vault.total(world.token.address)
    world.vault.deposit(world.token.address, B, 7, sender=A)
    (event,) = world.logs("Deposited")
    assert event.values == {"token": world.token.address, "from": A, "to": B, "amount": 7}
    assert (world.credit(A), world.credit(B)) == (0, 7)
    assert world.vault.total(world.token.address) == before + 7


def test_deposit_before_sealing_reverts(world: World) -> None:
    vault = new_vault(world, modules=None)
    with reverts("NotSealed"):
        vault.deposit(world.token.address, A, 1, sender=A)


def test_deposit_to_nobody_reverts(world: World) -> None:
    with reverts("ZeroAddress"):
        world.vault.deposit(world.token.address, ZERO_ADDRESS, 1, sender=A)


def test_deposit_of_nothing_reverts(world: World) -> None:
    with reverts("ZeroAmount"):
        world.vault.deposit(world.token.address, A, 0, sender=A)


def test_deposit_of_an_unlisted_token_reverts(world: World) -> None:
    with reverts("TokenNotAllowed", token=B):
        world.vault.deposit(B, A, 1, sender=A)


def test_deposit_up_to_the_cap_passes_and_above_it_reverts(world: World) -> None:
    vault = new_vault(world, tokens=((world.token.address, 100),))
    world.token.approve(vault.address, 200, sender=A)
    vault.deposit(world.token.address, A, 100, sender=A)
    with reverts("CapExceeded", token=world.token.address, total=101, cap=100):
        vault.deposit(world.token.address, A, 1, sender=A)


def test_deposit_without_allowance_reverts(world: World) -> None:
    world.token.approve(world.vault.address, 0, sender=A)
    with reverts("ERC20InsufficientAllowance", spender=world.vault.address, allowance=0, needed=1):
        world.vault.deposit(world.token.address, A, 1, sender=A)


def test_deposit_without_balance_reverts(world: World) -> None:
    world.token.transfer(B, world.token.balanceOf(A), sender=A)
    with reverts("ERC20InsufficientBalance", sender=A, balance=0, needed=1):
        world.vault.deposit(world.token.address, A, 1, sender=A)


def test_withdraw_sends_own_credit_to_whom_it_names(world: World) -> None:
    world.vault.deposit(world.token.address, A, 10, sender=A)
    before = world.token.balanceOf(B)
    world.vault.withdraw(world.token.address, B, 4, sender=A)
    (event,) = world.logs("Withdrawn")
    assert event.values == {"token": world.token.address, "owner": A, "to": B, "amount": 4}
    assert world.token.balanceOf(B) == before + 4
    assert world.credit(A) == 6


def test_withdraw_of_more_than_credit_reverts(world: World) -> None:
    world.vault.deposit(world.token.address, A, 10, sender=A)
    with reverts("InsufficientCredit", token=world.token.address, owner=A, has=10, needs=11):
        world.vault.withdraw(world.token.address, A, 11, sender=A)
    with reverts("InsufficientCredit", token=world.token.address, owner=B, has=0, needs=1):
        world.vault.withdraw(world.token.address, B, 1, sender=B)


def test_withdraw_of_nothing_or_to_nobody_reverts(world: World) -> None:
    world.vault.deposit(world.token.address, A, 10, sender=A)
    with reverts("ZeroAmount"):
        world.vault.withdraw(world.token.address, A, 0, sender=A)
    with reverts("ZeroAddress"):
        world.vault.withdraw(world.token.address, ZERO_ADDRESS, 1, sender=A)


def test_deposit_of_a_token_with_a_fee_reverts(world: World) -> None:
    token, vault = hostile(world, "FeeToken")
    with reverts("TokenAmountMismatch", token=token.address, expected=1_000, received=990):
        vault.deposit(token.address, A, 1_000, sender=A)


def test_deposit_of_a_token_that_says_false_reverts(world: World) -> None:
    token, vault = hostile(world, "FalseToken")
    with reverts("SafeERC20FailedOperation", token=token.address):
        vault.deposit(token.address, A, 1, sender=A)


def test_deposit_and_withdraw_of_a_token_that_returns_nothing_pass(world: World) -> None:
    token, vault = hostile(world, "SilentToken")
    vault.deposit(token.address, A, 1_000, sender=A)
    vault.withdraw(token.address, A, 1_000, sender=A)
    assert (token.balanceOf(A), vault.total(token.address)) == (1_000, 0)


def test_withdraw_by_a_blocked_payee_leaves_its_credit_and_everybody_else_alone(world: World) -> None:
    token, vault = hostile(world, "BlockingToken")
    vault.deposit(token.address, A, 500, sender=A)
    vault.deposit(token.address, B, 500, sender=A)
    token.block_(A, sender=A)
    with reverts("Blocked", account=A):
        vault.withdraw(token.address, A, 500, sender=A)
    assert vault.credit(token.address, A) == 500
    vault.withdraw(token.address, B, 500, sender=B)
    vault.withdraw(token.address, STRANGER.address, 500, sender=A)


@pytest.mark.parametrize("function", ["deposit", "withdraw", "stake", "requestUnstake", "finishUnstake", "pay"])
def test_token_that_calls_back_in_the_middle_of_a_deposit_moves_nothing(world: World, function: str) -> None:
    token = world.deploy("CallbackToken")
    listed = ((world.token.address, CAP), (token.address, CAP))
    vault = new_vault(world, modules=(token.address,), tokens=listed)
    token.mint(A, 1_000, sender=A)
    token.approve(vault.address, 1_000, sender=A)
    arguments = {
        "deposit": (token.address, A, 1),
        "withdraw": (token.address, A, 1),
        "stake": (1,),
        "requestUnstake": (1,),
        "finishUnstake": (A,),
        "pay": (token.address, A, 1),
    }[function]
    token.setCallback(vault.address, vault.encode(function, *arguments), sender=A)
    with reverts("ReentrancyGuardReentrantCall"):
        vault.deposit(token.address, A, 10, sender=A)


@pytest.mark.parametrize("function", ["withdraw", "fund", "bond", "unbond"])
def test_token_that_calls_back_in_the_middle_of_a_withdrawal_moves_nothing(world: World, function: str) -> None:
    token = world.deploy("CallbackToken")
    listed = ((world.token.address, CAP), (token.address, CAP))
    vault = new_vault(world, modules=(token.address,), tokens=listed)
    token.mint(A, 1_000, sender=A)
    token.approve(vault.address, 1_000, sender=A)
    vault.deposit(token.address, A, 10, sender=A)
    arguments = {
        "withdraw": (token.address, A, 1),
        "fund": (token.address, A, 1, b""),
        "bond": (A, 0),
        "unbond": (A, 0),
    }[function]
    token.setCallback(vault.address, vault.encode(function, *arguments), sender=A)
    with reverts("ReentrancyGuardReentrantCall"):
        vault.withdraw(token.address, A, 10, sender=A)
    assert vault.credit(token.address, A) == 10
