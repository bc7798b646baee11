"""Places in words: every node has some, and leaves differ."""

from __future__ import annotations

from market.verification.geometry import Geometry, Node, Operation, Place
from market.verification.structs import Shape
from market.verification.words import node_words, place_words

SHAPE = Shape(288, 512, 72, 160, 2, 6, 2, 16, 1, 1, True, 1, 1)
GEOMETRY = Geometry(SHAPE, 70, 6)


def test_every_leaf_has_words_of_its_own() -> None:
    for group in range(GEOMETRY.groups):
        for operation in GEOMETRY.operations(group):
            section = GEOMETRY.section(group, operation)
            for row in (0, section.rows - 1):
                places = [Place(group, operation, row, s) for s in range(section.slots) if section.inside(row, s)]
                words = [place_words(GEOMETRY, place) for place in places]
                assert len(set(words)) == len(words)
                assert [node_words(GEOMETRY, GEOMETRY.node_of(place)) for place in places] == words


def test_way_down_is_told_from_the_whole_to_a_number() -> None:
    place = Place(2, Operation.SCORES, 70, 4 << 1 | 1)
    leaf = GEOMETRY.node_of(place)
    told = [node_words(GEOMETRY, leaf.parent(leaf.depth - depth)) for depth in range(leaf.depth + 1)]
    assert told[0] == "the whole trace"
    assert told[GEOMETRY.group_bits] == "layer 1"
    assert told[GEOMETRY.group_bits + 5] == "layer 1, SCORES"
    assert told[GEOMETRY.group_bits + 6] == "layer 1, SCORES, position 64 to 74"
    assert told[-1] == "layer 1, SCORES, position 70, head 4, block 1"
    assert place_words(GEOMETRY, place, 6) == told[-1] + ", element 6"


def test_what_is_outside_is_called_nothing() -> None:
    for node in (Node(2, 0).child(5, 9), GEOMETRY.section_node(1, Operation.QUERY).child(7, 127)):
        assert "nothing" in node_words(GEOMETRY, node)
