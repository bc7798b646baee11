"""Vault: fund, bond, pay, unbond, forfeit."""

from __future__ import annotations

import pytest

from tests.unit.contracts.abi import Contract
from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.world import CAP, CLIENT, REPLICAS, STRANGER, World, pack_permit

A = CLIENT.address
P = REPLICAS[0].address
MODULE, OTHER_MODULE = REPLICAS[5].address, REPLICAS[6].address


@pytest.fixture
def vault(world: World) -> Contract:
    """A vault with two modules; the client has 50 credit, the provider 1,000 stake."""
    made = new_vault(world, modules=(MODULE, OTHER_MODULE))
    for owner in (A, P):
        world.token.approve(made.address, 0, sender=owner)
    world.token.approve(made.address, 50, sender=A)
    made.deposit(world.token.address, A, 50, sender=A)
    world.token.approve(made.address, 1_000, sender=P)
    made.deposit(world.token.address, P, 1_000, sender=P)
    made.stake(1_000, sender=P)
    return made


def fund(world: World, vault: Contract, amount: int, data: bytes = b"") -> None:
    vault.fund(world.token.address, A, amount, data, sender=MODULE)


def test_fund_from_credit_alone_takes_no_token(world: World, vault: Contract) -> None:
    before = world.token.balanceOf(A)
    fund(world, vault, 50)
    (event,) = world.chain.logs
    assert event.name == "Funded"
    assert event.values == {"module": MODULE, "token": world.token.address, "from": A, "amount": 50}
    assert world.token.balanceOf(A) == before
    assert vault.credit(world.token.address, A) == 0
    assert vault.held(MODULE, world.token.address) == 50


def test_fund_tops_credit_up_by_the_allowance(world: World, vault: Contract) -> None:
    before = world.token.balanceOf(A)
    world.token.approve(vault.address, 25, sender=A)
    fund(world, vault, 75)
    (event,) = world.logs("Deposited")
    assert event.values == {"token": world.token.address, "from": A, "to": A, "amount": 25}
    assert world.token.balanceOf(A) == before - 25
    assert world.token.allowance(A, vault.address) == 0
    assert vault.held(MODULE, world.token.address) == 75


def test_fund_tells_the_deposit_before_spending_it_and_calls_the_token_last(world: World, vault: Contract) -> None:
    fund(world, vault, 75, pack_permit(world.permit(CLIENT, vault.address, 25)))
    assert [event.name for event in world.chain.logs] == ["Deposited", "Funded", "Approval", "Transfer"]
    credit = 50
    for event in world.chain.logs[:2]:
        credit += event.values["amount"] * (1 if event.name == "Deposited" else -1)
        assert credit >= 0
    assert credit == vault.credit(world.token.address, A) == 0


def test_fund_beyond_the_cap_reverts(world: World, vault: Contract) -> None:
    with reverts("CapExceeded", token=world.token.address, total=CAP + 1, cap=CAP):
        fund(world, vault, CAP - vault.total(world.token.address) + 51)


def test_fund_tops_credit_up_by_a_permit(world: World, vault: Contract) -> None:
    fund(world, vault, 75, pack_permit(world.permit(CLIENT, vault.address, 25)))
    assert vault.held(MODULE, world.token.address) == 75


def test_fund_with_a_permit_that_a_front_runner_submitted_passes(world: World, vault: Contract) -> None:
    values = world.permit(CLIENT, vault.address, 25)
    world.token.permit(A, vault.address, *values, sender=STRANGER.address)
    fund(world, vault, 75, pack_permit(values))
    assert vault.held(MODULE, world.token.address) == 75


def test_fund_with_an_expired_permit_and_no_allowance_reverts(world: World, vault: Contract) -> None:
    data = pack_permit(world.permit(CLIENT, vault.address, 25, world.chain.now - 1))
    with reverts("ERC20InsufficientAllowance", spender=vault.address, allowance=0, needed=25):
        fund(world, vault, 75, data)


def test_fund_with_a_malformed_permit_reverts(world: World, vault: Contract) -> None:
    with reverts("MalformedPermit", length=159, expected=160):
        fund(world, vault, 75, pack_permit(world.permit(CLIENT, vault.address, 25))[:159])


def test_fund_without_allowance_reverts(world: World, vault: Contract) -> None:
    with reverts("ERC20InsufficientAllowance", spender=vault.address, allowance=0, needed=1):
        fund(world, vault, 51)


def test_fund_in_an_unlisted_token_reverts(world: World, vault: Contract) -> None:
    with reverts("TokenNotAllowed", token=STRANGER.address):
        vault.fund(STRANGER.address, A, 1, b"", sender=MODULE)


