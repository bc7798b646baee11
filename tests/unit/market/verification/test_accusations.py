"""Whoever changes a number is found, and found at that number; whoever changes none is not. By steps in Python: the EVM
judges many more lies in tests/unit/contracts/test_lies_judged.py.
"""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from market.verification.accusation import Accuser, NothingWrong
from market.verification.descent import Agrees, Descent, Leaf, Outside, RevealError
from market.verification.geometry import NORMS, Node, Operation, Place
from market.verification.inputs import is_maximum
from market.verification.leaves import decode
from market.verification.model_trees import ModelTrees
from market.verification.step import OpeningError
from market.verification.structs import Accusation, Opening
from market.verification.trace import Trace
from tests.liar import (
    Decoy,
    coarser,
    find,
    lie,
    skipped_layer,
    stale_key,
    swapped_rows,
    wrong_positions,
)
from tests.unit.market.verification.setting import Setting

Op = Operation


def prove(base: Setting, liar: Trace) -> tuple[Place, Accusation]:
    """Finds the first wrong leaf and proves it; the same accusation of the honest trace is none."""
    descent, move, reveals = find(base.honest, liar)
    assert isinstance(move, Leaf)
    assert reveals <= base.geometry.rounds() + 1
    accusation = Accuser(descent, base.trees).accuse(move.place, liar.payload(move.place))
    assert base.step.is_wrong(base.claim(), liar.root(), accusation)
    innocent = base.accuse_anyway(move.place, accusation.element, accusation.witness)
    assert not base.step.is_wrong(base.claim(), base.honest.root(), innocent)
    return move.place, accusation


def caught(base: Setting, place: Place, element: int, delta: int, continued: bool) -> None:
    liar = lie(base.model, base.shape, base.input_ids, base.output_ids, place, element, delta, continued)
    found, accusation = prove(base, liar)
    assert found == place
    if continued and is_maximum(place.operation, place.slot, element):
        assert accusation.element <= element + 1
    else:
        assert accusation.element == element


def some_element(base: Setting, rng: random.Random, group: int, operation: Operation) -> tuple[Place, int]:
    """Statistics as often as values."""
    section = base.geometry.section(group, operation)
    place = base.random_place(rng, group, operation)
    if section.statistic and rng.random() < 0.5:
        place = place._replace(slot=0)
    return place, rng.randrange(section.elements(place.row, place.slot))


OPERATIONS = [
    (group, op) for group, ops in ((0, [Op.EMBEDDING]), (2, list(Op)[1:18]), (3, list(Op)[18:])) for op in ops
]


@pytest.mark.parametrize(("group", "operation"), OPERATIONS, ids=lambda value: getattr(value, "name", str(value)))
def test_one_wrong_element_is_found_and_proved(tiny: Setting, group: int, operation: Operation) -> None:
    rng = random.Random(operation)
    for continued in (True, False):
        for _ in range(3):
            place, element = some_element(tiny, rng, group, operation)
            caught(tiny, place, element, rng.choice([1, -1, 2, -5]), continued)


def test_every_element_of_statistics_and_sums(tiny: Setting) -> None:
    for place, elements in (
        (Place(1, Op.ATTENTION_NORM, 3, 0), 4),
        (Place(2, Op.FEED_FORWARD_NORM, 70, 0), 4),
        (Place(3, Op.OUTPUT_NORM, 11, 0), 4),
        (Place(2, Op.QUANTISE_MIX, 64, 0), 2),
        (Place(1, Op.ACTIVATION, 5, 0), 2),
        (Place(2, Op.SOFTMAX, 65, 3), 4),
    ):
        for element in range(elements):
            caught(tiny, place, element, 1 if (place.row + element) % 2 else -1, continued=False)


@pytest.mark.parametrize(
    ("place", "element"),
    [
        (Place(1, Op.SOFTMAX, 20, 1), 1),
        (Place(1, Op.ATTENTION_NORM, 20, 0), 3),
        (Place(1, Op.QUANTISE_MIX, 20, 0), 1),
        (Place(1, Op.ACTIVATION, 20, 0), 1),
    ],
)
def test_an_index_far_outside_its_row_is_wrong(tiny: Setting, place: Place, element: int) -> None:
    for delta in (2**40, -(2**40)):
        caught(tiny, place, element, delta, continued=False)


