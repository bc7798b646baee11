"""The published examples: every engine and kernel gives them, and the oracle still says the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from market.inference import reference
from market.inference import torch_operations as ops
from market.inference.batch import Part, Want
from market.inference.forward_selftest import small_model
from market.inference.matmul import Int8Product
from market.inference.model import Int32Array, IntegerModel, Layer, Linear, Tables
from market.inference.native import library
from market.inference.native_engine import NativeEngine
from market.inference.numpy_engine import NumpyEngine
from market.inference.torch_engine import TorchEngine
from market.models import tables as table_builder
from market.models.pack import Pack
from tests.unit.market.inference import exact, vectors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(vectors.FILE.read_text())
    return content


@pytest.fixture(scope="module")
def tables() -> Tables:
    return table_builder.build(300, 8, 10000.0)


def test_vectors_file_is_what_the_oracle_says(file: dict[str, Any]) -> None:
    assert json.loads(json.dumps(vectors.cases())) == file


def test_vectors_of_element_operations_hold_in_both_engines(file: dict[str, Any], tables: Tables) -> None:
    powers = ops.powers_of(tables, CPU)
    for x, shift, expected in file["shift_round"]:
        assert reference.shift_round(np.array([x]), shift).tolist() == [expected]
    for d, expected in file["exp2_negative"]:
        assert reference.exp2_negative(np.array([d]), tables).tolist() == [expected]
        assert ops.exp2_negative(powers, torch.tensor([min(d, ops.DISTANCE_LIMIT)]), 0).tolist() == [expected]
    for x, expected in file["silu"]:
        assert reference.silu(np.array([x]), tables).tolist() == [expected]
        assert ops.silu(powers, torch.tensor([[x]])).tolist() == [[expected]]
    for gate, up, expected in file["activate"]:
        assert reference.activate(np.array([gate]), np.array([up]), tables).tolist() == [expected]
        assert ops.activate(powers, torch.tensor([[gate]]), torch.tensor([[up]])).tolist() == [[expected]]
    for z, fraction, expected in file["to_cache"]:
        assert reference.to_cache(np.array([z]), fraction).tolist() == [expected]
        assert ops.to_cache(torch.tensor([z]), torch.tensor(2.0 ** (fraction - 16)).double()).tolist() == [expected]
    for logits, expected in file["argmax"]:
        assert reference.argmax(np.array(logits)) == expected
        assert ops.argmax(torch.tensor([logits])).tolist() == [expected]


def test_vectors_of_row_operations_hold_in_both_engines(file: dict[str, Any], tables: Tables) -> None:
    norm, linear = file["normalise"], file["linear"]
    gain = np.array(norm["gain"], dtype=np.int32)
    for row, expected in norm["rows"]:
        assert reference.normalise(np.array([row]), gain, norm["epsilon"]).tolist() == [expected]
        got = ops.normalise(torch.tensor([row]).double(), torch.from_numpy(gain), norm["epsilon"])
        assert got.tolist() == [expected]
    for row, expected, shift in file["quantise"]:
        q, s = reference.quantise(np.array([row]))
        assert (q.tolist(), s.tolist()) == ([expected], [[shift]])
        planes, s = ops.quantise(torch.tensor([row]))
        assert (planes[1].long() * 256 + planes[0]).tolist() == [expected]
        assert s.tolist() == [[shift]]
    for case in file["embed"]:
        table, ids = embedding(case), np.arange(len(case["rows"]))
        assert reference.embed(table, ids).tolist() == case["rows"]
        assert ops.Embedding.of(table, CPU).rows(torch.from_numpy(ids)).tolist() == case["rows"]
    multiplier = np.array(linear["multiplier"], dtype=np.int32)
    matrix = Linear(np.array(linear["weight"], dtype=np.int8), multiplier, linear["exponent"])
    projection = ops.Projection.of([matrix], Int8Product(), CPU)
    for (row, _, _), (q, s, expected) in zip(file["quantise"], linear["rows"], strict=True):
        assert reference.linear(matrix, np.array([q]), np.array([[s]])).tolist() == [expected]
        assert projection.apply(*ops.quantise(torch.tensor([row])))[0].tolist() == [expected]
    for head, position, expected in file["rotate"]:
        moved = Tables(tables.exp2_high, tables.exp2_low, tables.rope_cos[position:], tables.rope_sin[position:])
        assert reference.rotate(np.array([[head]]), moved).tolist() == [[expected]]
        cos, sin = (torch.from_numpy(table[:1].astype(np.int64)) for table in (moved.rope_cos, moved.rope_sin))
        assert ops.rotate(torch.tensor([[[head]]]), *ops.turns(cos, sin)).tolist() == [[[expected]]]


def test_vectors_of_attention_hold_in_both_engines(file: dict[str, Any], tables: Tables) -> None:
    for case in file["attend"]:
        query, keys, values = (np.array(case[name]) for name in ("query", "keys", "values"))
        empty = np.zeros(0, dtype=np.int32)
        none = Linear(np.zeros((0, 0), dtype=np.int8), empty, 0)
        layer = Layer(empty, none, none, none, none, empty, none, none, none, *case["fraction_bits"])
        queries = np.broadcast_to(query, (len(keys), 1, 4))
        got = reference.attend(queries, keys[:, None], values[:, None], layer, case["multiplier"], tables)
        assert got[-1, 0].tolist() == case["result"]
        mixed = ops.attend(
            torch.from_numpy(query).double()[None, None, None],
            torch.from_numpy(keys).double()[None, None],
            torch.from_numpy(values).double()[None, None],
            ops.powers_of(tables, CPU),
            ops.AttentionScales.of(layer, case["multiplier"]),
            None,
        )
        assert mixed.tolist() == [case["result"]]


def embedding(case: dict[str, Any]) -> Linear:
    multiplier = np.array(case["multiplier"], dtype=np.int32)
    return Linear(np.array(case["weight"], dtype=np.int8), multiplier, case["exponent"])


def test_vectors_of_the_tiny_model_hold(file: dict[str, Any], tiny_pack: Pack, tiny_engine: TorchEngine) -> None:
    tiny = file["tiny"]
    assert "0x" + tiny_pack.model_id.hex() == tiny["model_id"]
    assert list(tiny_engine.generate(tiny["prompt"], 16, []).ids) == tiny["output"]
    ids = torch.tensor([tiny["prompt"]])
    assert tiny_engine.forward(ids, tiny_engine.new_cache(1, 5))[0, -1].tolist() == tiny["last_logits"]


def test_vectors_of_the_tiny_model_and_of_linear_hold_in_the_numpy_engine(
    file: dict[str, Any], tiny_pack: Pack
) -> None:
    """Its other operations are the reference's own, which the tests above run."""
    tiny, linear = file["tiny"], file["linear"]
    engine = NumpyEngine(tiny_pack.model)
    assert list(engine.generate(tiny["prompt"], 16, []).ids) == tiny["output"]
    slot = engine.new_slot(5)
    (logits,) = engine.step([Part(slot, tiny["prompt"], Want.LOGITS)])
    assert np.asarray(logits).tolist() == tiny["last_logits"]
    multiplier = np.array(linear["multiplier"], dtype=np.int32)
    matrix = Linear(np.array(linear["weight"], dtype=np.int8), multiplier, linear["exponent"])
    rows = len(linear["multiplier"])
    config = replace(tiny_pack.model.config, vocabulary=rows)
    engine = NumpyEngine(replace(tiny_pack.model, config=config, embedding=matrix, head=matrix), proved=True)
    for q, s, expected in linear["rows"]:
        assert engine._linear(matrix, np.array([q]), np.array([[s]])).tolist() == [expected]


