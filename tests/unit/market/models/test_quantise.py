"""Quantisation against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.models import quantise

floats = st.floats(allow_nan=False, allow_infinity=False, width=32, min_value=-1e6, max_value=1e6)
matrices = st.lists(st.lists(floats, min_size=5, max_size=5), min_size=1, max_size=6)
quick = settings(max_examples=150, deadline=None, derandomize=True)


@quick
@given(matrices)
def test_rows_are_the_nearest_multiples_of_their_scale(values: list[list[float]]) -> None:
    weights, maxima = quantise.rows(np.array(values))
    for row, top, source in zip(weights.tolist(), maxima.tolist(), values, strict=True):
        assert top == max(abs(value) for value in source)
        for q, value in zip(row, source, strict=True):
            exact = Fraction(value) * 127 / Fraction(top) if top else Fraction(0)
            assert abs(q - exact) <= Fraction(1, 2) + Fraction(1, 2**40)
            assert abs(q) <= 127


@quick
@given(matrices)
def test_multipliers_hold_the_scale_to_24_bits(values: list[list[float]]) -> None:
    maxima = np.abs(np.array(values)).max(axis=1)
    multiplier, exponent = quantise.multipliers(maxima)
    assert multiplier.min() >= 0
    assert multiplier.max() < 2**24
    if maxima.max() > 0:
        assert multiplier.max() >= 2**23 - 1
    for m, top in zip(multiplier.tolist(), maxima.tolist(), strict=True):
        assert abs(m - Fraction(top) / 127 * Fraction(2) ** exponent) <= Fraction(1, 2) + Fraction(1, 2**20)


def test_multipliers_that_would_round_up_to_2_to_the_24_take_the_next_exponent() -> None:
    top = float(127 * (2**24 - 0.25))  # scale 2^24 - 1/4 has exponent 0 and rounds to 2^24
    multiplier, exponent = quantise.multipliers(np.array([top]))
    assert exponent == -1
    assert multiplier.tolist() == [2**23]


def test_rows_of_zeros_are_zeros_with_multiplier_zero() -> None:
    weights, maxima = quantise.rows(np.zeros((2, 4)))
    assert not weights.any()
    multiplier, exponent = quantise.multipliers(maxima)
    assert multiplier.tolist() == [0, 0]
    assert exponent == 24


@quick
@given(st.lists(floats, min_size=1, max_size=9))
def test_gains_are_the_nearest_q12(values: list[float]) -> None:
    small = [value / 2 for value in values]
    for q, value in zip(quantise.gains(np.array(small)).tolist(), small, strict=True):
        assert abs(q - Fraction(value) * 4096) <= Fraction(1, 2)


def test_gains_beyond_32_bits_are_refused() -> None:
    with pytest.raises(OverflowError):
        quantise.gains(np.array([2.0**19]))
