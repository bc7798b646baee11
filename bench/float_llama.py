"""The peer of the engine's figures: the same model in plain torch float32, with a key/value cache, written to be fast.

Runs the floats of the published source, before any rounding to int8. B = batch, T = new positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from market.models.source import Source


@dataclass
class FloatCache:
    """Keys and values of each layer, [B, kv heads, capacity, head size]."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    length: int = field(default=0)


class FloatLlama:
    """float32 weights from ``source``; about four bytes a weight."""

    def __init__(self, source: Source, context: int) -> None:
        self.shape = shape = source.shape
        self.embedding = _matrix(source, "embedding")
        self.head = self.embedding if shape.tied else _matrix(source, "head")
        self.output_norm = _matrix(source, "output_norm")[0]
        self.layers = [_layer(source, index) for index in range(shape.layers)]
        half = shape.head_size // 2
        frequencies = shape.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(context, dtype=torch.float64)[:, None] * frequencies
        self.cos, self.sin = angles.cos().float(), angles.sin().float()

    def new_cache(self, batch: int, capacity: int) -> FloatCache:
        size = (batch, self.shape.kv_heads, capacity, self.shape.head_size)
        keys, values = ([torch.zeros(size) for _ in self.layers] for _ in range(2))
        return FloatCache(keys, values)

    def forward(self, ids: torch.Tensor, cache: FloatCache, last_only: bool = False) -> torch.Tensor:
        """ids [B, T] → logits [B, T, V], or [B, 1, V]."""
        with torch.inference_mode():
            return self._forward(ids, cache, last_only)

    def _forward(self, ids: torch.Tensor, cache: FloatCache, last_only: bool) -> torch.Tensor:
        s, (batch, count), start = self.shape, ids.shape, cache.length
        cache.length = end = start + count
        cos, sin = self.cos[start:end], self.sin[start:end]
        x = self.embedding[ids]
        for index, layer in enumerate(self.layers):
            joined = functional.linear(_norm(x, layer["attention_norm"], s.epsilon), layer["query_key_value"])
            heads = joined.view(batch, count, -1, s.head_size).transpose(1, 2)
            q, k, v = heads.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
            cache.keys[index][:, :, start:end] = _rope(k, cos, sin)
            cache.values[index][:, :, start:end] = v
            keys, values = cache.keys[index][:, :, :end], cache.values[index][:, :, :end]
            mixed = self._attend(_rope(q, cos, sin), keys, values, causal=count > 1)
            x = x + functional.linear(mixed.transpose(1, 2).reshape(batch, count, -1), layer["attention_output"])
            gate, up = functional.linear(_norm(x, layer["feed_forward_norm"], s.epsilon), layer["gate_up"]).chunk(
                2, dim=-1
            )
            x = x + functional.linear(functional.silu(gate) * up, layer["down"])
        x = x[:, -1:] if last_only else x
        return functional.linear(_norm(x, self.output_norm, s.epsilon), self.head)

    def _attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, causal: bool) -> torch.Tensor:
        batch, heads, count, size = q.shape
        group = heads // keys.shape[1]
        if causal:
            if keys.shape[2] != count:
                raise ValueError("the prompt is run at once")
            keys, values = (t.repeat_interleave(group, 1) for t in (keys, values))
            return functional.scaled_dot_product_attention(q, keys, values, is_causal=True)
        grouped = q.reshape(batch, -1, group, size)
        weight = (grouped @ keys.transpose(-1, -2) / math.sqrt(size)).softmax(-1)
        return (weight @ values).view(batch, heads, 1, size)


def _norm(x: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon) * gain


def _rope(z: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = z.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _matrix(source: Source, name: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([block.astype(np.float32) for block in source.read(name)]))


def _layer(source: Source, index: int) -> dict[str, torch.Tensor]:
    def matrix(name: str) -> torch.Tensor:
        return _matrix(source, f"layers.{index}.{name}")

    return {
        "attention_norm": matrix("attention_norm")[0],
        "query_key_value": torch.cat([matrix("query"), matrix("key"), matrix("value")]),
        "attention_output": matrix("attention_output"),
        "feed_forward_norm": matrix("feed_forward_norm")[0],
        "gate_up": torch.cat([matrix("gate"), matrix("up")]),
        "down": matrix("down"),
    }
