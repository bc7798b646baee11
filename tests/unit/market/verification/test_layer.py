"""Every intermediate against market/inference/reference.py and, where that keeps none, against Python's integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from market.inference import reference
from market.inference.model import Int64Array, IntegerModel, Layer
from market.inference.native import library
from market.verification import arithmetic, exact
from market.verification.geometry import Operation
from market.verification.layer import LayerValues, Recomputation, residual
from market.verification.products import Products
from tests.unit.market.verification.setting import Setting, ids

KERNELS = (*library.supported(), "numpy")


@pytest.fixture(scope="module", params=KERNELS)
def products(request: pytest.FixtureRequest) -> Products:
    return Products(request.param, threads=2)


@pytest.mark.parametrize("lengths", [(1, 1), (30, 34), (60, 12), (100, 40)])
def test_every_operation_equals_the_reference(tiny: Setting, products: Products, lengths: tuple[int, int]) -> None:
    inputs, outputs = ids("a", lengths[0], 288), ids("b", lengths[1], 288)
    check(tiny.model, inputs, outputs, products)


def check(model: IntegerModel, inputs: Sequence[int], outputs: Sequence[int], products: Products) -> None:
    """All values of all groups, one by one."""
    computed, tokens = Recomputation(model, inputs, outputs, products), np.asarray([*inputs, *outputs][:-1])
    values, c = computed.embedding(), model.config
    x = reference.embed(model.embedding, tokens)
    same(values, Operation.EMBEDDING, x)
    for index, layer in enumerate(model.layers):
        before = x.copy()
        values = computed.layer(index, residual(values))
        a, shift = norm(values, Operation.ATTENTION_NORM, x, layer.attention_norm, c.epsilon)
        heads = {
            name: reference.linear(getattr(layer, name), a, shift).reshape(len(tokens), -1, c.head_size)
            for name in ("query", "key", "value")
        }
        same(values, Operation.QUERY, heads["query"])
        same(values, Operation.KEY, heads["key"])
        q = reference.to_cache(reference.rotate(heads["query"], model.tables), layer.query_fraction)
        k = reference.to_cache(reference.rotate(heads["key"], model.tables), layer.key_fraction)
        v = reference.to_cache(heads["value"], layer.value_fraction)
        same(values, Operation.ROTATE_QUERY, q)
        same(values, Operation.ROTATE_KEY, k)
        same(values, Operation.VALUE, v)
        attention(values, q, k, v, layer, model)
        mixed = reference.attend(q, k, v, layer, c.score_multiplier, model.tables)
        same(values, Operation.MIX, mixed)
        q16, shift = quantised(values, Operation.QUANTISE_MIX, mixed.reshape(len(tokens), -1))
        x = x + reference.linear(layer.attention_output, q16, shift)
        same(values, Operation.ATTENTION_OUTPUT, x)
        a, shift = norm(values, Operation.FEED_FORWARD_NORM, x, layer.feed_forward_norm, c.epsilon)
        gate, up = reference.linear(layer.gate, a, shift), reference.linear(layer.up, a, shift)
        same(values, Operation.GATE, gate)
        same(values, Operation.UP, up)
        product = (reference.silu(gate, model.tables) * up + 2**15) >> 16
        q16, shift = quantised(values, Operation.ACTIVATION, product)
        x = x + reference.linear(layer.down, q16, shift)
        same(values, Operation.DOWN, x)
        assert np.array_equal(residual(values), x)
        assert not np.array_equal(before, x)
    values = computed.head(residual(values))
    norm(values, Operation.OUTPUT_NORM, x[len(inputs) - 1 :], model.output_norm, c.epsilon)
    same(values, Operation.LOGITS, reference.forward(model, tokens.tolist(), len(inputs) - 1))


def same(values: LayerValues, operation: Operation, expected: Int64Array) -> None:
    assert np.array_equal(values[operation].elements.reshape(expected.shape), expected), operation


def norm(
    values: LayerValues, operation: Operation, x: Int64Array, gain: Int64Array, epsilon: int
) -> tuple[Int64Array, Int64Array]:
    statistic = values[operation].statistic
    assert statistic is not None
    for row, found in zip(x.tolist(), statistic[:, :2].tolist(), strict=True):
        assert tuple(found) == arithmetic.norm_statistic(row, epsilon)
    return quantised(values, operation, reference.normalise(x, gain, epsilon))


def quantised(values: LayerValues, operation: Operation, y: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Elements, s′ and i′, the last by its words."""
    q, shift = reference.quantise(y)
    same(values, operation, q)
    statistic = values[operation].statistic
    assert statistic is not None
    assert np.array_equal(statistic[:, -2], shift[:, 0])
    for row, index in zip(y.tolist(), statistic[:, -1].tolist(), strict=True):
        bits = [max(1, abs(value)).bit_length() for value in row]
        assert index == bits.index(max(bits))
    return q, shift


