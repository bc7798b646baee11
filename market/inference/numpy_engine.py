"""The engine of last resort: the reference's operations with a cache, where neither kernels in C nor torch are there.

The sums of a matrix run as float32 products of numpy's BLAS, exact for byte planes (docs/numerics.md, section 6.1) and
tested before use. Ten to fifty times slower than the kernels, and four bytes a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from market.inference import reference
from market.inference.engine import Generation, check_request, continued
from market.inference.errors import SelfTestError
from market.inference.model import AnyArray, Int64Array, IntegerModel, Layer, Linear
from market.inference.sampling import Picker

CHUNK = 64  # positions of the prompt run at once
Float32Array = npt.NDArray[np.float32]


class NumpyEngine:
    """Generation over one model. One instance serves one call at a time."""

    kernels = "numpy"

    def __init__(self, model: IntegerModel) -> None:
        """Raises SelfTestError when float32 products are not exact here."""
        self.config, self._model = model.config, model
        self._floats: dict[int, Float32Array] = {}
        for matrix in model.matrices():
            self._floats.setdefault(id(matrix), matrix.weight.astype(np.float32))
        self._check()

    def generate(
        self,
        ids: Sequence[int],
        max_output_tokens: int,
        stop_tokens: Sequence[int],
        cancelled: Callable[[], bool] | None = None,
        on_token: Callable[[int], None] | None = None,
        sampling: Picker | None = None,
    ) -> Generation:
        """See ``Engine.generate``. Raises PromptError before anything is computed."""
        check_request(self.config, ids, max_output_tokens, stop_tokens)
        c, done = self.config, 0
        shape = (2, c.layers, len(ids) + max_output_tokens, c.kv_heads, c.head_size)
        cache = np.zeros(shape, dtype=np.int64)

        def advance(new: Sequence[int], made: int) -> int:
            nonlocal done
            logits = self._forward(np.asarray(new, dtype=np.int64), cache, done)
            done += len(new)
            return reference.argmax(logits) if sampling is None or made < 0 else sampling.pick(logits, made)

        return continued(c, ids, max_output_tokens, stop_tokens, advance, CHUNK, cancelled, on_token)

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
            product = (reference.silu(gate, model.tables) * up + 2**15) >> 16
            x = x + self._linear(layer.down, *reference.quantise(product))
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

    def _check(self) -> None:
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
