"""A whole trace of the tiny model: the judge finds every lie at its element, and nothing in the honest trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from market.hashing import tokens_root
from market.inference.model import IntegerModel
from market.inference.reference import greedy
from market.models.pack import load_pack
from market.verification.accusation import Accuser, accuse_token
from market.verification.descent import Descent, Leaf
from market.verification.geometry import Operation, Place, number_of
from market.verification.inputs import Inputs, is_maximum, maximum_count
from market.verification.model_trees import ModelTrees
from market.verification.structs import Accusation, Claim, LayerFormat, Opening, Shape
from market.verification.trace import Trace
from tests.liar import find, lie
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.claims import deploy_judge
from tests.unit.contracts.revm import RevmChain

PROMPT, OUTPUTS = 67, 5  # two blocks of positions
FEW, MANY = 3, 60


@dataclass
class Trial:
    """The tiny model's answer, its honest trace, and a judge who knows its program."""

    judge: Contract
    model: IntegerModel
    trace: Trace
    trees: ModelTrees
    claim: Claim

    @property
    def arguments(self) -> tuple[IntegerModel, Shape, tuple[int, ...], tuple[int, ...]]:
        return self.model, self.trace.geometry.shape, self.trace.input_ids, self.trace.output_ids

    def finds_wrong(self, root: bytes, accusation: Accusation) -> bool:
        found: bool = self.judge.isWrong(self.claim.values(), root, accusation.values())
        return found


@pytest.fixture(scope="module")
def trial(tiny_pack: Path) -> Trial:
    pack = load_pack(tiny_pack)
    judge = deploy_judge(RevmChain(list(artefacts().values())))
    shape, layers = Shape.of(pack.program), LayerFormat.all_of(pack.program)
    judge.acceptProgram(shape.values(), [layer.values() for layer in layers])
    random = Random(11)
    prompt = [random.randrange(shape.vocabulary) for _ in range(PROMPT)]
    output = greedy(pack.model, prompt, OUTPUTS, ())
    trees = ModelTrees(pack.model, shape)
    claim = Claim(
        "0x" + "22" * 20, bytes(32), "0x" + "33" * 20,
        pack.roots.weights_root, pack.roots.program_root, pack.roots.tables_root,
        tokens_root(prompt), tokens_root(output), len(prompt), len(output), 0, 0, 0, 0, bytes(32),
    )  # fmt: skip
    return Trial(judge, pack.model, Trace(pack.model, shape, prompt, output), trees, claim)


def places(trial: Trial, operation: Operation, random: Random, count: int) -> Iterator[tuple[Place, int]]:
    """Leaves of an operation and an element of each; statistics every other time."""
    geometry = trial.trace.geometry
    groups = [g for g in range(geometry.groups) if operation in geometry.operations(g)]
    while count:
        section = geometry.section(random.choice(groups), operation)
        row, slot = random.randrange(section.rows), random.randrange(section.slots)
        if section.statistic and count % 2:
            slot = 0
        if section.inside(row, slot):
            count -= 1
            elements = section.elements(row, slot)
            yield (
                Place(section.group, operation, row, slot),
                random.choice((0, elements - 1, random.randrange(elements))),
            )


def accuse_honest(trial: Trial, place: Place, element: int, witness: int) -> Accusation:
    accuser = Accuser(Descent(trial.trace, trial.trace.root()), trial.trees)
    token = (*trial.trace.input_ids, *trial.trace.output_ids)[place.row]
    node = trial.trace.geometry.node_of(place)
    descent = Descent(trial.trace, trial.trace.root())
    return Accusation(
        place.group, number_of(place.operation), place.row, place.slot, element, witness,
        Opening(trial.trace.payload(place), descent.path(node)),
        tuple(accuser.open(w) for w in Inputs(trial.trace.geometry).of(place, element, witness, token)),
    )  # fmt: skip


def try_honest(trial: Trial, operation: Operation, seed: int, count: int) -> None:
    random, root = Random(seed), trial.trace.root()
    for place, element in places(trial, operation, random, count):
        witness = 0
        if is_maximum(operation, place.slot, element):
            witness = random.randrange(maximum_count(trial.trace.geometry, place))
        assert not trial.finds_wrong(root, accuse_honest(trial, place, element, witness)), (place, element)
        padding = trial.trace.geometry.section(place.group, operation).elements(place.row, place.slot)
        assert not trial.finds_wrong(root, accuse_honest(trial, place, padding, 0)), place


def try_lies(trial: Trial, operation: Operation, seed: int, count: int) -> None:
    random, tried = Random(seed), 0
    for i, (place, element) in enumerate(places(trial, operation, random, count)):
        delta = random.choice((-1, 1)) * random.choice((1, 1, 3))
        liar = lie(*trial.arguments, place, element, delta, continued=bool(i % 2))
        if liar.root() == trial.trace.root():
            continue  # a limit swallowed it
        tried += 1
        descent, move, _ = find(trial.trace, liar)
        assert isinstance(move, Leaf)
        accusation = Accuser(descent, trial.trees).accuse(move.place, liar.payload(move.place))
        assert (move.place, accusation.element) == (place, element)
        assert trial.finds_wrong(liar.root(), accusation), (place, element, delta)
    assert tried


@pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name)
def test_honest_element_is_never_wrong(trial: Trial, operation: Operation) -> None:
    try_honest(trial, operation, 1, 6)


@pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name)
def test_lie_is_found_at_its_element(trial: Trial, operation: Operation) -> None:
    try_lies(trial, operation, 2, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name)
def test_lies_are_found_and_honest_elements_are_not_many_times(trial: Trial, operation: Operation) -> None:
    try_honest(trial, operation, 3, MANY)
    try_lies(trial, operation, 4, MANY)


def test_wrong_padding_is_found(trial: Trial) -> None:
    """The last chunk of a row of 72 has padding."""
    place = Place(1, Operation.DOWN, 3, 1)
    liar = lie(*trial.arguments, place, 8, 1, continued=False)
    descent, move, _ = find(trial.trace, liar)
    assert isinstance(move, Leaf)
    accusation = Accuser(descent, trial.trees).accuse(move.place, liar.payload(move.place))
    assert (move.place, accusation.element) == (place, 8)
    assert trial.finds_wrong(liar.root(), accusation)


def test_nobody_beats_a_greedy_answer(trial: Trial) -> None:
    accuser = Accuser(Descent(trial.trace, trial.trace.root()), trial.trees)
    for position, output in enumerate(trial.trace.output_ids):
        for rival in range(0, 288, 17):
            accusation = accuse_token(accuser, position, output, rival)
            assert not trial.judge.isOutputWrong(trial.claim.values(), trial.trace.root(), accusation.values())
