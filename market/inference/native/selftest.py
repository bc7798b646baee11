"""Proof, at every start, that a kernel gives exact integers on this machine, before it serves anything.

Each operation runs on extremes and on fixed random numbers and is compared with ``market.inference.reference``, which
computes in numpy's int64 and, for single numbers, in Python's own integers. Then a small model runs whole, on the
threads it will serve with. The reason is not theoretical: see docs/numerics.md, section 6.1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from market.inference import reference
from market.inference.batch import Part, Want
from market.inference.errors import SelfTestError
from market.inference.forward_selftest import SEED, small_model
from market.inference.model import AnyArray, Int64Array, IntegerModel, Linear, Tables
from market.inference.native.library import ACCUMULATOR_L1, QUERIES, Kernel
from market.inference.native_engine import ROWS, NativeEngine

COUNTS = (1, 2, 3, 7, 8, 12, 27)  # rows of activations: alone, few, a full group, groups and a rest
SAMPLE = 40  # rows taken at each end of a matrix
PLANE_L1 = (1 << 17) - 1  # packing refuses rows of larger L1 norm
ALONE = 1 << 30  # passes: all that a self-test makes


def proved(kernel: Kernel, model: IntegerModel, threads: int | None = 1) -> NativeEngine:
    """An engine over ``model`` whose kernel passed. Raises SelfTestError at the first difference, naming the check."""
    check_matrices(kernel, model)
    check_rows(kernel, model)
    check_attention(kernel, model)
    engine = NativeEngine(model, kernel.name, threads)
    check_forward(kernel.name, engine.threads, model.tables)
    return engine


def check_matrices(kernel: Kernel, model: IntegerModel) -> None:
    """Every shape of matrix with its own weights, and the largest weights whose sums packing allows at that width."""
    seen: set[tuple[int, ...]] = set()
    for matrix in model.matrices():
        rows, columns = matrix.weight.shape
        parts = [*ends(matrix)] if (rows, columns) not in seen else []
        if (columns,) not in seen:
            parts += [extreme_matrix(columns, norm) for norm in (ACCUMULATOR_L1, PLANE_L1)]
        seen |= {(rows, columns), (columns,)}
        for part in parts:
            _check_linear(kernel, part, f"{rows}x{columns}")


def extreme_matrix(columns: int, norm: int) -> Linear:
    """Rows of the largest weights, of one sign and of several, whose L1 norm is at most ``norm``."""
    signs = np.sign(np.cos(np.outer(np.arange(9), np.arange(columns))) + 0.5)  # the first row all 1
    largest = max(1, min(127, norm // columns))
    multiplier = np.full(9, (1 << 24) - 1, dtype=np.int32)
    return Linear((largest * signs).astype(np.int8), multiplier, 40)


def ends(matrix: Linear) -> Iterator[Linear]:
    """The first and the last rows of a matrix, as matrices."""
    rows = len(matrix.weight)
    for part in {(0, min(rows, SAMPLE)), (max(rows - SAMPLE, 0), rows)}:
        yield Linear(matrix.weight[slice(*part)], matrix.multiplier[slice(*part)], matrix.exponent)


def extreme_rows(columns: int, weight: AnyArray) -> Int64Array:
    """Q16 rows whose integers reach both limits, line up with the signs of a row of weights, lie halfway between two
    integers when quantised, or are tiny or random.
    """
    signs = np.where(weight[0] < 0, -1, 1).astype(np.int64)
    halves = signs * (4 * (np.arange(columns) % 8192) + 2)
    halves[0] = 1 << 16  # two bits go
    random = np.random.default_rng(SEED).integers(-(1 << 30), 1 << 30, (20, columns))
    rows = [32639 * signs, -32639 * signs, 32768 * signs, (signs << 40) - 1, np.zeros(columns, dtype=np.int64), signs]
    return np.concatenate([np.stack([*rows, halves]), random])


def _check_linear(kernel: Kernel, matrix: Linear, shape: str) -> None:
    y = extreme_rows(matrix.weight.shape[1], matrix.weight)
    q, shift = reference.quantise(y)
    expected = reference.linear(matrix, q, shift)
    for count in COUNTS:
        for grouped in (False, True):
            got, shifts = kernel.linear(matrix, y[:count], grouped)
            if not np.array_equal(shifts, shift[:count, 0]):
                raise SelfTestError(f"quantise {kernel.name} of {count} rows")
            if not np.array_equal(got, expected[:count]):
                raise SelfTestError(f"matmul {kernel.name} of {count} rows by a matrix of {shape}")


def check_rows(kernel: Kernel, model: IntegerModel) -> None:
    """normalise, rotate, to_cache and the activation."""
    c, tables, random = model.config, model.tables, np.random.default_rng(SEED)
    for bits in (0, 16, 22, 30, 51):
        limit = (1 << bits) + 1
        row = random.integers(-limit, limit, c.hidden)
        row[0] = limit
        for gain in (model.output_norm, model.layers[0].attention_norm):
            expected = reference.normalise(row[None], gain, c.epsilon)[0]
            _same(kernel.normalise(row, gain, c.epsilon), expected, f"normalise {kernel.name}")
    for position in (0, 1, c.context - 1):
        head = random.integers(-(1 << 36), 1 << 36, c.head_size)
        cos, sin = tables.rope_cos[position], tables.rope_sin[position]
        moved = Tables(tables.exp2_high, tables.exp2_low, cos[None], sin[None])
        expected = reference.rotate(head[None, None], moved)[0, 0]
        _same(kernel.rotate(head, cos, sin), expected, f"rotate {kernel.name}")
    values = np.concatenate([[-(1 << 40), 1 << 40, -1, 0, 1], random.integers(-(1 << 24), 1 << 24, 60)])
    for fraction in range(16):
        expected = reference.to_cache(values, fraction)
        _same(kernel.to_cache(values, fraction), expected, f"to_cache {kernel.name}")
    near, far = random.integers(-(1 << 21), 1 << 21, 200), random.integers(-(1 << 33) + 1, 1 << 33, 50)
    gate = np.concatenate([[-(1 << 33) + 1, (1 << 33) - 1, -(1 << 31), 1 << 31, 0, -1], near, far])
    up = random.integers(-(1 << 28), 1 << 28, len(gate))
    expected = reference.activate(gate, up, tables)
    _same(kernel.activate(gate, up, tables), expected, f"activation {kernel.name}")


def check_attention(kernel: Kernel, model: IntegerModel) -> None:
    """Queries over caches at their limits and at random, with the model's own formats."""
    c, random = model.config, np.random.default_rng(SEED)
    limit = reference.CACHE_LIMIT
    for length, layer in ((1, model.layers[0]), (150, model.layers[-1])):
        keys, values = (random.integers(-limit, limit + 1, (length, c.head_size)) for _ in range(2))
        queries = random.integers(-limit, limit + 1, (QUERIES, c.head_size))
        keys[: length // 2], queries[0], queries[1] = limit, limit, -limit
        values[: length // 3] = np.where(np.arange(c.head_size) % 2, limit, -limit)
        queries[2:4] >>= 9  # weights spread over many positions
        for count in (1, 2, 3, QUERIES):
            seen = np.array([max(1, length - 17 * j) for j in range(count)], dtype=np.int32)
            fractions = (layer.query_fraction, layer.key_fraction, layer.value_fraction)
            arguments = (keys, values, fractions, c.score_multiplier, model.tables)
            got = kernel.attend(queries[:count], seen, *arguments)
            for j in range(count):
                window = slice(0, int(seen[j]))
                k, v = keys[window, None], values[window, None]
                expected = reference.attend(queries[j][None, None], k, v, layer, c.score_multiplier, model.tables)
                _same(got[j], expected[0, 0], f"attention {kernel.name} over {seen[j]} positions")


def check_forward(kernel: str, threads: int, tables: Tables) -> None:
    """A small model from one end to the other: the prompt at once, token by token, and beside few and many others; and
    the likeliest token, which the kernels find on a path of their own, without writing the logits.

    On all threads, and with all but one left out, as the pool leaves them out while they hold answers up. The rows of a
    batch take another way through the matrices then: of more threads than a pass has pieces for, pieces are met there
    only.
    """
    model = small_model(tables)
    engine = NativeEngine(model, kernel, threads)
    ids = [int(i) for i in np.random.default_rng(SEED).integers(0, model.config.vocabulary, 12)]
    expected = reference.forward(model, ids)
    name = f"forward pass {kernel} on {threads} threads"
    _check_passes(engine, ids, expected, 0, name)
    if engine.threads > 1:
        _check_passes(engine, ids, expected, ALONE, f"{name}, all but one left out")


def _check_passes(engine: NativeEngine, ids: list[int], expected: Int64Array, alone: int, name: str) -> None:
    """``alone``: said anew before each kind of pass, because the pool may decide otherwise in between."""
    engine.leave_out(alone)
    _same(engine.forward(ids), expected, name)
    engine.leave_out(alone)
    first, second = engine.new_slot(len(ids)), engine.new_slot(len(ids))
    engine.step([Part(first, ids[:2], Want.NOTHING), Part(second, ids[:9], Want.NOTHING)])
    together = engine.step([Part(first, ids[2:3], Want.LOGITS), Part(second, ids[9:], Want.LOGITS)])
    _same(np.array(together), expected[[2, -1]], name)
    engine.leave_out(alone)
    _same(np.array(engine.step([Part(first, ids[3:4], Want.LOGITS)])), expected[3:4], name)
    ends = [i % len(ids) for i in range(2 * ROWS // len(ids))]  # as many rows as a pass takes, and some more
    crowd = [Part(engine.new_slot(len(ids)), ids[: end + 1], Want.LOGITS) for end in ends]
    engine.leave_out(alone)
    _same(np.array(engine.step(crowd)), expected[ends], name)
    likeliest, name = np.array([reference.argmax(row) for row in expected]), f"likeliest token of the {name}"
    slot = engine.new_slot(len(ids))
    engine.leave_out(alone)
    _same(np.array([engine.step([Part(slot, [token], Want.TOKEN)])[0] for token in ids]), likeliest, name)
    mixtures = [[Want.TOKEN], [Want.TOKEN, Want.NOTHING], [Want.TOKEN, Want.LOGITS]]
    for wants in mixtures[:1] if alone else mixtures:  # what is wanted is no matter of threads
        slots = [engine.new_slot(len(ids)) for _ in ends]
        parts = [Part(slots[i], ids[: end + 1], wants[i % len(wants)]) for i, end in enumerate(ends)]
        engine.leave_out(alone)
        got = engine.step(parts)[:: len(wants)]
        _same(np.array(got), likeliest[ends][:: len(wants)], name)


def _same(got: AnyArray, expected: AnyArray, check: str) -> None:
    if not np.array_equal(got, expected):
        raise SelfTestError(check)
