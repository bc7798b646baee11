"""The operations of docs/numerics.md on whole arrays, exact and quick: what a trace is recomputed with.

Floats occur where section 6.1 shows that they hold every integer. Everything is int64 [positions, elements] unless a
docstring says otherwise. Values that only a dishonest trace has (tests make such) may wrap; they never raise.
"""

from __future__ import annotations

import math

import numpy as np

from market.inference.model import Int32Array, Int64Array, Linear, Tables
from market.inference.reference import ACTIVATION_LIMIT, CACHE_LIMIT, LOG2_E_Q16

_FAR = 31 << 16  # 2^-d is 0 from here on


def narrowed(x: Int64Array, size: int) -> Int64Array:
    """x, all of whose elements fit ``size`` bytes with their sign. Raises OverflowError."""
    limit = 1 << (8 * size - 1)
    if size < 8 and x.size and (int(x.min()) < -limit or int(x.max()) >= limit):
        raise OverflowError(f"a value does not fit {size} bytes")
    return x


def bit_length(x: Int64Array) -> Int64Array:
    """Bits of each integer in 0 … 2^53 − 1, through a float64's exponent."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)


def shift_round(x: Int64Array, shift: Int64Array) -> Int64Array:
    """rsr of each row of [T, K] by its own shift [T, 1]; may write into x."""
    if int(shift.min(initial=1)) < 1:
        x = np.where(shift < 0, x << np.clip(-shift, 0, 63), x)
    right = np.clip(shift, 0, 63)
    x += np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    x >>= right
    return x


def norm_statistic(x: Int64Array, epsilon: int) -> Int64Array:
    """s and v of section 3.2, [T, 2]."""
    shift = np.maximum(bit_length(np.abs(x).max(axis=1, keepdims=True)) - 22, 0)
    t = shift_round(x.copy(), shift)
    np.multiply(t, t, out=t)
    mean = t.sum(axis=1, keepdims=True) // x.shape[1] + (epsilon >> np.minimum(2 * shift, 62))
    roots = [math.isqrt(int(value) << 18) for value in mean[:, 0]]
    inverse = np.array([2**52 // max(root, 1) for root in roots], dtype=np.int64)
    return np.stack([shift[:, 0], inverse], axis=1)


def normalise(x: Int64Array, statistic: Int64Array, gain: Int32Array) -> Int64Array:
    """y of section 3.2 from s and v [T, 2]."""
    y = shift_round(x.copy(), statistic[:, :1])
    y *= statistic[:, 1:]
    y >>= 23
    y *= gain.astype(np.int64)
    y += 2**15
    y >>= 16
    return y


def maximum_statistic(y: Int64Array) -> Int64Array:
    """s′ and i′ of section 3.3, [T, 2]: the shift, and the lowest index whose max(1, |y|) has the most bits."""
    size = np.abs(y)
    bits = bit_length(np.maximum(size.max(axis=1, keepdims=True), 1))
    # 1 has one bit like a 0 in its place: a row of both attains at index 0
    first = np.where(bits == 1, 0, (size >= np.int64(1) << (bits - 1)).argmax(axis=1, keepdims=True))
    return np.concatenate([bits - 15, first], axis=1)


def quantise(y: Int64Array, shift: Int64Array) -> Int64Array:
    """q of section 3.3 with the shifts [T, 1]; may write into y."""
    q = shift_round(y, shift)
    return np.clip(q, -ACTIVATION_LIMIT, ACTIVATION_LIMIT, out=q)


def to_cache(z: Int64Array, fraction: int) -> Int64Array:
    """Section 3.6; may write into z."""
    z += 1 << (15 - fraction)
    z >>= 16 - fraction
    return np.clip(z, -CACHE_LIMIT, CACHE_LIMIT, out=z)


def embed(table: Linear, tokens: Int64Array) -> Int64Array:
    product = table.weight[tokens].astype(np.int64) * table.multiplier[tokens, None].astype(np.int64)
    return shift_round(product, np.full((len(tokens), 1), table.exponent - 16, dtype=np.int64))


def rotate(z: Int64Array, cos: Int32Array, sin: Int32Array) -> Int64Array:
    """Section 3.5: z [T, heads, S], table rows [T, S/2]."""
    half = z.shape[2] // 2
    c, s = cos[:, None].astype(np.int64), sin[:, None].astype(np.int64)
    a, b = z[..., :half], z[..., half:]
    out = np.empty_like(z)
    out[..., :half] = (a * c - b * s + 2**14) >> 15
    out[..., half:] = (b * c + a * s + 2**14) >> 15
    return out


def scores(q: Int64Array, k: Int64Array, multiplier: int, shift: int) -> Int64Array:
    """Section 3.8's score of each head of one group: q [J, T, S], k [U, S] → [J, T, U]. The product with μ stays below
    2^52, which float64 holds.
    """
    heads, count, size = q.shape
    dots = q.reshape(heads * count, size).astype(np.float64) @ k.T.astype(np.float64)
    dots *= multiplier
    dots += 1 << (shift - 1)
    dots *= 0.5**shift
    np.floor(dots, out=dots)
    return dots.astype(np.int64).reshape(heads, count, len(k))


class Exponential:
    """2^−d from one table of 65,536 products (section 6.1)."""

    def __init__(self, tables: Tables) -> None:
        high, low = tables.exp2_high.astype(np.int64), tables.exp2_low.astype(np.int64)
        self._table = ((high[:, None] * low[None, :]) >> 30).astype(np.int32).ravel()

    def negative(self, d: Int64Array) -> Int32Array:
        """exp2neg of section 3.7 in Q30, for d in Q16; a negative d counts as 0."""
        near = np.clip(d, 0, _FAR).astype(np.int32)
        result: Int32Array = self._table[near & 65535]
        near >>= 16
        result >>= near
        return result

    def silu(self, x: Int64Array) -> Int64Array:
        """Section 3.9."""
        d = np.abs(x)
        d *= LOG2_E_Q16
        d >>= 16
        divisor = self.negative(d).astype(np.int64)
        divisor += 2**30
        sigmoid = _quotient(divisor)
        np.subtract(2**30, sigmoid, out=sigmoid, where=x < 0)
        sigmoid *= x
        sigmoid += 2**29
        sigmoid >>= 30
        return sigmoid


def _quotient(divisor: Int64Array) -> Int64Array:
    """2^60 // divisor for divisors in 2^30 … 2^31: float64's quotient is off by one at most."""
    quotient = (2.0**60 / divisor.astype(np.float64)).astype(np.int64)
    rest = 2**60 - quotient * divisor
    quotient -= rest < 0
    quotient += rest >= divisor
    return quotient
