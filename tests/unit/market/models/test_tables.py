"""Tables against mpmath at another precision and by another route."""

from __future__ import annotations

import numpy as np
import pytest
from mpmath import mp, mpf

from market.models import tables


@pytest.mark.parametrize("bits", [8, 16])
def test_exp2_entries_are_the_nearest_integers_by_integer_roots(bits: int) -> None:
    """y = round(2^30 * 2^(-i/n)) iff (2y-1)^n <= 2^(31n - i) < (2y+1)^n, checked without any real number (n = 256)."""
    table = tables.exp2(bits).tolist()
    assert table[0] == 2**30
    assert table == sorted(table, reverse=True)
    if bits == 8:
        for i, y in enumerate(table):
            assert (2 * y - 1) ** 256 <= 2 ** (31 * 256 - i) < (2 * y + 1) ** 256
    else:
        with mp.workprec(400):
            for i, y in enumerate(table):
                assert abs(mp.exp(-mpf(i) / 65536 * mp.log(2)) * 2**30 - y) < mpf("0.5")


@pytest.mark.parametrize(("head_size", "base"), [(64, 100000.0), (16, 10000.0), (6, 500000.0)])
def test_rope_entries_are_the_nearest_integers_by_direct_cosines(head_size: int, base: float) -> None:
    cos, sin = tables.rope(300, head_size, base)
    assert cos.shape == sin.shape == (300, head_size // 2)
    with mp.workprec(400):
        for position in (0, 1, 2, 77, 299):
            for column in range(head_size // 2):
                angle = position * mpf(base) ** (-mpf(2 * column) / head_size)
                assert abs(mp.cos(angle) * 32768 - int(cos[position, column])) < mpf("0.5")
                assert abs(mp.sin(angle) * 32768 - int(sin[position, column])) < mpf("0.5")


def test_rope_far_positions_keep_their_precision() -> None:
    cos, sin = tables.rope(8192, 4, 10000.0)
    with mp.workprec(400):
        assert abs(mp.cos(8191) * 32768 - int(cos[8191, 0])) < mpf("0.5")
    assert np.abs(cos.astype(np.int64) ** 2 + sin.astype(np.int64) ** 2 - 2**30).max() < 2**17


@pytest.mark.parametrize(("head_size", "expected"), [(64, 47274), (16, 94548), (128, 33428)])
def test_score_multiplier_of_usual_heads(head_size: int, expected: int) -> None:
    assert tables.score_multiplier(head_size) == expected


def test_entry_too_close_to_a_half_is_never_rounded() -> None:
    with pytest.raises(ArithmeticError):
        tables._nearest(mpf("2.5"))
    with pytest.raises(ArithmeticError):
        tables._round_q15(5 << (256 - 16))
