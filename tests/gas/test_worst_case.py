"""The dearest calls that anybody can make of a job: each fits a block many times over, so no job can be stuck."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from market.hashing import pack_tokens, tokens_root
from market.views import JobState
from tests.gas.anvil import AnvilChain, anvil
from tests.gas.draws import enlist_new, unlucky_draws
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.draws import MODEL_ID as DRAWN_MODEL_ID
from tests.unit.contracts.draws import offer, post_drawn, publish
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    REPLICAS,
    REVEAL_WINDOW,
    STAKE,
    World,
    answer,
    request,
)

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


def enlist_dearer(world: World, numbers: range) -> None:
    """Providers with the highest weight whose offers take everything but the last term: a draw reads all of them."""
    for number in numbers:
        enlist_new(world, f"dearer {number}", STAKE, pricePerMInput=500_001)


def test_unlucky_draws_from_a_list_of_the_least_weight_fit_a_block_thirty_times() -> None:
    draws = unlucky_draws(4)
    assert max(draw.rejected for draw in draws) > 20
    assert {len(draw.providers) for draw in draws} <= {0, 3}
    assert any(draw.providers for draw in draws)
    assert max(draw.gas for draw in draws) < BLOCK // 30


def test_drawing_seven_among_many_that_do_not_take_the_terms_fits_a_block_fifteen_times(world: World) -> None:
    """All 64 tries, most of an entry that nobody looked at before; with luck the seven are found, else none is."""
    publish(world)
    for provider in REPLICAS:
        world.registry.setProvider("http://x", bytes(32), sender=provider.address)
        world.registry.setOffer(DRAWN_MODEL_ID, offer(world), sender=provider.address)
    enlist_dearer(world, range(17))
    job = post_drawn(world, 7, quorum=4)
    costs = []
    while world.job(job)["state"] == JobState.DRAWING:
        assert len(costs) < 20, "seven are never found"
        world.jobs.draw(job.id, sender=CLIENT.address)
        costs.append(world.chain.gas_used)
    enlist_dearer(world, range(17, 57))
    failing = post_drawn(world, 7, quorum=4)
    world.jobs.draw(failing.id, sender=CLIENT.address)
    assert world.job(failing)["state"] == JobState.DRAWING
    costs.append(world.chain.gas_used)
    assert max(costs) < BLOCK // 15
