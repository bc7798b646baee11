"""Payloads of the leaves of a section from its values, and integers from a payload (docs/disputes.md, section 2)."""

from __future__ import annotations

import numpy as np

from market.inference.model import AnyArray
from market.verification.exact import narrowed
from market.verification.geometry import CHUNK, Operation, Section, padded
from market.verification.layer import Values
from market.verification.tree import ByteArray, Payloads


def big_endian(values: AnyArray, size: int, strict: bool = True) -> ByteArray:
    """Two's complement of ``size`` bytes each, [..., n] → [..., n * size].

    Values that do not fit raise OverflowError where ``strict``, else they lose their upper bits.
    """
    if strict:
        narrowed(values, size)
    whole = size if size in (2, 4, 8) else 8
    raw = np.ascontiguousarray(values.astype(f">i{whole}")).view(np.uint8)
    if whole == size:
        return raw
    kept = raw.reshape(*values.shape, whole)[..., whole - size :]
    return np.ascontiguousarray(kept).reshape(*values.shape[:-1], values.shape[-1] * size)


def decode(payload: bytes, size: int, count: int) -> list[int]:
    """The first ``count`` elements of ``size`` bytes each. Raises ValueError where there are fewer."""
    if len(payload) < size * count:
        raise ValueError(f"{len(payload)} bytes do not hold {count} elements of {size}")
    return [int.from_bytes(payload[size * i : size * i + size], "big", signed=True) for i in range(count)]


def encode(elements: list[int], size: int) -> bytes:
    """A payload. Raises OverflowError for an element that does not fit."""
    data = b"".join(element.to_bytes(size, "big", signed=True) for element in elements)
    return data + bytes(-len(data) % 32)


def payloads(section: Section, values: Values, strict: bool = True) -> Payloads:
    """All leaves of a section that are inside. ``strict``: raise OverflowError for a value beyond the limits of section
    2, which the pack's bounds rule out for an honest trace.
    """
    if section.operation is Operation.VALUE:
        return _value(section, values.elements, strict)
    if section.operation is Operation.SCORES:
        return _scores(section, values.elements, strict)
    if section.operation is Operation.SOFTMAX:
        return _softmax(section, values.elements)
    if section.operation is Operation.MIX_SUM:
        return _mix_sum(section, values.elements, strict)
    return _rows(section, values, strict)


def _made(
    section: Section, data: ByteArray, rows: AnyArray, slots: AnyArray, offset: AnyArray, length: AnyArray
) -> Payloads:
    """Parts that broadcast to [rows, slots], flattened."""
    number = (rows << section.slot_bits) + slots
    shape = np.broadcast_shapes(number.shape, offset.shape, length.shape)
    flat = [np.broadcast_to(array, shape).reshape(-1) for array in (offset, length, number)]
    return Payloads(data.reshape(-1), flat[0].astype(np.int64), flat[1].astype(np.int32), flat[2].astype(np.int64))


def _rows(section: Section, values: Values, strict: bool) -> Payloads:
    """Chunks of a row one after the other, behind its statistic: a row opening's payload is a row of this array."""
    elements = values.elements.reshape(section.rows, -1)
    statistic = padded(8 * section.statistic)
    used = section.width * section.size
    data = np.zeros((section.rows, statistic + padded(used)), dtype=np.uint8)
    if values.statistic is not None:
        data[:, : 8 * section.statistic] = big_endian(values.statistic, 8)
    data[:, statistic : statistic + used] = big_endian(elements, section.size, strict)
    rows, slots = np.arange(section.rows)[:, None], np.arange(section.slots)
    lengths = np.array([section.payload_bytes(0, slot) for slot in range(section.slots)])
    starts = np.cumsum(lengths) - lengths
    return _made(section, data, rows, slots, rows * data.shape[1] + starts, lengths)


def _value(section: Section, elements: AnyArray, strict: bool) -> Payloads:
    """[p, G, S] → leaves of 64 positions of one element."""
    whole = np.zeros((section.rows * CHUNK, section.slots), dtype=np.int64)
    whole[: section.positions] = elements.reshape(section.positions, section.slots)
    blocks = whole.reshape(section.rows, CHUNK, section.slots).transpose(0, 2, 1)
    data = big_endian(blocks, section.size, strict)
    rows, slots = np.arange(section.rows)[:, None], np.arange(section.slots)
    lengths = np.array([[section.payload_bytes(row, 0)] for row in range(section.rows)])
    return _made(section, data, rows, slots, (rows * section.slots + slots) * data.shape[2], lengths)


def _blocked(section: Section, data: ByteArray, lengths: AnyArray) -> Payloads:
    """data [p, head, block, bytes], lengths [p, 1, block]: the blocks up to the position's own."""
    positions, heads, blocks, size = data.shape
    rows = np.arange(positions)[:, None, None]
    slots = (np.arange(heads)[:, None] << section.block_bits) + np.arange(blocks)
    offset = np.arange(positions * heads * blocks).reshape(positions, heads, blocks) * size
    made = _made(section, data, rows, slots, offset, lengths)
    inside = np.broadcast_to(np.arange(blocks) <= rows // CHUNK, offset.shape).reshape(-1)
    return Payloads(made.data, made.offset[inside], made.length[inside], made.number[inside])


def _scores(section: Section, elements: AnyArray, strict: bool) -> Payloads:
    """[p, head, u] → leaves of 64 scores, the last of a row up to the position itself."""
    positions, heads, length = elements.shape
    seen = np.arange(length) <= np.arange(positions)[:, None]
    masked = np.where(seen[:, None, :], elements, 0)
    data = big_endian(masked.reshape(positions, heads, -1, CHUNK), section.size, strict)
    counts = np.clip(np.arange(positions)[:, None] + 1 - CHUNK * np.arange(length // CHUNK), 0, CHUNK)
    return _blocked(section, data, ((counts * section.size + 31) // 32 * 32)[:, None])


def _softmax(section: Section, elements: AnyArray) -> Payloads:
    """[p, head, 2 + blocks] → M, i′ and the prefixes of the blocks there are."""
    positions, heads, fields = elements.shape
    rows = np.arange(positions)[:, None]
    counts = 3 + rows // CHUNK
    data = np.zeros((positions, heads, padded(8 * fields)), dtype=np.uint8)
    there = np.arange(fields) < counts
    data[:, :, : 8 * fields] = big_endian(np.where(there[:, None], elements, 0), 8)
    slots = np.arange(heads)
    return _made(section, data, rows, slots, (rows * heads + slots) * data.shape[2], (8 * counts + 31) // 32 * 32)


def _mix_sum(section: Section, elements: AnyArray, strict: bool) -> Payloads:
    data = big_endian(elements, section.size, strict)
    return _blocked(section, data, np.full((1, 1, 1), data.shape[3]))
