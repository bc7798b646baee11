"""What tests of contracts assert again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.world import CAP, GUARDIAN, UNBONDING_WINDOW, World


@contextmanager
def reverts(name: str, **values: Any) -> Iterator[None]:
    """Whatever runs inside reverts with exactly this custom error and these values."""
    with pytest.raises(Revert) as caught:
        yield
    assert (caught.value.name, caught.value.values) == (name, values)


def new_vault(
    world: World,
    *,
    modules: tuple[str, ...] | None = (),
    tokens: tuple[tuple[str, int], ...] | None = None,
    stake_token: str | None = None,
    unbonding: int = UNBONDING_WINDOW,
    guardian: str = GUARDIAN.address,
) -> Contract:
    """A second vault. `modules` None leaves it unsealed; plain accounts serve as modules."""
    listed = tokens if tokens is not None else ((world.token.address, CAP),)
    vault = world.deploy("Vault", guardian, stake_token or world.token.address, unbonding, list(listed))
    if modules is not None:
        vault.seal(list(modules), sender=guardian)
    return vault
