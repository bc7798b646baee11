"""The operations of docs/numerics.md on Python's unbounded integers and fractions, one number at a time.

A third opinion beside the two engines: slow, without arrays, and with nothing that could wrap or round.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor, isqrt

Row = Sequence[int]


def shift_round(x: int, shift: int) -> int:
    return floor(Fraction(x) / Fraction(2) ** shift + Fraction(1, 2))


def normalise(row: Row, gain: Row, epsilon: int) -> list[int]:
    shift = max(max(abs(x) for x in row).bit_length() - 22, 0)
    t = [shift_round(x, shift) for x in row]
    mean = sum(x * x for x in t) // len(t) + epsilon // 4**shift
    inverse = 2**52 // max(isqrt(mean * 2**18), 1)
    return [shift_round(floor(Fraction(x * inverse, 2**23)) * g, 16) for x, g in zip(t, gain, strict=True)]


def quantise(row: Row) -> tuple[list[int], int]:
    shift = max(1, *(abs(y) for y in row)).bit_length() - 15
    return [max(-32639, min(32639, shift_round(y, shift))) for y in row], shift


def linear(q: Row, shift: int, weight: Sequence[Row], multiplier: Row, exponent: int) -> list[int]:
    sums = [sum(a * w for a, w in zip(q, row, strict=True)) for row in weight]
    return [shift_round(total * m, exponent - shift) for total, m in zip(sums, multiplier, strict=True)]


def rotate(head: Row, cos: Row, sin: Row) -> list[int]:
    half = len(head) // 2
    a, b = head[:half], head[half:]
    first = [shift_round(a[i] * cos[i] - b[i] * sin[i], 15) for i in range(half)]
    return first + [shift_round(b[i] * cos[i] + a[i] * sin[i], 15) for i in range(half)]


def to_cache(z: int, fraction: int) -> int:
    return max(-32767, min(32767, shift_round(z, 16 - fraction)))


def exp2_negative(d: int, high: Row, low: Row) -> int:
    product = high[d // 256 % 256] * low[d % 256] // 2**30
    return product // 2 ** (d // 65536)


def silu(x: int, high: Row, low: Row) -> int:
    sigmoid = 2**60 // (2**30 + exp2_negative(abs(x) * 94548 // 65536, high, low))
    return shift_round(x * (2**30 - sigmoid if x < 0 else sigmoid), 30)


def attend(
    query: Row,
    keys: Sequence[Row],
    values: Sequence[Row],
    bits: tuple[int, int, int],
    multiplier: int,
    high: Row,
    low: Row,
) -> list[int]:
    """One head at the last of len(keys) positions; bits: fraction bits of query, key and value."""
    dots = [sum(a * b for a, b in zip(query, key, strict=True)) for key in keys]
    scores = [shift_round(dot * multiplier, bits[0] + bits[1] + 2) for dot in dots]
    weights = [exp2_negative(max(scores) - score, high, low) // 2**10 for score in scores]
    total = sum(weights)
    sums = [sum(w * value[i] for w, value in zip(weights, values, strict=True)) for i in range(len(query))]
    return [floor(Fraction(s * 2 ** (16 - bits[2]), total) + Fraction(1, 2)) for s in sums]
