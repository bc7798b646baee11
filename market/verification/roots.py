"""Trees of sections; and their roots straight from the values, in C, which keeps neither payloads nor lower levels."""

from __future__ import annotations

from functools import cache

import numpy as np

from market.inference.model import AnyArray
from market.inference.native import library as native
from market.verification.geometry import CHUNK, Geometry, Operation, Section
from market.verification.layer import Values
from market.verification.leaves import payloads
from market.verification.structs import Shape
from market.verification.tree import Keccak, Payloads, SectionTree, empty

_WHOLE_ROW = 30  # bits: every slot is a block of one head
_TESTED = Shape(
    vocabulary=300,
    context=256,
    hidden=72,
    feed_forward=104,
    layers=1,
    heads=6,
    kv_heads=2,
    head_size=16,
    tied=True,
    embedding_exponent=31,
    head_exponent=31,
    score_multiplier=1,
    epsilon=1,
)
_TESTED_LENGTHS = (1, 1), (60, 80)


def section_tree(keccak: Keccak, section: Section, leaves: Payloads) -> SectionTree:
    """All hashes of a section from its payloads."""
    hashes = np.zeros((section.rows, section.slots, 32), dtype=np.uint8)
    row, slot = leaves.number >> section.slot_bits, leaves.number & ((1 << section.slot_bits) - 1)
    hashes[row, slot] = keccak.leaves(leaves)
    return SectionTree(keccak, hashes, section.slot_bits, section.row_bits)


class SectionRoots:
    """Computes roots with a width of keccak in C, if it and its leaves are those of Python's on this machine."""

    def __init__(self, keccak: Keccak) -> None:
        self._width = keccak.width if keccak.width and proved(keccak.width) else 0

    def root(self, section: Section, values: Values, strict: bool = True) -> bytes | None:
        """None where only ``section_tree`` can. Raises OverflowError as ``payloads`` does."""
        return _root(self._width, section, values, strict) if self._width else None


@cache
def proved(width: int) -> bool:
    """Whether every kind of section, of the largest and smallest values and of random ones, has Python's root."""
    chance = np.random.default_rng(20261129)
    for lengths in _TESTED_LENGTHS:
        geometry = Geometry(_TESTED, *lengths)
        for group in range(geometry.groups):
            for operation in geometry.operations(group):
                section = geometry.section(group, operation)
                values = _tested_values(section, geometry, chance)
                tree = section_tree(Keccak(0), section, payloads(section, values))
                if _root(width, section, values, True) != tree.root:
                    return False
    return True


def _tested_values(section: Section, geometry: Geometry, chance: np.random.Generator) -> Values:
    limit = 1 << (8 * section.size - 1)
    heads, positions, blocks = geometry.shape.heads, geometry.positions, geometry.blocks
    shape: tuple[int, ...] = (section.rows, section.width)
    if section.operation is Operation.VALUE:
        shape = positions, geometry.shape.kv_heads, geometry.shape.head_size
    elif section.operation is Operation.SCORES:
        shape = positions, heads, blocks * CHUNK
    elif section.operation is Operation.SOFTMAX:
        shape = positions, heads, 2 + blocks
    elif section.operation is Operation.MIX_SUM:
        shape = positions, heads, blocks, geometry.shape.head_size
    elements: AnyArray = chance.integers(-limit, limit - 1, shape, dtype=np.int64, endpoint=True)
    elements.reshape(-1)[:: max(1, elements.size // 50)] = -limit
    elements.reshape(-1)[-1] = limit - 1
    if section.operation is Operation.LOGITS:
        elements = elements.astype(np.int32)
    fields = chance.integers(-(2**62), 2**62, (section.rows, section.statistic)) if section.statistic else None
    return Values(elements, fields)


def _root(width: int, section: Section, values: Values, strict: bool) -> bytes | None:
    library = native.library()
    if library is None or section.chunk * section.size > library.assay_section_leaf_max():
        return None
    narrow = values.elements.dtype == np.int32 and section.size == 4
    if not narrow and values.elements.dtype != np.int64:
        return None
    elements, layout = _layout(section, values.elements)
    statistic = None if values.statistic is None else np.ascontiguousarray(values.statistic, dtype=np.int64)
    struct = native.SectionStruct(
        elements.ctypes.data,
        native.pointer(statistic),
        *layout,
        section.rows,
        section.slots,
        section.block_bits if section.blocked else _WHOLE_ROW,
        section.statistic,
        section.size,
        int(narrow),
    )
    room = np.empty((section.rows * section.slots, 32), dtype=np.uint8)
    bits = section.slot_bits, section.row_bits
    fits = library.assay_section_root(width, struct, _empties(section.bits), *bits, native.pointer(room))
    if strict and fits != 1:
        raise OverflowError(f"a value does not fit {section.size} bytes")
    return bytes(room[0].tobytes())


def _layout(section: Section, elements: AnyArray) -> tuple[AnyArray, tuple[int, ...]]:
    """The array to read, and the fields of ``struct section`` from row_stride to chunk."""
    size, chunk = section.chunk, section.chunk
    if section.operation is Operation.VALUE:  # [p, element]: a leaf is a column's
        flat = np.ascontiguousarray(elements.reshape(section.positions, -1))
        return flat, (CHUNK * section.slots, 0, 1, section.slots, section.positions, -CHUNK, 0, 0, CHUNK)
    if section.operation is Operation.SOFTMAX:  # M, i′ and the prefixes of the blocks there are
        flat = np.ascontiguousarray(elements.reshape(section.rows, -1))
        fields = flat.shape[1] // section.slots
        return flat, (flat.shape[1], 0, fields, 1, 3, 0, 1, 0, fields)
    if section.blocked:
        last = elements.strides[-1] == elements.itemsize
        blocked = elements if last else np.ascontiguousarray(elements)
        strides = [stride // blocked.itemsize for stride in blocked.strides[:3]]
        if section.operation is Operation.SCORES:  # [p, head, u]
            return blocked, (strides[0], strides[1], CHUNK, 1, 1, 1, 0, CHUNK, CHUNK)
        return blocked, (*strides, 1, size, 0, size, size, chunk)  # [p, head, block, element], each or none of its S
    flat = np.ascontiguousarray(elements.reshape(section.rows, -1))
    return flat, (section.width, 0, chunk, 1, section.width, 0, 0, chunk, chunk)


@cache
def _empties(levels: int) -> bytes:
    return b"".join(empty(level) for level in range(levels))
