"""The forward pass in plain numpy int64: the executable form of docs/numerics.md, written to be read.

No cache, no batch, no speed: ``forward`` runs a whole sequence at once and returns the logits of the
positions asked for. It shares no arithmetic with the engines that serve; the tests compare all of them with it
to the last bit (``numpy_engine``, the last resort, is this with a cache). T = positions, D = hidden, H = heads,
G = kv heads, S = head size, F = feed-forward width, V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from market.inference.model import AnyArray, Int32Array, Int64Array, IntegerModel, Layer, Linear, Tables

ACTIVATION_LIMIT = 32639  # 127 * 256 + 127: the high and the low byte are then both an int8
CACHE_LIMIT = 32767
LOG2_E_Q16 = 94548  # floor(log2(e) * 2^16)


def forward(model: IntegerModel, ids: Sequence[int], first: int = 0) -> Int64Array:
    """Logits [T - first, V] in Q16 of the positions from ``first`` on; ids: T token ids, at most the context."""
    c = model.config
    tokens = np.asarray(ids, dtype=np.int64)
    x = embed(model.embedding, tokens)  # [T, D] Q16
    for layer in model.layers:
        a, shift = quantise(normalise(x, layer.attention_norm, c.epsilon))
        q = linear(layer.query, a, shift).reshape(-1, c.heads, c.head_size)
        k = linear(layer.key, a, shift).reshape(-1, c.kv_heads, c.head_size)
        v = linear(layer.value, a, shift).reshape(-1, c.kv_heads, c.head_size)
        q = to_cache(rotate(q, model.tables), layer.query_fraction)
        k = to_cache(rotate(k, model.tables), layer.key_fraction)
        v = to_cache(v, layer.value_fraction)
        mixed = attend(q, k, v, layer, c.score_multiplier, model.tables).reshape(len(tokens), -1)
        x = x + linear(layer.attention_output, *quantise(mixed))
        a, shift = quantise(normalise(x, layer.feed_forward_norm, c.epsilon))
        gate, up = linear(layer.gate, a, shift), linear(layer.up, a, shift)  # [T, F] Q16
        x = x + linear(layer.down, *quantise(activate(gate, up, model.tables)))
    return linear(model.head, *quantise(normalise(x[first:], model.output_norm, c.epsilon)))


def greedy(model: IntegerModel, ids: Sequence[int], max_output_tokens: int, stop_tokens: Sequence[int]) -> list[int]:
    """Greedy continuation of ``ids``; the stop token is the last id returned."""
    return generate(model, ids, max_output_tokens, stop_tokens, lambda logits, _: argmax(logits))


def generate(
    model: IntegerModel,
    ids: Sequence[int],
    max_output_tokens: int,
    stop_tokens: Sequence[int],
    pick: Callable[[Int64Array, int], int],
) -> list[int]:
    """Continuation of ``ids`` by ``pick(logits, output position)``. Recomputes everything for each token."""
    output: list[int] = []
    while len(output) < max_output_tokens and (not output or output[-1] not in stop_tokens):
        logits = forward(model, [*ids, *output], first=len(ids) + len(output) - 1)[0]
        output.append(pick(logits, len(output)))
    return output


def argmax(logits: Int64Array) -> int:
    """Index of the largest of V logits; of equal ones the lowest index."""
    return int(np.flatnonzero(logits == logits.max())[0])


def embed(table: Linear, tokens: Int64Array) -> Int64Array:
    """Rows of the embedding in Q16: [T] → [T, D]."""
    product = table.weight[tokens].astype(np.int64) * table.multiplier[tokens, None].astype(np.int64)
    return shift_round(product, table.exponent - 16)


def linear(matrix: Linear, activation: Int64Array, shift: Int64Array) -> Int64Array:
    """[T, K] int16-valued activations with a shift per row [T, 1] → [T, N] in Q16. The sum over K is one
    exact integer.
    """
    total = np.einsum("tk,nk->tn", activation, matrix.weight.astype(np.int64))
    return shift_round(total * matrix.multiplier.astype(np.int64), matrix.exponent - shift)


def normalise(x: Int64Array, gain: Int32Array, epsilon: int) -> Int64Array:
    """RMSNorm of each row: [T, D] Q16 → [T, D] Q16, gain Q12."""
    shift = np.maximum(bit_length(np.abs(x).max(axis=-1, keepdims=True)) - 22, 0)  # [T, 1]
    t = shift_round(x, shift)  # |t| <= 2^22
    mean = (t * t).sum(axis=-1, keepdims=True) // x.shape[-1] + (epsilon >> (2 * shift))
    root = elementwise(math.isqrt, mean << 18)
    inverse = 2**52 // np.maximum(root, 1)
    return (((t * inverse) >> 23) * gain.astype(np.int64) + 2**15) >> 16


def quantise(y: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Each row of Q16 values as int16-valued integers and one power-of-two shift: y is about q * 2^shift. [T,
    K] → [T, K], [T, 1].
    """
    shift = bit_length(np.maximum(np.abs(y).max(axis=-1, keepdims=True), 1)) - 15
    return np.clip(shift_round(y, shift), -ACTIVATION_LIMIT, ACTIVATION_LIMIT), shift


