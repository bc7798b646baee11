"""Proof, at every start, that torch's operations give exact integers on this device, before they serve anything.

The byte products are proved by ``market.inference.matmul``. Here every other operation runs on the device, on extremes
and on fixed random numbers, and is compared with ``market.inference.reference``, which computes in numpy's int64 and in
Python's own integers on the CPU. ``TorchEngine`` then runs a small model whole (``forward_selftest``).
"""

from __future__ import annotations

import numpy as np
import torch

from market.inference import reference
from market.inference import torch_operations as ops
from market.inference.errors import SelfTestError
from market.inference.forward_selftest import SEED
from market.inference.matmul import PlaneProduct
from market.inference.model import AnyArray, Int64Array, IntegerModel, Tables
from market.inference.native.selftest import PLANE_L1, ends, extreme_matrix, extreme_rows
from market.inference.torch_operations import AttentionScales, Embedding, Projection

POSITIONS, QUERIES = 150, 3  # of the attention that is compared


class OperationsTest:
    """Each operation of ``torch_operations`` with a model's own shapes, formats and tables."""

    def __init__(self, model: IntegerModel, device: torch.device, product: PlaneProduct) -> None:
        self._model, self._device, self._product = model, device, product
        self._powers = ops.powers_of(model.tables, device)
        self._random = np.random.default_rng(SEED)

    def run(self) -> None:
        """Raises SelfTestError at the first difference, naming the operation."""
        self._exp2_negative()
        self._embed()
        self._quantise_and_linear()
        self._normalise()
        self._rotate()
        self._to_cache()
        self._activation()
        self._attend()
        self._argmax()

    def _exp2_negative(self) -> None:
        """Every fraction, and every whole part up to the last that is not 0."""
        distances = np.concatenate([np.arange(1 << 16), (np.arange(31 << 8) << 8) + 255, [31 << 16]])
        expected = reference.exp2_negative(distances, self._model.tables)
        for drop in (0, 10):
            got = ops.exp2_negative(self._powers, self._tensor(distances), drop)
            self._same(got, expected >> drop, "exp2_negative")

    def _embed(self) -> None:
        table = self._model.embedding
        vocabulary = len(table.weight)
        ids = np.concatenate([[0, vocabulary - 1], self._random.integers(0, vocabulary, 30)])
        got = Embedding.of(table, self._device).rows(self._tensor(ids))
        self._same(got, reference.embed(table, ids), "embed")

    def _quantise_and_linear(self) -> None:
        seen: set[int] = set()
        for matrix in self._model.matrices():
            columns = matrix.weight.shape[1]
            if columns in seen:
                continue
            seen.add(columns)
            for part in (*ends(matrix), extreme_matrix(columns, PLANE_L1)):
                rows = extreme_rows(columns, part.weight)
                q, shift = reference.quantise(rows)
                planes, shifts = ops.quantise(self._tensor(rows))
                self._same(planes[1].long() * 256 + planes[0], q, "quantise")
                self._same(shifts, shift, "quantise")
                got = Projection.of([part], self._product, self._device).apply(planes, shifts)[0]
                self._same(got, reference.linear(part, q, shift), "linear")

    def _normalise(self) -> None:
        model, c = self._model, self._model.config
        rows = []
        for bits in (0, 16, 22, 30, 51):
            limit = (1 << bits) + 1
            row = self._random.integers(-limit, limit, c.hidden)
            row[0] = limit
            rows += [row, np.where(np.arange(c.hidden) % 3, limit, -limit)]
        x = np.stack([*rows, np.zeros(c.hidden, dtype=np.int64)])
        for gain in (model.output_norm, model.layers[0].attention_norm):
            for part in (x, x[:1]):
                got = ops.normalise(self._tensor(part).double(), ops.tensor(gain, self._device).long(), c.epsilon)
                self._same(got, reference.normalise(part, gain, c.epsilon), "normalise")

    def _rotate(self) -> None:
        c, tables = self._model.config, self._model.tables
        for position in (0, 1, c.context - 1):
            head = self._random.integers(-(1 << 36), 1 << 36, (1, 3, c.head_size))
            moved = Tables(
                tables.exp2_high, tables.exp2_low, tables.rope_cos[position, None], tables.rope_sin[position, None]
            )
            cos, sin = (self._tensor(table.astype(np.int64)) for table in (moved.rope_cos, moved.rope_sin))
            got = ops.rotate(self._tensor(head)[None], *ops.turns(cos, sin))[0]
            self._same(got, reference.rotate(head, moved), "rotate")

    def _to_cache(self) -> None:
        values = np.concatenate([[-(1 << 40), 1 << 40, -1, 0, 1], self._random.integers(-(1 << 24), 1 << 24, 60)])
        scale = ops.column([2.0 ** (fraction - 16) for fraction in range(16)], self._device)
        got = ops.to_cache(self._tensor(values)[None], scale)
        self._same(got, np.stack([reference.to_cache(values, fraction) for fraction in range(16)]), "to_cache")

    def _activation(self) -> None:
        random, tables = self._random, self._model.tables
        far = random.integers(-(1 << 33) + 1, 1 << 33, 50)
        edges = [-(1 << 33) + 1, (1 << 33) - 1, -(1 << 31), 1 << 31, 0, -1]
        gate = np.concatenate([edges, random.integers(-(1 << 21), 1 << 21, 200), far])[None]
        up = random.integers(-(1 << 28), 1 << 28, gate.shape)
        self._same(ops.silu(self._powers, self._tensor(gate)), reference.silu(gate, tables), "silu")
        got = ops.activate(self._powers, self._tensor(gate), self._tensor(up))
        self._same(got, reference.activate(gate, up, tables), "activate")

    def _attend(self) -> None:
        """All heads: queries at their limits, and weights spread over many positions; keys and values likewise."""
        c, random, limit = self._model.config, self._random, reference.CACHE_LIMIT
        for layer in (self._model.layers[0], self._model.layers[-1]):
            keys, values = (random.integers(-limit, limit + 1, (POSITIONS, c.kv_heads, c.head_size)) for _ in range(2))
            query = random.integers(-limit, limit + 1, (QUERIES, c.heads, c.head_size))
            keys[: POSITIONS // 2], query[0], query[-1, ::2] = limit, limit, -limit
            values[: POSITIONS // 3] = np.where(np.arange(c.head_size) % 2, limit, -limit)
            query[1] >>= 9
            future = np.arange(POSITIONS)[None] > np.arange(POSITIONS - QUERIES, POSITIONS)[:, None]
            arguments = self._powers, AttentionScales.of(layer, c.score_multiplier)
            expected = reference.attend(query, keys, values, layer, c.score_multiplier, self._model.tables)
            q, k, v = (self._tensor(part).double().transpose(0, 1)[None] for part in (query, keys, values))
            got = ops.attend(q, k, v, *arguments, self._tensor(future))
            self._same(got, expected.reshape(QUERIES, -1), "attend")
            got = ops.attend(q[:, :, -1:], k, v, *arguments, None)
            self._same(got, expected[-1:].reshape(1, -1), "attend")

    def _argmax(self) -> None:
        """One largest logit at either end; some; all equal."""
        vocabulary = self._model.config.vocabulary
        logits = self._random.integers(-(1 << 50), 1 << 50, (6, vocabulary))
        logits[0, 0] = logits[1, -1] = (1 << 50) + 1
        logits[2, [vocabulary // 3, vocabulary // 2, vocabulary - 1]] = 1 << 51
        logits[3, [0, vocabulary - 1]] = 1 << 51
        logits[4] = -(1 << 50)
        self._same(ops.argmax(self._tensor(logits)), [reference.argmax(row) for row in logits], "argmax")

    def _tensor(self, array: AnyArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _same(self, got: torch.Tensor, expected: Int64Array | list[int], operation: str) -> None:
        if not np.array_equal(got.cpu().numpy(), np.asarray(expected)):
            raise SelfTestError(f"{operation} in torch on {self._device}")
