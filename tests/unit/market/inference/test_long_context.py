"""All 2,048 positions of the context: proved at packing, and equal to the last one in torch, numpy and every kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from market.hashing import keccak256
from market.inference import reference, reference_sampling
from market.inference.batch import Part, Want
from market.inference.engine import Engine, check_request, load_engine
from market.inference.errors import PromptError
from market.inference.model import Int64Array
from market.inference.native import library
from market.inference.native_engine import NativeEngine
from market.inference.numpy_engine import NumpyEngine
from market.inference.sampling import Sampling
from market.inference.torch_engine import TorchEngine
from market.models import bounds
from market.models.errors import BoundError
from market.models.pack import Pack
from market.models.packer import write_pack
from market.models.tiny import TINY, RandomSource, tiny_recipe
from market.types import Finish

CONTEXT, SAMPLED = 2048, 40
SAMPLING = Sampling(65536, 0, 62259, keccak256(b"long"))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    shape = dataclasses.replace(TINY, context=CONTEXT)
    return write_pack(RandomSource(shape, "long"), tiny_recipe(shape), Path(tmp_path_factory.mktemp("long")) / "pack")


@pytest.fixture(scope="module")
def expected(pack: Pack) -> tuple[list[int], Int64Array]:
    """Ids that fill the context, the last ones as SAMPLING picks them, and the reference's logits after each."""
    prompt = np.random.default_rng(2).integers(0, 288, CONTEXT - SAMPLED).tolist()
    ids = [*prompt, *load_engine(pack, threads=1).generate(prompt, SAMPLED, [], sampling=SAMPLING).ids]
    logits = reference.forward(pack.model, ids)
    rows = logits[len(prompt) - 1 : -1]
    picked = [reference_sampling.pick(row, t, SAMPLING, pack.model.tables) for t, row in enumerate(rows)]
    assert picked == ids[len(prompt) :]
    return ids, logits


@pytest.mark.parametrize("kernels", ["torch", "numpy", *library.KERNELS])
def test_every_position_of_the_context_equals_the_reference(
    kernels: str, pack: Pack, expected: tuple[list[int], Int64Array]
) -> None:
    """A prompt and 40 sampled tokens fill the context; the same ids in pieces give the reference's logits.

    numpy's engine takes seconds for the pieces alone, and has their last logits only.
    """
    if kernels not in ("torch", "numpy", *library.supported()):
        pytest.skip(f"this machine or this installation has no {kernels}")
    ids, logits = expected
    engine = load_engine(pack, kernels=kernels, threads=None if kernels == "torch" else 2)
    prompt = ids[: CONTEXT - SAMPLED]
    if kernels != "numpy":
        generation = engine.generate(prompt, SAMPLED, [], sampling=SAMPLING)
        assert (list(generation.ids), generation.finish) == (ids[len(prompt) :], Finish.LENGTH)
    forward, start = _forward(engine), 0
    for count in (1000, 1, 256, 700, 51, *[1] * SAMPLED):
        got = forward(ids[start : start + count])
        start += count
        assert len(got) == (1 if kernels == "numpy" else count)
        assert np.array_equal(got, logits[start - len(got) : start])
    assert start == CONTEXT


def _forward(engine: Engine) -> Callable[[list[int]], Int64Array]:
    """Appends ids; logits of all of them, or of the last."""
    if isinstance(engine, TorchEngine):
        return _torch_forward(engine)
    if isinstance(engine, NumpyEngine):
        slot = engine.new_slot(CONTEXT)
        return lambda ids: np.array(engine.step([Part(slot, ids, Want.LOGITS)]))
    return _native_forward(engine)


def _torch_forward(engine: TorchEngine) -> Callable[[list[int]], Int64Array]:
    cache = engine.new_cache(1, CONTEXT)
    return lambda ids: engine.forward(torch.tensor([ids]), cache)[0].numpy()


def _native_forward(engine: Engine) -> Callable[[list[int]], Int64Array]:
    assert isinstance(engine, NativeEngine)
    slot = engine.new_slot(CONTEXT)
    return lambda ids: engine.forward(ids, slot)


