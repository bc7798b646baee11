"""Everybody's money, to be compared before and after an attack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.unit.contracts.abi import Contract
from tests.unit.contracts.world import CLIENT, GUARDIAN, OTHER_CLIENT, REPLICAS, STRANGER

EVERYBODY = tuple(actor.address for actor in (CLIENT, OTHER_CLIENT, STRANGER, GUARDIAN, *REPLICAS))

Money = dict[str, int]


def money(vault: Contract, owners: Iterable[str] = EVERYBODY, without: Iterable[str] = ()) -> Money:
    """Credit of every token, stake and exit of every owner but those of `without`, by a readable name."""
    left_out = set(without)
    found: Money = {}
    for owner in owners:
        if owner in left_out:
            continue
        for token in vault.tokens():
            found[f"credit of {owner} in {token}"] = vault.credit(token, owner)
        found[f"stake of {owner}"] = vault.staked(owner)
        amount, ready_at = vault.exits(owner)
        found[f"exit of {owner}"], found[f"exit of {owner} ready at"] = amount, ready_at
    return found


def books(vault: Contract, owners: Sequence[str] = EVERYBODY, modules: Iterable[str] = ()) -> Money:
    """Everybody's money, what every module holds and every total: nothing that the vault knows is left out."""
    found = money(vault, owners)
    for owner in owners:
        _, found[f"bonds of {owner}"], found[f"block of the last stake of {owner}"] = vault.stakeOf(owner)
    for token in vault.tokens():
        found[f"total of {token}"] = vault.total(token)
        for module in (*vault.modules(), *modules):
            found[f"held by {module} in {token}"] = vault.held(module, token)
    return found


def owed(vault: Contract, token: str, owners: Iterable[str] = EVERYBODY) -> int:
    """What the vault owes of one token: Σ credit + Σ held (+ Σ stake + Σ exits, of the stake token)."""
    whose = list(owners)
    sum_ = sum(vault.credit(token, owner) for owner in whose)
    sum_ += sum(vault.held(module, token) for module in vault.modules())
    if token == vault.stakeToken():
        sum_ += sum(vault.staked(owner) + vault.exits(owner)[0] for owner in whose)
    return int(sum_)
