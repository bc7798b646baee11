"""Where the judge says that nodes lie, against market/verification's geometry."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from market.verification.geometry import OPERATION_BITS, REVEAL_LEVELS, Geometry, Node, Place
from market.verification.structs import Shape
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.claims import Court, Ground
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.step_cases import LARGEST, SHAPES, formats

LENGTHS = [(1, 1), (1, 2), (63, 1), (64, 1), (65, 64), (128, 64), (200, 100)]


@pytest.fixture(scope="module")
def court() -> Court:
    return Court(RevmChain(list(artefacts().values())))


def ground(court: Court, shape: Shape, lengths: tuple[int, int]) -> Ground:
    made = Ground(shape, formats(shape), [1] * lengths[0], [2] * lengths[1])
    court.know(shape, made.layers, made.program_root)
    return made


def nodes(geometry: Geometry, random: Random, count: int) -> Sequence[Node]:
    """All down to the operations, and some of every section at every depth, edges more often."""
    upper = [Node(d, i) for d in range(geometry.group_bits + 1) for i in range(1 << d)]
    found = upper if len(upper) < 40 else random.sample(upper, 40)
    for _ in range(count):
        group = random.choice((0, 1, geometry.groups - 1, random.randrange(geometry.groups)))
        depth = random.randint(1, OPERATION_BITS)
        found.append(Node(geometry.group_bits, group).child(depth, random.randrange(1 << depth)))
        section = geometry.section(group, random.choice(geometry.operations(group)))
        row = random.choice((0, section.rows - 1, section.rows, random.randrange(section.rows + 2)))
        slot = random.choice((0, section.slots - 1, section.slots, random.randrange(section.slots + 2)))
        bits = random.randint(0, section.bits)
        leaf = min((row << section.slot_bits) + slot, (1 << section.bits) - 1)
        top = geometry.section_node(group, section.operation)
        found.append(top.child(bits, leaf >> (section.bits - bits)))
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.layers} layers")
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_nodes_lie_where_the_geometry_says(court: Court, shape: Shape, lengths: tuple[int, int]) -> None:
    at = ground(court, shape, lengths)
    claim = at.claim().values()
    for node in nodes(at.geometry, Random(str(lengths)), 60):
        assert court.judge.nodeAt(claim, *node) == tuple(at.geometry.node_at(node)), node


@pytest.mark.parametrize("shape", [*SHAPES, LARGEST], ids=lambda shape: f"{shape.layers} layers")
def test_rounds_are_the_reveals_below_the_root_on_the_longest_way(court: Court, shape: Shape) -> None:
    for lengths in [*LENGTHS, (1, shape.context - 1), (shape.context - 1, 1)]:
        if sum(lengths) > shape.context:
            continue
        at = ground(court, shape, lengths)
        assert court.judge.rounds(at.claim().values()) == at.geometry.rounds()


def test_rounds_are_those_of_a_way_down_by_the_judges_own_reveals(court: Court) -> None:
    at = ground(court, SHAPES[3], (128, 64))
    claim, longest = at.claim().values(), 0
    for operation in at.geometry.operations(1):
        section = at.geometry.section(1, operation)
        leaf = at.geometry.node_of(Place(1, operation, section.rows - 1, 0))
        depth, reveals = 0, 0
        while levels := court.judge.nodeAt(claim, depth, leaf.index >> (leaf.depth - depth))[0]:
            assert levels <= REVEAL_LEVELS
            depth, reveals = depth + levels, reveals + 1
        assert depth == leaf.depth
        longest = max(longest, reveals)
    assert court.judge.rounds(claim) == longest - 1


def test_node_that_cannot_be_is_refused(court: Court) -> None:
    at = ground(court, SHAPES[0], (65, 64))
    g = at.geometry
    section = g.section(1, g.operations(1)[0])
    leaf = g.node_of(Place(1, section.operation, 0, 0))
    beyond = [
        Node(1, 2), Node(0, 1), Node(256, 0),
        leaf.child(1, 0),  # below a leaf
        g.section_node(1, g.operations(1)[0]).child(0, 31).child(1, 0),  # below an operation that its group lacks
    ]  # fmt: skip
    for depth, index in beyond:
        with pytest.raises(Revert) as refused:
            court.judge.nodeAt(at.claim().values(), depth, index)
        assert (refused.value.name, refused.value.values) == ("NoSuchNode", {"depth": depth, "index": index})


def test_nothing_lies_below_a_group_that_the_program_lacks(court: Court) -> None:
    at = ground(court, SHAPES[3], (3, 2))
    g = at.geometry
    claim = at.claim().values()
    assert court.judge.nodeAt(claim, g.group_bits, g.groups - 1) == (OPERATION_BITS, 0, True)
    # 32 groups of 32: nothing is outside; three layers make five of eight
    smaller = ground(court, SHAPES[2], (3, 2))
    g, claim = smaller.geometry, smaller.claim().values()
    assert court.judge.nodeAt(claim, g.group_bits, g.groups) == (0, 0, False)
    assert court.judge.nodeAt(claim, g.group_bits - 1, 3) == (1, 0, False)
    with pytest.raises(Revert) as refused:
        court.judge.nodeAt(claim, g.group_bits + 1, g.groups << 1)
    assert refused.value.name == "NoSuchNode"
