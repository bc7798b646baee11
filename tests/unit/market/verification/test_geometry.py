"""Where everything stands (docs/disputes.md, sections 2 and 4), against the definitions counted out."""

from __future__ import annotations

import random

import pytest

from market.verification.geometry import (
    REVEAL_LEVELS,
    Geometry,
    Node,
    Operation,
    Place,
    WeightGeometry,
    ceil_log2,
    number_of,
)
from market.verification.structs import Shape
from tests.unit.market.verification.setting import Setting
from tests.unit.market.verification.vectors import LENGTHS, SMOLLM2


@pytest.fixture(params=LENGTHS[:4], ids=str)
def geometry(request: pytest.FixtureRequest, tiny: Setting) -> Geometry:
    return Geometry(tiny.shape, *request.param)


def leaves_of(geometry: Geometry, group: int, operation: Operation) -> int:
    """Leaves of a section by the table's words."""
    c, p, o = geometry.shape, geometry.positions, geometry.output_tokens
    blocks_seen = sum(u // 64 + 1 for u in range(p))
    hidden, wide, heads, kv = -(-c.hidden // 64), -(-c.feed_forward // 64), c.heads, c.kv_heads
    return {
        Operation.EMBEDDING: p * hidden,
        Operation.ATTENTION_NORM: p * (1 + hidden),
        Operation.QUERY: p * heads,
        Operation.KEY: p * kv,
        Operation.ROTATE_QUERY: p * heads,
        Operation.ROTATE_KEY: p * kv,
        Operation.VALUE: -(-p // 64) * kv * c.head_size,
        Operation.SCORES: heads * blocks_seen,
        Operation.SOFTMAX: p * heads,
        Operation.MIX_SUM: heads * blocks_seen,
        Operation.MIX: p * heads,
        Operation.QUANTISE_MIX: p * (1 + heads),
        Operation.ATTENTION_OUTPUT: p * hidden,
        Operation.FEED_FORWARD_NORM: p * (1 + hidden),
        Operation.GATE: p * wide,
        Operation.UP: p * wide,
        Operation.ACTIVATION: p * (1 + wide),
        Operation.DOWN: p * hidden,
        Operation.OUTPUT_NORM: o * (1 + hidden),
        Operation.LOGITS: o * -(-c.vocabulary // 128),
    }[operation]


def test_sections_have_the_leaves_of_the_table(geometry: Geometry) -> None:
    for group in range(geometry.groups):
        for number, operation in enumerate(geometry.operations(group)):
            assert number_of(operation) == number
            section = geometry.section(group, operation)
            inside = [
                (row, slot) for row in range(section.rows) for slot in range(section.slots) if section.inside(row, slot)
            ]
            assert len(inside) == leaves_of(geometry, group, operation)
            assert not section.inside(section.rows, 0)
            assert not section.inside(0, section.slots)
            for row, slot in inside:
                assert section.elements(row, slot) > 0
                assert section.payload_bytes(row, slot) % 32 == 0


def test_elements_of_a_section_are_all_there(geometry: Geometry) -> None:
    """Every value of the table is in exactly one leaf: the leaves' elements add up."""
    c, p = geometry.shape, geometry.positions
    seen = p * (p + 1) // 2
    expected = {
        Operation.QUERY: p * c.heads * c.head_size,
        Operation.VALUE: p * c.kv_heads * c.head_size,
        Operation.SCORES: c.heads * seen,
        Operation.ATTENTION_NORM: p * (4 + c.hidden),
        Operation.ACTIVATION: p * (2 + c.feed_forward),
        Operation.QUANTISE_MIX: p * (2 + c.heads * c.head_size),
        Operation.DOWN: p * c.hidden,
        Operation.SOFTMAX: c.heads * sum(3 + u // 64 for u in range(p)),
    }
    for operation, count in expected.items():
        section = geometry.section(1, operation)
        total = sum(
            section.elements(row, slot)
            for row in range(section.rows)
            for slot in range(section.slots)
            if section.inside(row, slot)
        )
        assert total == count, operation


@pytest.mark.parametrize("lengths", [(1, 1), (65, 1)])
def test_a_node_is_inside_if_a_child_is(tiny: Setting, lengths: tuple[int, int]) -> None:
    """Down every way that leads somewhere, and to each first node that leads nowhere."""
    geometry = Geometry(tiny.shape, *lengths)
    pending, leaves = [Node(0, 0)], 0
    while pending:
        node = pending.pop()
        info = geometry.node_at(node)
        assert info.inside
        if info.levels == 0:
            leaves += 1
            place = geometry.place_of(node)
            assert place is not None
            assert geometry.node_of(place) == node
            continue
        assert info.payload_bytes == 0
        children = [node.child(1, 0), node.child(1, 1)]
        inside = [geometry.node_at(child).inside for child in children]
        assert inside[0], "what is outside lies at the end of every level"
        pending += [child for child, there in zip(children, inside, strict=True) if there]
    assert leaves == sum(
        leaves_of(geometry, group, operation)
        for group in range(geometry.groups)
        for operation in geometry.operations(group)
    )


def test_reveals_end_at_the_boundaries_and_rounds_counts_them(geometry: Geometry) -> None:
    most = 0
    for group in range(geometry.groups):
        for operation in geometry.operations(group):
            leaf = geometry.node_of(Place(group, operation, 0, 0))
            depth, reveals, depths = 0, 0, {0}
            while levels := geometry.node_at(Node(depth, leaf.index >> (leaf.depth - depth))).levels:
                assert levels <= REVEAL_LEVELS
                depth, reveals = depth + levels, reveals + 1
                depths.add(depth)
            assert depth == leaf.depth
            assert {geometry.group_bits, geometry.group_bits + 5} <= depths
            most = max(most, reveals)
    assert geometry.rounds() == most - 1


def test_the_empty_that_an_outside_node_must_be(tiny: Setting) -> None:
    """k counts down to the groups, the operations or the leaves, whichever come next."""
    shape = Shape(**{**vars(tiny.shape), "layers": 4})  # six groups of eight
    geometry = Geometry(shape, 60, 12)
    assert geometry.group_bits == 3
    assert geometry.node_at(Node(3, 6)) == (0, 0, False)
    assert geometry.node_at(Node(2, 3)) == (1, 0, False)
    assert geometry.node_at(Node(8, 17)).inside is False
    assert geometry.node_at(Node(8, 17)).levels == 0  # the 18th operation of group 0
    assert geometry.node_at(Node(4, 1)) == (4, 0, False)  # operations 16 to 31 of group 0
    above, section = geometry.section_node(1, Operation.ATTENTION_NORM), geometry.section(1, Operation.ATTENTION_NORM)
    assert geometry.node_at(above.child(section.bits, 3)) == (0, 0, False)  # slot 3 of row 0
    assert geometry.node_at(above.child(section.row_bits, section.rows)) == (section.slot_bits, 0, False)
    for nowhere in (Node(4, 13), Node(9, 34), Node(3, 8), Node(-1, 0), above.child(section.bits + 1, 0)):
        with pytest.raises(ValueError, match=r"there is no|nothing lies|below the leaves"):
            geometry.node_at(nowhere)


def test_smollm2_is_as_deep_as_the_design_says() -> None:
    """128 + 64 tokens: 24 levels of layers and 25 of logits, 1.2 million leaves."""
    geometry = Geometry(SMOLLM2, 128, 64)
    sections = [(g, op) for g in range(geometry.groups) for op in geometry.operations(g)]
    depths = {geometry.node_of(Place(g, op, 0, 0)).depth for g, op in sections}
    assert max(depths) == 25
    assert 1_150_000 < sum(leaves_of(geometry, g, op) for g, op in sections) < 1_250_000
    assert geometry.rounds() == 4


@pytest.mark.parametrize("lengths", [(0, 1), (1, 0), (512, 1), (-1, 3)])
def test_lengths_without_a_trace_are_refused(tiny: Setting, lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no trace has"):
        Geometry(tiny.shape, *lengths)


def test_places_of_weights_and_tables(tiny: Setting) -> None:
    weights, shape = WeightGeometry(tiny.shape), tiny.shape
    assert weights.row("embedding", 7) == weights.row("head", 7) == 7  # tied
    first = shape.vocabulary
    assert weights.gain("layers.0.attention_norm", 71) == first + 1
    assert weights.row("layers.0.query", 3) == first + 2 + 3
    assert weights.leaves <= 1 << weights.depth < 2 * weights.leaves
    half, rng = shape.head_size // 2, random.Random(1)
    for _ in range(50):
        position, i = rng.randrange(shape.context), rng.randrange(shape.head_size)
        cos, sin, entry = weights.rope(position, i)
        assert (cos - 2) * 256 + entry == position * half + i % half
        assert sin - cos == -(-shape.context * half // 256)
    assert weights.table_depth == ceil_log2(2 + 2 * -(-shape.context * half // 256))
