"""What time the agent thinks it is on the chain, and which seed a job has there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from market.chain import Block
from market.hashing import ZERO32, keccak256
from market.signing import Domain
from market.views import SeedView
from provider.chainside import ChainSide
from provider.seeds import JobSeed


class StillChain:
    """A chain whose newest block stays the same until somebody changes it."""

    def __init__(self) -> None:
        self.newest = Block(number=7, hash="0x07", parent_hash="0x06", timestamp=5_000, base_fee=1)

    def head(self) -> Block:
        return self.newest

    def balance(self, _address: str) -> int:
        return 10**18

    def block(self, number: int) -> Block:
        return dataclasses.replace(self.newest, number=number, timestamp=4_000 + number)


class Contracts:
    """The few answers that ChainSide asks of Jobs, Vault and Transactions."""

    address = "0x" + "11" * 20
    domain = Domain(31337, "0x" + "44" * 20)

    def dispute_window(self) -> int:
        return 600

    def dispute_deadline(self) -> int:
        return 86_400

    def staked(self, _owner: str) -> int:
        return 0


def make(chain: StillChain, seconds: list[float], wall: float = 0.0) -> ChainSide:
    parts: Any = Contracts()
    clock: Any = chain
    return ChainSide(clock, parts, parts, parts, clock=lambda: wall, monotonic=lambda: seconds[0])


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
    chain.newest = dataclasses.replace(chain.newest, number=8, hash="0x08", timestamp=6_000)
    side.look()
    assert side.now() == 6_000


def test_seen_time_is_of_blocks_whatever_the_clocks_say() -> None:
    seconds = [100.0]
    side = make(StillChain(), seconds, wall=9_000.0)
    seconds[0] = 500.0
    assert (side.now(), side.seen()) == (9_000, 5_000)
    assert side.seen(2) == 4_005
    assert side.seen(100) == 4_000


JOB = keccak256(b"job")
SEED = keccak256(b"seed")


class SeededJobs(Contracts):
    def __init__(self, view: SeedView) -> None:
        self.view = view

    def seed_of(self, _job: bytes) -> SeedView:
        return self.view


@pytest.mark.parametrize(
    ("view", "expected", "age"),
    [
        (SeedView(SEED, 5, False), SEED, 2),
        (SeedView(SEED, 5, True), SEED, 2),
        (SeedView(ZERO32, 5, False), ZERO32, 2),  # out of reach, or a head that the contract had not seen
        (SeedView(ZERO32, 7, False), keccak256(JOB + b"\x07"), 0),
        (SeedView(ZERO32, 0, False), ZERO32, 7),
    ],
)
def test_seed_of_the_newest_block_is_what_the_contract_will_say_in_the_next(
    view: SeedView, expected: bytes, age: int
) -> None:
    chain: Any = StillChain()
    parts: Any = Contracts()
    jobs: Any = SeededJobs(view)
    side = ChainSide(chain, jobs, parts, parts)
    assert side.seed(JOB) == JobSeed(dataclasses.replace(view, seed=expected), age)
