"""Every operation of both engines against unbounded integers, with the extremes that packs may reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from market.inference import reference
from market.inference import torch_operations as ops
from market.inference.matmul import Float32Product, Int8Product, PlaneProduct
from market.inference.model import Int64Array, Layer, Linear, Tables
from market.models import tables as table_builder
from market.models.pack import Pack
from tests.unit.market.inference import oracle

quick = settings(max_examples=60, deadline=None, derandomize=True)
TABLES: Tables = table_builder.build(context=64, head_size=16, rope_base=10000.0)
HIGH, LOW = TABLES.exp2_high.tolist(), TABLES.exp2_low.tolist()


def edges(bits: int) -> SearchStrategy[int]:
    """Integers of up to ``bits`` bits, with powers of two and their neighbours made likely."""
    near = st.builds(
        lambda k, offset, sign: sign * max((1 << k) + offset, 0),
        st.integers(0, bits - 1),
        st.integers(-2, 2),
        st.sampled_from([-1, 1]),
    )
    return st.one_of(st.integers(-(1 << bits) + 1, (1 << bits) - 1), near, st.sampled_from([0, 1, -1]))


def rows_of(bits: int, columns: int) -> SearchStrategy[list[list[int]]]:
    small = st.lists(edges(4), min_size=columns, max_size=columns)
    return st.lists(st.one_of(st.lists(edges(bits), min_size=columns, max_size=columns), small), min_size=1, max_size=5)


def tensor(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64)


def array(rows: list[list[int]]) -> Int64Array:
    return np.array(rows, dtype=np.int64)


@quick
@given(st.lists(edges(52), min_size=1, max_size=20), st.integers(-10, 40))
def test_shift_round_extremes_equal_exact_fractions(values: list[int], shift: int) -> None:
    narrowed = [value >> 10 for value in values]
    expected = [oracle.shift_round(value, shift) for value in narrowed]
    assert reference.shift_round(array([narrowed])[0], shift).tolist() == expected


@quick
@given(rows_of(51, 72), st.sampled_from([1, 42949, 1 << 20]), st.sampled_from([0, 1, -4096, 4096, 1 << 17]))
def test_normalise_extremes_equal_exact_integers(rows: list[list[int]], epsilon: int, top: int) -> None:
    gain = [top, *range(-35, 36)]
    expected = [oracle.normalise(row, gain, epsilon) for row in rows]
    assert reference.normalise(array(rows), np.array(gain, dtype=np.int32), epsilon).tolist() == expected
    got = ops.normalise(tensor(rows).double(), torch.tensor(gain), epsilon)
    assert got.tolist() == expected


@quick
@given(rows_of(51, 9))
def test_quantise_extremes_equal_exact_integers(rows: list[list[int]]) -> None:
    expected = [oracle.quantise(row) for row in rows]
    q, shift = reference.quantise(array(rows))
    assert q.tolist() == [row for row, _ in expected]
    assert shift[:, 0].tolist() == [shift for _, shift in expected]
    planes, torch_shift = ops.quantise(tensor(rows))
    assert planes.dtype == torch.int8
    assert (planes[0].long() + 256 * planes[1].long()).tolist() == [row for row, _ in expected]
    assert torch_shift[:, 0].tolist() == [shift for _, shift in expected]


@quick
@given(rows_of(31, 40), st.integers(0, 2**24 - 1), st.sampled_from([-127, -1, 0, 127]), st.integers(24, 48))
def test_linear_extremes_equal_exact_integers(rows: list[list[int]], top: int, fill: int, exponent: int) -> None:
    weight = np.resize(np.array([127, -127, 3, 0, fill], dtype=np.int8), (7, 40))
    weight[0], weight[1] = 127, fill
    multiplier = np.array([top, 2**24 - 1, 0, 1, 2**23, 12345, 2**24 - 1], dtype=np.int32)
    matrix = Linear(weight, multiplier, exponent)
    quantised = [oracle.quantise(row) for row in rows]
    expected = [oracle.linear(q, s, weight.tolist(), multiplier.tolist(), exponent) for q, s in quantised]
    assert reference.linear(matrix, *reference.quantise(array(rows))).tolist() == expected
    products: list[PlaneProduct] = [Int8Product(), Float32Product()]
    for product in products:
        projection = ops.Projection.of([matrix, matrix], product, torch.device("cpu"))
        got = projection.apply(*ops.quantise(tensor(rows)))
        assert got[0].tolist() == got[1].tolist() == expected


@quick
@given(rows_of(38, 16), st.integers(0, 58))
def test_rotate_extremes_equal_exact_integers(rows: list[list[int]], start: int) -> None:
    cos, sin = TABLES.rope_cos.tolist(), TABLES.rope_sin.tolist()
    expected = [oracle.rotate(row, cos[start + i], sin[start + i]) for i, row in enumerate(rows)]
    moved = Tables(TABLES.exp2_high, TABLES.exp2_low, TABLES.rope_cos[start:], TABLES.rope_sin[start:])
    assert reference.rotate(array(rows)[:, None], moved)[:, 0].tolist() == expected
    end = start + len(rows)
    both_cos = torch.tensor(TABLES.rope_cos[start:end]).long().repeat(1, 2)[:, None]
    signed = torch.tensor(TABLES.rope_sin[start:end]).long()
    got = ops.rotate(tensor(rows)[None, :, None], both_cos, torch.cat([-signed, signed], -1)[:, None])
    assert got[0, :, 0].tolist() == expected


@quick
@given(st.lists(edges(51), min_size=1, max_size=30), st.integers(0, 15))
def test_to_cache_extremes_saturate_at_int16(values: list[int], fraction: int) -> None:
    expected = [oracle.to_cache(value, fraction) for value in values]
    assert reference.to_cache(array([values])[0], fraction).tolist() == expected
    assert ops.to_cache(tensor([values]), torch.tensor(2.0 ** (fraction - 16)).double())[0].tolist() == expected


@quick
@given(st.lists(st.one_of(st.integers(0, 1 << 41), st.integers(0, 40 << 16)), min_size=1, max_size=40))
def test_exp2_negative_all_distances_equal_exact_integers(distances: list[int]) -> None:
    expected = [oracle.exp2_negative(d, HIGH, LOW) for d in distances]
    assert reference.exp2_negative(array([distances])[0], TABLES).tolist() == expected
    powers = ops.powers_of(TABLES, torch.device("cpu"))
    clamped = tensor([distances]).clamp(max=31 << 16)
    for drop in (0, 10):
        got = ops.exp2_negative(powers, clamped, drop)[0].tolist()
        assert got == [value >> drop for value in expected]


@quick
@given(st.lists(edges(33), min_size=1, max_size=40))
def test_silu_extremes_equal_exact_integers(values: list[int]) -> None:
    expected = [oracle.silu(value, HIGH, LOW) for value in values]
    assert reference.silu(array([values])[0], TABLES).tolist() == expected
    powers = ops.powers_of(TABLES, torch.device("cpu"))
    assert ops.silu(powers, tensor([values]))[0].tolist() == expected


@quick
@given(
    st.integers(1, 12),
    st.lists(st.sampled_from([-32767, 32767, -1, 0, 1, 255, -256]), min_size=16, max_size=16),
    st.integers(-32767, 32767),
    st.tuples(st.integers(5, 15), st.integers(5, 15), st.integers(0, 15)),
    st.randoms(use_true_random=False),
)
def test_attend_extremes_equal_exact_integers(
    length: int, query: list[int], other: int, bits: tuple[int, int, int], random: object
) -> None:
    draw = np.random.default_rng(random.randint(0, 1 << 30))  # type: ignore[attr-defined]
    keys = draw.choice(np.array([-32767, 32767, other, 0, 7]), (length, 2, 16))
    values = draw.choice(np.array([-32767, 32767, other, 0, 7]), (length, 2, 16))
    multiplier = table_builder.score_multiplier(16)
    q = np.stack([np.array(query), np.array(query[::-1]), -np.array(query), np.full(16, other)])  # [H, S]
    expected = [
        oracle.attend(q[h].tolist(), keys[:, h // 2].tolist(), values[:, h // 2].tolist(), bits, multiplier, HIGH, LOW)
        for h in range(4)
    ]
    empty = np.zeros(0, dtype=np.int32)
    matrix = Linear(np.zeros((0, 0), dtype=np.int8), empty, 0)
    layer = Layer(empty, matrix, matrix, matrix, matrix, empty, matrix, matrix, matrix, *bits)
    everywhere = np.broadcast_to(q, (length, 4, 16))
    got = reference.attend(everywhere, keys, values, layer, multiplier, TABLES)
    assert got[-1].tolist() == expected
    mixed = ops.attend(
        torch.from_numpy(q).double()[None, :, None],
        torch.from_numpy(keys).double().transpose(0, 1)[None],
        torch.from_numpy(values).double().transpose(0, 1)[None],
        ops.powers_of(TABLES, torch.device("cpu")),
        ops.AttentionScales.of(layer, multiplier),
        None,
    )
    assert mixed.view(4, 16).tolist() == expected


@quick
@given(st.lists(st.integers(-5, 5), min_size=288, max_size=288))
def test_argmax_of_ties_is_the_lowest_index(logits: list[int]) -> None:
    expected = logits.index(max(logits))
    assert reference.argmax(np.array(logits)) == expected
    assert ops.argmax(torch.tensor([logits, logits[::-1]])).tolist() == [expected, logits[::-1].index(max(logits))]


def test_embed_every_token_equals_exact_integers(tiny_pack: Pack) -> None:
    table = tiny_pack.model.embedding
    tokens = np.arange(tiny_pack.limits.vocabulary)
    expected = [
        [oracle.shift_round(int(w) * int(m), table.exponent - 16) for w in row]
        for row, m in zip(table.weight, table.multiplier, strict=True)
    ]
    assert reference.embed(table, tokens).tolist() == expected
    assert ops.Embedding.of(table, torch.device("cpu")).rows(torch.from_numpy(tokens)).tolist() == expected


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1, 2**52 - 1])
def test_bit_length_boundaries_equal_python(value: int) -> None:
    assert reference.bit_length(np.array([value])).tolist() == [value.bit_length()]
