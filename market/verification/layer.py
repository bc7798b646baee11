"""Every intermediate of one group of the trace, from the residual stream before it.

Equal to market/inference/reference.py to the bit (tests); no torch, no cache, all positions at once. A *hook* sees each
array before anything is computed from it and may change it: that is how tests and games make dishonest traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from market.inference.model import AnyArray, Int32Array, Int64Array, IntegerModel, Layer, Linear
from market.verification import exact
from market.verification.geometry import CHUNK, Operation, ceil_div
from market.verification.products import Products

Hook = Callable[[int, Operation, str, AnyArray], None]
"""``hook(group, operation, part, array)`` changes the array in place. Parts, with the array's axes:

- ``elements``: [p, element], [p, head, element] or, of SCORES, [p, head, u] (u > p is not there and must stay);
- ``norm``: s and v, [p, 2]; ``maximum``: s′ and i′, [p, 2], of SOFTMAX M and i′, [p, head, 2];
- ``sums``: of SOFTMAX [p, head, block], of MIX_SUM [p, head, block, element]: each block's own sum, before they are
  added up, so that a change goes on into later blocks.

Rows of OUTPUT_NORM and LOGITS are output positions.
"""

_HIDDEN = -(1 << 45)  # stands for the scores of later positions: below every score by more than 31 · 2^16


@dataclass(frozen=True)
class Values:
    """One operation's values: ``statistic`` [p, fields] where its rows have one, and ``elements`` as the hook sees
    them, except that sums are prefixes (SOFTMAX: M, i′ and the prefixes, [p, head, 2 + blocks]). The axes of blocks and
    of u are filled up to whole blocks.
    """

    elements: AnyArray
    statistic: Int64Array | None = None


LayerValues = dict[Operation, Values]


class Recomputation:
    """The groups of one trace, each from what the one before left."""

    def __init__(
        self,
        model: IntegerModel,
        input_ids: Sequence[int],
        output_ids: Sequence[int],
        products: Products | None = None,
        hook: Hook | None = None,
    ) -> None:
        self._model, self._products, self._hook = model, products or Products(), hook
        ids = [*input_ids, *output_ids][:-1]
        self._tokens = np.asarray(ids, dtype=np.int64)
        self.positions, self._outputs = len(ids), len(output_ids)
        self._exponential = exact.Exponential(model.tables)

    def embedding(self) -> LayerValues:
        """Group 0."""
        x = exact.embed(self._model.embedding, self._tokens)
        self._see(0, Operation.EMBEDDING, "elements", x)
        return {Operation.EMBEDDING: Values(x)}

    def layer(self, index: int, x: Int64Array) -> LayerValues:
        """Group index + 1 from the residual [P, D] before it, which is left as it is."""
        layer, group, epsilon = self._model.layers[index], index + 1, self._model.config.epsilon
        result: LayerValues = {}

        def keep(operation: Operation, elements: Int64Array, statistic: Int64Array | None = None) -> None:
            self._see(group, operation, "elements", elements)
            result[operation] = Values(elements, statistic)

        a, shift = self._norm(group, Operation.ATTENTION_NORM, x, layer.attention_norm, epsilon, result)
        self._attention(group, layer, a, shift, keep, result)
        mix = result[Operation.MIX].elements.reshape(self.positions, -1)
        q, shift = self._quantise(group, Operation.QUANTISE_MIX, mix, result)
        output = self._products.linear(layer.attention_output, q, shift)
        output += x
        keep(Operation.ATTENTION_OUTPUT, output)
        a, shift = self._norm(group, Operation.FEED_FORWARD_NORM, output, layer.feed_forward_norm, epsilon, result)
        keep(Operation.GATE, self._products.linear(layer.gate, a, shift))
        keep(Operation.UP, self._products.linear(layer.up, a, shift))
        gate, up = result[Operation.GATE].elements, result[Operation.UP].elements
        product = self._products.activate(gate, up, self._model.tables)
        q, shift = self._quantise(group, Operation.ACTIVATION, product, result)
        down = self._products.linear(layer.down, q, shift)
        down += output
        keep(Operation.DOWN, down)
        return result

    def head(self, x: Int64Array) -> LayerValues:
        """The last group from the residual [P, D] after the last layer. Logits are int32."""
        model, group = self._model, len(self._model.layers) + 1
        result: LayerValues = {}
        last = x[self.positions - self._outputs :]
        a, shift = self._norm(group, Operation.OUTPUT_NORM, last, model.output_norm, model.config.epsilon, result)
        logits: Int32Array = np.empty((self._outputs, model.config.vocabulary), dtype=np.int32)
        self._products.linear_into(model.head, a, shift, logits)
        self._see(group, Operation.LOGITS, "elements", logits)
        result[Operation.LOGITS] = Values(logits)
        return result

    def _see(self, group: int, operation: Operation, part: str, array: AnyArray) -> None:
        if self._hook is not None:
            self._hook(group, operation, part, array)

    def _norm(
        self, group: int, operation: Operation, x: Int64Array, gain: Int32Array, epsilon: int, result: LayerValues
    ) -> tuple[Int64Array, Int64Array]:
        statistic = exact.norm_statistic(x, epsilon)
        self._see(group, operation, "norm", statistic)
        return self._quantise(group, operation, exact.normalise(x, statistic, gain), result, statistic)

    def _quantise(
        self, group: int, operation: Operation, y: Int64Array, result: LayerValues, before: Int64Array | None = None
    ) -> tuple[Int64Array, Int64Array]:
        """q and its shifts; kept with the statistic's fields ``before`` s′. y may be a view and is not written to."""
        maximum = exact.maximum_statistic(y)
        self._see(group, operation, "maximum", maximum)
        q = exact.quantise(y.copy(), maximum[:, :1])
        self._see(group, operation, "elements", q)
        result[operation] = Values(q, maximum if before is None else np.concatenate([before, maximum], axis=1))
        return q, maximum[:, :1]

    def _attention(
        self,
        group: int,
        layer: Layer,
        a: Int64Array,
        shift: Int64Array,
        keep: Callable[[Operation, Int64Array], None],
        result: LayerValues,
    ) -> None:
        tables, positions = self._model.tables, self.positions
        cos, sin = tables.rope_cos[:positions], tables.rope_sin[:positions]
        keep(Operation.QUERY, self._heads(layer.query, a, shift))
        keep(Operation.KEY, self._heads(layer.key, a, shift))
        for source, target, fraction in (
            (Operation.QUERY, Operation.ROTATE_QUERY, layer.query_fraction),
            (Operation.KEY, Operation.ROTATE_KEY, layer.key_fraction),
        ):
            keep(target, exact.to_cache(exact.rotate(result[source].elements, cos, sin), fraction))
        keep(Operation.VALUE, exact.to_cache(self._heads(layer.value, a, shift), layer.value_fraction))
        keep(Operation.SCORES, self._scores(layer, result))
        weights, totals = self._softmax(group, result)
        keep(Operation.MIX, self._mix(group, layer, weights, totals, result))

    def _heads(self, matrix: Linear, a: Int64Array, shift: Int64Array) -> Int64Array:
        return self._products.linear(matrix, a, shift).reshape(self.positions, -1, self._model.config.head_size)

    def _scores(self, layer: Layer, result: LayerValues) -> Int64Array:
        """[p, head, u] as a view of [head, p, u], u filled up to whole blocks."""
        c, positions = self._model.config, self.positions
        share, right = c.heads // c.kv_heads, layer.query_fraction + layer.key_fraction + 2
        scores = np.empty((c.heads, positions, CHUNK * ceil_div(positions, CHUNK)), dtype=np.int64)
        queries = result[Operation.ROTATE_QUERY].elements.transpose(1, 0, 2)
        keys = result[Operation.ROTATE_KEY].elements
        for kv in range(c.kv_heads):
            heads = slice(kv * share, (kv + 1) * share)
            scores[heads, :, :positions] = exact.scores(queries[heads], keys[:, kv], c.score_multiplier, right)
        scores[:, np.arange(scores.shape[2]) > np.arange(positions)[:, None]] = _HIDDEN
        return scores.transpose(1, 0, 2)

    def _softmax(self, group: int, result: LayerValues) -> tuple[Int32Array, Int64Array]:
        """Weights [head, p, u] Q20 and Z [p, head]; keeps SOFTMAX."""
        scores = result[Operation.SCORES].elements.transpose(1, 0, 2)
        heads, positions, _ = scores.shape
        maximum = np.stack([scores.max(axis=2).T, scores.argmax(axis=2).T], axis=2)  # [p, head, 2]
        self._see(group, Operation.SOFTMAX, "maximum", maximum)
        weights = self._exponential.negative(maximum[:, :, 0].T[:, :, None] - scores)
        weights >>= 10
        sums = weights.reshape(heads, positions, -1, CHUNK).sum(axis=3, dtype=np.int64).transpose(1, 0, 2)
        self._see(group, Operation.SOFTMAX, "sums", sums)
        prefixes = np.cumsum(sums, axis=2)
        result[Operation.SOFTMAX] = Values(np.concatenate([maximum, prefixes], axis=2))
        last = np.arange(positions) // CHUNK
        return weights, prefixes[np.arange(positions), :, last]

    def _mix(
        self, group: int, layer: Layer, weights: Int32Array, totals: Int64Array, result: LayerValues
    ) -> Int64Array:
        """o [p, head, S]; keeps MIX_SUM."""
        c, (heads, positions, length) = self._model.config, weights.shape
        share, blocks = c.heads // c.kv_heads, length // CHUNK
        values = np.zeros((length, c.kv_heads, c.head_size), dtype=np.float64)
        values[:positions] = result[Operation.VALUE].elements
        sums = np.zeros((positions, heads, blocks, c.head_size), dtype=np.int64)
        for kv in range(c.kv_heads):
            of_group = slice(kv * share, (kv + 1) * share)
            for block in range(blocks):
                first, span = block * CHUNK, slice(block * CHUNK, (block + 1) * CHUNK)
                part = weights[of_group, first:, span].astype(np.float64) @ values[span, kv]  # below 2^41
                sums[first:, of_group, block] = part.transpose(1, 0, 2)
        self._see(group, Operation.MIX_SUM, "sums", sums)
        np.cumsum(sums, axis=2, out=sums)
        result[Operation.MIX_SUM] = Values(sums)
        numerator = sums[np.arange(positions), :, np.arange(positions) // CHUNK]  # [p, head, S]
        total = np.maximum(totals, 1)[:, :, None]
        numerator <<= 17 - layer.value_fraction
        numerator += total
        numerator //= 2 * total
        return numerator


def residual(values: LayerValues) -> Int64Array:
    """What the next group starts from."""
    result: Int64Array = values[Operation.DOWN if Operation.DOWN in values else Operation.EMBEDDING].elements
    return result