@pytest.fixture(params=library.KERNELS)
def kernel(request: pytest.FixtureRequest) -> library.Kernel:
    if request.param not in library.supported():
        pytest.skip(f"the package was installed without {request.param}, or this processor cannot run it")
    return library.Kernel(library.library(), request.param)


def test_vectors_of_every_operation_hold_in_every_kernel(
    kernel: library.Kernel, file: dict[str, Any], tables: Tables
) -> None:
    one = np.full(1, 1 << 16, dtype=np.int64)  # times 1: the activation is then silu itself
    for x, expected in file["silu"]:
        assert kernel.activate(np.array([x]), one, tables).tolist() == [expected]
    for gate, up, expected in file["activate"]:
        assert kernel.activate(np.array([gate]), np.array([up]), tables).tolist() == [expected]
    for z, fraction, expected in file["to_cache"]:
        assert kernel.to_cache(np.array([z]), fraction).tolist() == [expected]
    for d, expected in file["exp2_negative"]:
        assert exact.exp2neg(d, tables) == expected
        high, low = divmod(min(d, 32767 * 32767), 32767)  # two positions whose scores differ by d
        keys, values = [[0, 0], [-high, -low]], [[0, 0], [32767, -32767]]
        two = np.array([2], dtype=np.int32)
        got = kernel.attend(np.array([[32767, 1]]), two, np.array(keys), np.array(values), (0, 0, 0), 4, tables)
        assert got.tolist() == [exact.attend([32767, 1], keys, values, (0, 0, 0), 4, tables)]
    norm, linear = file["normalise"], file["linear"]
    gain = np.array(norm["gain"], dtype=np.int32)
    for row, expected in norm["rows"]:
        assert kernel.normalise(np.array(row), gain, norm["epsilon"]).tolist() == expected
    multiplier = np.array(linear["multiplier"], dtype=np.int32)
    matrix = Linear(np.array(linear["weight"], dtype=np.int8), multiplier, linear["exponent"])
    for grouped in (False, True):
        for (row, q, shift), (_, _, expected) in zip(file["quantise"], linear["rows"], strict=True):
            out, shifts = kernel.linear(matrix, np.array([row]), grouped)
            assert (out.tolist(), shifts.tolist()) == ([expected], [shift])
            back = Linear(np.eye(len(q), dtype=np.int8), np.full(len(q), 2, dtype=np.int32), 1 + shift)
            assert kernel.linear(back, np.array([row]), grouped)[0].tolist() == [q]
    for head, position, expected in file["rotate"]:
        cos, sin = tables.rope_cos[position], tables.rope_sin[position]
        assert kernel.rotate(np.array(head), cos, sin).tolist() == expected


