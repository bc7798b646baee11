"""The test token: what its faucet gives, and where it is minted."""

from __future__ import annotations

import pytest

from tests.unit.contracts.abi import Revert
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CLIENT, STRANGER, World

LIMIT = 10_000 * 10**6


def test_faucet_gives_anybody_up_to_its_limit(world: World) -> None:
    before = world.token.balanceOf(CLIENT.address)
    world.token.faucet(CLIENT.address, LIMIT, sender=STRANGER.address)
    assert world.token.balanceOf(CLIENT.address) == before + LIMIT
    assert world.token.FAUCET_LIMIT() == LIMIT


def test_faucet_above_its_limit_gives_nothing(world: World) -> None:
    before = world.token.totalSupply()
    with pytest.raises(Revert, match="FaucetLimit") as refused:
        world.token.faucet(STRANGER.address, LIMIT + 1, sender=STRANGER.address)
    assert refused.value.values == {"amount": LIMIT + 1, "limit": LIMIT}
    assert world.token.totalSupply() == before


@pytest.mark.parametrize(("chain_id", "minted"), [(1337, True), (31337, True), (1, False), (11155111, False)])
def test_mint_happens_on_development_chains_alone(chain_id: int, minted: bool) -> None:
    code = artefacts()["TestToken"]
    token = RevmChain([code], chain_id=chain_id).deploy(code, sender=STRANGER.address)
    if minted:
        token.mint(STRANGER.address, 2 * LIMIT, sender=STRANGER.address)
        assert token.totalSupply() == 2 * LIMIT
    else:
        with pytest.raises(Revert, match="NotDevelopmentChain"):
            token.mint(STRANGER.address, 1, sender=STRANGER.address)
        token.faucet(STRANGER.address, LIMIT, sender=STRANGER.address)
        assert token.totalSupply() == LIMIT
