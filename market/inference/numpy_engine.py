"""The engine of last resort: the reference's operations with a cache, where neither kernels in C nor torch are there.

The sums of a matrix run as float32 products of numpy's BLAS, exact for byte planes (docs/numerics.md, section 6.1) and
tested before use; so is a small model whole. Every other operation is the reference's own. Ten to fifty times slower
than the kernels, and four bytes a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import numpy.typing as npt

from market.inference import reference
from market.inference.batch import Part, Result, Want
from market.inference.engine import Engine
from market.inference.errors import SelfTestError
from market.inference.forward_selftest import check_forward
from market.inference.model import AnyArray, Int64Array, IntegerModel, Layer, Linear

CHUNK = 64  # positions of the prompt run at once
Float32Array = npt.NDArray[np.float32]


@dataclass
class Cache:
    """Keys and values of one sequence, [2, layers, capacity, G, S]."""

    held: Int64Array
    length: int = 0

    @property
    def capacity(self) -> int:
        return int(self.held.shape[2])

    def truncate(self, length: int) -> None:
        self.length = length


class NumpyEngine(Engine):
    """Generation over one model. One instance serves one call at a time."""

    kernels = "numpy"

    def __init__(self, model: IntegerModel, proved: bool = False) -> None:
        """Raises SelfTestError when float32 products are not exact here, or a small model's answers differ from the
        reference's. ``proved``: neither is tested, for that small model itself.
        """
        self.config, self._model = model.config, model
        self._floats: dict[int, Float32Array] = {}
        for matrix in model.matrices():
            self._floats.setdefault(id(matrix), matrix.weight.astype(np.float32))
        if not proved:
            self._check_products()
            check_forward(partial(NumpyEngine, proved=True), model.tables, self.kernels)

    def new_slot(self, capacity: int) -> Cache:
        """See ``BatchEngine.new_slot``."""
        c = self.config
        return Cache(np.zeros((2, c.layers, capacity, c.kv_heads, c.head_size), dtype=np.int64))

    def step(self, parts: Sequence[Part]) -> list[Result]:
        """See ``BatchEngine.step``. One part after the other, long ones in chunks."""
        return [self._advance(part) for part in parts]

    def _advance(self, part: Part) -> Result:
        slot = cast(Cache, part.slot)  # as `new_slot` made it
        for start in range(0, len(part.ids), CHUNK):
            ids = np.asarray(part.ids[start : start + CHUNK], dtype=np.int64)
            logits = self._forward(ids, slot.held, slot.length)
            slot.length += len(ids)
        return {Want.NOTHING: None, Want.TOKEN: reference.argmax(logits), Want.LOGITS: logits}[part.want]

    def _forward(self, ids: Int64Array, cache: Int64Array, start: int) -> Int64Array:
        """Appends ids [T] to the cache [2, layers, positions, G, S], of which ``start`` are filled; logits [V] of the
        last.
        """
        model, c = self._model, self.config
        x = reference.embed(model.embedding, ids)
        for index, layer in enumerate(model.layers):
            a, shift = reference.quantise(reference.normalise(x, layer.attention_norm, c.epsilon))
            mixed = self._attend(layer, a, shift, cache[:, index], start)
            x = x + self._linear(layer.attention_output, *reference.quantise(mixed))
            a, shift = reference.quantise(reference.normalise(x, layer.feed_forward_norm, c.epsilon))
            gate, up = self._linear(layer.gate, a, shift), self._linear(layer.up, a, shift)
            x = x + self._linear(layer.down, *reference.quantise(reference.activate(gate, up, model.tables)))
        a, shift = reference.quantise(reference.normalise(x[-1:], model.output_norm, c.epsilon))
        logits: Int64Array = self._linear(model.head, a, shift)[0]
        return logits

    def _attend(self, layer: Layer, a: Int64Array, shift: Int64Array, cache: Int64Array, start: int) -> Int64Array:
        c, tables, end = self.config, self._model.tables, start + len(a)
        q, k, v = (
            self._linear(matrix, a, shift).reshape(len(a), -1, c.head_size)
            for matrix in (layer.query, layer.key, layer.value)
        )
        q = reference.to_cache(reference.rotate(q, tables, start), layer.query_fraction)
        cache[0, start:end] = reference.to_cache(reference.rotate(k, tables, start), layer.key_fraction)
        cache[1, start:end] = reference.to_cache(v, layer.value_fraction)
        keys, values = cache[:, :end]
        return reference.attend(q, keys, values, layer, c.score_multiplier, tables).reshape(len(a), -1)

    def _linear(self, matrix: Linear, q: Int64Array, shift: Int64Array) -> Int64Array:
        high = (q + 128) >> 8
        sums = 256 * self._product(matrix, high) + self._product(matrix, q - 256 * high)
        return reference.shift_round(sums * matrix.multiplier.astype(np.int64), matrix.exponent - shift)

    def _product(self, matrix: Linear, plane: Int64Array) -> Int64Array:
        """Sums of a byte plane [T, K]: every partial one is an integer below 2^24, which float32 holds."""
        sums: Int64Array = (plane.astype(np.float32) @ self._floats[id(matrix)].T).astype(np.int64)
        return sums

    def _check_products(self) -> None:
        """Each shape against an exact product, on planes that make the largest sums of a row."""
        seen: set[tuple[int, ...]] = set()
        for matrix in self._model.matrices():
            if matrix.weight.shape in seen:
                continue
            seen.add(matrix.weight.shape)
            rows, columns = matrix.weight.shape
            kept: AnyArray = np.r_[0 : min(rows, 256), max(rows - 256, min(rows, 256)) : rows]
            exact = matrix.weight[kept].astype(np.int64)
            largest = np.where(exact[-1] < 0, -128, 127)
            planes = np.stack([largest, -1 - largest, np.full(columns, 127), np.full(columns, -128)])
            expected = np.einsum("mk,nk->mn", planes, exact)
            if not np.array_equal(self._product(matrix, planes)[:, kept], expected):
                raise SelfTestError(f"matmul numpy float32 of 4x{columns} by {columns}x{rows}")