def test_vectors_of_attention_hold_in_every_kernel(
    kernel: library.Kernel, file: dict[str, Any], tables: Tables
) -> None:
    for case in file["attend"]:
        query, keys, values = (np.array(case[name]) for name in ("query", "keys", "values"))
        for count in range(1, library.QUERIES + 1):
            queries, seen = np.broadcast_to(query, (count, len(query))), np.full(count, len(keys), dtype=np.int32)
            got = kernel.attend(queries, seen, keys, values, tuple(case["fraction_bits"]), case["multiplier"], tables)
            assert got.tolist() == [case["result"]] * count


def test_vectors_of_embed_hold_in_every_kernel(
    kernel: library.Kernel, file: dict[str, Any], tiny_pack: Pack, tables: Tables
) -> None:
    """The first residual stream of a model with that embedding, its columns repeated to the model's width."""
    small = small_model(tiny_pack.model.tables)
    for case in file["embed"]:
        table, times = embedding(case), small.config.hidden // 4
        rows = len(case["rows"])
        table = Linear(np.tile(table.weight, (1, times)), table.multiplier, table.exponent)
        model = replace(small, embedding=table, config=replace(small.config, vocabulary=rows), head=first(small, rows))
        for ids in ([*range(rows)], [rows - 1], [*range(rows)] * 4):
            engine = NativeEngine(model, kernel.name, 1)
            got = engine.residuals([(engine.new_slot(len(ids)), ids)])[0]
            assert got.tolist() == [case["rows"][token] * times for token in ids]


def test_vectors_of_argmax_hold_in_every_kernel(kernel: library.Kernel, file: dict[str, Any], tiny_pack: Pack) -> None:
    """Through a head whose rows are multiples of one row, so that its logits are in the order of the example's."""
    small = small_model(tiny_pack.model.tables)
    for logits, expected in file["argmax"]:
        ranks = np.unique(logits, return_inverse=True)[1].reshape(-1)
        config = replace(small.config, vocabulary=len(logits))
        first_row = first(small, 1).weight[:1]
        table = replace(
            small.embedding, weight=np.repeat(first_row, len(logits), 0), multiplier=ones(len(logits)) << 20
        )
        plain = replace(small, config=config, embedding=table, head=first(small, 1))
        x = reference.forward(replace(plain, head=identity(small.config.hidden)), [0])[0]
        weight = np.sign(x)[None] * (ranks[:, None] - 100)
        head = Linear(weight.astype(np.int8), ones(len(logits)) << 20, 31)
        model = replace(plain, head=head)
        made = reference.forward(model, [0])[0]
        assert (np.unique(made, return_inverse=True)[1].reshape(-1) == ranks).all()
        for threads in (1, 2):
            engine = NativeEngine(model, kernel.name, threads)
            assert engine.step([Part(engine.new_slot(1), [0], Want.TOKEN)]) == [expected]
            parts = [Part(engine.new_slot(1), [0], Want.TOKEN) for _ in range(9)]
            assert engine.step(parts) == [expected] * 9


def first(model: IntegerModel, rows: int) -> Linear:
    """The first rows of a model's head."""
    return Linear(model.head.weight[:rows], model.head.multiplier[:rows], model.head.exponent)


def identity(width: int) -> Linear:
    """A head whose logits are the last activations."""
    return Linear(np.eye(width, dtype=np.int8), ones(width) << 20, 20)


def ones(count: int) -> Int32Array:
    return np.ones(count, dtype=np.int32)


def test_vectors_of_the_tiny_model_hold_in_every_kernel(
    kernel: library.Kernel, file: dict[str, Any], tiny_pack: Pack
) -> None:
    tiny = file["tiny"]
    engine = NativeEngine(tiny_pack.model, kernel.name, 2)
    assert list(engine.generate(tiny["prompt"], 16, []).ids) == tiny["output"]
    assert engine.forward(tiny["prompt"])[-1].tolist() == tiny["last_logits"]
