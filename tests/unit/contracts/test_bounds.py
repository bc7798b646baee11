"""Values at the bounds of docs/numerics.md, section 6: nothing wraps in numpy, in a kernel in C, or in the EVM.

    bound             reached here                      refused beyond it
    residual, Σ t²,   rows of ±(2^52 − 1), 2,048 wide,  packing (`BoundError`); for OPTIMISTIC by
      t · v, n · g      gains of ±(2^31 − 1)              `beyond_leaves`, an int48 by the kernel that packs leaves
    planes, acc,      L1 norms up to 2^17, r of 1       packing
      acc · m, r        and 62
    rotary sum        |z| of 2^46 − 1                   packing; `beyond_leaves`: int32
    dot · μ, score    2^53 and 2^40                     packing; `acceptProgram`: int40
    Z, num,           4,096 equal scores, values of     packing; `acceptProgram`: C ≤ 4,096 keeps them in int48
      numerator         ±32,767, smallest fv
    gate, silu · up   ±(2^33 − 1) times 2^29            packing; `beyond_leaves`: int32
    logits            as acc · m                        packing; `beyond_leaves`: int32

What is right is computed from unbounded integers (tests/unit/market/inference/oracle.py). Refusals are tested in
tests/unit/market/models/test_bounds.py, tests/unit/market/verification/test_limits.py and test_trace.py, and
test_judge_programs.py.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from market.inference import reference
from market.inference.forward_selftest import small_model
from market.inference.model import Linear, Tables
from market.inference.native import library as native
from market.inference.native import selftest
from market.inference.native_engine import NativeEngine
from market.models import tables as published
from market.verification import exact
from market.verification.products import Products
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.claims import pack
from tests.unit.contracts.revm import RevmChain
from tests.unit.market.inference import oracle

HIGH, LOW = published.exp2(8).tolist(), published.exp2(16).tolist()
TABLES = Tables(
    published.exp2(8),
    published.exp2(16),
    np.full((1, 32), 2**15, dtype=np.int32),
    np.full((1, 32), -(2**15), dtype=np.int32),
)
RESIDUAL, GATE, UP = 2**52 - 1, 2**33 - 1, 2**29 - 1
CACHE = reference.CACHE_LIMIT
KERNELS = [native.Kernel(native.library(), name) for name in native.supported()]


@pytest.fixture(scope="module")
def chain() -> RevmChain:
    return RevmChain(list(artefacts().values()))


@pytest.fixture(scope="module")
def evm(chain: RevmChain) -> Contract:
    return chain.deploy(artefacts()["StepMathHarness"], sender="0x" + "11" * 20)


@pytest.fixture(scope="module")
def rows_evm(chain: RevmChain) -> Contract:
    return chain.deploy(artefacts()["RowHarness"], sender="0x" + "11" * 20)


def test_embedding(evm: Contract) -> None:
    """The largest weight times the largest multiplier, shifted by 1 and by 62."""
    small, top = small_model(TABLES), 2**24 - 1
    for shift in (1, 62):
        weight = np.resize(np.array([127, -127, 1, 0], dtype=np.int8), small.embedding.weight.shape)
        table = Linear(weight, np.full(len(weight), top, dtype=np.int32), 16 + shift)
        expected = [oracle.shift_round(int(w) * top, shift) for w in weight[0]]
        assert reference.embed(table, np.array([0]))[0].tolist() == expected
        assert exact.embed(table, np.array([0]))[0].tolist() == expected
        assert [evm.rsr(int(w) * top, shift) for w in weight[0]] == expected
        model = replace(small, embedding=table)
        ids = list(range(8))
        logits = reference.forward(model, ids)
        for name in native.supported():
            assert np.array_equal(NativeEngine(model, name, 1).forward(ids), logits), name


@pytest.mark.parametrize("width", [64, 2_048])
@pytest.mark.parametrize("gain", [2**31 - 1, -(2**31) + 1, 4_096])
@pytest.mark.parametrize("epsilon", [1, 42_949])
def test_residual_and_norm(evm: Contract, width: int, gain: int, epsilon: int) -> None:
    """All elements at the bound; one of them; all of one."""
    signs = np.where(np.arange(width) % 3 == 1, -1, 1)
    spike = np.where(np.arange(width) == 5, RESIDUAL, 0)
    gains = np.full(width, gain, dtype=np.int32)
    for x in (RESIDUAL * signs, spike, -spike, signs, np.zeros(width, dtype=np.int64)):
        expected = oracle.normalise(x.tolist(), gains.tolist(), epsilon)
        assert reference.normalise(x[None], gains, epsilon)[0].tolist() == expected
        statistic = exact.norm_statistic(x[None], epsilon)
        assert exact.normalise(x[None], statistic, gains)[0].tolist() == expected
        for kernel in KERNELS:
            assert kernel.normalise(x, gains, epsilon).tolist() == expected, kernel.name
        s, v = (int(field) for field in statistic[0])
        assert evm.normShift(int(np.abs(x).max())) == s
        squares = sum(oracle.shift_round(int(value), s) ** 2 for value in x)
        assert evm.inverseRoot(squares, width, epsilon, s) == v
        for i in (0, 1, 5):
            assert evm.normalised(int(x[i]), s, v, gain) == expected[i]


@pytest.mark.parametrize("exponent", [38, 48])
@pytest.mark.parametrize("norm", [native.ACCUMULATOR_L1, selftest.PLANE_L1])
def test_matrix(evm: Contract, rows_evm: Contract, exponent: int, norm: int) -> None:
    """The largest weights against rows that quantise to the limit, with s of 37 and of −14: r of 1 and of 62."""
    matrix = replace(selftest.extreme_matrix(1_040, norm), exponent=exponent)
    signs = np.where(matrix.weight[1] < 0, -1, 1).astype(np.int64)
    y = np.stack([RESIDUAL * signs, -RESIDUAL * signs, RESIDUAL * np.abs(signs), 32_639 * signs, signs, 0 * signs])
    q, shift = reference.quantise(y)
    assert {exponent - int(s) for s in shift[:, 0]} >= ({1} if exponent == 38 else {62})
    weight, multiplier = matrix.weight.tolist(), matrix.multiplier.tolist()
    expected = []
    for row in y.tolist():
        integers, s = oracle.quantise(row)
        expected.append(oracle.linear(integers, s, weight, multiplier, exponent))
    assert reference.linear(matrix, q, shift).tolist() == expected
    for kernel, grouped in product(KERNELS, (False, True)):
        assert kernel.linear(matrix, y, grouped)[0].tolist() == expected, kernel.name
    for kernel in (*native.supported(), "numpy"):
        assert Products(kernel, 1).linear(matrix, q, shift).tolist() == expected, kernel
    for i, n in product(range(len(y)), range(3)):
        dot = rows_evm.dot(pack(q[i].tolist(), 2), pack(weight[n], 1))
        assert evm.rsr(dot * multiplier[n], exponent - int(shift[i, 0])) == expected[i][n]


def test_rotary_sum_and_cache(evm: Contract) -> None:
    top = 2**46 - 1
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        head = np.repeat(np.array(signs), 32) * top
        cos, sin = TABLES.rope_cos[0], TABLES.rope_sin[0]
        expected = oracle.rotate(head.tolist(), cos.tolist(), sin.tolist())
        assert reference.rotate(head[None, None], TABLES)[0, 0].tolist() == expected
        assert exact.rotate(head[None, None], cos[None], sin[None])[0, 0].tolist() == expected
        for kernel in KERNELS:
            assert kernel.rotate(head, cos, sin).tolist() == expected, kernel.name
        a, b = int(head[0]), int(head[32])
        assert evm.rsr(a * int(cos[0]) - b * int(sin[0]), 15) == expected[0]
        assert evm.rsr(b * int(cos[0]) + a * int(sin[0]), 15) == expected[32]
    values = np.array([RESIDUAL, -RESIDUAL, 2**30, -(2**30), CACHE << 16, 1, 0, -1], dtype=np.int64)
    for fraction in range(16):
        cached = [oracle.to_cache(value, fraction) for value in values.tolist()]
        assert reference.to_cache(values, fraction).tolist() == cached
        assert exact.to_cache(values.copy(), fraction).tolist() == cached
        assert [evm.toCache(value, fraction) for value in values.tolist()] == cached
        for kernel in KERNELS:
            assert kernel.to_cache(values, fraction).tolist() == cached, kernel.name


@pytest.mark.parametrize("fractions", [(5, 6, 2), (15, 15, 15)])
def test_attention(tiny_layer: object, evm: Contract, fractions: tuple[int, int, int]) -> None:
    """4,096 positions, all at the limit: scores of either sign next to 2^40, sums of all weights and of half."""
    size, positions = 64, 4_096
    multiplier = (2**53 - 1) // (size * CACHE**2)
    shift = fractions[0] + fractions[1] + 2
    ones = np.ones((positions, size), dtype=np.int64)
    sign = np.where(np.arange(positions) % 2, -1, 1)[:, None]
    layer = replace(tiny_layer, **dict(zip(FRACTIONS, fractions, strict=True)))  # type: ignore[type-var]
    query = CACHE * np.ones((1, size), dtype=np.int64)
    for keys, values in (
        (CACHE * ones, CACHE * ones),
        (CACHE * ones, -CACHE * ones),
        (CACHE * sign * ones, CACHE * sign * ones),
    ):
        expected = oracle.attend(query[0].tolist(), keys.tolist(), values.tolist(), fractions, multiplier, HIGH, LOW)
        given = query[None], keys[:, None], values[:, None], layer, multiplier, TABLES
        assert reference.attend(*given)[0, 0].tolist() == expected
        for kernel in KERNELS:
            seen = np.array([positions], dtype=np.int32)
            got = kernel.attend(query, seen, keys, values, fractions, multiplier, TABLES)
            assert got[0].tolist() == expected, kernel.name
        dots = [sum(a * b for a, b in zip(query[0].tolist(), key, strict=True)) for key in keys[:2].tolist()]
        scores = [oracle.shift_round(dot * multiplier, shift) for dot in dots]
        assert max(map(abs, scores)) < 2**40
        assert exact.scores(query[None], keys[:2], multiplier, shift)[0, 0].tolist() == scores
        assert [evm.rsr(dot * multiplier, shift) for dot in dots] == scores
        weights = [evm.weight(score, max(scores)) for score in scores] * (positions // 2)
        assert weights == [oracle.exp2_negative(max(scores) - s, HIGH, LOW) // 2**10 for s in scores] * (positions // 2)
        num = sum(w * int(v) for w, v in zip(weights, values[:, 0], strict=True))
        assert evm.mixed(num, sum(weights), fractions[2]) == expected[0]


def test_activation(evm: Contract) -> None:
    pairs = list(product((GATE, -GATE, 2**31, -(2**31), 1, 0, -1), (UP, -UP, 2**28, 1, 0, -1)))
    gate, up = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    expected = [oracle.shift_round(oracle.silu(g, HIGH, LOW) * u, 16) for g, u in pairs]
    assert ((reference.silu(gate, TABLES) * up + 2**15) >> 16).tolist() == expected
    assert [evm.gated(g, u) for g, u in pairs] == expected
    for kernel in KERNELS:
        assert kernel.activate(gate, up, TABLES).tolist() == expected, kernel.name
    for name in (*native.supported(), "numpy"):
        assert Products(name, 1).activate(gate.copy(), up.copy(), TABLES).tolist() == expected, name
    for statistic in (np.array([2**52 - 1, 1]), np.array([0, 0]), np.array([-(2**52) + 1, 2**51])):
        shifts, lowest = exact.maximum_statistic(statistic[None])[0].tolist()
        asked = [evm.quantiseShift(int(y)) for y in statistic]
        assert (max(asked), asked.index(max(asked))) == (shifts, lowest)
        integers, s = oracle.quantise(statistic.tolist())
        assert s == shifts
        assert [evm.quantised(int(y), s) for y in statistic] == integers


FRACTIONS = ("query_fraction", "key_fraction", "value_fraction")


@pytest.fixture(scope="module")
def tiny_layer() -> object:
    return small_model(TABLES).layers[0]
