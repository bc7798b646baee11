"""Dishonest traces: what a provider that computed something else shows when it is asked.

``lie`` changes one element of one leaf, either before anything is computed from it (*continued*: the rest follows from
the wrong value, as in a provider that made one error) or only in the tree (everything else stays honest). Whole models,
caches and positions can be wrong too. Any of them answers reveals through the interface of ``Trace``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from market.hashing import keccak256
from market.inference.model import AnyArray, Int64Array, IntegerModel, Tables
from market.verification.descent import Agrees, Ask, Descent, Leaf, Move, Outside
from market.verification.geometry import CHUNK, NORMS, Node, Operation, Place
from market.verification.layer import Hook, LayerValues
from market.verification.products import Products
from market.verification.structs import Shape
from market.verification.trace import Trace
from market.verification.tree import Payloads


def lie(
    model: IntegerModel,
    shape: Shape,
    input_ids: Sequence[int],
    output_ids: Sequence[int],
    place: Place,
    element: int,
    delta: int,
    continued: bool,
    products: Products | None = None,
) -> Trace:
    """A trace in which one element is wrong by ``delta``. ``products`` may serve many of them."""
    if continued:
        hook = one_element(place, element, delta, shape)
        return Trace(model, shape, input_ids, output_ids, products=products, hook=hook)
    return Misprint(model, shape, input_ids, output_ids, place, element, delta, products)


def one_element(place: Place, element: int, delta: int, shape: Shape) -> Hook:
    """A hook that adds to one element before it is used; of a sum the block's own part, so that later blocks follow."""
    group, operation, row, slot = place

    def hook(at: int, what: Operation, part: str, array: AnyArray) -> None:
        if (at, what) != (group, operation):
            return
        if operation in NORMS and slot == 0:
            name, column = ("norm", element) if element < 2 else ("maximum", element - 2)
            if part == name:
                array[row, column] += delta
        elif operation in (Operation.QUANTISE_MIX, Operation.ACTIVATION) and slot == 0:
            if part == "maximum":
                array[row, element] += delta
        elif operation is Operation.SOFTMAX:
            if part == "maximum" and element < 2:
                array[row, slot, element] += delta
            elif part == "sums" and element >= 2:
                array[row, slot, element - 2] += delta
        elif operation is Operation.MIX_SUM:
            blocks = array.shape[2]
            head, block = divmod(slot, 1 << (blocks - 1).bit_length())
            array[row, head, block, element] += delta
        elif operation is Operation.SCORES:
            blocks = array.shape[2] // CHUNK
            head, block = divmod(slot, 1 << (blocks - 1).bit_length())
            array[row, head, CHUNK * block + element] += delta
        elif operation is Operation.VALUE:
            kv, i = divmod(slot, shape.head_size)
            array[CHUNK * row + element, kv, i] += delta
        elif part == "elements":
            flat = array.reshape(len(array), -1)
            flat[row, first_column(place, shape) + element] += delta
            array[...] = flat.reshape(array.shape)

    return hook


def first_column(place: Place, shape: Shape) -> int:
    """Element of its row with which a leaf of plain chunks begins."""
    operation, slot = place.operation, place.slot
    if operation in (Operation.QUERY, Operation.KEY, Operation.ROTATE_QUERY, Operation.ROTATE_KEY, Operation.MIX):
        return slot * shape.head_size
    if operation is Operation.QUANTISE_MIX:
        return (slot - 1) * shape.head_size
    if operation is Operation.LOGITS:
        return slot * 2 * CHUNK
    return (slot - (operation in NORMS or operation is Operation.ACTIVATION)) * CHUNK


class Misprint(Trace):
    """Computes honestly and shows one leaf with a wrong element; ``element`` = their number: with wrong padding."""

    def __init__(
        self,
        model: IntegerModel,
        shape: Shape,
        input_ids: Sequence[int],
        output_ids: Sequence[int],
        place: Place,
        element: int,
        delta: int,
        products: Products | None = None,
    ) -> None:
        super().__init__(model, shape, input_ids, output_ids, products=products)
        self._place, self._element, self._delta = place, element, delta

    def _section_root(self, group: int, operation: Operation, values: LayerValues) -> bytes:
        if (group, operation) != (self._place.group, self._place.operation):
            return super()._section_root(group, operation, values)
        return self._make_tree(group, operation, self._make_payloads(group, operation, values)).root

    def _make_payloads(self, group: int, operation: Operation, values: LayerValues) -> Payloads:
        made = super()._make_payloads(group, operation, values)
        place = self._place
        if (group, operation) != (place.group, place.operation):
            return made
        section = self.geometry.section(group, operation)
        at = int(np.searchsorted(made.number, section.leaf(place.row, place.slot)))
        size = section.element_size(place.slot)
        start = int(made.offset[at]) + size * self._element
        data = made.data.copy()
        value = int.from_bytes(data[start : start + size].tobytes(), "big") + self._delta
        changed = (value % (1 << (8 * size))).to_bytes(size, "big")
        data[start : start + size] = np.frombuffer(changed, dtype=np.uint8)
        return dataclasses.replace(made, data=data)


