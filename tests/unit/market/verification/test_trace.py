"""The lazy tree against a naive one, and payloads against the values they are made of."""

from __future__ import annotations

import dataclasses
import random
import tracemalloc

import numpy as np
import pytest

from market.hashing import keccak256, leaf_hash
from market.inference import reference
from market.verification.geometry import CHUNK, Node, Operation, Place
from market.verification.layer import Values
from market.verification.leaves import big_endian, big_endian_by_numpy, decode, encode, payloads
from market.verification.products import Products
from market.verification.trace import Trace
from market.verification.tree import Keccak, empty, fold
from tests.liar import lie
from tests.unit.market.verification.setting import Setting, setting
from tests.unit.market.verification.test_tree import widths


def naive_root(trace: Trace) -> bytes:
    """Every leaf of the program, hashed one by one and folded level by level, with all that is outside written out."""
    geometry = trace.geometry
    groups = []
    for group in range(1 << geometry.group_bits):
        if group >= geometry.groups:
            groups.append(empty(0))
            continue
        operations = []
        for operation in geometry.operations(group):
            section = geometry.section(group, operation)
            leaves = [empty(0)] * (1 << section.bits)
            for row in range(section.rows):
                for slot in range(section.slots):
                    if section.inside(row, slot):
                        payload = trace.payload(Place(group, operation, row, slot))
                        assert len(payload) == section.payload_bytes(row, slot)
                        leaves[section.leaf(row, slot)] = leaf_hash(payload)
            operations.append(fold(leaves)[-1][0])
        groups.append(fold(operations + [empty(0)] * (32 - len(operations)))[-1][0])
    return fold(groups)[-1][0]


@pytest.mark.parametrize("lengths", [(1, 1), (40, 24), (60, 12)])
def test_the_root_is_the_naive_one(tiny: Setting, lengths: tuple[int, int]) -> None:
    trace = setting(tiny.pack, *lengths).honest
    assert naive_root(trace) == trace.root()


@pytest.mark.parametrize("width", widths()[:2])
def test_any_keccak_and_any_products_give_the_same_root(tiny: Setting, width: int) -> None:
    plain = Trace(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids, Keccak(width), Products("numpy", threads=1))
    assert plain.root() == tiny.honest.root()


def test_reveals_lead_to_the_root_in_any_order(tiny: Setting) -> None:
    """Nodes everywhere, each a fold of what it reveals; the second trace starts with the last of them."""
    geometry, rng = tiny.geometry, random.Random(3)
    nodes = []
    for group, operation in tiny.sections():
        leaf = geometry.node_of(tiny.random_place(rng, group, operation))
        node = Node(0, 0)
        while levels := geometry.node_at(node).levels:
            nodes.append(node)
            node = Node(node.depth + levels, leaf.index >> (leaf.depth - node.depth - levels))
        assert tiny.honest.hash(node) == leaf_hash(tiny.honest.payload(geometry.place_of(node)))  # type: ignore[arg-type]
    for node in nodes:
        assert fold(tiny.honest.reveal(node))[-1][0] == tiny.honest.hash(node)
    again = Trace(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids)
    rng.shuffle(nodes)
    assert [again.reveal(node) for node in nodes] == [tiny.honest.reveal(node) for node in nodes]


def test_nodes_outside_are_empty(tiny: Setting) -> None:
    geometry = tiny.geometry
    above, section = geometry.section_node(1, Operation.SCORES), geometry.section(1, Operation.SCORES)
    for node, levels in (
        (geometry.section_node(1, Operation.DOWN).child(0, 1), 0),
        (above.child(section.row_bits, section.rows), section.slot_bits),
        (above.child(section.bits, 1), 0),  # block 1 of position 0
    ):
        assert not geometry.node_at(node).inside
        assert tiny.honest.hash(node) == empty(levels)
    assert tiny.honest.hash(Node(1, 0)) == keccak256(tiny.honest.hash(Node(2, 0)) + tiny.honest.hash(Node(2, 1)))


def test_leaves_hold_what_the_table_says(tiny: Setting) -> None:
    """Elements, types and order of every kind of leaf, from the reference's own values."""
    model, c, trace = tiny.model, tiny.model.config, tiny.honest
    tokens = np.asarray([*tiny.input_ids, *tiny.output_ids][:-1])
    x = reference.embed(model.embedding, tokens)
    assert decode(trace.payload(Place(0, Operation.EMBEDDING, 5, 1)), 6, 8) == x[5, 64:].tolist()
    layer = model.layers[0]
    y = reference.normalise(x, layer.attention_norm, c.epsilon)
    a, shift = reference.quantise(y)
    statistic = decode(trace.payload(Place(1, Operation.ATTENTION_NORM, 9, 0)), 8, 4)
    assert statistic[2] == shift[9, 0]
    assert decode(trace.payload(Place(1, Operation.ATTENTION_NORM, 9, 2)), 2, 8) == a[9, 64:].tolist()
    row = trace.row_payload(1, Operation.ATTENTION_NORM, 9)
    assert decode(row[32:], 2, 72) == a[9].tolist()
    q = reference.linear(layer.query, a, shift)
    assert decode(trace.payload(Place(1, Operation.QUERY, 70, 5)), 4, 16) == q[70, 80:].tolist()
    v = reference.to_cache(reference.linear(layer.value, a, shift), layer.value_fraction)
    assert decode(trace.payload(Place(1, Operation.VALUE, 0, 20)), 2, 64) == v[:64, 20].tolist()
    last = trace.payload(Place(1, Operation.VALUE, 1, 20))
    assert decode(last, 2, 7) == v[64:, 20].tolist()
    assert last[14:] == bytes(18)
    gate = reference.linear(layer.gate, *reference.quantise(_second_norm(tiny)))
    assert decode(trace.payload(Place(1, Operation.GATE, 33, 2)), 4, 32) == gate[33, 128:].tolist()
    logits = reference.forward(model, tokens.tolist(), len(tiny.input_ids) - 1)
    assert decode(trace.payload(Place(3, Operation.LOGITS, 11, 2)), 4, 32) == logits[11, 256:].tolist()
    assert np.array_equal(trace.logits(), logits)
    scores = tiny.geometry.section(1, Operation.SCORES)
    assert scores.payload_bytes(70, 1) == 64  # seven of 64 scores
    assert scores.payload_bytes(70, 0) == 5 * CHUNK


