"""Proof, for one model and every possible prompt, that no intermediate leaves its integer type
(docs/numerics.md, section 6).

All arithmetic here is on Python's or int64 integers and rounds upward, so each result is a true bound. Names
follow numerics.md: A = bound of the values entering a matrix (Q16), s = activation shift, r = e - s = right
shift after a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from market.inference.model import Int32Array, Int64Array, IntegerModel, Layer, Linear
from market.models.errors import BoundError

ACTIVATION_LIMIT = 32639
CACHE_LIMIT = 32767
SHIFT_SMALLEST = -14  # quantising a row whose largest element is 1
NORM_SHARE = 256  # the normalised row's length is at most sqrt(D) * (1 + 1/NORM_SHARE)
CLAMP_SHARE = 250  # clamping at 32639 moves a value by less than 1/CLAMP_SHARE of itself
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Bound:
    """``quantity`` of ``operation`` needs ``bits`` bits of magnitude at worst; ``limit`` are safe in
    ``type``.
    """

    operation: str
    quantity: str
    bits: int
    limit: int
    type: str
    l1_max: int = 0  # of an accumulator: largest L1 norm of a weight row

    def to_json(self) -> dict[str, Any]:
        """The entry in manifest.json."""
        if self.l1_max:
            return {"operation": self.operation, "l1Max": self.l1_max, "accumulatorBits": self.bits, "type": self.type}
        return {
            "operation": self.operation,
            "quantity": self.quantity,
            "bits": self.bits,
            "limit": self.limit,
            "type": self.type,
        }


class Ledger:
    """The worst case of each quantity over all layers; refuses the first that breaks its limit."""

    def __init__(self) -> None:
        self._bounds: dict[tuple[str, str], Bound] = {}

    def check(
        self, operation: str, quantity: str, magnitude: int, limit: int, kind: str = "int64", l1: int = 0
    ) -> None:
        """Notes that |quantity| <= magnitude. Raises BoundError unless magnitude < 2^limit."""
        bits = magnitude.bit_length()
        if bits > limit:
            raise BoundError(operation, f"bits of {quantity}", bits, limit)
        known = self._bounds.get((operation, quantity))
        if known is None or (bits, l1) > (known.bits, known.l1_max):
            self._bounds[operation, quantity] = Bound(operation, quantity, bits, limit, kind, l1)

    def bounds(self) -> tuple[Bound, ...]:
        return tuple(self._bounds.values())


def prove(model: IntegerModel) -> tuple[Bound, ...]:
    """Every bound of docs/numerics.md section 6 for this model. Raises BoundError naming the first that
    fails.
    """
    c, ledger = model.config, Ledger()
    if c.epsilon < 1:
        raise BoundError("norm", "epsilon", c.epsilon, 1)
    residual = _embedding(model.embedding, ledger)
    for layer in model.layers:
        residual += _attention(model, layer, residual, ledger)
        residual += _feed_forward(model, layer, residual, ledger)
    ledger.check("residual", "value", residual, 52)
    normed = _Normalised(model.output_norm, c.hidden, ledger)
    logits = normed.through("logits", model.head)
    ledger.check("logits", "value", max(logits), 62)
    return ledger.bounds()


def _embedding(table: Linear, ledger: Ledger) -> int:
    if not 1 <= table.exponent - 16 <= 62:
        raise BoundError("embedding", "right shift", table.exponent - 16, 62)
    top = 127 * int(table.multiplier.max())
    ledger.check("embedding", "product", top + (1 << (table.exponent - 17)), 62)
    return (top >> (table.exponent - 16)) + 1


def _attention(model: IntegerModel, layer: Layer, residual: int, ledger: Ledger) -> int:
    """Bound of what attention adds to the residual."""
    c = model.config
    for name, fraction in (
        ("query", layer.query_fraction),
        ("key", layer.key_fraction),
        ("value", layer.value_fraction),
    ):
        if not 0 <= fraction <= 15:
            raise BoundError(name, "fraction bits", fraction, 15)
    ledger.check("residual", "value", residual, 52)
    normed = _Normalised(layer.attention_norm, c.hidden, ledger)
    for name, matrix in (("query", layer.query), ("key", layer.key)):
        ledger.check(name, "rotary product", 2 * (max(normed.through(name, matrix)) << 15) + (1 << 14), 62)
    ledger.check("value", "value", max(normed.through("value", layer.value)), 52)
    product = c.head_size * CACHE_LIMIT**2 * c.score_multiplier
    ledger.check("scores", "product", product, 53, "float64")
    ledger.check("scores", "value", (product >> (layer.query_fraction + layer.key_fraction + 2)) + 1, 40)
    total = c.context << 20
    ledger.check("mix", "sum of weights", total, 53, "float64")
    ledger.check("mix", "sum of weighted values", total * CACHE_LIMIT, 53, "float64")
    ledger.check("mix", "numerator", (total * CACHE_LIMIT << (17 - layer.value_fraction)) + total, 62)
    mixed = (CACHE_LIMIT << (16 - layer.value_fraction)) + 1
    inputs = np.full(c.heads * c.head_size, mixed, dtype=np.int64)
    return max(_through("attention_output", layer.attention_output, inputs, ledger))


def _feed_forward(model: IntegerModel, layer: Layer, residual: int, ledger: Ledger) -> int:
    """Bound of what the feed-forward network adds to the residual."""
    ledger.check("residual", "value", residual, 52)
    normed = _Normalised(layer.feed_forward_norm, model.config.hidden, ledger)
    gate, up = normed.through("gate", layer.gate), normed.through("up", layer.up)
    ledger.check("gate", "value", max(gate), 33)
    ledger.check("up", "value", max(up), 52)
    products = [g * u + (1 << 15) for g, u in zip(gate, up, strict=True)]
    ledger.check("activation", "product", max(products), 62)
    ledger.check("activation", "value", (max(products) >> 16) + 1, 52)
    return max(_through("down", layer.down, np.array([(p >> 16) + 1 for p in products], dtype=np.int64), ledger))


class _Normalised:
    """A row that RMSNorm made: each element is bounded, and so is the length of the whole row."""

    def __init__(self, gain: Int32Array, hidden: int, ledger: Ledger) -> None:
        self._ledger = ledger
        self._gain = np.abs(gain.astype(np.int64))
        top_gain = int(self._gain.max())
        # |t * inverse| / 2^23 <= length for each element, and the Euclidean length of that row is at most
        # `length` too
        self._length = (isqrt(hidden << 40) + 1) * (NORM_SHARE + 1) // NORM_SHARE + 1
        ledger.check("norm", "sum of squares", hidden << 44, 62)
        ledger.check("norm", "element times inverse", (self._length + 1) << 23, 62)
        product = (self._length + 1) * top_gain + (1 << 15)
        ledger.check("norm", "element times gain", product, 62)
        self._element_error = (top_gain >> 16) + 2  # flooring at Q20 times the gain, and the last rounding
        self.top = (product >> 16) + 1

    def through(self, operation: str, matrix: Linear) -> list[int]:
        """Bound of each output row: the smaller of the L1 and the Cauchy-Schwarz bound."""
        by_element = _through(
            operation, matrix, np.full(matrix.weight.shape[1], self.top, dtype=np.int64), self._ledger
        )
        if 14 + 2 * int(self._gain.max()).bit_length() + len(self._gain).bit_length() > 62:
            return by_element
        error = self._element_error + (1 << max(self.top.bit_length() - 16, 0))
        squares, l1 = _squares(matrix, self._gain**2), _l1(matrix)
        bounds = []
        for row, simple in enumerate(by_element):
            product = (isqrt(int(squares[row])) + 1) * self._length
            total = (product >> 16) + 1
            total += total // CLAMP_SHARE + 1 + int(l1[row]) * error
            bounds.append(min(simple, _scaled(total, int(matrix.multiplier[row]), matrix.exponent)))
        return bounds


def _through(operation: str, matrix: Linear, inputs: Int64Array, ledger: Ledger) -> list[int]:
    """Bound of each output row of a matrix whose input k is at most ``inputs[k]`` in Q16."""
    top = int(inputs.max())
    shift = top.bit_length() - 15
    if matrix.exponent - shift < 1:
        raise BoundError(operation, "smallest right shift", matrix.exponent - shift, 1)
    if matrix.exponent - SHIFT_SMALLEST > 62:
        raise BoundError(operation, "largest right shift", matrix.exponent - SHIFT_SMALLEST, 62)
    l1 = int(_l1(matrix).max())
    ledger.check(operation, "byte plane sum", 128 * l1, 24, "float32")
    accumulator = l1 * ACTIVATION_LIMIT
    ledger.check(operation, "accumulator", accumulator, 62, "int32" if accumulator < 1 << 31 else "int64", max(l1, 1))
    half = 1 << (matrix.exponent - SHIFT_SMALLEST - 1)
    ledger.check(operation, "scaled accumulator", accumulator * int(matrix.multiplier.max()) + half, 63)
    unit = max(top.bit_length() - 36, 0)  # coarse units keep the sums inside int64
    rounding = 1 << max(shift - 1, 0)
    sums = _absolute_product(matrix, ((inputs + rounding) >> unit) + 1)
    return [_scaled(int(sums[row]) << unit, int(m), matrix.exponent) for row, m in enumerate(matrix.multiplier)]


def _scaled(total: int, multiplier: int, exponent: int) -> int:
    """Bound of total * multiplier * 2^-exponent, rounded."""
    return (total * multiplier >> exponent) + 2


def _blocks(matrix: Linear) -> list[slice]:
    rows = len(matrix.weight)
    return [slice(start, min(start + _ROWS_AT_ONCE, rows)) for start in range(0, rows, _ROWS_AT_ONCE)]


def _l1(matrix: Linear) -> Int64Array:
    return _join([np.abs(matrix.weight[rows].astype(np.int16)).sum(axis=1, dtype=np.int64) for rows in _blocks(matrix)])


def _squares(matrix: Linear, gain_squares: Int64Array) -> Int64Array:
    """[N] sum over k of (weight * gain)^2, exact in int64."""
    return _join(
        [np.einsum("nk,k->n", matrix.weight[rows].astype(np.int64) ** 2, gain_squares) for rows in _blocks(matrix)]
    )


def _absolute_product(matrix: Linear, inputs: Int64Array) -> Int64Array:
    """[N] sum over k of |weight| * inputs, exact in int64 for inputs below 2^38."""
    return _join(
        [np.einsum("nk,k->n", np.abs(matrix.weight[rows].astype(np.int64)), inputs) for rows in _blocks(matrix)]
    )


def _join(parts: Sequence[Any]) -> Int64Array:
    joined: Int64Array = np.concatenate(parts)
    return joined
