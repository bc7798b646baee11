"""Every intermediate of one group of the trace, from the residual stream before it.

Equal to market/inference/reference.py to the bit (tests); no torch, no cache, all positions at once. A *hook* sees each
array before anything is computed from it and may change it: that is how tests and games make dishonest traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from market.inference.model import AnyArray, Int32Array, Int64Array, IntegerModel, Layer, Linear
from market.verification import attention, exact
from market.verification.geometry import Operation
from market.verification.products import Products

Hook = Callable[[int, Operation, str, AnyArray], None]
"""``hook(group, operation, part, array)`` changes the array in place. Parts, with the array's axes:

- ``elements``: [p, element], [p, head, element] or, of SCORES, [p, head, u] (u > p is not there and must stay);
- ``norm``: s and v, [p, 2]; ``maximum``: s′ and i′, [p, 2], of SOFTMAX M and i′, [p, head, 2];
- ``sums``: of SOFTMAX [p, head, block], of MIX_SUM [p, head, block, element]: each block's own sum, before they are
  added up, so that a change goes on into later blocks.

Rows of OUTPUT_NORM and LOGITS are output positions.
"""


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
        self._rows = self._products.rows if hook is None else None  # a hook sees what they do not show
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
        self._products.linear_into(model.head, a, shift, logits, strict=self._hook is None)
        self._see(group, Operation.LOGITS, "elements", logits)
        result[Operation.LOGITS] = Values(logits)
        return result

    def _see(self, group: int, operation: Operation, part: str, array: AnyArray) -> None:
        if self._hook is not None:
            self._hook(group, operation, part, array)

    def _norm(
        self, group: int, operation: Operation, x: Int64Array, gain: Int32Array, epsilon: int, result: LayerValues
    ) -> tuple[Int64Array, Int64Array]:
        if self._rows is not None:
            q, found = self._rows.norm(x, gain, epsilon)
            result[operation] = Values(q, found)
            return q, found[:, 2:3]
        statistic = exact.norm_statistic(x, epsilon)
        self._see(group, operation, "norm", statistic)
        return self._quantise(group, operation, exact.normalise(x, statistic, gain), result, statistic)

    def _quantise(
        self, group: int, operation: Operation, y: Int64Array, result: LayerValues, before: Int64Array | None = None
    ) -> tuple[Int64Array, Int64Array]:
        """q and its shifts; kept with the statistic's fields ``before`` s′. y may be a view and is not written to."""
        if self._rows is not None and before is None:
            q, found = self._rows.quantise(y.copy())
            result[operation] = Values(q, found)
            return q, found[:, :1]
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
        keep(Operation.QUERY, self._heads(layer.query, a, shift))
        keep(Operation.KEY, self._heads(layer.key, a, shift))
        for source, target, fraction in (
            (Operation.QUERY, Operation.ROTATE_QUERY, layer.query_fraction),
            (Operation.KEY, Operation.ROTATE_KEY, layer.key_fraction),
        ):
            keep(target, self._rotate(result[source].elements, fraction))
        to_cache = exact.to_cache if self._rows is None else self._rows.to_cache
        keep(Operation.VALUE, to_cache(self._heads(layer.value, a, shift), layer.value_fraction))
        queries, keys = (result[operation].elements for operation in (Operation.ROTATE_QUERY, Operation.ROTATE_KEY))
        keep(Operation.MIX, self._attend(group, layer, queries, keys, result))

    def _heads(self, matrix: Linear, a: Int64Array, shift: Int64Array) -> Int64Array:
        return self._products.linear(matrix, a, shift).reshape(self.positions, -1, self._model.config.head_size)

    def _rotate(self, z: Int64Array, fraction: int) -> Int64Array:
        cos, sin = (table[: self.positions] for table in (self._model.tables.rope_cos, self._model.tables.rope_sin))
        if self._rows is not None:
            return self._rows.rotate(z, cos, sin, fraction)
        return exact.to_cache(exact.rotate(z, cos, sin), fraction)

    def _attend(
        self, group: int, layer: Layer, queries: Int64Array, keys: Int64Array, result: LayerValues
    ) -> Int64Array:
        """o [p, head, S]; keeps SCORES, SOFTMAX and MIX_SUM."""
        model, values = self._model, result[Operation.VALUE].elements
        if self._rows is not None:
            found = self._rows.attend(queries, keys, values, layer, model.config, model.tables)
            parts = (Operation.SCORES, Operation.SOFTMAX, Operation.MIX_SUM)
            result.update({operation: Values(array) for operation, array in zip(parts, found[:3], strict=True)})
            return found.mix
        right = layer.query_fraction + layer.key_fraction + 2
        scores = attention.scores(queries, keys, model.config.score_multiplier, right)
        self._see(group, Operation.SCORES, "elements", scores)
        result[Operation.SCORES] = Values(scores)
        weights, total, fields = attention.softmax(
            scores, self._exponential, partial(self._see, group, Operation.SOFTMAX)
        )
        result[Operation.SOFTMAX] = Values(fields)
        see = partial(self._see, group, Operation.MIX_SUM)
        sums, mixed = attention.mix(weights, total, values, layer.value_fraction, see)
        result[Operation.MIX_SUM] = Values(sums)
        return mixed


def residual(values: LayerValues) -> Int64Array:
    """What the next group starts from."""
    result: Int64Array = values[Operation.DOWN if Operation.DOWN in values else Operation.EMBEDDING].elements
    return result
