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


@dataclass(frozen=True)
class Projection:
    """Matrices that read the same activations, applied together."""

    prepared: tuple[torch.Tensor, ...]
    multiplier: torch.Tensor  # [N] int64, rows of all matrices one after the other
    exponent: torch.Tensor  # [N] int64


@dataclass(frozen=True)
class Block:
    """One layer, ready to run."""

    attention_norm: torch.Tensor
    query_key_value: Projection
    attention_output: Projection
    feed_forward_norm: torch.Tensor
    gate_up: Projection
    down: Projection
    fractions: torch.Tensor  # [H + 2G, 1] right shift that takes each head from Q16 to its cache format
    score_shift: int
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
                fractions=torch.tensor(
                    [16 - layer.query_fraction] * c.heads
                    + [16 - layer.key_fraction] * c.kv_heads
                    + [16 - layer.value_fraction] * c.kv_heads,
                    device=self.device,
                )[:, None],
                score_shift=layer.query_fraction + layer.key_fraction + 2,
                value_shift=16 - layer.value_fraction,
            )
            for layer in model.layers
        ]
        cos, sin = self._tensor(model.tables.rope_cos).long(), self._tensor(model.tables.rope_sin).long()
        self._cos = torch.cat([cos, cos], -1)[:, None]  # [context, 1, S]
        self._sin = torch.cat([-sin, sin], -1)[:, None]
        high, low = self._tensor(model.tables.exp2_high).long(), self._tensor(model.tables.exp2_low).long()
        self._exp2 = ((high[:, None] * low) >> 30).reshape(-1)  # 2^-(i/65536) in Q30, the product of the two tables
        self._one = torch.ones((), dtype=torch.int64, device=self.device)
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
            joined = self._project(block.query_key_value, *self._quantise(self._normalise(x, block.attention_norm)))
            heads = joined.view(batch, count, c.heads + 2 * c.kv_heads, c.head_size)
            turning = heads[:, :, : c.heads + c.kv_heads]
            turning.copy_(self._rotate(turning, cos, sin))
            stored = self._shift_round(heads, block.fractions).clamp_(-CACHE_LIMIT, CACHE_LIMIT).double()
            query, key, value = stored.transpose(1, 2).split([c.heads, c.kv_heads, c.kv_heads], dim=1)
            cache.keys[index, :, :, start:end] = key
            cache.values[index, :, :, start:end] = value
            mixed = self._attend(query, cache.keys[index, :, :, :end], cache.values[index, :, :, :end], block, future)
            x = x + self._project(block.attention_output, *self._quantise(mixed))
            joined = self._project(block.gate_up, *self._quantise(self._normalise(x, block.feed_forward_norm)))
            gate, up = joined.split(c.feed_forward, dim=-1)
            product = (self._silu(gate) * up).add_(1 << 15).bitwise_right_shift_(16)
            x = x + self._project(block.down, *self._quantise(product))
        if last_only:
            x = x.view(batch, count, -1)[:, -1]
        logits = self._project(self._head, *self._quantise(self._normalise(x, self._output_norm)))
        return logits.view(batch, -1, c.vocabulary)

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        """[B, V] → [B]: the lowest index of the largest logit, which torch's own argmax does not promise."""
        largest = logits.amax(-1, keepdim=True)
        indices = torch.arange(logits.shape[-1], device=logits.device)
        return torch.where(logits == largest, indices, logits.shape[-1]).amin(-1)

    # ---- the operations, named as in docs/numerics.md ----

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        product = self._embedding[ids].long() * self._embedding_multiplier[ids, None]
        return _shift_round_by(product, self._embedding_shift)

    def _project(self, matrices: Projection, activation: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """int64 [R, K] of int16 range and its shift [R, 1] → [R, N] Q16."""
        high = (activation + 128) >> 8  # -127..127
        low = (activation - (high << 8)).to(torch.int8)  # -128..127
        high = high.to(torch.int8)
        sums = [
            torch.add(self.product.multiply(low, weight).long(), self.product.multiply(high, weight), alpha=256)
            for weight in matrices.prepared
        ]
        total = sums[0] if len(sums) == 1 else torch.cat(sums, -1)
        right = matrices.exponent - shift  # 1..62, proved at packing
        return total.mul_(matrices.multiplier).add_(self._one << (right - 1)).bitwise_right_shift_(right)

    def _normalise(self, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        shift = (_bit_length(x.abs().amax(-1, keepdim=True)) - 22).clamp_(min=0)
        t = self._shift_round(x, shift)
        mean = (t * t).sum(-1, keepdim=True).div_(x.shape[-1], rounding_mode="floor")
        mean += (self._one * self.config.epsilon) >> (2 * shift)
        root = _square_root(mean << 18).clamp_(min=1)
        inverse = torch.div(self._one << 52, root, rounding_mode="floor")
        return t.mul_(inverse).bitwise_right_shift_(23).mul_(gain).add_(1 << 15).bitwise_right_shift_(16)

    def _quantise(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift = _bit_length(y.abs().amax(-1, keepdim=True).clamp_(min=1)) - 15
        left = (-shift).clamp_(min=0)
        return self._shift_round(y << left, shift.clamp(min=0)).clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT), shift

    def _rotate(self, z: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """[B, T, heads, S]; ``sin`` carries the sign of the first half."""
        swapped = z.roll(z.shape[-1] // 2, -1)
        return (z * cos).add_(swapped * sin).add_(1 << 14).bitwise_right_shift_(15)

    def _attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        block: Block,
        future: torch.Tensor | None,
    ) -> torch.Tensor:
        """query [B, H, T, S], keys and values [B, G, N, S] → [R, H*S] Q16."""
        batch, heads, count, size = query.shape
        groups, length = keys.shape[1], keys.shape[2]
        grouped = query.reshape(batch, groups, -1, size)  # [B, G, H/G*T, S]
        dots = (grouped @ keys.transpose(-1, -2)).mul_(self.config.score_multiplier).long()  # below 2^53: exact
        scores = _shift_round_by(dots, block.score_shift).view(batch, heads, count, length)
        if future is not None:
            scores = scores.masked_fill_(future, -(1 << 60))  # so far below any score that its weight is 0
        distance = (scores.amax(-1, keepdim=True) - scores).clamp_(max=31 << 16)
        weight = self._exp2.take(distance & 0xFFFF) >> ((distance >> 16) + 10)  # Q20
        total = weight.sum(-1, keepdim=True)
        sums = weight.double().view(batch, groups, -1, length) @ values  # below 2^53: exact
        numerator = sums.long().view(batch, heads, count, size).bitwise_left_shift_(block.value_shift + 1).add_(total)
        mixed = numerator.div_(2 * total, rounding_mode="floor")
        return mixed.transpose(1, 2).reshape(batch * count, heads * size)

    def _silu(self, x: torch.Tensor) -> torch.Tensor:
        distance = ((x.abs() * 94548) >> 16).clamp_(max=31 << 16)
        power = self._exp2.take(distance & 0xFFFF) >> (distance >> 16)
        sigmoid = torch.div(self._one << 60, power.add_(1 << 30), rounding_mode="floor")
        return torch.where(x < 0, (1 << 30) - sigmoid, sigmoid).mul_(x).add_(1 << 29).bitwise_right_shift_(30)

    def _shift_round(self, x: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """x / 2^right, halves upward, for right >= 0 of any broadcastable shape."""
        return (x + ((self._one << right) >> 1)).bitwise_right_shift_(right)

    # ---- set-up ----

    def _tensor(self, array: AnyArray) -> torch.Tensor:
        """A tensor over the array's own memory (on the CPU); nothing here writes to it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns that a read-only map must not be written
            return torch.from_numpy(array).to(self.device)

    def _projection(self, *linears: Linear) -> Projection:
        return Projection(
            tuple(self.product.prepare(self._tensor(linear.weight)) for linear in linears),
            torch.cat([self._tensor(linear.multiplier).long() for linear in linears]),
            torch.cat(
                [torch.full((len(linear.multiplier),), linear.exponent, device=self.device) for linear in linears]
            ),
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


def _shift_round_by(x: torch.Tensor, shift: int) -> torch.Tensor:
    """x / 2^shift, halves upward; a negative shift multiplies. ``x`` is overwritten."""
    if shift <= 0:
        return x.bitwise_left_shift_(-shift)
    return x.add_(1 << (shift - 1)).bitwise_right_shift_(shift)


def _bit_length(x: torch.Tensor) -> torch.Tensor:
    """Bits of each integer in 0..2^53 - 1, where float64 is exact."""
    return torch.frexp(x.double())[1].long()


def _square_root(n: torch.Tensor) -> torch.Tensor:
    """floor(sqrt(n)) for 0 <= n < 2^63: float64's root is off by at most one, and integers put it right."""
    root = n.double().sqrt_().long()
    root -= (root * root > n).long()
    return root + ((root + 1) * (root + 1) <= n).long()


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"device {name}", "known devices are cpu and cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {name}", "torch finds no CUDA device on this machine")
    return device