def test_no_witness_contradicts_a_true_maximum(tiny: Setting) -> None:
    for place, count in ((Place(1, Op.SOFTMAX, 5, 0), 6), (Place(1, Op.ATTENTION_NORM, 5, 0), 72)):
        for witness in range(count):
            first = 2 if place.operation in NORMS else 0
            accusation = tiny.accuse_anyway(place, first, witness)
            assert not tiny.step.is_wrong(tiny.claim(), tiny.honest.root(), accusation)


def test_of_equal_scores_the_lowest_index_is_the_maximum(tiny: Setting) -> None:
    """Equal ids under equal rotations are equal keys: with cos and sin of position 0 everywhere, a prompt of one id
    ties all scores of a row.
    """
    still = wrong_positions(tiny.model, 0)
    tables = still.tables
    flat = dataclasses.replace(
        tables,
        rope_cos=np.broadcast_to(tables.rope_cos[:1], tables.rope_cos.shape).copy(),
        rope_sin=np.broadcast_to(tables.rope_sin[:1], tables.rope_sin.shape).copy(),
    )
    model = dataclasses.replace(still, tables=flat)
    trees = ModelTrees(model, tiny.shape)
    pack = dataclasses.replace(
        tiny.pack, model=model, roots=dataclasses.replace(tiny.pack.roots, tables_root=trees.tables_root)
    )
    base = Setting(pack, (7,) * 20, (7,))
    place = Place(1, Op.SOFTMAX, 10, 2)
    assert decode(base.honest.payload(place), 8, 2)[1] == 0
    liar = lie(base.model, base.shape, base.input_ids, base.output_ids, place, 1, 4, continued=False)
    _, accusation = prove(base, liar)
    assert (accusation.element, accusation.witness) == (1, 0)


def test_padding_is_accused_where_only_it_is_wrong(tiny: Setting) -> None:
    for place in (Place(1, Op.SCORES, 70, 1), Place(0, Op.EMBEDDING, 0, 1), Place(2, Op.QUANTISE_MIX, 1, 0)):
        count = tiny.geometry.section(place.group, place.operation).elements(place.row, place.slot)
        liar = lie(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids, place, count, 1, continued=False)
        found, accusation = prove(tiny, liar)
        assert (found, accusation.element, accusation.inputs) == (place, count, ())


def test_whole_models_that_are_wrong(tiny: Setting) -> None:
    """A swapped row, another quantisation, a skipped layer, turned positions, a stale cache entry, an edited prompt."""
    model, shape, texts = tiny.model, tiny.shape, (tiny.input_ids, tiny.output_ids)
    expected = {
        "swapped row": (Trace(swapped_rows(model, 1, "gate", (3, 90)), shape, *texts), (2, Op.GATE)),
        "quantisation": (Trace(coarser(model), shape, *texts), (1, Op.QUERY)),
        "skipped": (Trace(model, shape, *texts, hook=skipped_layer(1)), (2, Op.DOWN)),
        "positions": (Trace(wrong_positions(model), shape, *texts), (1, Op.ROTATE_QUERY)),
        "stale": (Trace(model, shape, *texts, hook=stale_key(1, 40)), (2, Op.ROTATE_KEY)),
        "prompt": (Trace(model, shape, (5, *tiny.input_ids[1:]), tiny.output_ids), (0, Op.EMBEDDING)),
    }
    for name, (liar, (group, operation)) in expected.items():
        found, _ = prove(tiny, liar)
        assert (found.group, found.operation) == (group, operation), name


def test_the_first_skipped_layer_is_found_too(tiny: Setting) -> None:
    found, _ = prove(tiny, Trace(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids, hook=skipped_layer(0)))
    assert (found.group, found.operation) == (1, Op.DOWN)


def test_two_lies_and_the_first_in_tree_order_is_accused(tiny: Setting) -> None:
    """Also within a leaf: the lowest element."""
    late = lie(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids, Place(2, Op.UP, 3, 0), 9, 1, continued=True)
    early = Place(1, Op.KEY, 60, 1)

    def hook(group: int, operation: Operation, part: str, array: object) -> None:
        for lie_hook in (late._recomputation._hook,):
            assert lie_hook is not None
            lie_hook(group, operation, part, array)  # type: ignore[arg-type]
        if (group, operation, part) == (1, Op.KEY, "elements"):
            array[60, 1, 7] += 1  # type: ignore[index]
            array[60, 1, 4] -= 1  # type: ignore[index]

    found, accusation = prove(tiny, Trace(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids, hook=hook))
    assert (found, accusation.element) == (early, 4)


