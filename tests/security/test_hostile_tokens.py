"""Seven kinds of token that a vault's deployer may list by mistake, and what each does to everybody else's money."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.security.money import books, money, owed
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CAP, CLIENT, OTHER_CLIENT, REPLICAS, STRANGER, World, answer

A, B = CLIENT.address, OTHER_CLIENT.address
MODULE = STRANGER.address
SEVEN = ("TestToken", "SilentToken", "FeeToken", "BlockingToken", "CallbackToken", "FalseToken", "RebasingToken")
#: all but those that no deposit of can succeed
TAKEN = tuple(name for name in SEVEN if name not in ("FeeToken", "FalseToken"))
RIGHT = answer()


@dataclass
class Listed:
    """A vault that lists the world's token and a hostile one, in both of which others have money already."""

    world: World
    token: Contract
    vault: Contract

    @property
    def plain(self) -> str:
        return self.world.token.address

    def deposit(self, amount: int, owner: str = A) -> None:
        self.vault.deposit(self.token.address, owner, amount, sender=owner)

    def fund(self, amount: int, owner: str = A) -> None:
        self.vault.fund(self.token.address, owner, amount, b"", sender=MODULE)

    def withdraw(self, amount: int, owner: str = A) -> None:
        self.vault.withdraw(self.token.address, owner, amount, sender=owner)

    def pay(self, to: str, amount: int) -> None:
        self.vault.pay(self.token.address, to, amount, sender=MODULE)

    def books(self) -> dict[str, int]:
        """What is written down, and what is there."""
        balances = {f"balance of {t.address}": t.balanceOf(self.vault.address) for t in (self.world.token, self.token)}
        return books(self.vault) | balances


def listed(world: World, name: str) -> Listed:
    token = world.deploy(name)
    vault = new_vault(world, modules=(MODULE,), tokens=((world.token.address, CAP), (token.address, CAP)))
    made = Listed(world, token, vault)
    for owner in (A, B):
        world.token.approve(vault.address, 1_000, sender=owner)
        vault.deposit(world.token.address, owner, 1_000, sender=owner)
        token.mint(owner, 10_000, sender=owner)
        token.approve(vault.address, 10_000, sender=owner)
    vault.stake(400, sender=B)
    vault.requestUnstake(100, sender=B)
    if name in TAKEN:
        made.deposit(700, B)
    return made


def misbehave(made: Listed, name: str) -> tuple[str, dict[str, Any]]:
    """Makes the token do its worst to money that comes in. Returns the error that stops it."""
    if name == "BlockingToken":
        made.token.block_(made.vault.address, sender=A)
        return "Blocked", {"account": made.vault.address}
    if name == "CallbackToken":
        again = made.vault.encode("withdraw", made.plain, A, 1)
        made.token.setCallback(made.vault.address, again, sender=A)
        return "ReentrancyGuardReentrantCall", {}
    if name == "FalseToken":
        return "SafeERC20FailedOperation", {"token": made.token.address}
    return "TokenAmountMismatch", {"token": made.token.address, "expected": 500, "received": 495}


HOSTILE_ON_THE_WAY_IN = ("FeeToken", "BlockingToken", "CallbackToken", "FalseToken")


@pytest.mark.parametrize("name", HOSTILE_ON_THE_WAY_IN)
@pytest.mark.parametrize("way", ["deposit", "fund"])
def test_what_does_not_arrive_is_never_credited_and_nobody_elses_money_moves(world: World, name: str, way: str) -> None:
    made = listed(world, name)
    error, values = misbehave(made, name)
    before = made.books()
    with reverts(error, **values):
        getattr(made, way)(500)
    assert made.books() == before
    made.vault.withdraw(made.plain, A, 1_000, sender=A)
    made.vault.withdraw(made.plain, B, 600, sender=B)


@pytest.mark.parametrize("name", TAKEN)
def test_money_that_arrived_goes_through_a_module_and_out_again_to_the_unit(world: World, name: str) -> None:
    made = listed(world, name)
    others = money(made.vault, without=(A, MODULE))
    made.deposit(300)
    made.fund(500)
    assert made.vault.held(MODULE, made.token.address) == 500
    made.pay(MODULE, 120)
    made.pay(A, 380)
    made.withdraw(380)
    made.withdraw(120, MODULE)
    assert made.token.balanceOf(A) == 10_000 - 500 + 380
    assert made.token.balanceOf(MODULE) == 120
    assert money(made.vault, without=(A, MODULE)) == others
    assert owed(made.vault, made.token.address) == made.vault.total(made.token.address) == 700
    assert made.token.balanceOf(made.vault.address) == 700


@pytest.mark.parametrize("name", TAKEN)
def test_paying_asks_the_token_nothing(world: World, name: str) -> None:
    """Whatever the token has become, a job in it settles."""
    made = listed(world, name)
    made.fund(500)
    if name == "RebasingToken":
        made.token.rebase(0, 1, sender=A)
    elif name in HOSTILE_ON_THE_WAY_IN:
        misbehave(made, name)
    made.pay(A, 500)
    assert made.vault.credit(made.token.address, A) == 500


