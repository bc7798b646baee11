"""Where everything stands: the sections of a trace, their leaves, the nodes above them (docs/disputes.md, 2 and 4).

All of it follows from the shapes and two lengths; no values are needed. Words: a *section* is one operation of one
group; its leaves are numbered ``row << slot_bits | slot``; a *node* is (depth, index), the root being (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

from market.models.program import TensorSpec, tensors
from market.verification.structs import Shape

CHUNK = 64  # elements of a leaf, positions of a block
LOGITS_CHUNK = 128
OPERATION_BITS = 5
REVEAL_LEVELS = 5
TABLE_ENTRIES = 256  # int32 entries of a tables leaf


class Operation(IntEnum):
    """Operations in execution order. ``number_of`` gives the number an operation has in its group."""

    EMBEDDING = 0
    ATTENTION_NORM = 1
    QUERY = 2
    KEY = 3
    ROTATE_QUERY = 4
    ROTATE_KEY = 5
    VALUE = 6
    SCORES = 7
    SOFTMAX = 8
    MIX_SUM = 9
    MIX = 10
    QUANTISE_MIX = 11
    ATTENTION_OUTPUT = 12
    FEED_FORWARD_NORM = 13
    GATE = 14
    UP = 15
    ACTIVATION = 16
    DOWN = 17
    OUTPUT_NORM = 18
    LOGITS = 19


EMBEDDING_OPERATIONS = (Operation.EMBEDDING,)
LAYER_OPERATIONS = tuple(Operation(i) for i in range(Operation.ATTENTION_NORM, Operation.DOWN + 1))
HEAD_OPERATIONS = (Operation.OUTPUT_NORM, Operation.LOGITS)
NORMS = (Operation.ATTENTION_NORM, Operation.FEED_FORWARD_NORM, Operation.OUTPUT_NORM)


def number_of(operation: Operation) -> int:
    """The number an operation has in its group, which is what ``Accusation.operation`` holds."""
    for operations in (EMBEDDING_OPERATIONS, LAYER_OPERATIONS, HEAD_OPERATIONS):
        if operation in operations:
            return operations.index(operation)
    raise AssertionError(operation)


def ceil_log2(n: int) -> int:
    """⌈log2 n⌉ of n ≥ 1; 0 for 1."""
    return (n - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def padded(size: int) -> int:
    """Bytes up to a multiple of 32."""
    return size + -size % 32


class Node(NamedTuple):
    """A node of the trace's tree."""

    depth: int
    index: int  # type: ignore[assignment]  # a tuple's own method of this name is not used

    def child(self, levels: int, offset: int) -> Node:
        """The node ``levels`` below that has ``offset`` among this one's descendants there."""
        return Node(self.depth + levels, (self.index << levels) + offset)

    def parent(self, levels: int = 1) -> Node:
        return Node(self.depth - levels, self.index >> levels)


ROOT = Node(0, 0)


class Place(NamedTuple):
    """A leaf: its section's group and operation, its row and its slot."""

    group: int
    operation: Operation
    row: int
    slot: int


class NodeInfo(NamedTuple):
    """What ``IJudge.nodeAt`` returns."""

    levels: int  # that a reveal shows, 0 for a leaf; of a node outside the program, k of the EMPTY_k that it must be
    payload_bytes: int  # of a leaf, else 0
    inside: bool  # whether it is part of the program at all


@dataclass(frozen=True)
class Section:
    """One operation of one group."""

    group: int
    operation: Operation
    rows: int
    slots: int  # of a row, the statistic's included; for SCORES and MIX_SUM heads << block_bits
    statistic: int  # int64 fields in slot 0; 0: there is none
    chunk: int  # elements of a full leaf
    width: int  # elements of a whole row, statistic left out; 0 where leaves depend on the position
    size: int  # bytes of an element
    positions: int  # P
    block_bits: int

    @cached_property
    def slot_bits(self) -> int:
        return ceil_log2(self.slots)

    @cached_property
    def row_bits(self) -> int:
        return ceil_log2(self.rows)

    @property
    def bits(self) -> int:
        """Levels between the section and its leaves."""
        return self.row_bits + self.slot_bits

    @property
    def blocked(self) -> bool:
        """Whether the slots are head and block."""
        return self.operation in (Operation.SCORES, Operation.MIX_SUM)

    def inside(self, row: int, slot: int) -> bool:
        """Whether a leaf is part of the program."""
        if row >= self.rows or slot >= self.slots:
            return False
        return not self.blocked or slot & ((1 << self.block_bits) - 1) <= row // CHUNK

    def elements(self, row: int, slot: int) -> int:
        """Elements of a leaf that is inside."""
        if self.statistic and slot == 0:
            return self.statistic
        if self.operation is Operation.VALUE:
            return min(CHUNK, self.positions - CHUNK * row)
        if self.operation is Operation.SCORES:
            return min(CHUNK, row + 1 - CHUNK * (slot & ((1 << self.block_bits) - 1)))
        if self.operation is Operation.SOFTMAX:
            return 2 + row // CHUNK + 1
        if self.operation is Operation.MIX_SUM:
            return self.chunk
        return min(self.chunk, self.width - self.chunk * (slot - (self.statistic > 0)))

    def element_size(self, slot: int) -> int:
        """Bytes of an element of a leaf in that slot."""
        return 8 if self.statistic and slot == 0 else self.size

    def payload_bytes(self, row: int, slot: int) -> int:
        return padded(self.elements(row, slot) * self.element_size(slot))

    def leaf(self, row: int, slot: int) -> int:
        """Number of a leaf in the section."""
        return (row << self.slot_bits) + slot


