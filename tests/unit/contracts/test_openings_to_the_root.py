"""Openings reach the root that the provider gave: one that stops at a node that was revealed is refused, and nothing is
proved about what is not in the tree that was answered (ADR 22).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.hashing import leaf_hash
from market.verification.structs import Accusation, Opening
from market.verification.tree import fold_path
from tests.stateful.dispute_stage import JudgedGame, JudgedStage, Scene
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.claims import deploy_judge
from tests.unit.contracts.disputes import OTHER
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.test_judge_mutations import HONEST, VECTORS, accusation_of, of_json

OPEN, GUILTY = 1, 2
LIES = [v for v in VECTORS["accusations"] if v["root"] != VECTORS["root"]]


# --- in the game


@pytest.fixture(scope="module")
def stage(tiny_pack: Path) -> JudgedStage:
    return JudgedStage(tiny_pack, scenes=2)


@pytest.fixture
def found(stage: JudgedStage) -> Iterator[tuple[JudgedGame, Scene]]:
    """A lie that was descended to: every node above the leaf is revealed, and the leaf's payload given."""
    chain = stage.world.chain
    assert isinstance(chain, RevmChain)
    with chain.undone():
        scene = stage.scene(0, "liar")
        game = stage.game(scene)
        assert isinstance(game, JudgedGame)
        game.session().open()
        stage.ready(game, scene, "liar")
        game.answer_root()
        above = 0
        for depth in scene.way:
            game.ask(*scene.on_the_way(depth), up=depth - above).answer(*scene.on_the_way(depth))
            above = depth
        yield game, scene


def prove(game: JudgedGame, accusation: Accusation) -> None:
    game.world.disputes.prove(game.claim, accusation.values(), sender=OTHER.address)


def test_opening_that_stops_at_a_revealed_node_proves_nothing(found: tuple[JudgedGame, Scene]) -> None:
    """Whichever of the answered nodes it stops at, the leaf itself too, whose payload the provider gave."""
    game, scene = found
    accusation = game.accusations[scene.leaf]
    whole = accusation.accused
    depth, index = scene.leaf
    for stop in scene.way:
        path = whole.path[: depth - stop]
        at = game.world.disputes.nodes(game.id, stop, index >> (depth - stop))
        assert at["answered"]
        assert fold_path(leaf_hash(whole.payload), index, path) == at["hash"]  # it is an opening of that node
        with reverts("PathMisfit", expected=depth, actual=depth - stop):
            prove(game, replace(accusation, accused=Opening(whole.payload, path)))
    assert game.view["state"] == OPEN
    prove(game, accusation)
    assert game.view["state"] == GUILTY


def test_input_that_stops_at_a_revealed_node_proves_nothing(found: tuple[JudgedGame, Scene]) -> None:
    game, scene = found
    accusation = game.accusations[scene.leaf]
    assert accusation.inputs
    for i, opening in enumerate(accusation.inputs):
        for kept in range(len(opening.path)):
            inputs = list(accusation.inputs)
            inputs[i] = Opening(opening.payload, opening.path[:kept])
            with pytest.raises(Revert) as caught:
                prove(game, replace(accusation, inputs=tuple(inputs)))
            assert caught.value.name == "PathMisfit"
    prove(game, accusation)
    assert game.view["state"] == GUILTY


def test_lie_in_a_tree_that_was_not_answered_is_none(stage: JudgedStage) -> None:
    """Another lie of the same provider, with openings of the tree that has it."""
    chain = stage.world.chain
    assert isinstance(chain, RevmChain)
    with chain.undone():
        shown, other = stage.scene(0, "liar"), stage.scene(1, "liar")
        game = stage.game(shown)
        assert isinstance(game, JudgedGame)
        game.session().open()
        stage.ready(game, other, "liar")
        game.answer_root()
        root, told = shown.tree.node(0, 0), other.tree.node(0, 0)
        with reverts("OpeningMismatch", root=root, actual=told):
            prove(game, game.accusations[other.leaf])
        assert game.view["state"] == OPEN


# --- before the judge


@pytest.fixture(scope="module")
def judge() -> Contract:
    deployed = deploy_judge(RevmChain(list(artefacts().values())))
    shape, layers = (VECTORS[key] for key in ("shape", "layers"))
    deployed.acceptProgram(tuple(shape.values()), [tuple(layer.values()) for layer in layers])
    return deployed


def test_no_path_of_another_length_is_judged(judge: Contract) -> None:
    claim, root = of_json(VECTORS["claim"]), of_json(VECTORS["root"])
    for accusation in HONEST:
        payload, path = accusation.accused.payload, accusation.accused.path
        for other in (*(path[:kept] for kept in range(len(path))), (*path, bytes(32))):
            with reverts("PathMisfit", expected=len(path), actual=len(other)):
                judge.isWrong(claim, root, replace(accusation, accused=Opening(payload, other)).values())


@pytest.mark.parametrize("value", LIES, ids=lambda value: f"{value['root'][:10]}")
def test_lie_is_one_in_its_own_tree_only(judge: Contract, value: dict[str, Any]) -> None:
    claim, accusation = of_json(VECTORS["claim"]), accusation_of(value["accusation"])
    own, honest = of_json(value["root"]), of_json(VECTORS["root"])
    assert judge.isWrong(claim, own, accusation.values())
    with reverts("OpeningMismatch", root=honest, actual=own):
        judge.isWrong(claim, honest, accusation.values())