def _second_norm(tiny: Setting) -> np.ndarray:
    rows = [
        decode(tiny.honest.row_payload(1, Operation.ATTENTION_OUTPUT, row), 6, 72)
        for row in range(tiny.geometry.positions)
    ]
    return reference.normalise(np.asarray(rows), tiny.model.layers[0].feed_forward_norm, tiny.model.config.epsilon)


def test_payloads_outside_are_refused(tiny: Setting) -> None:
    for place in (Place(1, Operation.SCORES, 0, 1), Place(1, Operation.QUERY, 71, 0), Place(1, Operation.KEY, 0, 2)):
        with pytest.raises(KeyError):
            tiny.honest.payload(place)


def test_values_beyond_their_type_are_refused(tiny: Setting) -> None:
    section = tiny.geometry.section(1, Operation.DOWN)
    elements = np.zeros((71, 72), dtype=np.int64)
    elements[70, 71] = 2**47
    with pytest.raises(OverflowError, match="does not fit 6 bytes"):
        payloads(section, Values(elements))
    elements[70, 71] = -(2**47)
    made = payloads(section, Values(elements))
    assert decode(made.payload(section.leaf(70, 1)), 6, 8)[7] == -(2**47)


@pytest.mark.parametrize("size", [2, 4, 5, 6, 8])
def test_bytes_by_the_library_and_by_numpy_are_the_same(size: int) -> None:
    limit = 1 << (8 * size - 1)
    rng = np.random.default_rng(size)
    values = np.concatenate([[0, 1, -1, limit - 1, -limit], rng.integers(-limit, limit - 1, 59)]).reshape(8, 8)
    packed = big_endian(values, size)
    assert np.array_equal(packed, big_endian_by_numpy(values, size, True))
    assert decode(packed[0].tobytes(), size, 8) == values[0].tolist()
    assert np.array_equal(big_endian(values.T, size)[0], big_endian(values[:, 0], size))
    if size == 8:
        return
    for beyond in (limit, -limit - 1):
        values[3, 3] = beyond
        for make in (big_endian, big_endian_by_numpy):
            with pytest.raises(OverflowError, match=f"does not fit {size} bytes"):
                make(values, size, True)
        assert np.array_equal(big_endian(values, size, False), big_endian_by_numpy(values, size, False))


def test_encode_and_decode() -> None:
    values = [0, 1, -1, 2**39 - 1, -(2**39)]
    assert decode(encode(values, 5), 5, 5) == values
    assert len(encode(values, 5)) == 32
    with pytest.raises(OverflowError):
        encode([2**39], 5)
    with pytest.raises(ValueError, match="do not hold"):
        decode(bytes(32), 5, 7)


def test_ids_outside_the_vocabulary_have_no_trace(tiny: Setting) -> None:
    for bad in (-1, 288):
        with pytest.raises(ValueError, match="lies outside"):
            Trace(tiny.model, tiny.shape, [5, bad], [7])


def test_a_lie_changes_its_leaf_and_no_earlier_one(tiny: Setting) -> None:
    place = Place(1, Operation.GATE, 30, 1)
    for continued in (False, True):
        liar = lie(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids, place, 3, 1, continued)
        assert liar.root() != tiny.honest.root()
        assert liar.payload(place) != tiny.honest.payload(place)
        later = Place(1, Operation.DOWN, 30, 0)
        assert (liar.payload(later) != tiny.honest.payload(later)) is continued
        for operation in (Operation.FEED_FORWARD_NORM, Operation.UP):
            node = tiny.geometry.section_node(1, operation)
            assert liar.hash(node) == tiny.honest.hash(node)


def test_never_all_activations_at_once(tiny: Setting) -> None:
    """A trace with many layers needs hardly more memory than one with few: its residuals."""

    def peak(layers: int) -> int:
        model = tiny.model
        config = dataclasses.replace(model.config, layers=layers)
        deep = dataclasses.replace(model, config=config, layers=(model.layers[0],) * layers)
        trace = Trace(deep, dataclasses.replace(tiny.shape, layers=layers), tiny.input_ids, tiny.output_ids)
        tracemalloc.start()
        trace.root()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    residual = 71 * 72 * 8
    few, many = (
        min(peak(layers) for _ in range(3)) for layers in (4, 24)
    )  # other threads of the process allocate, too
    assert many - few < 20 * residual * 1.5
