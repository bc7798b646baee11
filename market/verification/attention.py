"""Attention of a trace in numpy, with what the tree shows of it (docs/numerics.md, section 3.8; docs/disputes.md, 2).

Arrays are int64 unless said otherwise: queries [p, head, S], keys and values [p, kv head, S]; axes of blocks and of u
are filled up to whole blocks. ``see(part, array)`` is shown what a hook may change.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from market.inference.model import AnyArray, Int32Array, Int64Array
from market.verification import exact
from market.verification.geometry import CHUNK, ceil_div

HIDDEN = -(1 << 45)  # stands for the scores of later positions: below every score by more than 31 · 2^16
See = Callable[[str, AnyArray], None]


def scores(queries: Int64Array, keys: Int64Array, multiplier: int, right: int) -> Int64Array:
    """[p, head, u] as a view of [head, p, u]."""
    positions, heads, _ = queries.shape
    share = heads // keys.shape[1]
    result = np.empty((heads, positions, CHUNK * ceil_div(positions, CHUNK)), dtype=np.int64)
    for kv in range(keys.shape[1]):
        own = slice(kv * share, (kv + 1) * share)
        result[own, :, :positions] = exact.scores(queries.transpose(1, 0, 2)[own], keys[:, kv], multiplier, right)
    result[:, np.arange(result.shape[2]) > np.arange(positions)[:, None]] = HIDDEN
    return result.transpose(1, 0, 2)


def softmax(scored: Int64Array, exponential: exact.Exponential, see: See) -> tuple[Int32Array, Int64Array, Int64Array]:
    """Of scores [p, head, u]: weights [head, p, u] Q20, Z [p, head], and M, i′ and the prefixes [p, head, fields]."""
    by_head = scored.transpose(1, 0, 2)
    heads, positions, _ = by_head.shape
    maximum = np.stack([by_head.max(axis=2).T, by_head.argmax(axis=2).T], axis=2)  # [p, head, 2]
    see("maximum", maximum)
    weights: Int32Array = np.empty(by_head.shape, dtype=np.int32)
    for head in range(heads):  # one at a time: at full context they take hundreds of megabytes
        weights[head] = exponential.negative(maximum[:, head, :1] - by_head[head])
    weights >>= 10
    sums = weights.reshape(heads, positions, -1, CHUNK).sum(axis=3, dtype=np.int64).transpose(1, 0, 2)
    see("sums", sums)
    prefixes = np.cumsum(sums, axis=2)
    total = prefixes[np.arange(positions), :, np.arange(positions) // CHUNK]
    return weights, total, np.concatenate([maximum, prefixes], axis=2)


def mix(
    weights: Int32Array, total: Int64Array, values: Int64Array, fraction: int, see: See
) -> tuple[Int64Array, Int64Array]:
    """The prefixes of num [p, head, block, S], and o [p, head, S]."""
    heads, positions, length = weights.shape
    share, blocks = heads // values.shape[1], length // CHUNK
    filled = np.zeros((length, *values.shape[1:]), dtype=np.float64)
    filled[:positions] = values
    sums = np.zeros((positions, heads, blocks, values.shape[2]), dtype=np.int64)
    for kv in range(values.shape[1]):
        own = slice(kv * share, (kv + 1) * share)
        for block in range(blocks):
            first, span = block * CHUNK, slice(block * CHUNK, (block + 1) * CHUNK)
            part = weights[own, first:, span].astype(np.float64) @ filled[span, kv]  # below 2^41
            sums[first:, own, block] = part.transpose(1, 0, 2)
    see("sums", sums)
    np.cumsum(sums, axis=2, out=sums)
    numerator = sums[np.arange(positions), :, np.arange(positions) // CHUNK]  # [p, head, S]
    divisor = np.maximum(total, 1)[:, :, None]
    numerator <<= 17 - fraction
    numerator += divisor
    numerator //= 2 * divisor
    return sums, numerator