def test_one_position_more_than_the_context_is_refused(pack: Pack) -> None:
    check_request(pack.model.config, [1] * (CONTEXT - 1), 1, [])
    with pytest.raises(PromptError) as caught:
        check_request(pack.model.config, [1] * CONTEXT, 1, [])
    assert (caught.value.limit, caught.value.value, caught.value.allowed) == ("context", 2049, 2048)


def test_bounds_are_proved_for_the_context_of_the_pack(pack: Pack) -> None:
    """The sums over positions grow with the context; 2^19 positions are more than float64 products hold exactly."""
    assert pack.limits.context == CONTEXT

    def bits(context: int) -> dict[tuple[str, str], int]:
        config = dataclasses.replace(pack.model.config, context=context)
        proved = bounds.prove(dataclasses.replace(pack.model, config=config))
        return {(bound.operation, bound.quantity): bound.bits for bound in proved}

    here, half = bits(CONTEXT), bits(CONTEXT // 2)
    assert here["mix", "sum of weights"] == 32
    assert here["mix", "sum of weighted values"] == 46
    for quantity in ("sum of weights", "sum of weighted values", "numerator"):
        assert here["mix", quantity] == half["mix", quantity] + 1
    with pytest.raises(BoundError, match="mix"):
        bits(1 << 19)


@pytest.mark.parametrize("name", ["sum of weights", "sum of weighted values"])
def test_bounds_of_the_real_pack_are_those_of_2048_positions(name: str, real_pack: Pack) -> None:
    assert real_pack.limits.context == real_pack.model.config.context == CONTEXT
    expected = {"sum of weights": CONTEXT << 20, "sum of weighted values": (CONTEXT << 20) * 32767}[name]
    stated = {(bound["operation"], bound.get("quantity")): bound for bound in real_pack.manifest["bounds"]}
    assert stated["mix", name]["bits"] == expected.bit_length()


@pytest.mark.slow
def test_2048_positions_of_the_real_models_first_layers_equal_the_reference(real_pack: Pack) -> None:
    """Three layers of thirty: the reference takes seconds a layer here, and minutes on a busy machine."""
    config = dataclasses.replace(real_pack.model.config, layers=3)
    model = dataclasses.replace(real_pack.model, config=config, layers=real_pack.model.layers[:3])
    ids = np.random.default_rng(3).integers(0, config.vocabulary, CONTEXT)
    expected = reference.forward(model, ids.tolist(), first=CONTEXT - 2)
    assert np.array_equal(_last_two(TorchEngine(model), ids, [1000, 1, 7, 1038, 1, 1]), expected)


@pytest.mark.slow
def test_2048_positions_of_the_real_model_however_they_are_run_give_the_same_logits(real_pack: Pack) -> None:
    ids = np.random.default_rng(3).integers(0, real_pack.limits.vocabulary, CONTEXT)
    exact = TorchEngine(real_pack.model, product="int8")
    generation = exact.generate(ids[: CONTEXT - 2].tolist(), 2, [])
    assert generation.finish is Finish.LENGTH
    ids[CONTEXT - 2 :] = generation.ids
    first = _last_two(exact, ids, [256] * 7 + [254, 1, 1])
    assert reference.argmax(first[0]) == generation.ids[1]
    other = TorchEngine(real_pack.model, product="float32")
    assert np.array_equal(_last_two(other, ids, [512, 512, 512, 510, 1, 1]), first)


def _last_two(engine: TorchEngine, ids: Int64Array, chunks: list[int]) -> Int64Array:
    """Logits [2, V] of the last two positions, fed in chunks of which the last two are 1."""
    cache, start, parts = engine.new_cache(1, CONTEXT), 0, []
    for count in chunks:
        part = torch.from_numpy(ids[None, start : start + count])
        parts.append(engine.forward(part, cache, last_only=True)[0, -1].numpy())
        start += count
    assert start == CONTEXT
    return np.stack(parts[-2:])
