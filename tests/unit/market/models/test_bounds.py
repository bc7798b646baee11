"""Bounds: nothing that a run computes exceeds them, and a model that breaks one is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from market.inference import reference
from market.inference.model import Int64Array, IntegerModel, Linear
from market.models import bounds
from market.models.errors import BoundError
from market.models.pack import Pack
from market.models.packer import write_pack
from market.models.tiny import TINY, RandomSource, tiny_recipe


def bits(model: IntegerModel, operation: str, quantity: str) -> int:
    return next(b.bits for b in bounds.prove(model) if (b.operation, b.quantity) == (operation, quantity))


def with_layer(model: IntegerModel, **changes: object) -> IntegerModel:
    layer = dataclasses.replace(model.layers[0], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(model, layers=(layer, *model.layers[1:]))


def test_bounds_hold_over_every_token_as_first_and_in_long_prompts(tiny_pack: Pack) -> None:
    """Recomputes the first layer's intermediates for all tokens; each stays inside its proved bits."""
    model = tiny_pack.model
    config, layer = model.config, model.layers[0]
    x = reference.embed(model.embedding, np.arange(config.vocabulary))
    a, shift = reference.quantise(reference.normalise(x, layer.attention_norm, config.epsilon))
    queries = reference.linear(layer.query, a, shift)
    assert int(np.abs(queries).max()) << 16 < 1 << bits(model, "query", "rotary product")
    assert np.abs(a).max() <= bounds.ACTIVATION_LIMIT
    sums = np.einsum("tk,nk->tn", a, layer.query.weight.astype(np.int64))
    assert int(np.abs(sums).max()) < 1 << bits(model, "query", "accumulator")
    a, shift = reference.quantise(reference.normalise(x, layer.feed_forward_norm, config.epsilon))
    gate, up = (reference.linear(matrix, a, shift) for matrix in (layer.gate, layer.up))
    assert int(np.abs(gate).max()) < 1 << bits(model, "gate", "value")
    assert int(np.abs(up).max()) < 1 << bits(model, "up", "value")
    logits = reference.forward(model, list(range(256)))
    assert int(np.abs(logits).max()) < 1 << bits(model, "logits", "value")


def test_norm_bound_is_reached_by_its_worst_rows_and_never_exceeded(tiny_pack: Pack) -> None:
    config = tiny_pack.model.config
    gain = np.full(config.hidden, 4096, dtype=np.int32)
    normed = bounds._Normalised(gain, config.hidden, bounds.Ledger())
    spike = np.zeros((60, config.hidden), dtype=np.int64)
    spike[:, 0] = 1 << np.minimum(np.arange(60), 51)
    worst = int(np.abs(reference.normalise(spike, gain, config.epsilon)).max())
    assert worst <= normed.top
    assert normed.top < 1.01 * worst
    tiny_epsilon = reference.normalise(spike, gain, 1)
    assert int(np.abs(tiny_epsilon).max()) <= normed.top


def test_matrix_bound_holds_for_the_row_that_points_along_a_weight(tiny_pack: Pack) -> None:
    """A row parallel to weight * gain makes the largest output that RMSNorm allows (Cauchy-Schwarz with equality)."""
    layer, config = tiny_pack.model.layers[1], tiny_pack.model.config
    normed = bounds._Normalised(layer.feed_forward_norm, config.hidden, bounds.Ledger())
    limits = normed.through("gate", layer.gate)
    gain = layer.feed_forward_norm.astype(np.int64)
    rows: Int64Array = layer.gate.weight.astype(np.int64) * gain << 10
    a, shift = reference.quantise(reference.normalise(rows, layer.feed_forward_norm, config.epsilon))
    outputs = reference.linear(layer.gate, a, shift)
    reached = np.abs(np.diagonal(outputs))
    assert all(int(value) <= limit for value, limit in zip(reached, limits, strict=True))
    assert max(int(value) / limit for value, limit in zip(reached, limits, strict=True)) > 0.9


@pytest.mark.parametrize("columns", [1040, 2000])
def test_matrix_whose_plane_sums_leave_float32_is_refused(columns: int, tmp_path: Path) -> None:
    """127 * 128 * 1033 passes 2^24: float32 could not hold the sums."""
    full = np.full((4, columns), 127, dtype=np.int8)
    matrix = Linear(full, np.ones(4, dtype=np.int32), 30)
    with pytest.raises(BoundError) as caught:
        bounds._through("gate", matrix, np.full(columns, 1 << 16, dtype=np.int64), bounds.Ledger())
    assert (caught.value.operation, caught.value.quantity, caught.value.limit) == ("gate", "bits of byte plane sum", 24)


def test_matrix_with_long_rows_needs_64_bits_and_says_so() -> None:
    ledger = bounds.Ledger()
    matrix = Linear(np.full((2, 900), 127, dtype=np.int8), np.ones(2, dtype=np.int32), 30)
    bounds._through("gate", matrix, np.full(900, 1 << 16, dtype=np.int64), ledger)
    accumulator = next(bound for bound in ledger.bounds() if bound.quantity == "accumulator")
    assert accumulator.to_json() == {"operation": "gate", "l1Max": 114300, "accumulatorBits": 32, "type": "int64"}


@pytest.mark.parametrize(
    ("field", "exponent", "quantity"),
    [("gate", 4, "smallest right shift"), ("down", 60, "largest right shift"), ("query", 3, "smallest right shift")],
)
def test_exponent_that_makes_a_shift_impossible_is_refused(
    field: str, exponent: int, quantity: str, tiny_pack: Pack
) -> None:
    matrix: Linear = getattr(tiny_pack.model.layers[0], field)
    model = with_layer(tiny_pack.model, **{field: dataclasses.replace(matrix, exponent=exponent)})
    with pytest.raises(BoundError) as caught:
        bounds.prove(model)
    assert (caught.value.operation, caught.value.quantity) == (field, quantity)


@pytest.mark.parametrize(
    ("changes", "operation"),
    [
        ({"query_fraction": 16}, "query"),
        ({"key_fraction": -1}, "key"),
        ({"query_fraction": 0, "key_fraction": 0}, "scores"),
    ],
)
def test_fraction_bits_out_of_range_are_refused(changes: dict[str, int], operation: str, tiny_pack: Pack) -> None:
    with pytest.raises(BoundError) as caught:
        bounds.prove(with_layer(tiny_pack.model, **changes))
    assert caught.value.operation == operation


def test_huge_gains_are_refused(tiny_pack: Pack) -> None:
    gain = np.full(TINY.hidden, 2**31 - 1, dtype=np.int32)
    with pytest.raises(BoundError) as caught:
        bounds.prove(with_layer(tiny_pack.model, feed_forward_norm=gain, attention_norm=gain))
    assert "bits" in caught.value.quantity or "shift" in caught.value.quantity


def test_epsilon_of_zero_is_refused(tmp_path: Path) -> None:
    shape = dataclasses.replace(TINY, epsilon=0.0)
    with pytest.raises(BoundError) as caught:
        write_pack(RandomSource(shape), tiny_recipe(shape), tmp_path / "pack")
    assert caught.value.quantity == "epsilon"
    assert not (tmp_path / "pack").exists()