def test_decoys_are_found_as_such(tiny: Setting) -> None:
    geometry = tiny.geometry
    scores = geometry.section_node(1, Op.SCORES)
    section = geometry.section(1, Op.SCORES)
    for node in (
        scores.child(section.bits, section.leaf(10, 1)),  # a block after the position's own
        scores.child(section.row_bits, 100),  # a row after the last
        Node(geometry.group_bits + 5, 20),  # an operation that no embedding has
        Node(geometry.group_bits + 5, 32 + 17),
    ):
        liar = Decoy(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids, node)
        _, move, _ = find(tiny.honest, liar)
        assert isinstance(move, Outside)
        assert move.node.depth <= node.depth
        assert node.index >> (node.depth - move.node.depth) == move.node.index
        assert not geometry.node_at(move.node).inside


def test_an_honest_provider_is_agreed_with(tiny: Setting) -> None:
    descent = Descent(tiny.honest, tiny.honest.root())
    assert descent.next() == Agrees()
    with pytest.raises(NothingWrong):
        Accuser(descent, tiny.trees).accuse(Place(1, Op.KEY, 0, 0), tiny.honest.payload(Place(1, Op.KEY, 0, 0)))


def test_reveals_that_do_not_fold_are_refused(tiny: Setting) -> None:
    liar = lie(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids, Place(1, Op.KEY, 0, 0), 0, 1, continued=True)
    descent = Descent(tiny.honest, liar.root())
    with pytest.raises(RevealError, match="do not lead"):
        descent.add(Node(0, 0), tiny.honest.reveal(Node(0, 0)))
    with pytest.raises(RevealError, match="hangs below nothing"):
        descent.add(Node(2, 1), liar.reveal(Node(2, 1)))
    with pytest.raises(RevealError, match="hashes answer"):
        descent.add(Node(0, 0), liar.reveal(Node(0, 0))[:-1])
    with pytest.raises(RevealError, match="was not revealed"):
        descent.hash(Node(2, 1))


def test_openings_that_do_not_hold(tiny: Setting) -> None:
    """Every opening with a bit flipped in its payload or its path, one sibling less, one input less, another place."""
    for place, element in (
        (Place(1, Op.QUERY, 3, 1), 2),
        (Place(2, Op.MIX_SUM, 70, 1), 2),
        (Place(1, Op.ROTATE_KEY, 9, 1), 3),
        (Place(0, Op.EMBEDDING, 61, 0), 5),
        (Place(1, Op.ATTENTION_OUTPUT, 9, 1), 3),
    ):
        good = tiny.accuse_anyway(place, element)
        judged = tiny.step.is_wrong(tiny.claim(), tiny.honest.root(), good)
        assert not judged
        broken = [dataclasses.replace(good, accused=other) for other in spoilt(good.accused)]
        broken += [
            dataclasses.replace(good, inputs=(*good.inputs[:i], other, *good.inputs[i + 1 :]))
            for i, opening in enumerate(good.inputs)
            for other in spoilt(opening)
        ]
        broken += [
            dataclasses.replace(good, inputs=good.inputs[:-1]),
            dataclasses.replace(good, inputs=(*good.inputs, good.inputs[0])),
            dataclasses.replace(good, row=good.row + 1),
            dataclasses.replace(good, slot=good.slot + 64),
            dataclasses.replace(good, group=9),
            dataclasses.replace(good, operation=31),
            dataclasses.replace(good, element=65),
        ]
        for accusation in broken:
            with pytest.raises(OpeningError):
                tiny.step.is_wrong(tiny.claim(), tiny.honest.root(), accusation)


def spoilt(opening: Opening) -> list[Opening]:
    payload, path = opening.payload, opening.path
    flipped = bytes([payload[0] ^ 1]) + payload[1:]
    return [
        Opening(flipped, path),
        Opening(payload + bytes(32), path),
        Opening(payload[:-32], path),
        Opening(payload, path[:-1]),
        Opening(payload, (*path, bytes(32))),
        Opening(payload, (bytes(32), *path[1:])),
    ]


def test_witnesses_outside_the_row_are_refused(tiny: Setting) -> None:
    good = tiny.accuse_anyway(Place(1, Op.SOFTMAX, 20, 1), 0, 20)
    for witness in (21, 64, 2**31):
        with pytest.raises(OpeningError):
            tiny.step.is_wrong(tiny.claim(), tiny.honest.root(), dataclasses.replace(good, witness=witness))
