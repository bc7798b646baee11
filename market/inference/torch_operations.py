"""The operations of docs/numerics.md in torch, for rows of any number at once.

Integers live in int64; float32 and float64 appear only where every partial result is an integer, or an integer times a
power of two, that the type holds exactly (docs/numerics.md, section 6). B = batch, T = new positions, N = positions so
far, R = B*T rows, H = heads, G = key/value heads, S = head size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import isqrt
from typing import Any, NamedTuple, Self

import torch

from market.inference.matmul import PlaneProduct
from market.inference.model import AnyArray, Layer, Linear, Tables

ACTIVATION_LIMIT = 32639
CACHE_LIMIT = 32767
DISTANCE_LIMIT = 31 << 16  # 2^-31 and less are 0 in Q30


def tensor(array: AnyArray, device: torch.device) -> torch.Tensor:
    """A tensor over the array's own memory (on the CPU); nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns that a read-only map must not be written
        return torch.from_numpy(array).to(device)


def column(numbers: Sequence[float], device: torch.device) -> torch.Tensor:
    """[R, 1] of Python numbers, int64 or float64."""
    dtype = torch.float64 if isinstance(numbers[0], float) else torch.int64
    return torch.tensor(numbers, dtype=dtype, device=device)[:, None]


class Embedding(NamedTuple):
    """The embedding table."""

    weight: torch.Tensor  # int8 [V, D]
    multiplier: torch.Tensor  # int64 [V]
    shift: int  # right shift to Q16, 1..62

    @classmethod
    def of(cls, table: Linear, device: torch.device) -> Self:
        return cls(tensor(table.weight, device), tensor(table.multiplier, device).long(), table.exponent - 16)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """[R] → the residual stream [R, D] in Q16: integers below 2^52, held as float64."""
        product = self.weight[ids].long() * self.multiplier[ids, None]
        return product.add_(1 << (self.shift - 1)).bitwise_right_shift_(self.shift).double()


class Projection(NamedTuple):
    """Matrices that read the same activations."""

    product: PlaneProduct
    prepared: tuple[Any, ...]
    multipliers: tuple[torch.Tensor, ...]  # int64 [N] each
    exponents: tuple[int, ...]

    @classmethod
    def of(cls, matrices: Sequence[Linear], product: PlaneProduct, device: torch.device) -> Self:
        return cls(
            product,
            tuple(product.prepare(tensor(matrix.weight, device)) for matrix in matrices),
            tuple(tensor(matrix.multiplier, device).long() for matrix in matrices),
            tuple(matrix.exponent for matrix in matrices),
        )

    def apply(self, planes: torch.Tensor, shift: torch.Tensor) -> list[torch.Tensor]:
        """Byte planes [2, R, K] and the shift [R, 1] → int64 [R, N] in Q16, one for each matrix."""
        low, high = planes
        results = []
        for prepared, multiplier, exponent in zip(self.prepared, self.multipliers, self.exponents, strict=True):
            total = self.product.multiply(low, prepared).long()
            total.add_(self.product.multiply(high, prepared), alpha=256).mul_(multiplier)
            # of the r = exponent - shift bits that go, the last decides the rounding
            results.append(total.bitwise_right_shift_(exponent - 1 - shift).add_(1).bitwise_right_shift_(1))
        return results


