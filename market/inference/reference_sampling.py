"""Sampling and log-probabilities on Python's integers: the executable form of docs/numerics.md, sections 10 and 11.

Written to be read, one token at a time and without any cut: every token's noise is computed. It shares no arithmetic
with ``market.inference.sampling``; the tests compare the two to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor

from eth_abi.abi import encode

from market.hashing import keccak256
from market.inference.model import Int64Array, Tables
from market.inference.reference import LOG2_E_Q16, argmax
from market.inference.sampling import Sampling

LN2 = 54916777467707473351141471128  # floor(ln 2 * 2^96)


def pick(logits: Int64Array, position: int, sampling: Sampling, tables: Tables) -> int:
    """The token of an output position. logits: [V] Q16."""
    if sampling.temperature_q16 == 0:
        return argmax(logits)
    values = [int(value) for value in logits]
    start = draw(sampling.seed, position) % 2**64
    keys = {
        token: (values[token] << 20) + sampling.temperature_q16 * gumbel(token_hash(start, token))
        for token in nucleus(values, sampling, tables)
    }
    return min(keys, key=lambda token: (-keys[token], token))


def nucleus(values: Sequence[int], sampling: Sampling, tables: Tables) -> list[int]:
    """The tokens that top-k and then top-p leave, likeliest first."""
    ranked = sorted(range(len(values)), key=lambda token: (-values[token], token))
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    if sampling.top_p_q16 == 65536:
        return ranked
    top = values[ranked[0]]
    weights = [
        exp2_negative((top - values[token]) * LOG2_E_Q16 // sampling.temperature_q16, tables) for token in ranked
    ]
    needed = ceil(Fraction(sampling.top_p_q16 * sum(weights), 65536))
    kept, before = [], 0
    for token, weight in zip(ranked, weights, strict=True):
        if before >= needed:
            break
        kept.append(token)
        before += weight
    return kept


def draw(seed: bytes, position: int) -> int:
    """The 256 random bits of an output position (0 = the first output token)."""
    return int.from_bytes(keccak256(encode(["bytes32", "uint32"], [seed, position])), "big")


def token_hash(start: int, token: int) -> int:
    """64 random bits of one token, the last of them 1: SplitMix64's output number ``token``."""
    z = (start + token * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z // 2**30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z // 2**27) * 0x94D049BB133111EB % 2**64
    return (z ^ z // 2**31) | 1


def gumbel(h: int) -> int:
    """-ln(-ln(1 - h / 2^64)) in Q20, h odd."""
    return floor(Fraction(negative_log(negative_log(2**64 - h, 64), 96), 2**76) + Fraction(1, 2))


def negative_log(x: int, fraction: int) -> int:
    """-ln(x / 2^fraction) in Q96, x >= 1: x is brought to w = 1 - m with 1/2 <= m < 1, and with s = w / (2 - w)
    -ln(1 - w) = 2 artanh(s) = 2 s (1 + s^2/3 + s^4/5 + ...)."""
    bits = x.bit_length()
    m = x * 2**64 // (1 << bits)  # Q64
    w = 2**64 - m
    s = w * 2**96 // (2**65 - w)  # Q96
    square = s**2 // 2**128  # Q64
    total = 2**64 // 15
    for odd in (13, 11, 9, 7, 5, 3, 1):
        total = 2**64 // odd + total * square // 2**64
    return (fraction - bits) * LN2 + s * total // 2**63


def exp2_negative(d: int, tables: Tables) -> int:
    """2^-d in Q30 for d >= 0 in Q16 (section 3.7)."""
    product = int(tables.exp2_high[(d >> 8) % 256]) * int(tables.exp2_low[d % 256]) >> 30
    return product >> min(d >> 16, 31)


def log_probability(logits: Int64Array, token: int, tables: Tables) -> int:
    """ln of the model's own probability of a token, Q16."""
    values = [int(value) for value in logits]
    top = max(values)
    total = sum(exp2_negative((top - value) * LOG2_E_Q16 >> 16, tables) for value in values)  # Q30
    log_total = floor(Fraction(-negative_log(total, 30), 2**80) + Fraction(1, 2))
    return -(top - values[token] + max(log_total, 0))


def likeliest(logits: Int64Array, count: int) -> list[int]:
    """The ``count`` largest logits' tokens, largest first, of equal ones the lowest id."""
    return sorted(range(len(logits)), key=lambda token: (-int(logits[token]), token))[:count]
