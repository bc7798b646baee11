"""Single elements of docs/numerics.md on Python's unbounded integers: what a step computes.

Written like the steps in Solidity, apart from the arrays of ``exact`` and the rows of ``market.inference.reference``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from market.inference.reference import ACTIVATION_LIMIT, CACHE_LIMIT
from market.inference.reference_sampling import draw, gumbel, token_hash
from market.inference.sampling import ONE_Q16
from market.types import Sampler
from market.verification.structs import Claim


def rsr(x: int, shift: int) -> int:
    """x / 2^shift to the nearest integer, halves upward; a negative shift multiplies. Shifts that no honest trace has
    are cut to 256 bits either way.
    """
    shift = clamp(shift, 256)
    return x << -shift if shift <= 0 else (x + (1 << (shift - 1))) >> shift


def clamp(x: int, limit: int) -> int:
    return max(-limit, min(limit, x))


def quantised(y: int, shift: int) -> int:
    """q of section 3.3."""
    return clamp(rsr(y, shift), ACTIVATION_LIMIT)


def to_cache(z: int, fraction: int) -> int:
    """Section 3.6."""
    return clamp(rsr(z, 16 - fraction), CACHE_LIMIT)


def norm_statistic(x: Sequence[int], epsilon: int) -> tuple[int, int]:
    """s and v of section 3.2."""
    shift = max(max(abs(value) for value in x).bit_length() - 22, 0)
    mean = sum(rsr(value, shift) ** 2 for value in x) // len(x) + (epsilon >> (2 * shift))
    return shift, 2**52 // max(math.isqrt(mean << 18), 1)


def normalised(x: int, shift: int, inverse: int, gain: int) -> int:
    """y of section 3.2."""
    return ((rsr(x, shift) * inverse >> 23) * gain + 2**15) >> 16


class Exponential:
    """Sections 3.7 and 3.9 with the tables of the contracts."""

    def __init__(self, high: Sequence[int], low: Sequence[int]) -> None:
        self._high, self._low = high, low

    def negative(self, d: int) -> int:
        """2^-d in Q30 of d ≥ 0 in Q16."""
        return ((self._high[(d >> 8) & 255] * self._low[d & 255]) >> 30) >> min(d >> 16, 31)

    def silu(self, x: int, log2_e: int) -> int:
        sigmoid = 2**60 // (2**30 + self.negative((abs(x) * log2_e) >> 16))
        return (x * (2**30 - sigmoid if x < 0 else sigmoid) + 2**29) >> 30


def has_output_step(claim: Claim, vocabulary: int) -> bool:
    """Whether two logits tell a wrong token under the claim's sampler."""
    if claim.sampler == Sampler.GREEDY:
        return True
    if claim.sampler not in (Sampler.SEEDED_BY_REQUEST, Sampler.SEEDED_BY_CHAIN):
        return False
    whole = claim.top_p_q16 == ONE_Q16 and (claim.top_k == 0 or claim.top_k >= vocabulary)
    return whole or claim.temperature_q16 == 0


def key(claim: Claim, logit: int, token: int, position: int) -> int:
    """What the id of an output position has to be largest in, under a sampler with a step."""
    if claim.sampler == Sampler.GREEDY or claim.temperature_q16 == 0:
        return logit
    start = draw(claim.seed, position) % 2**64
    return (logit << 20) + claim.temperature_q16 * gumbel(token_hash(start, token))
