"""How a token is chosen by a seed: docs/numerics.md, section 10, vectorised for serving. Integers only.

Gumbel-max: every token that top-k and top-p leave gets noise from the draw of its position, and the largest sum wins.
The noise of 49,152 tokens is not computed: a table bounds it from above, and only tokens whose bound reaches the key of
the most promising one are computed exactly (one or two). It shares no arithmetic with ``reference_sampling``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import isqrt
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from market.hashing import ZERO32, keccak256
from market.inference.errors import SamplingError
from market.inference.model import Int32Array, Int64Array
from market.types import Request, Sampler

UInt64Array = npt.NDArray[np.uint64]

ONE_Q16 = 1 << 16
COUNTER_STEP, MIX_FIRST, MIX_SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
LN2_Q96 = 54916777467707473351141471128  # floor(ln 2 * 2^96)
NOISE_BITS = 20  # fraction bits of the noise
_SERIES = tuple((1 << 64) // (2 * k + 1) for k in range(8))  # of artanh, Q64
_DISTANCE_CAP = 1 << 38  # so far below the best, at every temperature, a token never wins and its weight is 0
_EXPONENT_CAP = 31 << 16
_LOG2_E_Q16 = 94548
_HASH_DROP = 33  # bits of a hash that its bound does not look at: the others fit an int32
_CELLS = 128  # of the table of bounds, for each octave of the rest
_BUCKET_BITS = 11  # coarse sums over so many buckets before anything is sorted


class Picker(Protocol):
    """Chooses the next token; engines without one take the argmax."""

    def pick(self, logits: Int64Array, position: int) -> int:
        """Token id for output position ``position`` (0 = the first output token); logits: int64 [V], Q16."""


@dataclass(frozen=True)
class Sampling:
    """The sampling fields of one request, and how they choose.

    Attributes:
        temperature_q16: 0…2^32−1; 0 = the argmax, whatever the other fields are.
        top_k: 0 = no limit.
        top_p_q16: 1…65,536; 65,536 = no limit.
        seed: 32 bytes; with the position it fixes the draw.

    Raises (constructor):
        SamplingError: a value that no request may have.
    """

    temperature_q16: int
    top_k: int
    top_p_q16: int
    seed: bytes

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("temperatureQ16", self.temperature_q16, 0, (1 << 32) - 1),
            ("topK", self.top_k, 0, (1 << 32) - 1),
            ("topPQ16", self.top_p_q16, 1, ONE_Q16),
        ):
            if not least <= value <= most:
                raise SamplingError(name, value, f"{name} takes {least} to {most}, not {value}.")
        if len(self.seed) != 32:
            raise SamplingError("seed", len(self.seed), f"The seed has 32 bytes, not {len(self.seed)}.")

    @classmethod
    def of(cls, request: Request, chain_seed: bytes | None = None) -> Self | None:
        """What a request asks for; None = greedy.

        Args:
            chain_seed: the seed of a job whose request says SEEDED_BY_CHAIN.

        Raises:
            SamplingError: the fields contradict each other, or the chain's seed is needed and not known.
        """
        if request.sampler == Sampler.GREEDY:
            if not request.is_plain_greedy:
                raise SamplingError(
                    "sampler", 0, "Sampler 0 is greedy: temperatureQ16, topK, topPQ16 and seed must be 0."
                )
            return None
        seed = request.seed
        if request.sampler == Sampler.SEEDED_BY_CHAIN:
            if request.seed != ZERO32:
                raise SamplingError("seed", 2, "Sampler 2 takes its seed from the chain: the seed field must be 0.")
            if chain_seed is None:
                raise SamplingError("sampler", 2, "Sampler 2 needs the seed that the chain gives the job.")
            seed = chain_seed
        elif request.sampler != Sampler.SEEDED_BY_REQUEST:
            raise SamplingError("sampler", request.sampler, f"There is no sampler {request.sampler}.")
        return cls(request.temperature_q16, request.top_k, request.top_p_q16, seed)

    def pick(self, logits: Int64Array, position: int) -> int:
        """See Picker. Ties go to the lowest id."""
        if self.temperature_q16 == 0:
            return int(logits.argmax())  # numpy promises the first of equal ones
        kept = self._kept(logits)
        values = logits if kept is None else logits[kept]
        counters = _counters(len(logits))
        hashes = _hashes(draw(self.seed, position), counters if kept is None else counters[kept])
        distance = np.minimum(values.max() - values, _DISTANCE_CAP)
        bounds = _noise_bounds().take(_cells(hashes), mode="clip") * self.temperature_q16  # below 2^58
        bounds -= distance << NOISE_BITS  # of magnitude below 2^59

        def key(index: int) -> int:
            return self.temperature_q16 * noise(int(hashes[index])) - (int(distance[index]) << NOISE_BITS)

        reached = key(int(bounds.argmax()))
        rivals = np.flatnonzero(bounds >= reached)  # ascending, and so are their ids
        winner = max(rivals.tolist(), key=lambda index: (key(index), -index))
        return int(winner if kept is None else kept[winner])

    def _kept(self, logits: Int64Array) -> Int64Array | None:
        """Ids, ascending, that top-k and then top-p leave; None = all."""
        kept: Int64Array | None = None
        if 0 < self.top_k < len(logits):
            least = np.partition(logits, len(logits) - self.top_k)[len(logits) - self.top_k]
            inside = logits > least
            inside[np.flatnonzero(logits == least)[: self.top_k - np.count_nonzero(inside)]] = True
            kept = np.flatnonzero(inside)
        if self.top_p_q16 == ONE_Q16:
            return kept
        values = logits if kept is None else logits[kept]
        nucleus = self._nucleus(values)
        return nucleus if kept is None else kept[nucleus]

    def _nucleus(self, values: Int64Array) -> Int64Array:
        """Indices, ascending, of the largest values whose weights first reach topP of the sum."""
        distance = np.minimum(values.max() - values, _DISTANCE_CAP)
        exponents = np.minimum(distance * _LOG2_E_Q16 // self.temperature_q16, _EXPONENT_CAP)  # product 55
        weights = exp2_negative(exponents)
        buckets = exponents >> max(int(exponents.max()).bit_length() - _BUCKET_BITS, 0)
        sums = np.cumsum(np.bincount(buckets, weights=weights).astype(np.int64))  # float64 sums below 2^53: exact
        needed = -(-self.top_p_q16 * int(sums[-1]) // ONE_Q16)
        last = int(np.searchsorted(sums, needed))  # the bucket in which they reach topP
        edge = np.flatnonzero(buckets == last)
        bits = len(edge).bit_length()
        ranked = np.sort((distance[edge] << bits) + np.arange(len(edge))) & ((1 << bits) - 1)  # by distance, then id
        edge = edge[ranked]
        before = int(sums[last - 1]) if last else 0
        count = int(np.searchsorted(before + np.cumsum(weights[edge], dtype=np.int64), needed)) + 1
        inside = buckets < last
        inside[edge[:count]] = True
        return np.flatnonzero(inside)


def draw(seed: bytes, position: int) -> int:
    """uint256(keccak256(abi.encode(seed, uint32(position))))."""
    return int.from_bytes(keccak256(seed + position.to_bytes(4, "big").rjust(32, b"\0")), "big")


def noise(odd: int) -> int:
    """A token's Gumbel noise in Q20 from its odd 64-bit hash: −ln(−ln(1 − odd/2^64))."""
    exponential = minus_ln((1 << 64) - odd, 64)
    return (minus_ln(exponential, 96) + (1 << 75)) >> 76


