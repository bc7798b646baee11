"""What an accused element is computed from: the places of a step's inputs, in order (docs/disputes.md, section 3).

The contract computes the same places from the accused one; nobody names an input.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.verification.geometry import (
    CHUNK,
    LOGITS_CHUNK,
    NORMS,
    Geometry,
    Operation,
    Place,
    WeightGeometry,
)

Op = Operation
MATRICES = {  # operation → its tensor, without the layer's prefix
    Op.QUERY: "query",
    Op.KEY: "key",
    Op.VALUE: "value",
    Op.ATTENTION_OUTPUT: "attention_output",
    Op.GATE: "gate",
    Op.UP: "up",
    Op.DOWN: "down",
    Op.LOGITS: "head",
}
GAINS = {Op.ATTENTION_NORM: "attention_norm", Op.FEED_FORWARD_NORM: "feed_forward_norm", Op.OUTPUT_NORM: "output_norm"}


@dataclass(frozen=True)
class TraceLeaf:
    place: Place


@dataclass(frozen=True)
class TraceRow:
    """A whole row; its opening starts at the row's node."""

    group: int
    operation: Operation
    row: int


@dataclass(frozen=True)
class WeightLeaf:
    leaf: int


@dataclass(frozen=True)
class TableLeaf:
    leaf: int


@dataclass(frozen=True)
class TokensWord:
    """The word of ids that holds a position's id."""

    output: bool  # of the output, else of the input
    index: int  # of the id


Input = TraceLeaf | TraceRow | WeightLeaf | TableLeaf | TokensWord


def tensor(group: int, name: str) -> str:
    """A tensor's name in the weight tree."""
    return name if name in ("embedding", "head", "output_norm") else f"layers.{group - 1}.{name}"


def is_maximum(operation: Operation, slot: int, element: int) -> bool:
    """Whether an element is one of (s′, i′) or (M, i′), which a witness contradicts."""
    if operation in NORMS:
        return slot == 0 and element in (2, 3)
    if operation is Op.SOFTMAX:
        return element < 2
    return slot == 0 and operation in (Op.QUANTISE_MIX, Op.ACTIVATION)


def maximum_count(geometry: Geometry, place: Place) -> int:
    """Elements that a maximum is over; a witness is below it."""
    c = geometry.shape
    if place.operation is Op.SOFTMAX:
        return place.row + 1
    if place.operation is Op.QUANTISE_MIX:
        return c.heads * c.head_size
    return c.feed_forward if place.operation is Op.ACTIVATION else c.hidden


def column(geometry: Geometry, place: Place, element: int) -> int:
    """Which element of its row a value is: the weight row that gives it, or the index in a normalised row."""
    c, slot = geometry.shape, place.slot
    if place.operation in (Op.QUERY, Op.KEY, Op.ROTATE_QUERY, Op.ROTATE_KEY, Op.MIX):
        return slot * c.head_size + element
    if place.operation is Op.QUANTISE_MIX:
        return (slot - 1) * c.head_size + element
    if place.operation is Op.VALUE:
        return slot
    if place.operation is Op.LOGITS:
        return slot * LOGITS_CHUNK + element
    return (slot - (place.operation in NORMS or place.operation is Op.ACTIVATION)) * CHUNK + element


