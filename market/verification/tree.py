"""Hashing many leaves and whole levels: in C where the extension is there, else one call of ``sha3`` a hash.

Rules: leaf = keccak256(0x00 ‖ payload), node = keccak256(left ‖ right), outside = EMPTY (docs/disputes.md, section 2).
Hashes lie in uint8 arrays [..., 32].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from market.hashing import ZERO32, keccak256
from market.inference.model import Int32Array, Int64Array
from market.inference.native import library as native

ByteArray = npt.NDArray[np.uint8]


@cache
def empty(levels: int) -> bytes:
    """EMPTY_levels: the hash of a subtree of that height that is outside the program."""
    return ZERO32 if levels == 0 else keccak256(empty(levels - 1) * 2)


@dataclass(frozen=True)
class Payloads:
    """Payloads of some leaves of a section, ascending by leaf number: leaf ``number[i]`` is ``length[i]`` bytes of
    ``data`` from ``offset[i]`` on.
    """

    data: ByteArray
    offset: Int64Array
    length: Int32Array
    number: Int64Array

    def payload(self, number: int) -> bytes:
        """Raises KeyError for a leaf that is not among them."""
        at = int(np.searchsorted(self.number, number))
        if at == len(self.number) or self.number[at] != number:
            raise KeyError(number)
        start = int(self.offset[at])
        return self.data[start : start + int(self.length[at])].tobytes()


class Keccak:
    """Hashes batches. ``width``: messages at a time in C; 0: Python's."""

    def __init__(self, width: int | None = None) -> None:
        """None takes the widest there is."""
        loaded = native.library()
        if width is None:
            width = loaded.assay_keccak_width() if loaded else 0
        self.width, self._library = width, loaded if width else None
        if width and (loaded is None or not loaded.assay_keccak_leaves(width, None, None, None, 0, None)):
            raise ValueError(f"no keccak of width {width} on this machine")

    def leaves(self, payloads: Payloads) -> ByteArray:
        """Hashes [n, 32] of the leaves."""
        count = len(payloads.number)
        out = np.empty((count, 32), dtype=np.uint8)
        if self._library is not None:
            # neighbours share the vector's lanes: those of one length finish together
            order = np.argsort(payloads.length, kind="stable")
            offset = np.ascontiguousarray(payloads.offset[order], dtype=np.int64)
            length = np.ascontiguousarray(payloads.length[order], dtype=np.int32)
            arrays = [native.pointer(array) for array in (payloads.data, offset, length)]
            hashes = np.empty_like(out)
            self._library.assay_keccak_leaves(self.width, *arrays, count, native.pointer(hashes))
            out[order] = hashes
            return out
        data, offsets = payloads.data.tobytes(), payloads.offset.tolist()
        for i, (start, size) in enumerate(zip(offsets, payloads.length.tolist(), strict=True)):
            out[i] = np.frombuffer(keccak256(b"\0" + data[start : start + size]), dtype=np.uint8)
        return out

    def level(self, nodes: ByteArray, fill: bytes) -> ByteArray:
        """The level above: [rows, w, 32] → [rows, ⌈w/2⌉, 32]; ``fill`` stands beside an odd last one."""
        rows, width, _ = nodes.shape
        out = np.empty((rows, (width + 1) // 2, 32), dtype=np.uint8)
        if self._library is not None:
            nodes = np.ascontiguousarray(nodes)
            self._library.assay_keccak_level(self.width, native.pointer(nodes), rows, width, fill, native.pointer(out))
            return out
        for row in range(rows):
            data = nodes[row].tobytes() + (fill if width % 2 else b"")
            for pair in range(out.shape[1]):
                out[row, pair] = np.frombuffer(keccak256(data[64 * pair : 64 * pair + 64]), dtype=np.uint8)
        return out

    def levels(self, leaves: ByteArray, slot_bits: int, row_bits: int) -> list[ByteArray]:
        """All levels of a section, its leaves [rows, slots, 32] first, its root last.

        Level k holds [n, 32]: what is left of it when the EMPTY at the rows' ends are left out.
        """
        result = [leaves.reshape(-1, 32)]
        nodes = leaves
        for height in range(slot_bits):
            nodes = self.level(nodes, empty(height))
            result.append(nodes.reshape(-1, 32))
        nodes = nodes.reshape(1, -1, 32)
        for height in range(slot_bits, slot_bits + row_bits):
            nodes = self.level(nodes, empty(height))
            result.append(nodes.reshape(-1, 32))
        return result


def fold(hashes: Sequence[bytes]) -> list[list[bytes]]:
    """All levels above a power of two of hashes, these first, their root last."""
    levels = [list(hashes)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([keccak256(below[i] + below[i + 1]) for i in range(0, len(below), 2)])
    return levels


def fold_path(node: bytes, index: int, path: Sequence[bytes]) -> bytes:
    """The root that a node's siblings lead to, lowest first."""
    for sibling in path:
        node = keccak256(sibling + node) if index & 1 else keccak256(node + sibling)
        index >>= 1
    return node


class SectionTree:
    """All hashes of one section (64 bytes a leaf), any of them by (height above the leaves, index)."""

    def __init__(self, keccak: Keccak, hashes: ByteArray, slot_bits: int, row_bits: int) -> None:
        """hashes: [rows, slots, 32], zeros where a leaf is outside."""
        self._rows, self._slots, _ = hashes.shape
        self._slot_bits = slot_bits
        self._levels = keccak.levels(hashes, slot_bits, row_bits)

    @property
    def root(self) -> bytes:
        return bytes(self._levels[-1].tobytes())

    def hash(self, height: int, index: int) -> bytes:
        """EMPTY where nothing of the program is below."""
        above = max(height - self._slot_bits, 0)
        width = -(-self._slots // (1 << min(height, self._slot_bits)))
        bits = self._slot_bits - height if height < self._slot_bits else 0
        row, slot = index >> bits, index & ((1 << bits) - 1)
        if slot >= width or row >= -(-self._rows // (1 << above)):
            return empty(height)
        return bytes(self._levels[height][row * width + slot].tobytes())
