"""The game with the judge that is deployed: its geometry is the one that disputes are timed and paid by."""

from __future__ import annotations

import dataclasses

import pytest

from market.hashing import ZERO32, keccak256, tokens_root
from market.types import Model
from market.verification.geometry import Geometry
from market.verification.structs import LayerFormat, Shape
from tests.gas.disputes import ANSWER, LAYERS, MODEL, PLACE, PROMPT, SHAPE, TABLES_PATH, JudgedWorld, WayDown
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.claims import root_of
from tests.unit.contracts.disputes import OPENER, OTHER, PROVIDER, WINDOW, DisputeWorld, Game, request
from tests.unit.contracts.world import DAY

OPEN, GUILTY = 1, 2
MAX_ROUNDS = 11


@pytest.fixture(scope="module")
def judged() -> DisputeWorld:
    return JudgedWorld()


def opened(world: DisputeWorld, shape: Shape, layers: tuple[LayerFormat, ...], index: int) -> Game:
    world.judge.acceptProgram(shape.values(), [layer.values() for layer in layers], sender=OPENER.address)
    world.judge.acceptTables(MODEL.tables_root, TABLES_PATH, sender=OPENER.address)
    roots: Model = dataclasses.replace(MODEL, program_root=root_of(shape, layers))
    asked = request(
        model_id=roots.model_id,
        input_root=tokens_root(PROMPT),
        input_tokens=len(PROMPT),
        max_output_tokens=len(ANSWER),
    )
    game = Game(world, request=asked, ids=ANSWER, prompt=PROMPT, model=roots, index=index)
    if not index:
        game.session()
    return game.open()


def test_way_down_to_a_payload_of_the_models_size_takes_five_requests(judged: DisputeWorld) -> None:
    game = opened(judged, SHAPE, LAYERS, 0)
    geometry = Geometry(SHAPE, len(PROMPT), len(ANSWER))
    leaf = geometry.node_of(PLACE)
    way = WayDown(geometry, leaf, bytes(geometry.node_at(leaf).payload_bytes))
    assert geometry.rounds() + 1 == len(way.stops) - 1 == 5
    assert game.view["endAt"] == judged.chain.now + DAY + (2 * 5 + 3) * WINDOW
    disputes = judged.disputes
    disputes.answerRoot(game.claim, way.shown[way.stops[0]], sender=PROVIDER.address)
    for above, stop in zip(way.stops, way.stops[1:], strict=False):
        node = (stop.depth, stop.index, way.hash(stop, above), way.path(stop, above))
        disputes.request(game.claim, node, b"", sender=OTHER.address)
        if stop == leaf:
            disputes.answerPayload(game.id, *stop, way.payload, sender=PROVIDER.address)
        else:
            disputes.answerHashes(game.id, *stop, way.shown[stop], sender=PROVIDER.address)
    assert (game.view["state"], game.view["unanswered"]) == (OPEN, 0)


def test_group_that_the_program_has_not_must_be_empty(judged: DisputeWorld) -> None:
    """Three layers make five groups of eight places."""
    shape = dataclasses.replace(SHAPE, layers=3)
    game = opened(judged, shape, LAYERS[:3], 1)
    hidden, disputes = keccak256(b"hidden"), judged.disputes
    hashes = [keccak256(bytes([i])) for i in range(5)] + [ZERO32, ZERO32, hidden]
    disputes.answerRoot(game.claim, hashes, sender=PROVIDER.address)
    level = [keccak256(hashes[i] + hashes[i + 1]) for i in range(0, 8, 2)]
    left = keccak256(level[0] + level[1])
    inside = (3, 4, hashes[4], [ZERO32, level[3], left])
    with reverts("NodeInside", disputeId=game.id, depth=3, index=4):
        disputes.proveOutside(game.claim, inside, sender=OTHER.address)
    empty = (3, 6, ZERO32, [hidden, level[2], left])
    with reverts("NothingWrong", disputeId=game.id):
        disputes.proveOutside(game.claim, empty, sender=OTHER.address)
    with reverts("NodeOutside", disputeId=game.id, depth=3, index=7):
        disputes.request(game.claim, (3, 7, hidden, [ZERO32, level[2], left]), b"", sender=OTHER.address)
    disputes.proveOutside(game.claim, (2, 3, level[3], [level[2], left]), sender=OTHER.address)
    assert game.view["state"] == GUILTY


@pytest.mark.parametrize("prompt", [1, 2_048, 4_095])
def test_no_program_that_can_be_judged_has_more_rounds_than_a_dispute(prompt: int) -> None:
    largest = Shape(2**32 - 1, 4_096, 2_048, 2_048, 254, 64, 64, 64, 1, 1, True, 1, 1)
    assert Geometry(largest, prompt, 4_096 - prompt).rounds() + 1 <= MAX_ROUNDS