def test_fund_above_the_cap_reverts(world: World) -> None:
    vault = new_vault(world, modules=(MODULE,), tokens=((world.token.address, 10),))
    world.token.approve(vault.address, 11, sender=A)
    with reverts("CapExceeded", token=world.token.address, total=11, cap=10):
        fund(world, vault, 11)


def test_bond_moves_stake_to_the_module(world: World, vault: Contract) -> None:
    vault.bond(P, 1_000, sender=MODULE)
    (event,) = world.logs("Bonded")
    assert event.values == {"module": MODULE, "owner": P, "amount": 1_000}
    assert (vault.staked(P), vault.held(MODULE, world.token.address)) == (0, 1_000)
    assert vault.stakeOf(P)[:2] == (0, 1_000)


def test_bond_of_more_than_stake_reverts(world: World, vault: Contract) -> None:
    with reverts("InsufficientStake", owner=P, has=1_000, needs=1_001):
        vault.bond(P, 1_001, sender=MODULE)


def test_bond_of_stake_that_is_leaving_reverts(world: World, vault: Contract) -> None:
    vault.requestUnstake(600, sender=P)
    with reverts("InsufficientStake", owner=P, has=400, needs=401):
        vault.bond(P, 401, sender=MODULE)


def test_pay_moves_what_the_module_holds_to_credit(world: World, vault: Contract) -> None:
    fund(world, vault, 50)
    vault.pay(world.token.address, P, 20, sender=MODULE)
    (event,) = world.logs("Paid")
    assert event.values == {"module": MODULE, "token": world.token.address, "to": P, "amount": 20}
    assert vault.credit(world.token.address, P) == 20
    assert vault.held(MODULE, world.token.address) == 30


def test_pay_of_what_another_module_holds_reverts(world: World, vault: Contract) -> None:
    fund(world, vault, 50)
    with reverts("InsufficientHeld", module=OTHER_MODULE, token=world.token.address, has=0, needs=1):
        vault.pay(world.token.address, P, 1, sender=OTHER_MODULE)


def test_pay_of_more_than_held_reverts(world: World, vault: Contract) -> None:
    fund(world, vault, 50)
    with reverts("InsufficientHeld", module=MODULE, token=world.token.address, has=50, needs=51):
        vault.pay(world.token.address, P, 51, sender=MODULE)


def test_unbond_returns_stake(world: World, vault: Contract) -> None:
    vault.bond(P, 300, sender=MODULE)
    vault.unbond(P, 300, sender=MODULE)
    (event,) = world.logs("Unbonded")
    assert event.values == {"module": MODULE, "owner": P, "amount": 300}
    assert vault.staked(P) == 1_000
    assert vault.stakeOf(P)[:2] == (1_000, 0)


def test_unbond_of_more_than_held_reverts(world: World, vault: Contract) -> None:
    vault.bond(P, 300, sender=MODULE)
    with reverts("InsufficientHeld", module=MODULE, token=world.token.address, has=300, needs=301):
        vault.unbond(P, 301, sender=MODULE)


def test_unbond_to_an_owner_without_bonds_reverts(world: World, vault: Contract) -> None:
    vault.bond(P, 300, sender=MODULE)
    with reverts("InsufficientBonds", owner=A, has=0, needs=1):
        vault.unbond(A, 1, sender=MODULE)


def test_forfeit_takes_a_bond_from_its_owner_and_leaves_it_with_the_module(world: World, vault: Contract) -> None:
    vault.bond(P, 300, sender=MODULE)
    vault.forfeit(P, 200, sender=MODULE)
    (event,) = world.chain.logs
    assert (event.name, event.values) == ("Forfeited", {"module": MODULE, "owner": P, "amount": 200})
    assert vault.stakeOf(P)[:2] == (700, 100)
    assert vault.held(MODULE, world.token.address) == 300
    vault.pay(world.token.address, A, 200, sender=MODULE)
    with reverts("InsufficientBonds", owner=P, has=100, needs=101):
        vault.forfeit(P, 101, sender=MODULE)
    vault.unbond(P, 100, sender=MODULE)
    assert vault.stakeOf(P)[:2] == (800, 0)


@pytest.mark.parametrize("function", ["fund", "bond", "pay", "unbond", "forfeit"])
def test_module_function_called_by_anybody_else_reverts(world: World, vault: Contract, function: str) -> None:
    arguments = {
        "fund": (world.token.address, A, 1, b""),
        "bond": (P, 1),
        "pay": (world.token.address, STRANGER.address, 1),
        "unbond": (STRANGER.address, 1),
        "forfeit": (P, 1),
    }[function]
    for caller in (STRANGER.address, A, P):
        with reverts("NotModule", caller=caller):
            getattr(vault, function)(*arguments, sender=caller)
