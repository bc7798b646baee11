"""A damaged kernel, or an engine in C that is wrong anywhere, refuses to serve and names the check that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from market.inference import reference
from market.inference.batch import Part, Result, Want
from market.inference.engine import load_engine
from market.inference.errors import SelfTestError
from market.inference.forward_selftest import SEED, small_model
from market.inference.model import Int32Array, Int64Array, IntegerModel, Linear, Tables
from market.inference.native import library as lib
from market.inference.native import selftest
from market.inference.native_engine import ROWS, NativeEngine
from market.models.pack import Pack

pytestmark = pytest.mark.skipif(lib.library() is None, reason="the package was installed without a C compiler")


class Damaged(lib.Kernel):
    """A kernel, one of whose operations is off by one in one place."""

    def __init__(self, name: str, operation: str) -> None:
        loaded = lib.library()
        assert loaded is not None
        super().__init__(loaded, name)
        self._operation = operation

    def linear(self, matrix: Linear, y: Int64Array, grouped: bool) -> tuple[Int64Array, Int32Array]:
        out, shift = super().linear(matrix, y, grouped)
        if self._operation == "matmul" and len(y) > 8:  # only past the first group of rows
            out[8, -1] += 1
        if self._operation == "quantise":
            shift[-1] += 1
        return out, shift

    def normalise(self, x: Int64Array, gain: Int32Array, epsilon: int) -> Int64Array:
        return super().normalise(x, gain, epsilon) + self._error("normalise")

    def rotate(self, z: Int64Array, cos: Int32Array, sin: Int32Array) -> Int64Array:
        return super().rotate(z, cos, sin) + self._error("rotate")

    def to_cache(self, z: Int64Array, fraction: int) -> Int64Array:
        return super().to_cache(z, fraction) + self._error("to_cache")

    def activate(self, gate: Int64Array, up: Int64Array, tables: Tables) -> Int64Array:
        return super().activate(gate, up, tables) + self._error("activation")

    def attend(
        self,
        queries: Int64Array,
        positions: Int32Array,
        keys: Int64Array,
        values: Int64Array,
        fractions: tuple[int, int, int],
        multiplier: int,
        tables: Tables,
    ) -> Int64Array:
        out = super().attend(queries, positions, keys, values, fractions, multiplier, tables)
        out[-1, -1] += self._error("attention")
        return out

    def _error(self, operation: str) -> int:
        return int(operation == self._operation)


@pytest.mark.parametrize(
    "operation", ["matmul", "quantise", "normalise", "rotate", "to_cache", "activation", "attention"]
)
def test_damaged_kernel_refuses_to_serve_and_names_the_check(operation: str, tiny_pack: Pack) -> None:
    for kernel in lib.supported():
        with pytest.raises(SelfTestError) as caught:
            selftest.proved(Damaged(kernel, operation), tiny_pack.model)
        assert caught.value.check.startswith(f"{operation} {kernel}")
        assert "nothing was served" in str(caught.value)


def test_saturating_byte_products_would_be_caught(tiny_pack: Pack) -> None:
    """What vpmaddubsw does: the sum of two products of bytes is cut off at int16."""

    class Saturating(lib.Kernel):
        def linear(self, matrix: Linear, y: Int64Array, grouped: bool) -> tuple[Int64Array, Int32Array]:
            _, shift = super().linear(matrix, y, grouped)
            q, _ = reference.quantise(y)
            sums = np.zeros((len(y), len(matrix.weight)), dtype=np.int64)
            for plane, scale in (((q >> 8) + 128, 256), (q & 255, 1)):
                pairs = (plane[:, None, :] * matrix.weight[None].astype(np.int64)).reshape(*sums.shape, -1, 2).sum(-1)
                sums += scale * pairs.clip(-32768, 32767).sum(-1)
            sums -= 32768 * matrix.weight.sum(-1, dtype=np.int64)
            right = matrix.exponent - shift[:, None].astype(np.int64)
            return reference.shift_round(sums * matrix.multiplier, right), shift

    loaded = lib.library()
    assert loaded is not None
    with pytest.raises(SelfTestError, match="matmul portable"):
        selftest.proved(Saturating(loaded, "portable"), tiny_pack.model)


def test_forward_pass_that_differs_is_caught(tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherGain(NativeEngine):
        def __init__(self, model: IntegerModel, kernel: str, threads: int | None = None) -> None:
            gain = model.output_norm.copy()
            gain[5] += 40
            super().__init__(replace(model, output_norm=gain), kernel, threads)

    monkeypatch.setattr(selftest, "NativeEngine", OtherGain)
    with pytest.raises(SelfTestError, match="forward pass portable on 2 threads"):
        selftest.check_forward("portable", 2, tiny_pack.model.tables)


class OffByOne(NativeEngine):
    """The likeliest token is wrong by one; logits are right."""

    def step(self, parts: Sequence[Part]) -> list[Result]:
        results = super().step(parts)
        return [token + 1 if isinstance(token, int) else token for token in results]


class LastOfTies(NativeEngine):
    """Of equally likely tokens the highest id, where nobody wants logits."""

    def step(self, parts: Sequence[Part]) -> list[Result]:
        if any(part.want is not Want.TOKEN for part in parts):
            return super().step(parts)
        logits = super().step([replace(part, want=Want.LOGITS) for part in parts])
        return [int(np.flatnonzero(row == np.max(row))[-1]) for row in cast(list[Int64Array], logits)]


class LateUnitForgotten(NativeEngine):
    """Ids from 64 on lose their unit's start, beside others only."""

    def step(self, parts: Sequence[Part]) -> list[Result]:
        results = super().step(parts)
        return [token % 64 if isinstance(token, int) and len(parts) > 1 else token for token in results]