def normalise(x: torch.Tensor, gain: torch.Tensor, epsilon: int) -> torch.Tensor:
    """float64 [R, D] Q16 → int64 [R, D] Q16. A root and a division per row are left to Python's unbounded integers."""
    columns = x.shape[-1]
    shifts = [max(int(top).bit_length() - 22, 0) for top in x.abs().amax(-1).tolist()]
    if any(shifts):
        x = (x * column([2.0**-shift for shift in shifts], x.device)).add_(0.5).floor_()
    t = x.long()  # at most 2^22
    squares = (t * t).sum(-1).tolist()
    means = (total // columns + (epsilon >> 2 * shift) for total, shift in zip(squares, shifts, strict=True))
    t *= column([(1 << 52) // max(isqrt(mean << 18), 1) for mean in means], x.device)
    return t.bitwise_right_shift_(23).mul_(gain).add_(1 << 15).bitwise_right_shift_(16)


def quantise(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [R, K] Q16 below 2^52 → byte planes int8 [2, R, K], low bytes first, and the shift int64 [R, 1]."""
    y = y.double()
    top = y.abs().amax(-1, keepdim=True).clamp_(min=1)
    mantissa, exponent = torch.frexp(top)  # top = mantissa * 2^bits, so mantissa / top is exactly 2^-bits
    q = y.mul_(mantissa.div_(top).mul_(1 << 15)).add_(0.5).floor_().clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
    short = q.to(torch.int16)
    planes = torch.empty((2, *short.shape), dtype=torch.int8, device=short.device)
    planes[0] = short  # the conversion keeps the low byte: -128..127
    planes[1] = (short + 128).bitwise_right_shift_(8)  # -127..127
    return planes, exponent.long() - 15


def rotate(z: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """[B, T, heads, S]; cos and sin [T, 1, S], sin with a minus sign in its first half."""
    swapped = z.roll(z.shape[-1] // 2, -1)
    return (z * cos).add_(swapped.mul_(sin)).add_(1 << 14).bitwise_right_shift_(15)


def turns(cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both tables [T, S/2] as ``rotate`` takes them."""
    return torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]


def to_cache(z: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Q16 → saturated int16 values as float64; ``scale`` is 2^(fraction bits - 16), broadcast."""
    return (z * scale).add_(0.5).floor_().clamp_(-CACHE_LIMIT, CACHE_LIMIT)


class AttentionScales(NamedTuple):
    """The constants of one layer's attention."""

    multiplier: int
    score_scale: float  # 2^-(query bits + key bits + 2)
    value_shift: int  # 16 - value bits

    @classmethod
    def of(cls, layer: Layer, multiplier: int) -> Self:
        score_scale = 2.0 ** -(layer.query_fraction + layer.key_fraction + 2)
        return cls(multiplier, score_scale, 16 - layer.value_fraction)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    powers: torch.Tensor,
    scales: AttentionScales,
    future: torch.Tensor | None,
) -> torch.Tensor:
    """query [B, H, T, S], keys and values [B, G, N, S], int16 values as float64 → int64 [R, H*S] Q16.

    ``future`` [T, N] marks the positions that a query may not see.
    """
    batch, heads, count, size = query.shape
    groups, length = keys.shape[1], keys.shape[2]
    grouped = query.reshape(batch, groups, -1, size)  # [B, G, H/G*T, S]
    scores = (grouped @ keys.transpose(-1, -2)).mul_(scales.multiplier)  # below 2^53: exact
    scores = scores.mul_(scales.score_scale).add_(0.5).floor_().view(batch, heads, count, length)
    if future is not None:
        scores.masked_fill_(future, -float(1 << 60))  # so far below any score that its weight is 0
    distance = scores.sub_(scores.amax(-1, keepdim=True)).neg_().clamp_(max=DISTANCE_LIMIT)
    weight = exp2_negative(powers, distance, 10).double()  # Q20
    total = weight.sum(-1, keepdim=True).long()
    sums = weight.view(batch, groups, -1, length) @ values  # below 2^53: exact
    numerator = sums.long().view(batch, heads, count, size)
    numerator = numerator.bitwise_left_shift_(scales.value_shift + 1).add_(total)
    mixed = numerator.div_(2 * total, rounding_mode="floor")
    return mixed.transpose(1, 2).reshape(batch * count, heads * size)


def silu(powers: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """int64 [R, F] Q16 → Q16. For x < 0, x * (1 - s) = x + |x| * s, which needs no second branch."""
    size = x.abs()
    distance = (size * 94548).bitwise_right_shift_(16).clamp_(max=DISTANCE_LIMIT)
    sigmoid = torch.div(1 << 60, exp2_negative(powers, distance, 0).long().add_(1 << 30), rounding_mode="floor")
    return x.clamp(max=0).bitwise_left_shift_(30).add_(size.mul_(sigmoid)).add_(1 << 29).bitwise_right_shift_(30)


def activate(powers: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """int64 [R, F] Q16 each → the product that enters the last matrix of a layer, Q16."""
    return silu(powers, gate).mul_(up).add_(1 << 15).bitwise_right_shift_(16)


def powers_of(tables: Tables, device: torch.device) -> torch.Tensor:
    """int32 [65536]: 2^-(i / 65536) in Q30, each the product of an entry of both published tables."""
    high, low = tensor(tables.exp2_high, device).long(), tensor(tables.exp2_low, device).long()
    return ((high[:, None] * low) >> 30).int().reshape(-1)


def exp2_negative(powers: torch.Tensor, distance: torch.Tensor, drop: int) -> torch.Tensor:
    """2^-d for Q16 values d in 0..31, as int32 in Q30 without its lowest ``drop`` bits."""
    d = distance.int()
    power = powers.index_select(0, (d & 0xFFFF).view(-1)).view(d.shape)
    return power.bitwise_right_shift_((d >> 16).add_(drop).clamp_(max=31))


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """[B, V] → [B]: the lowest index of the largest logit, which torch's own argmax does not promise."""
    largest = logits.amax(-1, keepdim=True)
    indices = torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(logits == largest, indices, logits.shape[-1]).amin(-1)
