"""The published integer tables, from mpmath and integers; libm, numpy and torch have no part in them.

Every entry is the nearest integer of a real number. The approximation error is below 2^-100 and an entry
closer than 2^-60 to a half would raise, so the rounding does not depend on the precision used.
"""

from __future__ import annotations

import numpy as np
from mpmath import mp, mpf

from market.inference.model import Int32Array, Tables

_PRECISION = 256  # bits


def build(context: int, head_size: int, rope_base: float) -> Tables:
    """Tables for ``context`` positions; ``rope_base`` is taken as the exact value of the double."""
    cos, sin = rope(context, head_size, rope_base)
    return Tables(exp2_high=exp2(8), exp2_low=exp2(16), rope_cos=cos, rope_sin=sin)


def exp2(bits: int) -> Int32Array:
    """[256] round(2^30 * 2^(-i / 2^bits))."""
    with mp.workprec(_PRECISION):
        return np.array([_nearest(mp.ldexp(mp.power(2, -mpf(i) / 2**bits), 30)) for i in range(256)], dtype=np.int32)


def rope(context: int, head_size: int, base: float) -> tuple[Int32Array, Int32Array]:
    """cos and sin, each [context, head_size/2] in Q15, of position * base^(-2i/head_size).

    Each column turns a fixed-point complex number by its angle once per position: 256-bit integers lose at
    most one unit in the last place a turn.
    """
    half = head_size // 2
    cos, sin = np.empty((context, half), dtype=np.int32), np.empty((context, half), dtype=np.int32)
    one = 1 << _PRECISION
    with mp.workprec(_PRECISION + 32):
        for column in range(half):
            angle = mp.power(mpf(base), -mpf(2 * column) / head_size)
            step_cos, step_sin = (int(mp.nint(mp.ldexp(value, _PRECISION))) for value in (mp.cos(angle), mp.sin(angle)))
            x, y = one, 0
            for position in range(context):
                cos[position, column], sin[position, column] = _round_q15(x), _round_q15(y)
                x, y = (x * step_cos - y * step_sin) >> _PRECISION, (x * step_sin + y * step_cos) >> _PRECISION
    return cos, sin


def score_multiplier(head_size: int) -> int:
    """round(log2(e) / sqrt(head_size) * 2^18)."""
    with mp.workprec(_PRECISION):
        return _nearest(mp.ldexp(1 / (mp.log(2) * mp.sqrt(head_size)), 18))


def _nearest(value: mpf) -> int:
    result = int(mp.floor(value + mpf(1) / 2))
    if abs(abs(value - result) - mpf(1) / 2) < mp.ldexp(1, -60):
        raise ArithmeticError("a table entry is too close to a half to round safely")
    return result


def _round_q15(value: int) -> int:
    """A fixed-point number with ``_PRECISION`` fraction bits as the nearest multiple of 2^-15."""
    shift = _PRECISION - 15
    rest = (value & ((1 << shift) - 1)) - (1 << (shift - 1))
    if abs(rest) < 1 << (shift - 60):
        raise ArithmeticError("a table entry is too close to a half to round safely")
    return (value + (1 << (shift - 1))) >> shift
