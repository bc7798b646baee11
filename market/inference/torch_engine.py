"""The serving engine: docs/numerics.md in torch, with a key/value cache, batches and any chunking of the
prompt.

Bit-equal to ``market.inference.reference`` on every device, thread count, batch size and chunking. Integers
live in int64; where a float32 or float64 product is used, every partial sum is an integer that the type holds
exactly (bounds in the pack). B = batch, T = new positions, N = positions so far, R = B*T rows, D = hidden, H
= heads, G = kv heads, S = head size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import torch

from market.inference import matmul
from market.inference.engine import Generation, check_request
from market.inference.errors import BackendError, SelfTestError
from market.inference.model import AnyArray, IntegerModel, Linear
from market.types import Finish

PREFILL_CHUNK = 256  # positions of the prompt run at once: bounds the memory of the score matrix
ACTIVATION_LIMIT = 32639
CACHE_LIMIT = 32767


@dataclass
class Cache:
    """Keys and values of B sequences of equal length: integers of int16 range, held as float64 for the exact
    products.
    """

    keys: torch.Tensor  # [layers, B, G, capacity, S]
    values: torch.Tensor  # [layers, B, G, capacity, S]
    length: int = 0


class Projection(NamedTuple):
    """Matrices that read the same activations, applied together."""

    prepared: tuple[torch.Tensor, ...]
    multipliers: tuple[torch.Tensor, ...]  # [N] int64 each
    exponents: tuple[int, ...]


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
    score_scale: float  # power of two
    value_shift: int


class TorchEngine:
    """Greedy generation over one model. Not safe for concurrent calls of one instance."""

    def __init__(
        self,
        model: IntegerModel,
        device: str = "cpu",
        product: str | matmul.PlaneProduct = "auto",
        threads: int | None = None,
    ) -> None:
        """Raises SelfTestError when the fast product is not exact here, BackendError when the device does not
        exist.

        ``product`` is ``auto``, ``int8``, ``float32`` or an object of that protocol; it is tested before use
        either way. ``threads`` sets torch's thread count for the whole process.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = _device(device)
        matmul.forbid_reduced_precision()
        self.config = c = model.config
        linears = [model.embedding, model.head]
        for layer in model.layers:
            linears += [
                layer.query,
                layer.key,
                layer.value,
                layer.attention_output,
                layer.gate,
                layer.up,
                layer.down,
            ]
        shapes = {linear.weight.shape: linear for linear in linears}
        samples = (self._tensor(linear.weight) for linear in shapes.values())
        if isinstance(product, str):
            self.product = matmul.choose(product, self.device, samples)
        else:
            self.product = matmul.proved(product, self.device, samples)
        self._embedding = self._tensor(model.embedding.weight)
        self._embedding_multiplier = self._tensor(model.embedding.multiplier).long()
        self._embedding_shift = model.embedding.exponent - 16
        self._head = self._projection(model.head)
        self._output_norm = self._tensor(model.output_norm).long()
        self._blocks = [
            Block(
                attention_norm=self._tensor(layer.attention_norm).long(),
                query_key_value=self._projection(layer.query, layer.key, layer.value),
                attention_output=self._projection(layer.attention_output),
                feed_forward_norm=self._tensor(layer.feed_forward_norm).long(),
                gate_up=self._projection(layer.gate, layer.up),
                down=self._projection(layer.down),
                cache_scale=self._column(
                    [2.0 ** (layer.query_fraction - 16)] * c.heads
                    + [2.0 ** (layer.key_fraction - 16)] * c.kv_heads
                    + [2.0 ** (layer.value_fraction - 16)] * c.kv_heads
                ),
                score_scale=2.0 ** -(layer.query_fraction + layer.key_fraction + 2),
                value_shift=16 - layer.value_fraction,
            )
            for layer in model.layers
        ]
        cos, sin = self._tensor(model.tables.rope_cos).long(), self._tensor(model.tables.rope_sin).long()
        self._cos = torch.cat([cos, cos], -1)[:, None]  # [context, 1, S]
        self._sin = torch.cat([-sin, sin], -1)[:, None]
        high, low = self._tensor(model.tables.exp2_high).long(), self._tensor(model.tables.exp2_low).long()
        self._exp2 = (
            ((high[:, None] * low) >> 30).int().reshape(-1)
        )  # 2^-(i/65536) in Q30, the product of the two tables
        self._check_attention_product()

    # ---- the seam (market.inference.engine.Engine) ----

    def generate(
        self,
        ids: Sequence[int],
        max_output_tokens: int,
        stop_tokens: Sequence[int],
        cancelled: Callable[[], bool] | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> Generation:
        """See ``Engine.generate``. Raises PromptError before anything is computed."""
        check_request(self.config, ids, max_output_tokens, stop_tokens)
        with torch.inference_mode():
            return self._generate(ids, max_output_tokens, stop_tokens, cancelled, on_token)

    def _generate(
        self,
        ids: Sequence[int],
        max_output_tokens: int,
        stop_tokens: Sequence[int],
        cancelled: Callable[[], bool] | None,
        on_token: Callable[[int], None] | None,
    ) -> Generation:
        cache = self.new_cache(1, len(ids) + max_output_tokens)
        prompt, output = torch.tensor([list(ids)], device=self.device), list[int]()
        for start in range(0, len(ids), PREFILL_CHUNK):
            if cancelled is not None and cancelled():
                return Generation((), Finish.CANCELLED)
            logits = self._forward(prompt[:, start : start + PREFILL_CHUNK], cache, last_only=True)
        while True:
            token = int(self.argmax(logits[:, -1])[0])
            output.append(token)
            if on_token is not None:
                on_token(token)
            if token in stop_tokens:
                return Generation(tuple(output), Finish.STOP)
            if len(output) == max_output_tokens:
                return Generation(tuple(output), Finish.LENGTH)
            if cancelled is not None and cancelled():
                return Generation(tuple(output), Finish.CANCELLED)
            logits = self._forward(torch.tensor([[token]], device=self.device), cache, last_only=True)

    # ---- the forward pass ----

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for ``batch`` sequences of up to ``capacity`` positions."""
        c = self.config
        shape = (c.layers, batch, c.kv_heads, capacity, c.head_size)
        return Cache(
            torch.zeros(shape, dtype=torch.float64, device=self.device),
            torch.zeros(shape, dtype=torch.float64, device=self.device),
        )

    def forward(self, ids: torch.Tensor, cache: Cache, last_only: bool = False) -> torch.Tensor:
        """Appends ids [B, T] to the cache; logits [B, T, V] int64 Q16, or [B, 1, V] of the last position
        only.
        """
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
        x = self._embed(ids.reshape(-1))  # [R, D]
        for index, block in enumerate(self._blocks):
            activation = self._quantise(self._normalise(x, block.attention_norm))
            heads = torch.cat(self._project(block.query_key_value, *activation), -1).view(
                batch, count, c.heads + 2 * c.kv_heads, c.head_size
            )
            turning = heads[:, :, : c.heads + c.kv_heads]
            turning.copy_(_rotate(turning, cos, sin))
            stored = (heads * block.cache_scale).add_(0.5).floor_().clamp_(-CACHE_LIMIT, CACHE_LIMIT)
            query, key, value = stored.transpose(1, 2).split([c.heads, c.kv_heads, c.kv_heads], dim=1)
            cache.keys[index, :, :, start:end] = key
            cache.values[index, :, :, start:end] = value
            mixed = self._attend(query, cache.keys[index, :, :, :end], cache.values[index, :, :, :end], block, future)
            x += self._project(block.attention_output, *self._quantise(mixed))[0]
            gate, up = self._project(block.gate_up, *self._quantise(self._normalise(x, block.feed_forward_norm)))
            product = self._silu(gate).mul_(up).add_(1 << 15).bitwise_right_shift_(16)
            x += self._project(block.down, *self._quantise(product))[0]
        if last_only:
            x = x.view(batch, count, -1)[:, -1]
        logits = self._project(self._head, *self._quantise(self._normalise(x, self._output_norm)))[0]
        return logits.view(batch, -1, c.vocabulary)

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        """[B, V] → [B]: the lowest index of the largest logit, which torch's own argmax does not promise."""
        largest = logits.amax(-1, keepdim=True)
        indices = torch.arange(logits.shape[-1], device=logits.device)
        return torch.where(logits == largest, indices, logits.shape[-1]).amin(-1)

    # ---- the operations, named as in docs/numerics.md; float64 is used only where it holds the exact integer ----

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        """[R] → the residual stream [R, D] in Q16, integers below 2^52 held as float64."""
        product = self._embedding[ids].long() * self._embedding_multiplier[ids, None]
        return product.add_(1 << (self._embedding_shift - 1)).bitwise_right_shift_(self._embedding_shift).double()

    def _normalise(self, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """float64 [R, D] Q16 → int64 [R, D] Q16. One number a row is left to Python's unbounded integers."""
        columns, epsilon = x.shape[-1], self.config.epsilon
        shifts = [max(int(top).bit_length() - 22, 0) for top in x.abs().amax(-1).tolist()]
        if any(shifts):
            x = (x * self._column([2.0**-shift for shift in shifts])).add_(0.5).floor_()
        t = x.long()
        squares = (t * t).sum(-1).tolist()
        means = (total // columns + (epsilon >> 2 * shift) for total, shift in zip(squares, shifts, strict=True))
        t *= self._column([(1 << 52) // max(isqrt(mean << 18), 1) for mean in means])
        return t.bitwise_right_shift_(23).mul_(gain).add_(1 << 15).bitwise_right_shift_(16)

    def _quantise(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 [R, K] Q16 → byte planes int8 [2, R, K], low bytes first, and the shift [R, 1]."""
        y = y.double()
        top = y.abs().amax(-1, keepdim=True).clamp_(min=1)
        mantissa, exponent = torch.frexp(top)  # top = mantissa * 2^bits, so mantissa / top is exactly 2^-bits
        q = y.mul_(mantissa.div_(top).mul_(1 << 15)).add_(0.5).floor_().clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
        short = q.to(torch.int16)
        planes = torch.empty((2, *short.shape), dtype=torch.int8, device=short.device)
        planes[0] = short  # the conversion keeps the low byte: -128..127
        planes[1] = (short + 128).bitwise_right_shift_(8)  # -127..127
        return planes, exponent.long() - 15

    def _project(self, matrices: Projection, planes: torch.Tensor, shift: torch.Tensor) -> list[torch.Tensor]:
        """Byte planes [2, R, K] and the shift [R, 1] → int64 [R, N] Q16, one for each matrix."""
        low, high = planes
        results = []
        for prepared, multiplier, exponent in zip(*matrices, strict=True):
            total = self.product.multiply(low, prepared).long()
            total.add_(self.product.multiply(high, prepared), alpha=256).mul_(multiplier)
            # the last of the r = exponent - shift bits decides the rounding
            results.append(total.bitwise_right_shift_(exponent - 1 - shift).add_(1).bitwise_right_shift_(1))
        return results

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: Block, future: torch.Tensor | None
    ) -> torch.Tensor:
        """query [B, H, T, S], keys and values [B, G, N, S], all float64 → int64 [R, H*S] Q16."""
        batch, heads, count, size = query.shape
        groups, length = keys.shape[1], keys.shape[2]
        grouped = query.reshape(batch, groups, -1, size)  # [B, G, H/G*T, S]
        scores = (grouped @ keys.transpose(-1, -2)).mul_(self.config.score_multiplier)  # below 2^53: exact
        scores = scores.mul_(block.score_scale).add_(0.5).floor_().view(batch, heads, count, length)
        if future is not None:
            scores.masked_fill_(future, -float(1 << 60))  # so far below any score that its weight is 0
        distance = scores.sub_(scores.amax(-1, keepdim=True)).neg_().clamp_(max=31 << 16)
        weight = self._exp2_negative(distance, 10).double()  # Q20
        total = weight.sum(-1, keepdim=True).long()
        sums = weight.view(batch, groups, -1, length) @ values  # below 2^53: exact
        numerator = sums.long().view(batch, heads, count, size)
        numerator = numerator.bitwise_left_shift_(block.value_shift + 1).add_(total)
        mixed = numerator.div_(2 * total, rounding_mode="floor")
        return mixed.transpose(1, 2).reshape(batch * count, heads * size)

    def _silu(self, x: torch.Tensor) -> torch.Tensor:
        """int64 [R, F] Q16 → Q16. For x < 0, x * (1 - s) = x + |x| * s, which needs no second branch."""
        size = x.abs()
        power = self._exp2_negative((size * 94548).bitwise_right_shift_(16).clamp_(max=31 << 16), 0).long()
        sigmoid = torch.div(1 << 60, power.add_(1 << 30), rounding_mode="floor")
        return x.clamp(max=0).bitwise_left_shift_(30).add_(size.mul_(sigmoid)).add_(1 << 29).bitwise_right_shift_(30)

    def _exp2_negative(self, distance: torch.Tensor, drop: int) -> torch.Tensor:
        """2^-d for d in 0..31 in Q16, as int32 in Q30 without its lowest ``drop`` bits."""
        d = distance.int()
        power = self._exp2.index_select(0, (d & 0xFFFF).view(-1)).view(d.shape)
        return power.bitwise_right_shift_((d >> 16).add_(drop).clamp_(max=31))

    def _column(self, numbers: Sequence[float]) -> torch.Tensor:
        """[R, 1] of Python numbers, int64 or float64."""
        dtype = torch.float64 if isinstance(numbers[0], float) else torch.int64
        return torch.tensor(numbers, dtype=dtype, device=self.device)[:, None]

    # ---- set-up ----

    def _tensor(self, array: AnyArray) -> torch.Tensor:
        """A tensor over the array's own memory (on the CPU); nothing here writes to it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns that a read-only map must not be written
            return torch.from_numpy(array).to(self.device)

    def _projection(self, *linears: Linear) -> Projection:
        return Projection(
            tuple(self.product.prepare(self._tensor(linear.weight)) for linear in linears),
            tuple(self._tensor(linear.multiplier).long() for linear in linears),
            tuple(linear.exponent for linear in linears),
        )

    def _check_attention_product(self) -> None:
        """float64 products of attention at their extremes against Python integers; raises SelfTestError."""
        length, size = self.config.context, self.config.head_size
        for rows, columns, top, name in ((1, size, CACHE_LIMIT, "scores"), (3, length, 1 << 20, "values")):
            left = torch.full((rows, columns), top, dtype=torch.float64, device=self.device)
            right = torch.full((columns, size), CACHE_LIMIT, dtype=torch.float64, device=self.device)
            left[:, ::3] -= 1
            right[::2] = -CACHE_LIMIT
            exact = sum((top - (k % 3 == 0)) * (-CACHE_LIMIT if k % 2 == 0 else CACHE_LIMIT) for k in range(columns))
            if not bool(((left @ right).long() == exact).all()):
                raise SelfTestError(f"attention {name} product in float64 on {self.device}")


def _rotate(z: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """[B, T, heads, S]; ``sin`` carries the sign of the first half."""
    swapped = z.roll(z.shape[-1] // 2, -1)
    return (z * cos).add_(swapped.mul_(sin)).add_(1 << 14).bitwise_right_shift_(15)


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"device {name}", "known devices are cpu and cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {name}", "torch finds no CUDA device on this machine")
    return device