def rotate(z: Int64Array, tables: Tables, first: int = 0) -> Int64Array:
    """Rotary embedding: element i of each head turns with element i + S/2. [T, heads, S] at positions from ``first`` on
    → the same.
    """
    half = z.shape[-1] // 2
    a, b = z[..., :half], z[..., half:]
    cos = tables.rope_cos[first : first + len(z), None].astype(np.int64)  # [T, 1, S/2] Q15
    sin = tables.rope_sin[first : first + len(z), None].astype(np.int64)
    return np.concatenate([(a * cos - b * sin + 2**14) >> 15, (b * cos + a * sin + 2**14) >> 15], axis=-1)


def to_cache(z: Int64Array, fraction: int) -> Int64Array:
    """Q16 → int16-valued with ``fraction`` fraction bits, saturating."""
    return np.clip(shift_round(z, 16 - fraction), -CACHE_LIMIT, CACHE_LIMIT)


def attend(q: Int64Array, k: Int64Array, v: Int64Array, layer: Layer, multiplier: int, tables: Tables) -> Int64Array:
    """Causal grouped attention: q [T, H, S] of the last T of U positions, k and v [U, G, S] → [T, H, S] in Q16."""
    positions, heads, _ = q.shape
    group = heads // k.shape[1]
    hidden_future = np.arange(len(k))[None, :] > np.arange(len(k) - positions, len(k))[:, None]  # [T, U]
    mixed = np.empty_like(q)
    for head in range(heads):
        keys, values = k[:, head // group], v[:, head // group]  # [U, S]
        dots = np.einsum("ts,us->tu", q[:, head], keys)  # [T, U]
        scores = shift_round(dots * multiplier, layer.query_fraction + layer.key_fraction + 2)  # log2 domain, Q16
        best = np.where(hidden_future, scores.min(), scores).max(axis=-1, keepdims=True)
        distance = np.where(hidden_future, 0, best - scores)
        weight = np.where(hidden_future, 0, exp2_negative(distance, tables) >> 10)  # Q20
        total = weight.sum(axis=-1, keepdims=True)
        sums = np.einsum("tu,us->ts", weight, values) << (16 - layer.value_fraction)
        mixed[:, head] = (2 * sums + total) // (2 * total)  # nearest, ties upward
    return mixed


def activate(gate: Int64Array, up: Int64Array, tables: Tables) -> Int64Array:
    """The product that enters a layer's last matrix, Q16."""
    return (silu(gate, tables) * up + 2**15) >> 16


def silu(x: Int64Array, tables: Tables) -> Int64Array:
    """x * sigmoid(x), Q16 → Q16."""
    power = exp2_negative((np.abs(x) * LOG2_E_Q16) >> 16, tables)  # e^-|x| in Q30
    sigmoid = 2**60 // (2**30 + power)  # Q30
    result: Int64Array = (x * np.where(x < 0, 2**30 - sigmoid, sigmoid) + 2**29) >> 30
    return result


def exp2_negative(d: Int64Array, tables: Tables) -> Int64Array:
    """2^-d for d >= 0 in Q16 → Q30."""
    high = tables.exp2_high[(d >> 8) & 255].astype(np.int64)
    low = tables.exp2_low[d & 255].astype(np.int64)
    result: Int64Array = ((high * low) >> 30) >> np.minimum(d >> 16, 31)
    return result


def shift_round(x: Int64Array, shift: Int64Array | int) -> Int64Array:
    """x / 2^shift to the nearest integer, halves upward; a negative shift multiplies."""
    right = np.maximum(shift, 0)
    left = np.maximum(-np.asarray(shift), 0)
    result: Int64Array = ((x << left) + ((np.int64(1) << right) >> 1)) >> right
    return result


def bit_length(x: Int64Array) -> Int64Array:
    """Number of bits of each non-negative integer; 0 has none."""
    return elementwise(int.bit_length, x)


def elementwise(function: Callable[[int], int], x: AnyArray) -> Int64Array:
    """``function`` of Python's unbounded integers on every element."""
    return np.array([function(int(value)) for value in x.flat], dtype=np.int64).reshape(x.shape)
