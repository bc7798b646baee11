"""The operations of docs/numerics.md on Python's unbounded integers and fractions, one number at a time.

A third opinion beside the two engines: slow, without arrays, and with nothing that could wrap or round.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor, isqrt

from sha3 import keccak_256

Row = Sequence[int]
LN2_Q96 = 54916777467707473351141471128


def shift_round(x: int, shift: int) -> int:
    return floor(Fraction(x) / Fraction(2) ** shift + Fraction(1, 2))


def embed(row: Row, multiplier: int, exponent: int) -> list[int]:
    return [shift_round(w * multiplier, exponent - 16) for w in row]


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
    return product // 2 ** min(d // 65536, 31)


def silu(x: int, high: Row, low: Row) -> int:
    sigmoid = 2**60 // (2**30 + exp2_negative(abs(x) * 94548 // 65536, high, low))
    return shift_round(x * (2**30 - sigmoid if x < 0 else sigmoid), 30)


def activate(gate: int, up: int, high: Row, low: Row) -> int:
    return shift_round(silu(gate, high, low) * up, 16)


def argmax(logits: Row) -> int:
    return min(range(len(logits)), key=lambda j: (-logits[j], j))


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


def draw(seed: bytes, position: int) -> int:
    return int.from_bytes(keccak_256(seed + bytes(28) + bytes.fromhex(f"{position:08x}")).digest(), "big")


def token_hash(number: int, token: int) -> int:
    z = (number + token * 0x9E3779B97F4A7C15) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z = (z ^ z // 2**shift) * factor % 2**64
    return z - z % 2 + 1


def minus_ln(x: int, fraction: int) -> int:
    """docs/numerics.md 10.4 word for word, with each intermediate held against the width stated there."""
    b = x.bit_length()
    m = floor(Fraction(x) * Fraction(2) ** (64 - b))
    w = fits(2**64 - m, 64)
    s = fits(fits(w * 2**96, 160) // (2**65 - w), 95)
    q = fits(fits(s * s, 190) // 2**128, 61)
    p = 2**64 // 15
    for k in range(6, -1, -1):
        p = fits(2**64 // (2 * k + 1) + fits(p * q, 126) // 2**64, 65)
    return (fraction - b) * LN2_Q96 + fits(s * p, 160) // 2**63


def gumbel(h: int) -> int:
    inner = fits(minus_ln(2**64 - h, 64), 102)
    return shift_round(minus_ln(inner, 96), 76)


def kept(logits: Row, temperature: int, top_k: int, top_p: int, high: Row, low: Row) -> list[int]:
    """Ids that the filters leave, in rank order; temperature above 0."""
    ranked = sorted(range(len(logits)), key=lambda j: (-logits[j], j))[: top_k or None]
    if top_p == 65536:
        return ranked
    weights = [exp2_negative((logits[ranked[0]] - logits[j]) * 94548 // temperature, high, low) for j in ranked]
    needed = -(-top_p * sum(weights) // 65536)
    return [j for i, j in enumerate(ranked) if sum(weights[:i]) < needed]


def pick(logits: Row, position: int, temperature: int, top_k: int, top_p: int, seed: bytes, high: Row, low: Row) -> int:
    if temperature == 0:
        return argmax(logits)
    number = draw(seed, position)

    def key(j: int) -> int:
        return logits[j] * 2**20 + fits(temperature * gumbel(token_hash(number, j)), 58)

    return min(kept(logits, temperature, top_k, top_p, high, low), key=lambda j: (-key(j), j))


def log_probability(logits: Row, token: int, high: Row, low: Row) -> int:
    top = max(logits)
    total = sum(exp2_negative((top - x) * 94548 // 65536, high, low) for x in logits)
    return min(logits[token] - top - max(shift_round(-minus_ln(total, 30), 80), 0), 0)


def fits(x: int, bits: int) -> int:
    """x, which docs/numerics.md says needs no more than so many bits of magnitude."""
    assert abs(x) < 2**bits, f"{x} needs more than {bits} bits"
    return x
