"""Float weights → int8 rows with integer multipliers, bit-reproducible on every machine.

Only operations whose result IEEE 754 fixes are used, each on single elements: conversion to float64,
multiplication, division, power-of-two scaling, rounding to integer (half to even) and maximum. Sums, whose
result depends on the order, do not occur.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from market.inference.model import Int8Array, Int32Array

WEIGHT_LIMIT = 127
MULTIPLIER_BITS = 24
GAIN_FRACTION = 12

FloatArray = npt.NDArray[np.float64]


def rows(values: FloatArray) -> tuple[Int8Array, FloatArray]:
    """[N, K] → int8 [N, K] with the largest element of each row at ±127, and the row maxima [N]."""
    maxima = np.abs(values).max(axis=1)
    divisor = np.where(maxima > 0, maxima, 1.0)[:, None]
    return np.rint(values * WEIGHT_LIMIT / divisor).astype(np.int8), maxima


def multipliers(maxima: FloatArray) -> tuple[Int32Array, int]:
    """Row maxima [N] of one matrix → multipliers [N] in 0..2^24-1 and the common exponent: scale = multiplier
    * 2^-exponent.

    The exponent is the largest that keeps every multiplier below 2^24. A matrix of zeros has exponent 24.
    """
    scale = maxima / WEIGHT_LIMIT
    exponent = MULTIPLIER_BITS - int(np.frexp(scale.max())[1])
    result = np.rint(np.ldexp(scale, exponent))
    if result.max() >= 2**MULTIPLIER_BITS:  # rounded up to the next power of two
        exponent -= 1
        result = np.rint(np.ldexp(scale, exponent))
    return result.astype(np.int32), exponent


def gains(values: FloatArray) -> Int32Array:
    """[D] → Q12 integers. Raises OverflowError beyond int32."""
    result: FloatArray = np.rint(np.ldexp(values, GAIN_FRACTION))
    if np.abs(result).max() >= 2**31:
        raise OverflowError("a gain does not fit 32 bits")
    return result.astype(np.int32)
