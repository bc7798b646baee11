"""All 2,048 positions of the context: proved at packing, and equal in both engines to the last one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from market.hashing import keccak256
from market.inference import reference, reference_sampling
from market.inference.engine import check_request
from market.inference.errors import PromptError
from market.inference.sampling import Sampling
from market.inference.torch_engine import TorchEngine
from market.models import bounds
from market.models.errors import BoundError
from market.models.pack import Pack
from market.models.packer import write_pack
from market.models.tiny import TINY, RandomSource, tiny_recipe
from market.types import Finish

CONTEXT = 2048


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    shape = dataclasses.replace(TINY, context=CONTEXT)
    return write_pack(RandomSource(shape, "long"), tiny_recipe(shape), Path(tmp_path_factory.mktemp("long")) / "pack")


@pytest.fixture(scope="module")
def engine(pack: Pack) -> TorchEngine:
    return TorchEngine(pack.model)


def test_every_position_of_the_context_equals_the_reference(pack: Pack, engine: TorchEngine) -> None:
    """A prompt and 40 sampled tokens fill the context; the same ids in pieces give the reference's logits."""
    prompt = np.random.default_rng(2).integers(0, 288, CONTEXT - 40).tolist()
    sampling = Sampling(65536, 0, 62259, keccak256(b"long"))
    generation = engine.generate(prompt, 40, [], sampling=sampling)
    assert (len(generation.ids), generation.finish) == (40, Finish.LENGTH)
    ids = [*prompt, *generation.ids]
    expected = reference.forward(pack.model, ids)
    cache, start, parts = engine.new_cache(1, CONTEXT), 0, []
    for count in (1000, 1, 256, 700, 90, 1):
        parts.append(engine.forward(torch.tensor([ids[start : start + count]]), cache)[0])
        start += count
    assert start == CONTEXT
    assert np.array_equal(torch.cat(parts).numpy(), expected)
    rows = expected[len(prompt) - 1 : -1]
    picked = [reference_sampling.pick(row, t, sampling, pack.model.tables) for t, row in enumerate(rows)]
    assert picked == list(generation.ids)


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
def test_2048_positions_of_the_real_model_equal_the_reference(real_pack: Pack) -> None:
    """Five minutes of the reference; both products, in several pieces, and a generation to the last position."""
    ids = np.random.default_rng(3).integers(0, real_pack.limits.vocabulary, CONTEXT)
    engines = {name: TorchEngine(real_pack.model, product=name) for name in ("int8", "float32")}
    generation = engines["int8"].generate(ids[: CONTEXT - 8].tolist(), 8, [])
    assert (len(generation.ids), generation.finish) == (8, Finish.LENGTH)
    ids[CONTEXT - 8 :] = generation.ids
    expected = reference.forward(real_pack.model, ids.tolist(), first=CONTEXT - 9)
    assert [reference.argmax(row) for row in expected[:-1]] == list(generation.ids)
    for name, chunks in (("int8", [256] * 8), ("int8", [1000, 1, 7, 1040]), ("float32", [512] * 4)):
        cache, start = engines[name].new_cache(1, CONTEXT), 0
        for count in chunks:
            part = torch.from_numpy(ids[None, start : start + count])
            logits = engines[name].forward(part, cache, last_only=True)
            start += count
        assert np.array_equal(logits[0, -1].numpy(), expected[-1]), (name, chunks)