class Geometry:
    """The tree of one claim."""

    def __init__(self, shape: Shape, input_tokens: int, output_tokens: int) -> None:
        """Raises ValueError for lengths that no trace has."""
        if input_tokens < 1 or output_tokens < 1 or input_tokens + output_tokens > shape.context:
            raise ValueError(f"no trace has {input_tokens} and {output_tokens} tokens in {shape.context} positions")
        self.shape, self.input_tokens, self.output_tokens = shape, input_tokens, output_tokens
        self.positions = input_tokens + output_tokens - 1
        self.groups = shape.layers + 2
        self.group_bits = ceil_log2(self.groups)
        self.blocks = ceil_div(self.positions, CHUNK)
        self.block_bits = ceil_log2(self.blocks)
        self._sections: dict[tuple[int, Operation], Section] = {}
        self._kinds = {operation: self._make(operation) for operation in Operation}

    def operations(self, group: int) -> tuple[Operation, ...]:
        """Operations of a group that is inside, by number."""
        if group == 0:
            return EMBEDDING_OPERATIONS
        return HEAD_OPERATIONS if group == self.groups - 1 else LAYER_OPERATIONS

    def section(self, group: int, operation: Operation) -> Section:
        """Raises ValueError for an operation that the group does not have."""
        if not 0 <= group < self.groups or operation not in self.operations(group):
            raise ValueError(f"group {group} has no {operation.name}")
        key = (group, operation)
        if key not in self._sections:
            self._sections[key] = Section(group, operation, *self._kinds[operation], self.positions, self.block_bits)
        return self._sections[key]

    def section_node(self, group: int, operation: Operation) -> Node:
        return Node(self.group_bits + OPERATION_BITS, (group << OPERATION_BITS) + number_of(operation))

    def node_of(self, place: Place) -> Node:
        """The node of a leaf."""
        section = self.section(place.group, place.operation)
        above = self.section_node(place.group, place.operation)
        return above.child(section.bits, section.leaf(place.row, place.slot))

    def row_node(self, group: int, operation: Operation, row: int) -> Node:
        """The node above a whole row."""
        section = self.section(group, operation)
        return self.section_node(group, operation).child(section.row_bits, row)

    def place_of(self, node: Node) -> Place | None:
        """The first leaf at or below a node (for a leaf the leaf itself); None unless it is inside.

        A node is inside if and only if its first leaf is. Raises ValueError for a node that no tree of this claim has:
        below a leaf, or below what is outside as a whole.
        """
        depth, index = node
        if depth < 0 or not 0 <= index < 1 << depth:
            raise ValueError(f"there is no {node}")
        section_depth = self.group_bits + OPERATION_BITS
        if depth <= section_depth:
            first = index << (section_depth - depth)
            leaf, below = 0, 0
        else:
            first, below = index >> (depth - section_depth), depth - section_depth
            leaf = index & ((1 << below) - 1)
        group, number = divmod(first, 1 << OPERATION_BITS)
        if group >= self.groups or number >= len(self.operations(group)):
            if depth > (section_depth if group < self.groups else self.group_bits):
                raise ValueError(f"nothing lies below what is outside as a whole: {node}")
            return None
        operation = self.operations(group)[number]
        section = self.section(group, operation)
        if below > section.bits:
            raise ValueError(f"depth {depth} is below the leaves of {operation.name}")
        row, slot = divmod(leaf << (section.bits - below), 1 << section.slot_bits)
        return Place(group, operation, row, slot) if section.inside(row, slot) else None

    def node_at(self, node: Node) -> NodeInfo:
        """What a node is; see ``IJudge.nodeAt``. Raises ValueError as ``place_of`` does."""
        place = self.place_of(node)
        if node.depth <= self.group_bits:
            below = self.group_bits - node.depth
            levels = min(REVEAL_LEVELS, below) or OPERATION_BITS
            return NodeInfo(levels, 0, True) if place else NodeInfo(below, 0, False)
        section_depth = self.group_bits + OPERATION_BITS
        group, number = divmod(node.index >> max(node.depth - section_depth, 0), 1 << OPERATION_BITS)
        if node.depth < section_depth or (place is None and node.depth == section_depth):
            return NodeInfo(section_depth - node.depth, 0, place is not None)
        section = self.section(group, self.operations(group)[number])
        below = section_depth + section.bits - node.depth
        if place is None:
            return NodeInfo(below, 0, False)
        size = 0 if below else section.payload_bytes(place.row, place.slot)
        return NodeInfo(min(REVEAL_LEVELS, below), size, True)

    def rounds(self) -> int:
        """The most reveals of hashes on a way from the root to a leaf, the root's own left out."""
        deepest = max(ceil_log2(kind[0]) + ceil_log2(kind[1]) for kind in self._kinds.values())
        return ceil_div(self.group_bits, REVEAL_LEVELS) - 1 + 1 + ceil_div(deepest, REVEAL_LEVELS)

    def _make(self, operation: Operation) -> tuple[int, int, int, int, int, int]:
        """rows, slots, statistic, chunk, width, size (see ``Section``)."""
        c, op, rows = self.shape, Operation, self.positions
        heads, kv, size = c.heads, c.kv_heads, c.head_size
        hidden, wide = ceil_div(c.hidden, CHUNK), ceil_div(c.feed_forward, CHUNK)
        blocked = heads << self.block_bits
        match operation:
            case op.EMBEDDING | op.ATTENTION_OUTPUT | op.DOWN:
                return rows, hidden, 0, CHUNK, c.hidden, 6
            case op.ATTENTION_NORM | op.FEED_FORWARD_NORM:
                return rows, 1 + hidden, 4, CHUNK, c.hidden, 2
            case op.OUTPUT_NORM:
                return self.output_tokens, 1 + hidden, 4, CHUNK, c.hidden, 2
            case op.QUERY | op.MIX:
                return rows, heads, 0, size, heads * size, 4
            case op.KEY:
                return rows, kv, 0, size, kv * size, 4
            case op.ROTATE_QUERY:
                return rows, heads, 0, size, heads * size, 2
            case op.ROTATE_KEY:
                return rows, kv, 0, size, kv * size, 2
            case op.VALUE:
                return self.blocks, kv * size, 0, CHUNK, 0, 2
            case op.SCORES:
                return rows, blocked, 0, CHUNK, 0, 5
            case op.SOFTMAX:
                return rows, heads, 0, 2 + self.blocks, 0, 8
            case op.MIX_SUM:
                return rows, blocked, 0, size, 0, 6
            case op.QUANTISE_MIX:
                return rows, 1 + heads, 2, size, heads * size, 2
            case op.GATE | op.UP:
                return rows, wide, 0, CHUNK, c.feed_forward, 4
            case op.ACTIVATION:
                return rows, 1 + wide, 2, CHUNK, c.feed_forward, 2
            case op.LOGITS:
                return self.output_tokens, ceil_div(c.vocabulary, LOGITS_CHUNK), 0, LOGITS_CHUNK, c.vocabulary, 4
        raise AssertionError(operation)


