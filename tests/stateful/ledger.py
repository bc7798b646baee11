"""The vault as plain Python: what each call changes, or the custom error it is refused with."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from market.signing import Domain
from market.types import ZERO_ADDRESS


class Refused(Exception):
    """The contract must revert with exactly this custom error."""

    def __init__(self, name: str, **values: Any) -> None:
        super().__init__(f"{name}({values})")
        self.name = name
        self.values = values


def require(condition: bool, name: str, **values: Any) -> None:
    if not condition:
        raise Refused(name, **values)


@dataclass(frozen=True)
class Constants:
    """What the contracts were deployed with."""

    token: str
    cap: int
    guardian: str
    vault: str
    jobs: str
    domain: Domain
    unbonding_window: int
    dispute_window: int
    share_bps: int
    stake_cap: int
    demand_window: int
    demand_fee: int


@dataclass
class Ledger:
    """Addresses are checksummed; money is in base units of the one token. `held` is held by the module Jobs,
    `bonded` a part of it; `staked_at` is a block and `number` the block of the next call."""

    constants: Constants
    now: int
    wallet: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    allowance: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    credit: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    staked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    bonded: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    staked_at: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    exits: dict[str, tuple[int, int]] = field(default_factory=lambda: defaultdict(lambda: (0, 0)))
    held: int = 0
    number: int = 0
    deprecated: bool = False
    guardian: str = ""

    def __post_init__(self) -> None:
        self.guardian = self.guardian or self.constants.guardian

    @property
    def total(self) -> int:
        """What the vault owes: every unit is exactly one of these."""
        exiting = sum(amount for amount, _ in self.exits.values())
        return sum(self.credit.values()) + sum(self.staked.values()) + exiting + self.held

    def deposit(self, caller: str, to: str, amount: int) -> None:
        require(not self.deprecated, "VaultDeprecated")
        require(to != ZERO_ADDRESS, "ZeroAddress")
        require(amount > 0, "ZeroAmount")
        self._check_cap(amount)
        self._check_pull(caller, amount)
        self._pull(caller, amount)
        self.credit[to] += amount

    def withdraw(self, caller: str, to: str, amount: int) -> None:
        require(to != ZERO_ADDRESS, "ZeroAddress")
        require(amount > 0, "ZeroAmount")
        self._debit(caller, amount)
        self.wallet[to] += amount

    def stake(self, caller: str, amount: int) -> None:
        require(not self.deprecated, "VaultDeprecated")
        require(amount > 0, "ZeroAmount")
        self._debit(caller, amount)
        self.staked[caller] += amount
        self.staked_at[caller] = self.number

    def request_unstake(self, caller: str, amount: int) -> None:
        require(amount > 0, "ZeroAmount")
        self._unstake(caller, amount)
        self.exits[caller] = (self.exits[caller][0] + amount, self.now + self.constants.unbonding_window)

    def finish_unstake(self, owner: str) -> None:
        amount, ready = self.exits[owner]
        require(amount > 0, "NothingExiting", owner=owner)
        require(self.now >= ready, "ExitNotReady", owner=owner, readyAt=ready)
        self.exits[owner] = (0, 0)
        self.credit[owner] += amount

    def deprecate(self, caller: str) -> None:
        require(caller == self.guardian, "NotGuardian", caller=caller)
        require(not self.deprecated, "AlreadyDeprecated")
        self.deprecated = True

    def renounce(self, caller: str) -> None:
        require(caller == self.guardian, "NotGuardian", caller=caller)
        self.guardian = ZERO_ADDRESS

    def seal(self, caller: str) -> None:
        require(caller == self.guardian, "NotGuardian", caller=caller)
        raise Refused("AlreadySealed")

    def _debit(self, owner: str, amount: int) -> None:
        has = self.credit[owner]
        token = self.constants.token
        require(has >= amount, "InsufficientCredit", token=token, owner=owner, has=has, needs=amount)
        self.credit[owner] -= amount

    def _unstake(self, owner: str, amount: int) -> None:
        has = self.staked[owner]
        require(has >= amount, "InsufficientStake", owner=owner, has=has, needs=amount)
        self.staked[owner] -= amount

    def _bond(self, owner: str, amount: int) -> None:
        self._unstake(owner, amount)
        self.bonded[owner] += amount
        self.held += amount

    def _unbond(self, owner: str, amount: int) -> None:
        """The owner's stake is as old as before: it was its all along."""
        self.bonded[owner] -= amount
        self.held -= amount
        self.staked[owner] += amount

    def stake_of(self, owner: str) -> tuple[int, int, int]:
        """Free stake, bonds, and the block of the last `stake`."""
        return self.staked[owner], self.bonded[owner], self.staked_at[owner]

    def _check_cap(self, amount: int) -> None:
        total, cap, token = self.total + amount, self.constants.cap, self.constants.token
        require(total <= cap, "CapExceeded", token=token, total=total, cap=cap)

    def _check_pull(self, owner: str, amount: int, permit: int | None = None) -> None:
        allowed = self.allowance[owner] if permit is None else permit
        spender = self.constants.vault
        require(allowed >= amount, "ERC20InsufficientAllowance", spender=spender, allowance=allowed, needed=amount)
        has = self.wallet[owner]
        require(has >= amount, "ERC20InsufficientBalance", sender=owner, balance=has, needed=amount)

    def _pull(self, owner: str, amount: int) -> None:
        self.allowance[owner] -= amount
        self.wallet[owner] -= amount
