"""docs/numerics.md, section 3, word by word in Python's unbounded integers, one number at a time."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from market.inference.model import Tables

Row = Sequence[int]


def rsr(a: int, n: int) -> int:
    return (a + (1 << (n - 1))) >> n if n > 0 else a << -n


def clamp(a: int, n: int) -> int:
    return max(-n, min(n, a))


def normalise(x: Row, gain: Row, epsilon: int) -> list[int]:
    s = max(max(map(abs, x)).bit_length() - 22, 0)
    t = [rsr(value, s) for value in x]
    a = sum(value * value for value in t) // len(x) + (epsilon >> (2 * s))
    v = (1 << 52) // max(isqrt(a << 18), 1)
    return [(((value * v) >> 23) * g + (1 << 15)) >> 16 for value, g in zip(t, gain, strict=True)]


def quantise(y: Row) -> tuple[list[int], int]:
    s = max(1, max(map(abs, y))).bit_length() - 15
    return [clamp(rsr(value, s), 32639) for value in y], s


def linear(q: Row, s: int, weights: Sequence[Row], multipliers: Row, exponent: int) -> list[int]:
    sums = (sum(a * w for a, w in zip(q, row, strict=True)) for row in weights)
    return [rsr(acc * m, exponent - s) for acc, m in zip(sums, multipliers, strict=True)]


def rotate(z: Row, cos: Row, sin: Row) -> list[int]:
    half = len(z) // 2
    first = [(z[i] * cos[i] - z[i + half] * sin[i] + 2**14) >> 15 for i in range(half)]
    return first + [(z[i + half] * cos[i] + z[i] * sin[i] + 2**14) >> 15 for i in range(half)]


def to_cache(z: Row, fraction: int) -> list[int]:
    return [clamp(rsr(value, 16 - fraction), 32767) for value in z]


def exp2neg(d: int, tables: Tables) -> int:
    high, low = int(tables.exp2_high[(d >> 8) & 255]), int(tables.exp2_low[d & 255])
    return ((high * low) >> 30) >> min(d >> 16, 31)


def attend(
    q: Row, keys: Sequence[Row], values: Sequence[Row], fractions: tuple[int, int, int], multiplier: int, tables: Tables
) -> list[int]:
    dots = [sum(a * b for a, b in zip(q, key, strict=True)) for key in keys]
    scores = [rsr(dot * multiplier, fractions[0] + fractions[1] + 2) for dot in dots]
    weights = [exp2neg(max(scores) - score, tables) >> 10 for score in scores]
    total = sum(weights)
    sums = (sum(w * value[i] for w, value in zip(weights, values, strict=True)) for i in range(len(q)))
    return [(2 * (num << (16 - fractions[2])) + total) // (2 * total) for num in sums]


def activate(gate: int, up: int, tables: Tables) -> int:
    power = exp2neg((abs(gate) * 94548) >> 16, tables)
    s = (1 << 60) // ((1 << 30) + power)
    s = (1 << 30) - s if gate < 0 else s
    return (((gate * s + (1 << 29)) >> 30) * up + (1 << 15)) >> 16