def attention(
    values: LayerValues, q: Int64Array, k: Int64Array, v: Int64Array, layer: Layer, model: IntegerModel
) -> None:
    """Scores, maxima and prefixes of sums, by section 3.8 on Python's integers; the last positions of each block."""
    exponential = arithmetic.Exponential(model.tables.exp2_high.tolist(), model.tables.exp2_low.tolist())
    scores, softmax = values[Operation.SCORES].elements, values[Operation.SOFTMAX].elements
    sums, share = values[Operation.MIX_SUM].elements, model.config.heads // model.config.kv_heads
    for p in {0, len(q) // 2, 62, 63, 64, 65, len(q) - 1} & set(range(len(q))):
        for head in (0, model.config.heads - 1):
            keys, multiplier = k[: p + 1, head // share], model.config.score_multiplier
            dots = (keys @ q[p, head]).tolist()
            right = layer.query_fraction + layer.key_fraction + 2
            row = [arithmetic.rsr(dot * multiplier, right) for dot in dots]
            assert scores[p, head, : p + 1].tolist() == row
            largest = max(row)
            weights = [exponential.negative(largest - score) >> 10 for score in row]
            expected = [largest, row.index(largest)]
            for block in range(p // 64 + 1):
                part = weights[: 64 * block + 64]
                expected.append(sum(part))
                mixed = [
                    sum(w * int(x) for w, x in zip(part, column, strict=False)) for column in v[:, head // share].T
                ]
                assert sums[p, head, block].tolist() == mixed
            assert softmax[p, head, : len(expected)].tolist() == expected


def test_exact_operations_at_their_extremes(tiny: Setting) -> None:
    rng, tables = np.random.default_rng(5), tiny.model.tables
    edge = np.array([0, 1, -1, 2**52 - 1, 1 - 2**52, 2**22, 2**22 - 1, -(2**22), 2**38, 3], dtype=np.int64)
    rows = np.stack([edge, np.zeros(10, dtype=np.int64), np.ones(10, dtype=np.int64), -edge // 2**20, edge // 2**33])
    rows = np.concatenate([rows, rng.integers(-(2**40), 2**40, (20, 10))])
    assert np.array_equal(exact.bit_length(np.abs(rows)), reference.bit_length(np.abs(rows)))
    gain = rng.integers(-(2**15), 2**15, 10).astype(np.int32)
    found = exact.normalise(rows, exact.norm_statistic(rows, 42949), gain)
    assert np.array_equal(found, reference.normalise(rows, gain, 42949))
    q, shift = reference.quantise(rows)
    assert np.array_equal(exact.maximum_statistic(rows)[:, :1], shift)
    assert np.array_equal(exact.quantise(rows.copy(), shift), q)
    x = np.concatenate([rng.integers(-(2**33) + 1, 2**33, 1000), [0, 1, -1, 2**33 - 1, 1 - 2**33]])
    exponential = exact.Exponential(tables)
    assert np.array_equal(exponential.silu(x), reference.silu(x, tables))
    d = np.concatenate([rng.integers(0, 2**22, 1000), [0, 31 << 16, (31 << 16) - 1, 32 << 16, 2**41]])
    assert np.array_equal(exponential.negative(d), reference.exp2_negative(d, tables))
    for fraction in range(16):
        assert np.array_equal(exact.to_cache(x.copy(), fraction), reference.to_cache(x, fraction))


def test_scores_at_the_largest_queries_and_keys(tiny: Setting) -> None:
    """dot · μ reaches 52 bits, which float64 must hold."""
    rng, limit, multiplier = np.random.default_rng(6), reference.CACHE_LIMIT, 2**16 - 1
    q = rng.choice([-limit, limit, 1, 0], (3, 5, 64)).astype(np.int64)
    k = rng.choice([-limit, limit, -1, 7], (6, 64)).astype(np.int64)
    q[0], k[0] = limit, limit
    dots = np.einsum("jts,us->jtu", q, k)
    for shift in (2, 12, 26, 32):
        expected = reference.shift_round(dots * multiplier, shift)
        assert np.array_equal(exact.scores(q, k, multiplier, shift), expected)


def test_products_that_kernels_cannot_take_are_made_all_the_same(tiny: Setting, products: Products) -> None:
    """Only dishonest traces hold such rows: an element beyond quantising's limit, a row without a large element, a
    shift that leaves nothing to shift.
    """
    matrix = tiny.model.layers[0].gate
    for change, shift in ((32700, 0), (5, 0), (30000, matrix.exponent), (30000, matrix.exponent + 3)):
        q = np.zeros((3, 72), dtype=np.int64)
        q[1, 4] = change
        shifts = np.full((3, 1), shift, dtype=np.int64)
        expected = reference.linear(matrix, q, shifts)
        assert np.array_equal(products.linear(matrix, q, shifts), expected), (change, shift)


def test_logits_beyond_int32_are_refused(tiny: Setting, products: Products) -> None:
    matrix = dataclasses.replace(tiny.model.head, exponent=2)
    q = np.full((2, 72), 32639, dtype=np.int64)
    with pytest.raises(OverflowError, match="does not fit 4 bytes"):
        products.linear_into(matrix, q, np.zeros((2, 1), dtype=np.int64), np.empty((2, 288), dtype=np.int32))
