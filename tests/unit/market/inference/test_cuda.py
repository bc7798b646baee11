"""The path for GPUs, as far as a CPU can try it; what needs a GPU is skipped where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from market.inference import matmul
from market.inference.engine import load_engine
from market.inference.errors import SelfTestError
from market.inference.matmul import Float32Product, GuardedInt8Product, choose, proved
from market.inference.torch_engine import TorchEngine
from market.models.pack import Pack

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[4]
ON_CPU = torch._int_mm

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def like_cuda(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """torch._int_mm with what its CUDA implementation checks, in its words."""
    if a.size(0) <= 16:
        raise RuntimeError("self.size(0) needs to be greater than 16")
    if a.size(1) == 0 or a.size(1) % 8:
        raise RuntimeError("self.size(1) needs to be greater than 0 and a multiple of 8")
    if a.size(1) != b.size(0):
        raise RuntimeError("self.size(1) needs to match mat2.size(0)")
    if b.size(1) == 0 or b.size(1) % 8:
        raise RuntimeError("mat2.size(1) needs to be greater than 0 and a multiple of 8")
    assert (a.dtype, b.dtype) == (torch.int8, torch.int8)
    return ON_CPU(a, b)


@pytest.fixture
def shape_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul.torch, "_int_mm", like_cuda)


def test_shape_limits_refuse_what_is_not_guarded(shape_limits: None) -> None:
    """Else the tests below could not fail."""
    plain = matmul.Int8Product()
    with pytest.raises(RuntimeError, match="greater than 16"):
        plain.multiply(torch.ones((16, 8)), plain.prepare(torch.ones((8, 8), dtype=torch.int8)))
    with pytest.raises(RuntimeError, match="multiple of 8"):
        plain.multiply(torch.ones((17, 8)), plain.prepare(torch.ones((9, 8), dtype=torch.int8)))


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 40), columns=st.integers(1, 70), outputs=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_guarded_product_is_exact_in_every_shape_within_the_limits_of_cuda(
    rows: int, columns: int, outputs: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    plane = random.integers(-128, 128, (rows, columns))
    weight = random.integers(-127, 128, (outputs, columns))
    product = GuardedInt8Product()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul.torch, "_int_mm", like_cuda)
        prepared = product.prepare(torch.from_numpy(weight.astype(np.int8)))
        got = product.multiply(torch.from_numpy(plane), prepared)
    assert got.dtype is torch.int32
    assert np.array_equal(got.numpy(), plane @ weight.T)


def test_guarded_weight_of_a_fitting_shape_is_no_copy() -> None:
    weight = torch.ones((16, 24), dtype=torch.int8)
    assert GuardedInt8Product().prepare(weight).weight.data_ptr() == weight.data_ptr()


def test_engine_with_the_guarded_product_equals_the_others(
    tiny_pack: Pack, tiny_engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[3 + 7 * position % 250 for position in range(count)] for count in (1, 16, 17, 40)]
    expected = [tiny_engine.generate(prompt, 6, ()) for prompt in prompts]
    monkeypatch.setattr(matmul.torch, "_int_mm", like_cuda)
    engine = TorchEngine(tiny_pack.model, product=GuardedInt8Product())
    assert [engine.generate(prompt, 6, ()) for prompt in prompts] == expected


def test_products_of_a_gpu_are_the_guarded_one_and_then_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def prove(product: Any, device: torch.device, weights: Any) -> Any:
        tried.append(f"{type(product).__name__} on {device.type}")
        if len(tried) == 1:
            raise SelfTestError("the first")
        return product

    monkeypatch.setattr(matmul, "proved", prove)
    assert isinstance(choose("auto", torch.device("cuda"), []), Float32Product)
    assert isinstance(choose("int8", torch.device("cuda"), []), GuardedInt8Product)
    assert tried == ["GuardedInt8Product on cuda", "Float32Product on cuda", "GuardedInt8Product on cuda"]


def test_guarded_product_that_loses_a_column_is_refused() -> None:
    class Careless(GuardedInt8Product):
        def multiply(self, plane: torch.Tensor, prepared: Any) -> torch.Tensor:
            cut = plane.clone()
            cut[:, -1] = 0
            return super().multiply(cut, prepared)

    with pytest.raises(SelfTestError, match="int8"):
        proved(Careless(), CPU, [torch.ones((8, 24), dtype=torch.int8)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_benchmark_without_a_gpu_says_so_and_changes_nothing() -> None:
    page = ROOT / "docs" / "benchmarks.md"
    before = page.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "bench", "cuda"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, page.read_bytes()) == (0, before)
    assert "nothing was measured" in done.stdout


@needs_gpu
@pytest.mark.parametrize("product", ["auto", "int8", "float32"])
def test_engine_on_cuda_equals_the_cpu(tiny_pack: Pack, tiny_engine: TorchEngine, product: str) -> None:
    engine = load_engine(tiny_pack, device="cuda", matmul=product)
    for count in (1, 16, 17, 100, 300):
        prompt = [3 + 7 * position % 250 for position in range(count)]
        assert engine.generate(prompt, 20, []) == tiny_engine.generate(prompt, 20, [])