class LeavingOutForgotten(NativeEngine):
    """Many rows are wrong by one in one place while the other threads are left out."""

    def step(self, parts: Sequence[Part]) -> list[Result]:
        before, rows = self.passes_alone, sum(len(part.ids) for part in parts)
        results = super().step(parts)
        if rows >= 64 and self.passes_alone - before == -(-rows // ROWS):  # every pass of the step
            cast(Int64Array, results[-1])[-1] += 1
        return results


@pytest.mark.parametrize("threads", [2, 6])
def test_engine_that_is_wrong_with_threads_left_out_refuses_to_serve(
    threads: int, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass has rows for the pieces of four threads: on more of them, pieces are served in this state only."""
    monkeypatch.setattr(selftest, "NativeEngine", LeavingOutForgotten)
    for kernel in lib.supported():
        with pytest.raises(SelfTestError) as caught:
            load_engine(tiny_pack, threads=threads, kernels=kernel)
        assert caught.value.check == f"forward pass {kernel} on {threads} threads, all but one left out"


@pytest.mark.parametrize("damaged", [OffByOne, LastOfTies, LateUnitForgotten])
@pytest.mark.parametrize("threads", [1, 2])
def test_engine_whose_likeliest_token_is_wrong_refuses_to_serve(
    damaged: type[NativeEngine], threads: int, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy serving takes the token from C, and never looks at logits."""
    monkeypatch.setattr(selftest, "NativeEngine", damaged)
    for kernel in lib.supported():
        with pytest.raises(SelfTestError) as caught:
            load_engine(tiny_pack, threads=threads, kernels=kernel)
        assert caught.value.check == f"likeliest token of the forward pass {kernel} on {threads} threads"
        assert "nothing was served" in str(caught.value)


def test_small_model_of_the_self_test_has_every_kind_of_tie(tiny_pack: Pack) -> None:
    """Within a unit of 32 rows and across units; and answers without a tie, near and far from the first row."""
    model = small_model(tiny_pack.model.tables)
    ids = np.random.default_rng(SEED).integers(0, model.config.vocabulary, 12).tolist()
    ties = [np.flatnonzero(row == row.max()) for row in reference.forward(model, ids)]
    apart = {len(set(tie // 32)) for tie in ties if len(tie) > 1}
    alone = {int(tie[0]) // 32 for tie in ties if len(tie) == 1}
    assert apart == {1, 2}
    assert {0, 2} <= alone
