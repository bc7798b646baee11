"""Every operation of every kernel against Python's own integers, with each intermediate driven to its extremes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.inference import reference
from market.inference.model import AnyArray, Int64Array, Linear
from market.inference.native import library as lib
from market.models import tables as table_builder
from tests.unit.market.inference import exact

pytestmark = pytest.mark.skipif(lib.library() is None, reason="the package was installed without a C compiler")
TABLES = table_builder.build(64, 16, 10000.0)
PLANE_L1 = (1 << 17) - 1  # the largest L1 norm of a row that packing accepts
FAST = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["full", "signs", "spike", "random"])
#: bits of the largest magnitude in a row: from 0 to the proved limit of the residual stream, around every threshold
row_bits = st.sampled_from([0, 1, 13, 14, 15, 16, 21, 22, 23, 31, 32, 33, 40, 50, 51])


def kernels() -> Iterator[lib.Kernel]:
    loaded = lib.library()
    assert loaded is not None
    for name in lib.supported():
        yield lib.Kernel(loaded, name)


def numbers(random: np.random.Generator, count: int, bits: int, kind: str) -> Int64Array:
    """Magnitudes up to 2^bits ± 1, below 2^52: all at the limit, of either sign, one far above the rest, or random."""
    limit = max(min((1 << bits) + int(random.integers(-1, 2)), (1 << 52) - 1), 0)
    if kind == "full":
        return np.full(count, limit, dtype=np.int64)
    if kind == "signs":
        return np.where(random.integers(0, 2, count) > 0, limit, -limit).astype(np.int64)
    values = random.integers(-limit, limit + 1, count)
    if kind == "spike":
        values >>= 9
        values[int(random.integers(count))] = -limit
    return values.astype(np.int64)


def weights_of(random: np.random.Generator, rows: int, columns: int, kind: str, signs: AnyArray) -> AnyArray:
    top = max(1, min(127, PLANE_L1 // columns))
    full = np.where(np.arange(rows) % 2, -top, top)[:, None] * np.ones((1, columns), dtype=np.int64)
    if kind == "signs":
        full = full * np.where(random.integers(0, 2, (rows, columns)) > 0, 1, -1)
    elif kind == "aligned":  # the largest sums that these activations can make
        full = full * np.where(signs < 0, -1, 1)
    elif kind == "random":
        full = random.integers(-top, top + 1, (rows, columns))
    return full.astype(np.int8)


@given(
    seed=seeds,
    columns=st.one_of(st.integers(1, 140), st.sampled_from([192, 518, 576, 1032])),
    rows=st.integers(1, 37),
    count=st.integers(1, 30),
    bits=row_bits,
    kind=kinds,
    weights=st.sampled_from(["full", "signs", "aligned", "random"]),
    right=st.integers(1, 62),
)
@settings(FAST, max_examples=120)
def test_quantise_and_linear_equal_exact_integers(
    seed: int, columns: int, rows: int, count: int, bits: int, kind: str, weights: str, right: int
) -> None:
    random = np.random.default_rng(seed)
    y = np.stack([numbers(random, columns, max(bits - t % 3, 0), kind) for t in range(count)])
    rows_q, shifts = zip(*(exact.quantise(line.tolist()) for line in y), strict=True)
    weight = weights_of(random, rows, columns, weights, y[0])
    multiplier = random.integers(0, 1 << 24, rows, dtype=np.int32)
    multiplier[0] = multiplier[rows // 2] = (1 << 24) - 1
    exponent = min(max(shifts) + right, min(shifts) + 62)  # every right shift in 1..62
    multipliers, matrix = multiplier.tolist(), Linear(weight, multiplier, exponent)
    pairs = list(zip(rows_q, shifts, strict=True))
    expected = [exact.linear(q, s, weight.tolist(), multipliers, exponent) for q, s in pairs]
    for kernel in kernels():
        for grouped in (False, True):
            got, got_shifts = kernel.linear(matrix, y, grouped)
            assert got_shifts.tolist() == list(shifts), kernel.name
            assert got.tolist() == expected, (kernel.name, grouped)


@pytest.mark.parametrize(("rows", "columns"), [(205, 1034), (530, 576), (70, 2308)])
def test_matrix_that_is_cut_both_ways_equals_the_reference(rows: int, columns: int) -> None:
    """More rows and columns than a kernel keeps near: cut into blocks of rows, and their sums into parts."""
    random = np.random.default_rng(rows)
    weight = random.integers(-24, 25, (rows, columns), dtype=np.int8)  # sums below int32, as those of real models
    matrix = Linear(weight, random.integers(1 << 20, 1 << 24, rows, dtype=np.int32), 40)
    y = random.integers(-(1 << 30), 1 << 30, (43, columns))
    expected = reference.linear(matrix, *reference.quantise(y))
    for kernel in kernels():
        for count in (8, 16, 43):
            assert np.array_equal(kernel.linear(matrix, y[:count], True)[0], expected[:count]), (kernel.name, count)


@given(seed=seeds, columns=st.integers(1, 200), bits=row_bits, kind=kinds)
@FAST
def test_quantised_integers_themselves_equal_exact_ones(seed: int, columns: int, bits: int, kind: str) -> None:
    """Through a matrix of ones on the diagonal, which gives (2q + 1) >> 1 = q back."""
    y = numbers(np.random.default_rng(seed), columns, bits, kind)
    q, shift = exact.quantise(y.tolist())
    matrix = Linear(np.eye(columns, dtype=np.int8), np.full(columns, 2, dtype=np.int32), 1 + shift)
    for kernel in kernels():
        for grouped in (False, True):
            assert kernel.linear(matrix, y[None], grouped)[0].tolist() == [q], (kernel.name, grouped)


@given(
    seed=seeds,
    columns=st.integers(1, 200),
    bits=row_bits,
    kind=kinds,
    gain_bits=st.sampled_from([1, 12, 20, 30]),
    epsilon=st.sampled_from([1, 42949, 1 << 31]),
)
@FAST
def test_normalise_equals_exact_integers(
    seed: int, columns: int, bits: int, kind: str, gain_bits: int, epsilon: int
) -> None:
    random = np.random.default_rng(seed)
    x = numbers(random, columns, bits, kind)
    gain = random.integers(-(1 << gain_bits), 1 << gain_bits, columns, dtype=np.int32)
    expected = exact.normalise(x.tolist(), gain.tolist(), epsilon)
    for kernel in kernels():
        assert kernel.normalise(x, gain, epsilon).tolist() == expected, kernel.name


@given(seed=seeds, half=st.integers(1, 64), bits=st.sampled_from([0, 10, 31, 32, 44, 45]), kind=kinds)
@FAST
def test_rotate_equals_exact_integers(seed: int, half: int, bits: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    z = numbers(random, 2 * half, bits, kind)
    cos, sin = (random.integers(-(1 << 15), (1 << 15) + 1, half, dtype=np.int32) for _ in range(2))
    cos[0], sin[0], cos[-1], sin[-1] = 32768, -32768, -32768, 32768
    for kernel in kernels():
        assert kernel.rotate(z, cos, sin).tolist() == exact.rotate(z.tolist(), cos.tolist(), sin.tolist()), kernel.name


@given(seed=seeds, count=st.integers(1, 70), bits=row_bits, kind=kinds, fraction=st.integers(0, 15))
@FAST
def test_to_cache_equals_exact_integers(seed: int, count: int, bits: int, kind: str, fraction: int) -> None:
    z = numbers(np.random.default_rng(seed), count, bits, kind)
    for kernel in kernels():
        assert kernel.to_cache(z, fraction).tolist() == exact.to_cache(z.tolist(), fraction), kernel.name


@given(seed=seeds, count=st.integers(1, 70), bits=st.sampled_from([0, 8, 16, 20, 21, 22, 31, 32, 33]))
@FAST
def test_activation_equals_exact_integers(seed: int, count: int, bits: int) -> None:
    """Gates up to 2^33, where the product with the sigmoid reaches 63 bits; ups as large as the proved product lets."""
    random = np.random.default_rng(seed)
    limit = (1 << bits) - (bits == 33)
    gate = random.integers(-limit, limit + 1, count)
    gate[0], gate[-1] = limit, -limit
    up = random.integers(-(1 << (61 - max(bits, 9))), 1 << (61 - max(bits, 9)), count)
    expected = [exact.activate(g, u, TABLES) for g, u in zip(gate.tolist(), up.tolist(), strict=True)]
    for kernel in kernels():
        assert kernel.activate(gate, up, TABLES).tolist() == expected, kernel.name


def test_activation_of_every_power_near_a_quotient_is_floored() -> None:
    """The sigmoid's division runs in float64 and is then corrected: every distance of the last 16 bits."""
    gate = -np.arange(0, 1 << 17, 3, dtype=np.int64)
    up = np.full(len(gate), 1 << 16, dtype=np.int64)
    expected = [exact.activate(int(g), 1 << 16, TABLES) for g in gate]
    for kernel in kernels():
        assert kernel.activate(gate, up, TABLES).tolist() == expected, kernel.name