def swapped_rows(model: IntegerModel, layer: int, name: str, rows: tuple[int, int]) -> IntegerModel:
    """Two rows of a layer's matrix in each other's place."""
    matrix = getattr(model.layers[layer], name)
    order = np.arange(len(matrix.weight))
    order[list(rows)] = rows[::-1]
    swapped = dataclasses.replace(matrix, weight=matrix.weight[order], multiplier=matrix.multiplier[order])
    return _with_layer(model, layer, **{name: swapped})


def coarser(model: IntegerModel) -> IntegerModel:
    """Another quantisation: the last of seven bits of every weight of every layer is gone."""
    for layer in range(len(model.layers)):
        for name in ("query", "key", "value", "attention_output", "gate", "up", "down"):
            matrix = getattr(model.layers[layer], name)
            model = _with_layer(model, layer, **{name: dataclasses.replace(matrix, weight=matrix.weight // 2 * 2)})
    return model


def wrong_positions(model: IntegerModel, shift: int = 1) -> IntegerModel:
    """Rotary embeddings that are ``shift`` positions ahead."""
    t = model.tables
    moved = Tables(t.exp2_high, t.exp2_low, np.roll(t.rope_cos, -shift, axis=0), np.roll(t.rope_sin, -shift, axis=0))
    return dataclasses.replace(model, tables=moved)


def skipped_layer(layer: int) -> Hook:
    """The residual stream passes by a layer."""
    return skipped_layers((layer,))


def skipped_layers(skipped: Collection[int]) -> Hook:
    """Likewise by several; by all from one on: what a truncated model does."""
    after: dict[int, Int64Array] = {}  # each group

    def hook(group: int, operation: Operation, part: str, array: AnyArray) -> None:
        if operation in (Operation.EMBEDDING, Operation.DOWN):
            if group - 1 in skipped:
                array[...] = after[group - 1]
            after[group] = array.copy()

    return hook


def stale_key(layer: int, position: int) -> Hook:
    """A cache entry of another position."""
    return _stale(Operation.ROTATE_KEY, layer, position)


def stale_value(layer: int, position: int) -> Hook:
    """Likewise, of the other half of the cache."""
    return _stale(Operation.VALUE, layer, position)


def _stale(stored: Operation, layer: int, position: int) -> Hook:
    def hook(group: int, operation: Operation, part: str, array: AnyArray) -> None:
        if group == layer + 1 and operation is stored:
            array[position] = array[position - 1]

    return hook


class Decoy(Trace):
    """Puts something where the program has nothing."""

    def __init__(
        self, model: IntegerModel, shape: Shape, input_ids: Sequence[int], output_ids: Sequence[int], node: Node
    ) -> None:
        super().__init__(model, shape, input_ids, output_ids)
        self._decoy = node

    def hash(self, node: Node) -> bytes:
        """Everything above the decoy is folded over it."""
        decoy = self._decoy
        if node == decoy:
            return b"\x01" * 32
        if node.depth < decoy.depth and decoy.index >> (decoy.depth - node.depth) == node.index:
            return keccak256(self.hash(node.child(1, 0)) + self.hash(node.child(1, 1)))
        return super().hash(node)


def find(honest: Trace, liar: Trace) -> tuple[Descent, Move, int]:
    """Plays the descent to its end. Returns it, its last move, and how many reveals of hashes it took."""
    descent, reveals = Descent(honest, liar.root()), 0
    while True:
        move = descent.next()
        if isinstance(move, Agrees | Outside | Leaf):
            return descent, move, reveals
        assert isinstance(move, Ask)
        descent.add(move.node, liar.reveal(move.node))
        reveals += 1


def _with_layer(model: IntegerModel, index: int, **changes: object) -> IntegerModel:
    changed = dataclasses.replace(model.layers[index], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(model, layers=(*model.layers[:index], changed, *model.layers[index + 1 :]))
