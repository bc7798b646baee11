"""What an engine computes with: shapes, integer weights, integer tables. Data only, no arithmetic.

Every array comes from a pack (market.models.pack) and is treated as read-only, usually a memory map shared by
several processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Config:
    """Shapes and scalar constants of one llama-shaped model (docs/numerics.md, section 2)."""

    vocabulary: int  # number of token ids
    context: int  # most positions the pack was proved for
    hidden: int  # width of the residual stream
    feed_forward: int  # width between gate/up and down
    layers: int
    heads: int  # query heads
    kv_heads: int  # key/value heads; heads is a multiple of it
    head_size: int  # even: rotary embedding pairs element i with i + head_size/2
    epsilon: int  # RMSNorm epsilon as floor(eps * 2^32)
    score_multiplier: int  # round(log2(e) / sqrt(head_size) * 2^18)


@dataclass(frozen=True)
class Linear:
    """One weight matrix: real value of row n = weight[n] * multiplier[n] * 2^-exponent."""

    weight: Int8Array  # [rows N, columns K], each in -127..127
    multiplier: Int32Array  # [N], each in 0..2^24-1
    exponent: int


@dataclass(frozen=True)
class Layer:
    """The weights of one transformer layer and the fraction bits its cache was given in the recipe."""

    attention_norm: Int32Array  # [hidden] gains, Q12
    query: Linear  # [heads * head_size, hidden]
    key: Linear  # [kv_heads * head_size, hidden]
    value: Linear  # [kv_heads * head_size, hidden]
    attention_output: Linear  # [hidden, heads * head_size]
    feed_forward_norm: Int32Array  # [hidden] gains, Q12
    gate: Linear  # [feed_forward, hidden]
    up: Linear  # [feed_forward, hidden]
    down: Linear  # [hidden, feed_forward]
    query_fraction: int  # fraction bits of the int16 query, 0..15
    key_fraction: int
    value_fraction: int


@dataclass(frozen=True)
class Tables:
    """Published integer tables: nothing is ever recomputed from a floating-point library at run time."""

    exp2_high: Int32Array  # [256] round(2^30 * 2^(-i/256))
    exp2_low: Int32Array  # [256] round(2^30 * 2^(-i/65536))
    rope_cos: Int32Array  # [context, head_size/2] Q15
    rope_sin: Int32Array  # [context, head_size/2] Q15


@dataclass(frozen=True)
class IntegerModel:
    """Everything the forward pass reads."""

    config: Config
    embedding: Linear  # [vocabulary, hidden]
    layers: tuple[Layer, ...]
    output_norm: Int32Array  # [hidden] gains, Q12
    head: Linear  # [vocabulary, hidden]; the embedding itself when the model ties them
    tables: Tables

    def matrices(self) -> Iterator[Linear]:
        """Every weight matrix, the head last."""
        yield self.embedding
        for layer in self.layers:
            yield from (layer.query, layer.key, layer.value, layer.attention_output, layer.gate, layer.up, layer.down)
        yield self.head
