"""The engine in torch: docs/numerics.md with a key/value cache, batches and any chunking of the prompt.

Bit-equal to ``market.inference.reference`` on every device, thread count, batch size and chunking. On CUDA it was
never run: no GPU was at hand. There, too, the self-test decides before anything is served, and `python -m bench cuda`
compares whole answers with the CPU's.
B = batch, T = new positions, R = B*T rows, D = hidden, H = heads, G = key/value heads, S = head size, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch

from market.inference import matmul
from market.inference import torch_operations as ops
from market.inference.batch import Part, Result, Want
from market.inference.engine import Engine
from market.inference.errors import BackendError, SelfTestError
from market.inference.forward_selftest import check_forward
from market.inference.model import Int64Array, IntegerModel, Layer
from market.inference.torch_operations import AttentionScales, Embedding, Projection
from market.inference.torch_selftest import OperationsTest

PREFILL_CHUNK = 256  # positions of the prompt run at once: bounds the memory of the score matrix


@dataclass
class Cache:
    """Keys and values of B sequences of equal length: int16 values, held as float64 for the exact products."""

    keys: torch.Tensor  # [layers, B, G, capacity, S]
    values: torch.Tensor  # [layers, B, G, capacity, S]
    length: int = 0

    @property
    def capacity(self) -> int:
        return int(self.keys.shape[3])

    def truncate(self, length: int) -> None:
        self.length = length


@dataclass(frozen=True)
class Block:
    """One layer, ready to run."""

    attention_norm: torch.Tensor
    query_key_value: Projection
    attention_output: Projection
    feed_forward_norm: torch.Tensor
    gate_up: Projection
    down: Projection
    cache_scale: torch.Tensor  # [H + 2G, 1] power of two that takes each head from Q16 to its cache format
    attention: AttentionScales


class TorchEngine(Engine):
    """Generation over one model. One instance serves one call at a time."""

    def __init__(
        self,
        model: IntegerModel,
        device: str = "cpu",
        product: str | matmul.PlaneProduct = "auto",
        threads: int | None = None,
        proved: bool = False,
    ) -> None:
        """Raises SelfTestError when an operation is not exact here, BackendError when the device does not exist.

        ``product`` is ``auto``, ``int8``, ``float32`` or an object of that protocol; it is tested before use either
        way. ``threads`` sets torch's thread count for the whole process. ``proved``: this process has tested the other
        operations on this device, and the product is one that passed; they are not tested again.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = _device(device)
        self.config = model.config
        matmul.forbid_reduced_precision()
        shapes = {matrix.weight.shape: matrix.weight for matrix in model.matrices()}
        samples = (ops.tensor(weight, self.device) for weight in shapes.values())
        if proved and not isinstance(product, str):
            self.product = product
        elif isinstance(product, str):
            self.product = matmul.choose(product, self.device, samples)
        else:
            self.product = matmul.proved(product, self.device, samples)
        self.kernels = f"torch {self.product.name} on {self.device}"
        self._embedding = Embedding.of(model.embedding, self.device)
        self._blocks = [self._block(layer) for layer in model.layers]
        self._output_norm = ops.tensor(model.output_norm, self.device).long()
        self._head = Projection.of([model.head], self.product, self.device)
        cos, sin = (ops.tensor(table, self.device).long() for table in (model.tables.rope_cos, model.tables.rope_sin))
        self._cos, self._sin = ops.turns(cos, sin)  # [context, 1, S]
        self._powers = ops.powers_of(model.tables, self.device)
        if proved:
            return
        OperationsTest(model, self.device, self.product).run()
        self._check_attention_products()
        check_forward(
            partial(TorchEngine, device=device, product=self.product, proved=True), model.tables, self.kernels
        )

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for ``batch`` sequences of up to ``capacity`` positions."""
        c = self.config
        shape = (c.layers, batch, c.kv_heads, capacity, c.head_size)
        if self.device.type == "cpu":  # numpy's zeros take memory only where positions are written
            return Cache(*(torch.from_numpy(np.zeros(shape)) for _ in range(2)))
        return Cache(*(torch.zeros(shape, dtype=torch.float64, device=self.device) for _ in range(2)))

    def new_slot(self, capacity: int) -> Cache:
        """See ``BatchEngine.new_slot``."""
        return self.new_cache(1, capacity)

    def step(self, parts: Sequence[Part]) -> list[Result]:
        """See ``BatchEngine.step``. One part after the other, long ones in chunks."""
        return [self._advance(part) for part in parts]

    def _advance(self, part: Part) -> Result:
        slot = cast(Cache, part.slot)  # as `new_slot` made it
        ids = torch.tensor([list(part.ids)], device=self.device)
        for start in range(0, len(part.ids), PREFILL_CHUNK):
            logits = self.forward(ids[:, start : start + PREFILL_CHUNK], slot, last_only=True)
        if part.want is Want.NOTHING:
            return None
        if part.want is Want.TOKEN:
            return int(ops.argmax(logits[:, -1])[0])
        result: Int64Array = logits[0, -1].cpu().numpy()
        return result

    def forward(self, ids: torch.Tensor, cache: Cache, last_only: bool = False) -> torch.Tensor:
        """Appends ids [B, T] to the cache; logits int64 [B, T, V] in Q16, or [B, 1, V] of the last position only."""
        with torch.inference_mode():
            return self._forward(ids, cache, last_only)

    def _forward(self, ids: torch.Tensor, cache: Cache, last_only: bool) -> torch.Tensor:
        batch, count = ids.shape
        c, start = self.config, cache.length
        cache.length = end = start + count
        cos, sin = self._cos[start:end], self._sin[start:end]
        future: torch.Tensor | None = None
        if count > 1:
            positions = torch.arange(end, device=self.device)
            future = positions[None, :] > positions[start:, None]  # [T, N]
        x = self._embedding.rows(ids.reshape(-1))  # [R, D]
        for index, block in enumerate(self._blocks):
            activation = ops.quantise(ops.normalise(x, block.attention_norm, c.epsilon))
            heads = torch.cat(block.query_key_value.apply(*activation), -1).view(batch, count, -1, c.head_size)
            turning = heads[:, :, : c.heads + c.kv_heads]
            turning.copy_(ops.rotate(turning, cos, sin))
            stored = ops.to_cache(heads, block.cache_scale).transpose(1, 2)
            query, key, value = stored.split([c.heads, c.kv_heads, c.kv_heads], dim=1)
            keys, values = cache.keys[index, :, :, :end], cache.values[index, :, :, :end]
            keys[:, :, start:], values[:, :, start:] = key, value
            mixed = ops.attend(query, keys, values, self._powers, block.attention, future)
            x += block.attention_output.apply(*ops.quantise(mixed))[0]
            activation = ops.quantise(ops.normalise(x, block.feed_forward_norm, c.epsilon))
            gate, up = block.gate_up.apply(*activation)
            x += block.down.apply(*ops.quantise(ops.activate(self._powers, gate, up)))[0]
        if last_only:
            x = x.view(batch, count, -1)[:, -1]
        logits = self._head.apply(*ops.quantise(ops.normalise(x, self._output_norm, c.epsilon)))[0]
        return logits.view(batch, -1, c.vocabulary)

    def _block(self, layer: Layer) -> Block:
        c, product, device = self.config, self.product, self.device
        fractions = [layer.query_fraction] * c.heads
        fractions += [layer.key_fraction] * c.kv_heads + [layer.value_fraction] * c.kv_heads
        return Block(
            attention_norm=ops.tensor(layer.attention_norm, device).long(),
            query_key_value=Projection.of([layer.query, layer.key, layer.value], product, device),
            attention_output=Projection.of([layer.attention_output], product, device),
            feed_forward_norm=ops.tensor(layer.feed_forward_norm, device).long(),
            gate_up=Projection.of([layer.gate, layer.up], product, device),
            down=Projection.of([layer.down], product, device),
            cache_scale=ops.column([2.0 ** (bits - 16) for bits in fractions], device),
            attention=AttentionScales.of(layer, c.score_multiplier),
        )

    def _check_attention_products(self) -> None:
        """float64 products of attention at their extremes against Python's integers. Raises SelfTestError."""
        limit = ops.CACHE_LIMIT
        for columns, top, name in ((self.config.head_size, limit, "scores"), (self.config.context, 1 << 20, "values")):
            left = [top - (k % 3 == 0) for k in range(columns)]
            right = [-limit if k % 2 else limit for k in range(columns)]
            exact = sum(a * b for a, b in zip(left, right, strict=True))
            matrix = torch.tensor(right, dtype=torch.float64, device=self.device)[:, None].expand(-1, 5).contiguous()
            got = torch.tensor([left] * 3, dtype=torch.float64, device=self.device) @ matrix
            if not bool((got.long() == exact).all()):
                raise SelfTestError(f"attention {name} product in float64 on {self.device}")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"device {name}", "torch does not know it") from error
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"device {name}", "known devices are cpu and cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {name}", "torch finds no CUDA device on this machine")
    return device
