"""The seam: what an engine refuses, how a generation ends, and what must be true before it serves at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from market.errors import AssayError
from market.inference import reference, torch_operations
from market.inference.batch import Part, Result
from market.inference.engine import Engine, Generation, available_kernels, kernels_in_use, load_engine
from market.inference.errors import BackendError, PromptError, SelfTestError
from market.inference.matmul import Float32Product, Int8Product, PlaneProduct, choose, proved
from market.inference.model import Int64Array, Layer
from market.inference.native import library, selftest
from market.inference.numpy_engine import NumpyEngine
from market.inference.sampling import Sampling
from market.inference.torch_engine import Block, TorchEngine
from market.models.pack import Pack
from market.types import Finish

PROMPT = [1, 70, 80]


class SaturatingProduct:
    """What oneDNN does without VNNI: (plane + 128) * weight, where sums of two products saturate at int16."""

    name = "saturating"
    limit = 1 << 31

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.int()

    def multiply(self, plane: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
        products = (plane.int() + 128)[:, None, :] * prepared[None]
        pairs = products.view(*products.shape[:2], -1, 2).sum(-1).clamp(-32768, 32767)
        return (pairs.sum(-1) - 128 * prepared.sum(-1)).int()


class OneWrongSum(Float32Product):
    """Exact but for one unit in one place, and only for many rows."""

    name = "one-wrong-sum"

    def multiply(self, plane: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
        sums = super().multiply(plane, prepared)
        if len(plane) > 2:
            sums[-1, -1] += 1
        return sums


@pytest.mark.parametrize("kernels", ["auto", *available_kernels()])
def test_load_engine_of_a_pack_serves_it(kernels: str, tiny_pack: Pack, tiny_engine: TorchEngine) -> None:
    engine: Engine = load_engine(tiny_pack, device="cpu", threads=torch.get_num_threads(), kernels=kernels)
    assert engine.config == tiny_pack.model.config
    assert kernels_in_use(engine).startswith(available_kernels()[0] if kernels == "auto" else kernels)
    assert engine.generate(PROMPT, 5, []) == tiny_engine.generate(PROMPT, 5, [])
    long = [token % 288 for token in range(150)]  # several chunks of every engine but one
    assert engine.generate(long, 3, []) == tiny_engine.generate(long, 3, [])
    sampling = Sampling(temperature_q16=1 << 16, top_k=20, top_p_q16=60_000, seed=bytes(range(32)))
    for prompt in (PROMPT, long):
        sampled = engine.generate(prompt, 12, [], sampling=sampling)
        assert sampled == tiny_engine.generate(prompt, 12, [], sampling=sampling)
    with pytest.raises(PromptError):
        engine.generate([288], 1, [])


def test_load_engine_goes_on_to_the_next_kernel_when_one_is_damaged(
    tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(kernel: library.Kernel, *_: object) -> Engine:
        raise SelfTestError(f"matmul {kernel.name}")

    monkeypatch.setattr(selftest, "proved", damaged)
    names = [name for name in available_kernels() if name not in library.KERNELS]
    assert kernels_in_use(load_engine(tiny_pack, threads=1)).startswith(names[0])
    assert [f"kernels {name} are not used" in caplog.text for name in library.supported()] == [True] * len(
        library.supported()
    )
    if library.supported():
        with pytest.raises(SelfTestError, match="matmul portable"):
            load_engine(tiny_pack, kernels="portable")


def test_load_engine_without_the_native_library_takes_the_next(
    tiny_pack: Pack, tiny_engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "library", lambda: None)
    assert kernels_in_use(load_engine(tiny_pack, threads=1)).startswith("torch")
    monkeypatch.setattr("market.inference.engine.find_spec", lambda _: None)
    engine = load_engine(tiny_pack)
    assert kernels_in_use(engine) == "numpy"
    assert engine.generate(PROMPT, 9, []) == tiny_engine.generate(PROMPT, 9, [])
    with pytest.raises(BackendError, match="C compiler"):
        load_engine(tiny_pack, kernels="portable")


def test_load_engine_with_unknown_kernels_is_refused(tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="abacus"):
        load_engine(tiny_pack, kernels="abacus")
    monkeypatch.setenv("ASSAY_KERNELS", "sliderule")
    with pytest.raises(BackendError, match="sliderule"):
        load_engine(tiny_pack)


def test_numpy_engine_whose_float32_products_are_not_exact_refuses(
    tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = NumpyEngine._product
    monkeypatch.setattr(NumpyEngine, "_product", lambda self, matrix, plane: exact(self, matrix, plane) + 1)
    with pytest.raises(SelfTestError, match="numpy float32"):
        NumpyEngine(tiny_pack.model)


@pytest.mark.parametrize("operation", ["_linear", "_attend", "_forward"])
def test_numpy_engine_of_which_an_operation_is_damaged_refuses(
    operation: str, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its products are right, and everything that is made of them is tested too."""
    exact: Callable[..., Int64Array] = getattr(NumpyEngine, operation)

    def off_by_one(*arguments: Any) -> Int64Array:
        result = exact(*arguments)
        result[..., -1] += 1
        return result

    monkeypatch.setattr(NumpyEngine, operation, off_by_one)
    with pytest.raises(SelfTestError, match="forward pass numpy") as caught:
        load_engine(tiny_pack, kernels="numpy")
    assert "nothing was served" in str(caught.value)