def test_token_that_takes_a_fee_on_the_way_out_takes_it_from_the_payee_alone(world: World) -> None:
    """One percent of 99 is nothing, so these deposits arrive whole."""
    made = listed(world, "FeeToken")
    for owner in (A, A, B):
        made.deposit(99, owner)
    made.withdraw(198)
    assert made.token.balanceOf(A) == 10_000 - 198 + 197
    made.withdraw(99, B)
    assert made.token.balanceOf(B) == 10_000
    assert made.vault.total(made.token.address) == made.token.balanceOf(made.vault.address) == 0


def test_payee_on_the_tokens_list_keeps_its_credit_and_can_send_it_elsewhere(world: World) -> None:
    made = listed(world, "BlockingToken")
    made.deposit(300)
    made.token.block_(A, sender=A)
    before = made.books()
    with reverts("Blocked", account=A):
        made.withdraw(300)
    assert made.books() == before
    made.withdraw(700, B)
    made.vault.withdraw(made.token.address, MODULE, 300, sender=A)
    assert made.token.balanceOf(MODULE) == 300


def test_vault_on_a_tokens_list_keeps_that_token_in_and_no_other(world: World) -> None:
    made = listed(world, "BlockingToken")
    made.token.block_(made.vault.address, sender=A)
    with reverts("Blocked", account=made.vault.address):
        made.withdraw(700, B)
    made.vault.withdraw(made.plain, B, 600, sender=B)
    world.chain.now += made.vault.unbondingWindow()
    made.vault.finishUnstake(B, sender=A)
    made.vault.withdraw(made.plain, B, 100, sender=B)
    assert made.vault.credit(made.token.address, B) == 700


def test_token_that_shrinks_leaves_its_own_holders_short_and_nobody_else(world: World) -> None:
    """Why a rebasing token must not be listed: who comes first is paid whole, who comes last is not."""
    made = listed(world, "RebasingToken")
    made.deposit(700)
    plain = {owner: made.vault.credit(made.plain, owner) for owner in (A, B)}
    made.token.rebase(1, 2, sender=A)
    assert made.token.balanceOf(made.vault.address) == 700 < made.vault.total(made.token.address)
    made.withdraw(700)
    before = made.books()
    with reverts("Panic", value=0x11):
        made.withdraw(700, B)
    assert made.books() == before
    for owner in (A, B):
        made.vault.withdraw(made.plain, owner, plain[owner], sender=owner)
    assert made.vault.staked(B) == 300


def test_token_that_grows_leaves_the_surplus_to_nobody(world: World) -> None:
    made = listed(world, "RebasingToken")
    made.token.rebase(2, 1, sender=A)
    with reverts("InsufficientCredit", token=made.token.address, owner=B, has=700, needs=701):
        made.withdraw(701, B)
    made.withdraw(700, B)
    assert (made.vault.total(made.token.address), made.token.balanceOf(made.vault.address)) == (0, 700)


def test_token_whose_rounding_loses_a_unit_on_the_way_is_refused(world: World) -> None:
    made = listed(world, "RebasingToken")
    made.token.rebase(3, 2, sender=A)
    before = made.books()
    with reverts("TokenAmountMismatch", token=made.token.address, expected=500, received=499):
        made.deposit(500)
    assert made.books() == before


@pytest.mark.parametrize("name", TAKEN)
def test_whole_job_in_such_a_stake_token_pays_everybody(name: str, world: World) -> None:
    """A deployment whose only token is of this kind, and behaves."""
    chain = RevmChain(list(world.artefacts.values()))
    alone = World(world.artefacts, chain, token=name)
    job = alone.settled(RIGHT, RIGHT, answer("wrong"))
    chain.now += 86_400 + 1
    for provider in REPLICAS[:3]:
        alone.jobs.releaseBond(job.id, provider.address, sender=A)
    for owner in (A, *(p.address for p in REPLICAS[:2])):
        alone.vault.withdraw(alone.token.address, owner, alone.credit(owner), sender=owner)
    assert alone.held() == 0
    assert owed(alone.vault, alone.token.address) == alone.token.balanceOf(alone.vault.address)


def test_stake_token_that_blocks_one_party_of_a_job_holds_up_no_other(world: World) -> None:
    alone = World(world.artefacts, RevmChain(list(world.artefacts.values())), token="BlockingToken")
    job = alone.post()
    alone.commit(job, *((p, RIGHT) for p in REPLICAS[:3]))
    alone.token.block_(REPLICAS[0].address, sender=A)
    alone.token.block_(A, sender=A)
    alone.reveal(job, *((p, RIGHT) for p in REPLICAS[:3]))
    alone.settle(job)
    assert alone.credit(REPLICAS[0]) == alone.credit(REPLICAS[1]) > 0
    second = REPLICAS[1].address
    alone.vault.withdraw(alone.token.address, second, alone.credit(second), sender=second)
    with reverts("Blocked", account=A):
        alone.vault.withdraw(alone.token.address, A, 1, sender=A)
    alone.vault.withdraw(alone.token.address, B, alone.credit(A), sender=A)
