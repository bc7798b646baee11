"""Openings in the trees that name a model and its texts: weights, tables, token ids.

Hashes are computed when the first one is asked for and kept: 12 MB for the 180,000 weight rows of SmolLM2-135M.
Payloads are cut from the model's arrays.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from market.hashing import TOKENS_PER_LEAF, pack_tokens
from market.inference.model import IntegerModel, Linear
from market.models import roots
from market.models.program import TensorSpec
from market.verification.geometry import WeightGeometry, ceil_div, ceil_log2
from market.verification.structs import Opening, Shape
from market.verification.tree import ByteArray, Keccak, Payloads, SectionTree

_ROWS_AT_ONCE = 4096


def path_of(tree: SectionTree, depth: int, leaf: int) -> tuple[bytes, ...]:
    """A leaf's siblings, lowest first."""
    return tuple(tree.hash(height, (leaf >> height) ^ 1) for height in range(depth))


def tree_of(keccak: Keccak, blocks: Iterator[ByteArray]) -> tuple[SectionTree, int]:
    """The tree over payloads that come as arrays [leaves, bytes], and its depth."""
    hashes = np.concatenate([keccak.leaves(_even(block)) for block in blocks])
    depth = ceil_log2(len(hashes))
    return SectionTree(keccak, hashes[None], depth, 0), depth


def _even(block: ByteArray) -> Payloads:
    count, size = block.shape
    number = np.arange(count)
    return Payloads(
        np.ascontiguousarray(block).reshape(-1), number * size, np.full(count, size, dtype=np.int32), number
    )


def token_opening(ids: Sequence[int], index: int, keccak: Keccak) -> Opening:
    """The word of eight ids that holds one, under ``hashing.tokens_root``."""
    packed, leaf = pack_tokens(ids), index // TOKENS_PER_LEAF
    words = np.frombuffer(packed, dtype=np.uint8).reshape(ceil_div(len(ids), TOKENS_PER_LEAF), 32)
    tree, depth = tree_of(keccak, iter([words]))
    return Opening(packed[32 * leaf : 32 * leaf + 32], path_of(tree, depth, leaf))


class ModelTrees:
    """The weight tree and the tables' tree of one model."""

    def __init__(self, model: IntegerModel, shape: Shape, keccak: Keccak | None = None) -> None:
        self._model, self.geometry, self.keccak = model, WeightGeometry(shape), keccak or Keccak()
        self._specs = self.geometry.specs()
        self._first = [spec.first_leaf for spec in self._specs]

    def weight_opening(self, leaf: int) -> Opening:
        """A row of a matrix or 64 gains."""
        tree, depth = self._weights
        return Opening(self._weight_payload(leaf), path_of(tree, depth, leaf))

    def table_opening(self, leaf: int) -> Opening:
        payloads, tree, depth = self._tables
        return Opening(payloads[leaf], path_of(tree, depth, leaf))

    def tables_path(self) -> tuple[bytes, ...]:
        """Siblings of the node above leaves 0 and 1, for ``IJudge.acceptTables``."""
        _, tree, depth = self._tables
        return path_of(tree, depth, 0)[1:]

    @property
    def weights_root(self) -> bytes:
        return self._weights[0].root

    @property
    def tables_root(self) -> bytes:
        return self._tables[1].root

    @cached_property
    def _weights(self) -> tuple[SectionTree, int]:
        return tree_of(self.keccak, (block for i, spec in enumerate(self._specs) for block in self._blocks(i, spec)))

    @cached_property
    def _tables(self) -> tuple[list[bytes], SectionTree, int]:
        payloads = list(roots.table_payloads(self._model.tables))
        block = np.frombuffer(b"".join(payloads), dtype=np.uint8).reshape(len(payloads), -1)
        return payloads, *tree_of(self.keccak, iter([block]))

    def _blocks(self, number: int, spec: TensorSpec) -> Iterator[ByteArray]:
        tensor = roots.tensor_of(self._model, spec.name)
        if isinstance(tensor, Linear):
            for start in range(0, spec.rows, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, spec.rows)
                yield roots.row_payloads(number, tensor.weight, tensor.multiplier, start, stop)
        else:
            rows = [roots.gain_payload(number, tensor, row) for row in range(spec.leaves)]
            yield np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(spec.leaves, -1)

    def _weight_payload(self, leaf: int) -> bytes:
        number = bisect_right(self._first, leaf) - 1
        spec, row = self._specs[number], leaf - self._first[number]
        if not 0 <= row < spec.leaves:
            raise IndexError(leaf)
        tensor = roots.tensor_of(self._model, spec.name)
        if isinstance(tensor, Linear):
            return roots.row_payloads(number, tensor.weight, tensor.multiplier, row, row + 1).tobytes()
        return roots.gain_payload(number, tensor, row)