def minus_ln(x: int, fraction: int) -> int:
    """−ln(x / 2^fraction) in Q96, x ≥ 1."""
    bits = x.bit_length()
    w = (1 << 64) - (x << (64 - bits) if bits <= 64 else x >> (bits - 64))
    s = (w << 96) // ((1 << 65) - w)
    square = s * s >> 128
    series = _SERIES[7]
    for coefficient in reversed(_SERIES[:7]):
        series = coefficient + (series * square >> 64)
    return (fraction - bits) * LN2_Q96 + (s * series >> 63)


def exp2_negative(exponents: Int64Array) -> Int32Array:
    """2^-d in Q30 for Q16 values d ≥ 0, at most 31 · 2^16."""
    d = exponents.astype(np.int32)
    powers: Int32Array = _powers().take(d & 0xFFFF)
    powers >>= d >> 16
    return powers


def _hashes(number: int, counters: UInt64Array) -> UInt64Array:
    """An odd 64-bit hash for each counter: SplitMix64 started at the draw's low 64 bits."""
    z = counters + np.uint64(number & 0xFFFFFFFFFFFFFFFF)
    shifted = np.empty_like(z)
    for shift, factor in ((30, MIX_FIRST), (27, MIX_SECOND), (31, None)):
        np.right_shift(z, np.uint64(shift), out=shifted)
        z ^= shifted
        if factor is not None:
            z *= np.uint64(factor)
    z |= np.uint64(1)
    return z


def _cells(hashes: UInt64Array) -> Int32Array:
    """Octave and seven further bits of each hash's highest 31, negative where those are 0. The conversion rounds."""
    cells = (hashes >> np.uint64(_HASH_DROP)).astype(np.int32).astype(np.float32).view(np.int32)
    cells >>= 16
    cells -= 127 << 7
    return cells


@cache
def _counters(count: int) -> UInt64Array:
    return np.arange(count, dtype=np.uint64) * np.uint64(COUNTER_STEP)


@cache
def _noise_bounds() -> Int64Array:
    """For each cell a number that no noise of its hashes exceeds: noise falls, but for rounding, as the hash grows."""
    bounds = []
    for cell in range((64 - _HASH_DROP) * _CELLS + 1):
        octave, step = divmod(cell, _CELLS)
        least = (((_CELLS + step) << octave) // _CELLS) << _HASH_DROP
        least -= least >> 24  # from here on a conversion to float32 may round into this cell
        bounds.append(noise(least | 1 if cell else 1) + 2)
    return np.array(bounds, dtype=np.int64)


@cache
def _powers() -> Int32Array:
    """[65536]: 2^-(i / 65536) in Q30, products of both exp2 tables' entries (docs/numerics.md, section 5)."""
    root = 1 << 255  # of ½ in Q256, sixteen times: 2^(-1/65536)
    for _ in range(16):
        root = isqrt(root << 256)
    low = _table(root)
    for _ in range(8):
        root = root * root >> 256
    return (_table(root)[:, None] * low >> 30).reshape(-1).astype(np.int32)


def _table(ratio: int) -> Int64Array:
    entries, power = [], 1 << 256
    for _ in range(256):
        entries.append((power + (1 << 225)) >> 226)
        power = power * ratio >> 256
    return np.array(entries, dtype=np.int64)