def test_numpy_engine_that_forgets_what_stands_in_its_cache_refuses(
    tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right in one piece, wrong where the prompt is cut."""
    attend = NumpyEngine._attend
    monkeypatch.setattr(
        NumpyEngine, "_attend", lambda self, layer, a, shift, cache, _: attend(self, layer, a, shift, cache, 0)
    )
    with pytest.raises(SelfTestError, match="forward pass numpy"):
        load_engine(tiny_pack, kernels="numpy")


def test_generate_reaching_a_stop_token_ends_with_it(tiny_engine: TorchEngine) -> None:
    free = tiny_engine.generate(PROMPT, 12, [])
    assert free.finish is Finish.LENGTH
    stop = free.ids[6]
    cut = free.ids[: free.ids.index(stop) + 1]
    assert tiny_engine.generate(PROMPT, 12, [stop]) == Generation(cut, Finish.STOP)


def test_generate_whose_last_allowed_token_is_a_stop_token_finishes_by_stop(tiny_engine: TorchEngine) -> None:
    free = tiny_engine.generate(PROMPT, 12, [])
    stop = free.ids[6]
    length = free.ids.index(stop) + 1
    assert tiny_engine.generate(PROMPT, length, [stop]).finish is Finish.STOP


def test_generate_reports_each_token_in_order(tiny_engine: TorchEngine) -> None:
    heard: list[int] = []
    generation = tiny_engine.generate(PROMPT, 9, [], on_token=heard.append)
    assert tuple(heard) == generation.ids


def test_generate_cancelled_midway_keeps_what_was_made(tiny_engine: TorchEngine) -> None:
    heard: list[int] = []
    generation = tiny_engine.generate(PROMPT, 9, [], cancelled=lambda: len(heard) == 4, on_token=heard.append)
    assert generation == Generation(tiny_engine.generate(PROMPT, 4, []).ids, Finish.CANCELLED)


def test_generate_cancelled_before_it_starts_makes_nothing(tiny_engine: TorchEngine) -> None:
    assert tiny_engine.generate(PROMPT, 9, [], cancelled=lambda: True) == Generation((), Finish.CANCELLED)


@pytest.mark.parametrize(
    ("ids", "count", "stop", "limit"),
    [
        ([], 1, [], "empty"),
        ([1], 0, [], "outputTokens"),
        ([1], -1, [], "outputTokens"),
        ([1] * 512, 1, [], "context"),
        ([1], 512, [], "context"),
        ([288], 1, [], "vocabulary"),
        ([-1], 1, [], "vocabulary"),
        ([1], 1, [288], "vocabulary"),
        ([1], 1, list(range(9)), "stopTokens"),
    ],
)
def test_generate_outside_a_limit_is_refused_by_name(
    ids: list[int], count: int, stop: list[int], limit: str, tiny_engine: TorchEngine
) -> None:
    heard: list[int] = []
    with pytest.raises(PromptError) as caught:
        tiny_engine.generate(ids, count, stop, on_token=heard.append)
    assert caught.value.limit == limit
    assert isinstance(caught.value, AssayError)
    assert "Nothing was computed" in str(caught.value)
    assert heard == []


@pytest.mark.parametrize("product", [SaturatingProduct(), OneWrongSum()])
def test_engine_with_a_damaged_product_refuses_to_serve(product: PlaneProduct, tiny_pack: Pack) -> None:
    with pytest.raises(SelfTestError) as caught:
        TorchEngine(tiny_pack.model, product=product)
    assert f"matmul {product.name} of" in caught.value.check
    assert "by 72x" in caught.value.check
    assert "nothing was served" in str(caught.value)


def off_by_one(result: Any) -> Any:
    """The last integer of a tensor, of the first of several, or of the first list item."""
    if not isinstance(result, torch.Tensor):
        return type(result)((off_by_one(result[0]), *result[1:]))
    damaged = result.clone()
    damaged.view(-1)[-1] += 1
    return damaged


TORCH_OPERATIONS = {  # where it stands → how the self-test calls it
    "normalise": "normalise",
    "quantise": "quantise",
    "rotate": "rotate",
    "to_cache": "to_cache",
    "silu": "silu",
    "activate": "activate",
    "exp2_negative": "exp2_negative",
    "attend": "attend",
    "argmax": "argmax",
    "Embedding.rows": "embed",
    "Projection.apply": "linear",
}


@pytest.mark.parametrize("operation", TORCH_OPERATIONS)
def test_torch_engine_with_a_damaged_operation_refuses_to_serve_and_names_the_check(
    operation: str, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    *owner, name = operation.split(".")
    place: Any = getattr(torch_operations, owner[0]) if owner else torch_operations
    exact = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *arguments: off_by_one(exact(*arguments)))
    with pytest.raises(SelfTestError) as caught:
        load_engine(tiny_pack, kernels="torch")
    assert caught.value.check == f"{TORCH_OPERATIONS[operation]} in torch on cpu"
    assert "nothing was served" in str(caught.value)


EXACT_ARGMAX, EXACT_QUANTISE = torch_operations.argmax, torch_operations.quantise


def highest_of_ties(logits: torch.Tensor) -> torch.Tensor:
    return logits.shape[-1] - 1 - EXACT_ARGMAX(logits.flip(-1))


def ties_to_even(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Halves to the even number, as a floating-point rounding does."""
    _, shift = EXACT_QUANTISE(y)
    q = torch.round(y.double() * 2.0 ** -shift.double()).clamp(-32639, 32639).to(torch.int16)
    return torch.stack([q.to(torch.int8), ((q + 128) >> 8).to(torch.int8)]), shift


def unlimited(z: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (z * scale).add_(0.5).floor_()


@pytest.mark.parametrize(
    ("name", "damaged"), [("argmax", highest_of_ties), ("quantise", ties_to_even), ("to_cache", unlimited)]
)
def test_torch_operation_that_is_right_but_for_rare_inputs_is_caught(
    name: str, damaged: Callable[..., Any], tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_operations, name, damaged)
    with pytest.raises(SelfTestError, match=f"{name} in torch on cpu"):
        load_engine(tiny_pack, kernels="torch")


def test_torch_forward_pass_that_differs_is_caught(tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation is right, but a layer takes the other gains; then only the token is wrong."""

    def exchanged(self: TorchEngine, layer: Layer) -> Block:
        block = exact_block(self, layer)
        return replace(block, attention_norm=block.feed_forward_norm)

    exact_block, exact_step = TorchEngine._block, TorchEngine._advance
    monkeypatch.setattr(TorchEngine, "_block", exchanged)
    with pytest.raises(SelfTestError, match="forward pass torch int8 on cpu"):
        load_engine(tiny_pack, kernels="torch", matmul="int8")
    monkeypatch.setattr(TorchEngine, "_block", exact_block)

    def next_token(self: TorchEngine, part: Part) -> Result:
        result = exact_step(self, part)
        return result + 1 if isinstance(result, int) else result

    monkeypatch.setattr(TorchEngine, "_advance", next_token)
    with pytest.raises(SelfTestError, match="likeliest token of the forward pass torch"):
        load_engine(tiny_pack, kernels="torch")


def test_self_test_of_the_real_products_passes() -> None:
    weights = [torch.full((5, 400), 127, dtype=torch.int8), torch.full((3, 64), -127, dtype=torch.int8)]
    for product in (Int8Product(), Float32Product()):
        assert proved(product, torch.device("cpu"), weights) is product


def test_self_test_asks_of_float32_no_sum_that_it_cannot_hold() -> None:
    """Rows of ±127 at width 1,536 sum to 24 million: some processors round that, and were refused for it."""
    weights = [torch.ones((2, columns), dtype=torch.int8) for columns in (1040, 1536, 4096)]
    assert proved(Float32Product(), torch.device("cpu"), weights).name == "float32"


def test_engine_on_an_unknown_device_is_refused(tiny_pack: Pack) -> None:
    for device in ("abacus", "meta"):
        with pytest.raises(BackendError, match=device):
            load_engine(tiny_pack, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_engine_on_cuda_without_a_device_is_refused(tiny_pack: Pack) -> None:
    with pytest.raises(BackendError, match="no CUDA device"):
        load_engine(tiny_pack, device="cuda")


def test_choose_of_an_unknown_product_is_refused() -> None:
    with pytest.raises(BackendError, match="abacus"):
        choose("abacus", torch.device("cpu"), [])


def test_engine_switches_reduced_precision_off(tiny_pack: Pack) -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.matmul.allow_tf32 = True
    TorchEngine(tiny_pack.model)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(not library.supported(), reason="the package was installed without a C compiler")
def test_serving_on_a_cpu_loads_neither_torch_nor_transformers(tiny_pack: Pack) -> None:
    """The provider's own path: its command, its configuration and catalogue, its engines, then an answer."""
    code = (
        "import sys; import provider.cli, provider.program, provider.agent, provider.executor\n"
        "from types import SimpleNamespace; from pathlib import Path\n"
        "from provider.catalogue import load_catalogue; from provider.config import Prices\n"
        "config = SimpleNamespace(device='cpu', threads=2, kernels='auto')\n"
        "config.prices_of, config.uri_of = lambda *_: Prices(), lambda *_: ''\n"
        "_, engines = load_catalogue([Path(sys.argv[1])], config)\n"
        "(engine,) = engines.values()\n"
        f"assert len(engine.generate({PROMPT}, 4, []).ids) == 4\n"
        "print(sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny_pack.path)], capture_output=True, text=True, check=False
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_importing_the_packages_loads_no_torch() -> None:
    modules = "market.inference, market.inference.engine, market.inference.reference, market.models.pack"
    modules += ", market.models.packer, market.models.text, market.models.cli, market.models.tiny"
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_auto_product_on_a_processor_without_vnni_serves_the_same_tokens(
    tiny_pack: Pack, tiny_engine: TorchEngine
) -> None:
    """ONEDNN_MAX_CPU_ISA takes VNNI away from oneDNN, whose int8 product is then silently wrong.

    float32 serves, with the same logits to the last bit. Asked for by name, int8 refuses where it is wrong.
    """
    code = (
        "import sys; from market.models.pack import load_pack\n"
        "from market.inference.batch import Part, Want; from market.inference.errors import SelfTestError\n"
        "from market.inference.engine import kernels_in_use, load_engine\n"
        "pack = load_pack(sys.argv[1]); engine = load_engine(pack, kernels='torch'); print(kernels_in_use(engine))\n"
        f"print(*engine.generate({PROMPT}, 12, []).ids)\n"
        f"print(*engine.step([Part(engine.new_slot(3), {PROMPT}, Want.LOGITS)])[0])\n"
        "try: load_engine(pack, kernels='torch', matmul='int8'); print('int8 serves')\n"
        "except SelfTestError as error: print(error.check)"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", code, str(tiny_pack.path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    served, ids, logits, int8 = result.stdout.splitlines()
    assert tuple(map(int, ids.split())) == tiny_engine.generate(PROMPT, 12, []).ids
    assert list(map(int, logits.split())) == reference.forward(tiny_pack.model, PROMPT)[-1].tolist()
    assert served == f"torch {'int8' if int8 == 'int8 serves' else 'float32'} on cpu"
    if "avx512vnni" in library.supported():
        assert served == "torch float32 on cpu"
    if served == "torch float32 on cpu":
        assert int8.startswith("matmul int8 of ")
