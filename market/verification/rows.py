"""The operations of a trace between its products, by the engine's kernels in C: what ``exact`` and ``attention`` give.

Rows and heads are shared out to threads; an array's axes are those of ``market.verification.layer``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ctypes import CDLL
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from market.inference.model import Config, Int32Array, Int64Array, IntegerModel, Layer, Tables
from market.inference.native import library as native
from market.inference.reference import CACHE_LIMIT
from market.verification import attention, exact
from market.verification.geometry import CHUNK, ceil_div

Share = Callable[[Callable[[int, int], None], Iterable[tuple[int, int]]], None]
"""``share(work, parts)`` calls work of each part, on several threads; raises what one of them raised."""

PIECES = 2  # of the rows for each thread
TESTED_POSITIONS = (1, 150)


class Attention(NamedTuple):
    """Scores [p, head, u], SOFTMAX's M, i′ and prefixes [p, head, fields], MIX_SUM's prefixes [p, head, block, S], and
    o [p, head, S].
    """

    scores: Int64Array
    softmax: Int64Array
    sums: Int64Array
    mix: Int64Array


class Rows:
    """With the kernels called ``kernel`` of the library."""

    def __init__(self, library: CDLL, kernel: str, threads: int, share: Share) -> None:
        self._library, self._kernel, self._share = library, kernel.encode(), share
        self._pieces = PIECES * threads

    def norm(self, x: Int64Array, gain: Int32Array, epsilon: int) -> tuple[Int64Array, Int64Array]:
        """q [T, D], and s, v, s′, i′ [T, 4] of residuals [T, D]."""
        x, (count, size) = np.ascontiguousarray(x), x.shape
        q, statistic = np.empty_like(x), np.empty((count, 4), dtype=np.int64)

        def run(first: int, last: int) -> None:
            rows = native.pointer(x[first:last]), native.pointer(gain), epsilon, last - first, size
            self._library.assay_trace_norm(
                self._kernel, *rows, native.pointer(statistic[first:]), q[first:].ctypes.data
            )

        self._share(run, self._parts(count))
        return q, statistic

    def quantise(self, y: Int64Array) -> tuple[Int64Array, Int64Array]:
        """q [T, K], and s′ and i′ [T, 2]; may write into y."""
        q, (count, size) = np.ascontiguousarray(y), y.shape
        statistic = np.empty((count, 2), dtype=np.int64)

        def run(first: int, last: int) -> None:
            at = native.pointer(q[first:last]), last - first, size, native.pointer(statistic[first:])
            self._library.assay_trace_quantise(self._kernel, *at)

        self._share(run, self._parts(count))
        return q, statistic

    def rotate(self, z: Int64Array, cos: Int32Array, sin: Int32Array, fraction: int) -> Int64Array:
        """Sections 3.5 and 3.6 of z [T, heads, S], a row of the tables for each."""
        out, (count, heads, size) = np.empty_like(z), z.shape

        def run(first: int, last: int) -> None:
            arrays = [native.pointer(array[first:last]) for array in (z, cos, sin)]
            shape = last - first, heads, size, fraction
            self._library.assay_trace_rotate(self._kernel, *arrays, *shape, native.pointer(out[first:]))

        self._share(run, self._parts(count))
        return out

    def to_cache(self, z: Int64Array, fraction: int) -> Int64Array:
        """Section 3.6, in place."""
        self._library.assay_trace_to_cache(self._kernel, native.pointer(z), z.size, fraction)
        return z

    def attend(
        self, queries: Int64Array, keys: Int64Array, values: Int64Array, layer: Layer, config: Config, tables: Tables
    ) -> Attention:
        """Section 3.8 of queries [p, head, S] over keys and values [p, kv head, S]. Raises MemoryError."""
        (count, heads, size), kv_heads = queries.shape, keys.shape[1]
        blocks = ceil_div(count, CHUNK)
        found = Attention(
            *(
                np.empty((count, heads, *rest), dtype=np.int64)
                for rest in ((CHUNK * blocks,), (2 + blocks,), (blocks, size), (size,))
            )
        )
        constants = native.AttentionStruct(
            native.pointer(tables.exp2_high),
            native.pointer(tables.exp2_low),
            config.score_multiplier,
            layer.query_fraction + layer.key_fraction + 2,
            16 - layer.value_fraction,
            size,
        )
        arrays = [native.pointer(array) for array in (queries, keys, values, *found)]
        struct = native.TraceAttentionStruct(*arrays, attention.HIDDEN, heads, kv_heads, blocks)

        def run(kv: int, block: int) -> None:
            span = CHUNK * block, min(count, CHUNK * (block + 1))
            if not self._library.assay_trace_attend(self._kernel, constants, struct, kv, *span):
                raise MemoryError

        # the longest first: who comes last has little to do
        self._share(run, [(kv, block) for block in reversed(range(blocks)) for kv in range(kv_heads)])
        return found

    def agree(self, model: IntegerModel) -> bool:
        """Whether all of it is numpy's, of extremes and of random numbers, with the model's own constants."""
        chance, config, tables = np.random.default_rng(20261129), model.config, model.tables
        edges = [0, 1, -1, 2**52 - 1, 1 - 2**52, 2**22, 2**22 - 1, -(2**22), 2**38, 3]
        rows = [chance.integers(-(2**bits), 2**bits, config.hidden) for bits in (0, 8, 16, 22, 23, 30, 40, 51)]
        rows += [np.resize(edges, config.hidden), *(np.full(config.hidden, value) for value in (0, 1, 2**52 - 1))]
        rows += [np.eye(1, config.hidden, config.hidden // 2, dtype=np.int64)[0] * 2**40]
        x = np.stack(rows).astype(np.int64)
        for gain in (model.output_norm, model.layers[0].attention_norm):
            statistic = exact.norm_statistic(x, config.epsilon)
            y = exact.normalise(x, statistic, gain)
            maximum = exact.maximum_statistic(y)
            q, found = self.norm(x, gain, config.epsilon)
            if not _same((q, exact.quantise(y, maximum[:, :1])), (found, np.concatenate([statistic, maximum], axis=1))):
                return False
        maximum = exact.maximum_statistic(x)
        q, found = self.quantise(x.copy())
        if not _same((q, exact.quantise(x.copy(), maximum[:, :1])), (found, maximum)):
            return False
        count, size = 9, config.head_size
        z = chance.integers(-(2**36), 2**36, (count, config.heads, size))
        z[0], z[1] = 2**36, chance.integers(-(2**17), 2**17, z[1].shape)
        cos, sin = tables.rope_cos[:count], tables.rope_sin[:count]
        count = len(cos)  # of a model with a smaller context
        rotated = exact.rotate(z[:count], cos, sin)
        for fraction in range(16):
            pairs = (
                (self.rotate(z[:count].copy(), cos, sin, fraction), exact.to_cache(rotated.copy(), fraction)),
                (self.to_cache(z.copy(), fraction), exact.to_cache(z.copy(), fraction)),
            )
            if not _same(*pairs):
                return False
        return all(
            self._attends(model, layer, count, chance)
            for count in TESTED_POSITIONS
            for layer in (model.layers[0], model.layers[-1])
        )

    def _attends(self, model: IntegerModel, layer: Layer, count: int, chance: np.random.Generator) -> bool:
        c = model.config
        queries = chance.integers(-CACHE_LIMIT, CACHE_LIMIT + 1, (count, c.heads, c.head_size))
        keys, values = chance.integers(-CACHE_LIMIT, CACHE_LIMIT + 1, (2, count, c.kv_heads, c.head_size))
        queries[count // 2 :] >>= 9  # weights spread over many positions
        queries[0], queries[count // 3], keys[: count // 2] = CACHE_LIMIT, -CACHE_LIMIT, CACHE_LIMIT
        values[: count // 3] = np.where(np.arange(c.head_size) % 2, CACHE_LIMIT, -CACHE_LIMIT)
        right = layer.query_fraction + layer.key_fraction + 2
        scored = attention.scores(queries, keys, c.score_multiplier, right)
        weights, total, softmax = attention.softmax(scored, exact.Exponential(model.tables), _unseen)
        mixed = attention.mix(weights, total, values, layer.value_fraction, _unseen)
        found = self.attend(queries, keys, values, layer, c, model.tables)
        return _same(*zip(found, (scored, softmax, *mixed), strict=True))

    def _parts(self, count: int) -> Iterable[tuple[int, int]]:
        pieces = min(self._pieces, count)
        return pairwise(count * i // pieces for i in range(pieces + 1))


def _unseen(part: str, array: object) -> None:
    """No hook."""


def _same(*pairs: tuple[Int64Array, Int64Array]) -> bool:
    return all(np.array_equal(got, expected) for got, expected in pairs)