@given(
    seed=seeds,
    size=st.sampled_from([2, 6, 8, 16, 20, 48, 64, 80, 128, 256]),
    length=st.sampled_from([1, 2, 15, 16, 17, 63, 64, 65, 130]),
    count=st.integers(1, lib.QUERIES),
    spread=st.sampled_from([0, 4, 9]),
    extreme=st.booleans(),
    fractions=st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 15)),
)
@FAST
def test_attend_equals_exact_integers(
    seed: int, size: int, length: int, count: int, spread: int, extreme: bool, fractions: tuple[int, int, int]
) -> None:
    random = np.random.default_rng(seed)
    multiplier = round(math.log2(math.e) / math.sqrt(size) * 2**18)
    queries, keys, values = (random.integers(-32767, 32768, (n, size)) for n in (count, length, length))
    if extreme:
        queries[0], keys[: length // 2 + 1] = 32767, np.where(random.integers(0, 2, size) > 0, 32767, -32767)
        values[::2], values[1::2] = 32767, -32767
    queries >>= spread  # small scores spread the weights over many positions
    if extreme:
        keys[-1] = keys[0]  # equal scores share the largest weight
    seen = random.integers(1, length + 1, count, dtype=np.int32)
    expected = [
        exact.attend(q, keys[:n].tolist(), values[:n].tolist(), fractions, multiplier, TABLES)
        for q, n in zip(queries.tolist(), seen.tolist(), strict=True)
    ]
    for kernel in kernels():
        got = kernel.attend(queries, seen, keys, values, fractions, multiplier, TABLES)
        assert got.tolist() == expected, kernel.name


def test_mix_of_the_largest_sums_stays_exact() -> None:
    """All weights 2^20 and all values at a limit over a whole context: no int32 span of the mix can be fuller."""
    size, length = 64, 2048
    keys = np.zeros((length, size), dtype=np.int64)
    values = np.where(np.arange(size) % 2, 32767, -32767) * np.ones((length, 1), dtype=np.int64)
    queries, seen = np.full((3, size), 32767), np.array([length, length - 1, 1], dtype=np.int32)
    for kernel in kernels():
        got = kernel.attend(queries, seen, keys, values, (0, 0, 0), 47274, TABLES)
        assert np.array_equal(got, np.broadcast_to(values[0] << 16, (3, size))), kernel.name


def test_scores_of_the_largest_products_stay_exact() -> None:
    """Queries and keys at the limits over the widest head: each half's int32 sum is as full as it gets."""
    size = lib.HEAD_SIZE_MAX
    signs = np.where(np.arange(size) % 3 == 0, -1, 1)
    for high in (32767, 32512, 255, -32767):  # the halves of a query at 127, 255 and -128
        queries, keys = (high * signs)[None], np.stack([32767 * signs, -32767 * signs])
        values = np.stack([np.full(size, 7), np.full(size, -9)])
        seen = np.array([2], dtype=np.int32)
        expected = exact.attend(queries[0].tolist(), keys.tolist(), values.tolist(), (15, 15, 3), 23637, TABLES)
        for kernel in kernels():
            assert kernel.attend(queries, seen, keys, values, (15, 15, 3), 23637, TABLES).tolist() == [expected]
