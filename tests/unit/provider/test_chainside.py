"""What time the agent thinks it is on the chain."""

from __future__ import annotations

import dataclasses
from typing import Any

from market.chain import Block
from market.signing import Domain
from provider.chainside import ChainSide


class StillChain:
    """A chain whose newest block stays the same until somebody changes it."""

    def __init__(self) -> None:
        self.block = Block(number=7, hash="0x07", parent_hash="0x06", timestamp=5_000, base_fee=1)

    def head(self) -> Block:
        return self.block


class Contracts:
    """The few answers that ChainSide asks of Jobs, Vault and Transactions."""

    address = "0x" + "11" * 20
    domain = Domain(31337, "0x" + "44" * 20)

    def dispute_window(self) -> int:
        return 600

    def staked(self, _owner: str) -> int:
        return 0


def make(chain: StillChain, seconds: list[float]) -> ChainSide:
    parts: Any = Contracts()
    clock: Any = chain
    return ChainSide(clock, parts, parts, parts, clock=lambda: 0.0, monotonic=lambda: seconds[0])


def test_now_on_a_chain_without_new_blocks_goes_on_though_the_head_is_read_again() -> None:
    """An idle development chain that was warped ahead stood still here, and a bond was never released."""
    seconds = [100.0]
    side = make(StillChain(), seconds)
    for tick in range(1, 6):
        seconds[0] = 100.0 + tick
        side.look()
    assert side.now() == 5_005


def test_now_after_a_new_block_starts_from_its_timestamp() -> None:
    seconds, chain = [100.0], StillChain()
    side = make(chain, seconds)
    seconds[0] = 150.0
    chain.block = dataclasses.replace(chain.block, number=8, hash="0x08", timestamp=6_000)
    side.look()
    assert side.now() == 6_000
