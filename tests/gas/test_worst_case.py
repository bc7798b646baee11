"""The dearest calls that anybody can make of a job: each fits a block many times over, so no job can be stuck."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from market.hashing import pack_tokens, tokens_root
from tests.gas.anvil import AnvilChain, anvil
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.world import CLIENT, COMMIT_WINDOW, REPLICAS, REVEAL_WINDOW, World, answer, request

BLOCK = 30_000_000
RIGHT = answer()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with anvil() as url:
        yield World(chain=AnvilChain(list(artefacts().values()), url))


def test_settling_seven_replicas_fits_a_block_thirty_times(world: World) -> None:
    """Three paid, three late, one silent: every kind of payment, to accounts that were never paid before."""
    job = world.post(7, quorum=4)
    world.commit(job, *((p, RIGHT) for p in REPLICAS))
    world.reveal(job, *((p, RIGHT) for p in REPLICAS[:4]))
    world.warp(REVEAL_WINDOW + 1)
    world.reveal(job, *((p, RIGHT) for p in REPLICAS[4:6]))
    world.settle(job)
    assert world.chain.gas_used < BLOCK // 30


def test_settling_seven_silent_replicas_fits_a_block_thirty_times(world: World) -> None:
    job = world.post(7, quorum=4)
    world.commit(job, *((p, RIGHT) for p in REPLICAS))
    world.warp(REVEAL_WINDOW + 1)
    world.settle(job)
    assert world.chain.gas_used < BLOCK // 30


def test_cancelling_and_lapsing_with_seven_replicas_fit_a_block_thirty_times(world: World) -> None:
    cancelled, lapsed = world.post(7, quorum=4), world.post(7, quorum=4)
    world.jobs.cancel(cancelled.id, sender=CLIENT.address)
    assert world.chain.gas_used < BLOCK // 30
    world.commit(lapsed, *((p, RIGHT) for p in REPLICAS[:3]))
    world.warp(COMMIT_WINDOW + 1)
    world.settle(lapsed)
    assert world.chain.gas_used < BLOCK // 30


def test_posting_seven_replicas_and_the_longest_input_fits_a_block(world: World) -> None:
    """2,048 ids, what the demo's model takes."""
    ids = list(range(2_048))
    asked = request(input_root=tokens_root(ids), input_tokens=len(ids))
    world.post(7, quorum=4, asked=asked, inline=pack_tokens(ids), terms={"max_input_tokens": 2_048})
    assert world.chain.gas_used < BLOCK // 10