class Inputs:
    """Places of the inputs of every step of one claim."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry, self.weights = geometry, WeightGeometry(geometry.shape)

    def of(self, place: Place, element: int, witness: int, token: int = 0) -> tuple[Input, ...]:
        """Inputs in the order of section 3. ``token``: the id at EMBEDDING's position, which its first input shows.

        Raises ValueError for a leaf, element or witness that does not exist.
        """
        geometry, (group, operation, row, slot) = self.geometry, place
        section = geometry.section(group, operation)
        if not section.inside(row, slot) or not 0 <= element <= section.elements(row, slot):
            raise ValueError(f"no element {element} at {place}")
        if element == section.elements(row, slot):
            return ()  # the padding
        maximum = is_maximum(operation, slot, element)
        if maximum and not 0 <= witness < maximum_count(geometry, place):
            raise ValueError(f"no witness {witness} at {place}")
        if operation in NORMS:
            return self._norm(place, element, witness)
        if operation in MATRICES:
            return self._matrix(place, element)
        if operation in (Op.QUANTISE_MIX, Op.ACTIVATION):
            return self._quantise(place, witness if maximum else column(geometry, place, element))
        match operation:
            case Op.EMBEDDING:
                prompt = geometry.input_tokens
                word = TokensWord(row >= prompt, row - prompt if row >= prompt else row)
                return word, WeightLeaf(self.weights.row("embedding", token))
            case Op.ROTATE_QUERY | Op.ROTATE_KEY:
                source = Op.QUERY if operation is Op.ROTATE_QUERY else Op.KEY
                cos, sin, _ = self.weights.rope(row, element)
                return self._leaf(group, source, row, slot), TableLeaf(cos), TableLeaf(sin)
            case Op.SCORES:
                head, block = self._head_and_block(slot)
                key = self._leaf(group, Op.ROTATE_KEY, CHUNK * block + element, self._kv(head))
                return self._leaf(group, Op.ROTATE_QUERY, row, head), key
            case Op.SOFTMAX:
                block = witness // CHUNK if element < 2 else element - 2
                return (self._blocked(group, Op.SCORES, row, slot, block),)
            case Op.MIX_SUM:
                head, block = self._head_and_block(slot)
                value = self._leaf(group, Op.VALUE, block, self._kv(head) * geometry.shape.head_size + element)
                before = (self._blocked(group, Op.MIX_SUM, row, head, block - 1),) if block else ()
                return (
                    *before,
                    self._blocked(group, Op.SCORES, row, head, block),
                    self._leaf(group, Op.SOFTMAX, row, head),
                    value,
                )
            case Op.MIX:
                last = self._blocked(group, Op.MIX_SUM, row, slot, row // CHUNK)
                return last, self._leaf(group, Op.SOFTMAX, row, slot)
        raise AssertionError(operation)

    def residual(self, place: Place) -> tuple[int, Operation, int]:
        """Group, operation and row of the X that a norm reads, or that ATTENTION_OUTPUT and DOWN add."""
        group, operation, row, _ = place
        if operation in (Op.FEED_FORWARD_NORM, Op.DOWN):
            return group, Op.ATTENTION_OUTPUT, row
        if operation is Op.OUTPUT_NORM:
            row += self.geometry.input_tokens - 1
        return group - 1, Op.EMBEDDING if group == 1 else Op.DOWN, row

    def _norm(self, place: Place, element: int, witness: int) -> tuple[Input, ...]:
        group, operation, row, slot = place
        source = self.residual(place)
        if slot == 0 and element < 2:
            return (TraceRow(*source),)
        index = witness if slot == 0 else column(self.geometry, place, element)
        chunk = self._leaf(*source, index // CHUNK)
        gain = WeightLeaf(self.weights.gain(tensor(group, GAINS[operation]), index))
        return (chunk, gain) if slot == 0 else (chunk, gain, self._leaf(group, operation, row, 0))

    def _matrix(self, place: Place, element: int) -> tuple[Input, ...]:
        group, operation, row, slot = place
        weight = WeightLeaf(self.weights.row(tensor(group, MATRICES[operation]), column(self.geometry, place, element)))
        match operation:
            case Op.ATTENTION_OUTPUT:
                return TraceRow(group, Op.QUANTISE_MIX, row), weight, self._leaf(*self.residual(place), slot)
            case Op.DOWN:
                return TraceRow(group, Op.ACTIVATION, row), weight, self._leaf(*self.residual(place), slot)
            case Op.LOGITS:
                return TraceRow(group, Op.OUTPUT_NORM, row), weight
            case Op.VALUE:
                return TraceRow(group, Op.ATTENTION_NORM, CHUNK * row + element), weight
            case Op.GATE | Op.UP:
                return TraceRow(group, Op.FEED_FORWARD_NORM, row), weight
        return TraceRow(group, Op.ATTENTION_NORM, row), weight

    def _quantise(self, place: Place, index: int) -> tuple[Input, ...]:
        group, operation, row, slot = place
        statistic = () if slot == 0 else (self._leaf(group, operation, row, 0),)
        if operation is Op.QUANTISE_MIX:
            return self._leaf(group, Op.MIX, row, index // self.geometry.shape.head_size), *statistic
        chunk = index // CHUNK
        return self._leaf(group, Op.GATE, row, chunk), self._leaf(group, Op.UP, row, chunk), *statistic

    def _leaf(self, group: int, operation: Operation, row: int, slot: int) -> TraceLeaf:
        return TraceLeaf(Place(group, operation, row, slot))

    def _blocked(self, group: int, operation: Operation, row: int, head: int, block: int) -> TraceLeaf:
        return self._leaf(group, operation, row, (head << self.geometry.block_bits) + block)

    def _head_and_block(self, slot: int) -> tuple[int, int]:
        return slot >> self.geometry.block_bits, slot & ((1 << self.geometry.block_bits) - 1)

    def _kv(self, head: int) -> int:
        c = self.geometry.shape
        return head // (c.heads // c.kv_heads)