class WeightGeometry:
    """Leaf numbers in the trees of weights and tables (docs/numerics.md, 7.1 and 7.3)."""

    def __init__(self, shape: Shape) -> None:
        self._specs: dict[str, TensorSpec] = {spec.name: spec for spec in tensors(shape.config(), shape.tied)}
        last = list(self._specs.values())[-1]
        self.leaves = last.first_leaf + last.leaves
        self.depth = ceil_log2(self.leaves)
        self._half, self._tied = shape.head_size // 2, shape.tied
        self._cosines = ceil_div(shape.context * self._half, TABLE_ENTRIES)
        self.table_leaves = 2 + 2 * self._cosines
        self.table_depth = ceil_log2(self.table_leaves)

    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._specs.values())

    def row(self, tensor: str, row: int) -> int:
        """Leaf of a matrix's row; ``head`` is the embedding where the model ties them."""
        return self._specs["embedding" if tensor == "head" and self._tied else tensor].first_leaf + row

    def gain(self, tensor: str, index: int) -> int:
        """Leaf that holds a gain's element."""
        return self._specs[tensor].first_leaf + index // CHUNK

    def rope(self, position: int, index: int) -> tuple[int, int, int]:
        """Leaf of cos, leaf of sin, and the entry's place in both, for element i or i + S/2."""
        entry = position * self._half + index % self._half
        leaf, within = divmod(entry, TABLE_ENTRIES)
        return 2 + leaf, 2 + self._cosines + leaf, within
