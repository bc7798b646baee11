"""Reference, torch and numpy engine on tiny models of many shapes: equal to the last bit however the work is cut."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from market.inference import reference
from market.inference.batch import Part, Want
from market.inference.numpy_engine import NumpyEngine
from market.inference.torch_engine import TorchEngine
from market.models.pack import Pack
from market.models.packer import write_pack
from market.models.source import Shape
from market.models.tiny import TINY, RandomSource, tiny_recipe
from market.types import Finish

SHAPES = {
    "tied": TINY,
    "untied": dataclasses.replace(TINY, tied=False),
    "one-layer": dataclasses.replace(TINY, layers=1),
    "no-grouping": dataclasses.replace(TINY, kv_heads=6),
    "one-kv-head": dataclasses.replace(TINY, kv_heads=1),
    "wide-heads": dataclasses.replace(TINY, heads=2, kv_heads=1, head_size=64),
    "narrow-heads": dataclasses.replace(TINY, heads=4, kv_heads=2, head_size=6),
    "odd-widths": dataclasses.replace(TINY, hidden=49, feed_forward=101),
    "large-epsilon": dataclasses.replace(TINY, epsilon=0.1, rope_base=500000.0),
}


def run(engine: TorchEngine, ids: np.ndarray, chunks: list[int]) -> np.ndarray:  # type: ignore[type-arg]
    """ids [B, T] → logits [B, T, V], fed in the given chunks."""
    cache, start, parts = engine.new_cache(len(ids), ids.shape[1]), 0, []
    for count in chunks:
        parts.append(engine.forward(torch.from_numpy(ids[:, start : start + count]), cache))
        start += count
    assert start == ids.shape[1]
    return torch.cat(parts, 1).numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_forward_of_every_shape_equals_the_reference(name: str, tmp_path: Path) -> None:
    shape: Shape = SHAPES[name]
    pack = write_pack(RandomSource(shape, name), tiny_recipe(shape), tmp_path / "pack")
    ids = np.random.default_rng(7).integers(0, shape.vocabulary, (3, 21))
    expected = np.stack([reference.forward(pack.model, row.tolist()) for row in ids])
    assert len(np.unique(expected)) > 100
    for product in ("int8", "float32"):
        engine = TorchEngine(pack.model, product=product)
        for chunks in ([21], [1] * 21, [5, 1, 1, 11, 3]):
            assert np.array_equal(run(engine, ids, chunks), expected), (product, chunks)
    last_resort = NumpyEngine(pack.model)
    for chunks in ([21], [1] * 21, [5, 1, 1, 11, 3]):
        slots, start = [last_resort.new_slot(21) for _ in ids], 0
        for count in chunks:  # the three sequences in one step
            parts = [Part(slot, row[start : start + count], Want.LOGITS) for slot, row in zip(slots, ids, strict=True)]
            start += count
            assert np.array_equal(np.array(last_resort.step(parts)), expected[:, start - 1]), ("numpy", chunks)


def test_forward_of_one_row_ignores_the_rest_of_its_batch(tiny_pack: Pack, tiny_engine: TorchEngine) -> None:
    ids = np.random.default_rng(3).integers(0, 288, (4, 9))
    together = run(tiny_engine, ids, [9])
    for row in range(4):
        assert np.array_equal(run(tiny_engine, ids[row : row + 1], [9])[0], together[row])
    assert np.array_equal(together[2], reference.forward(tiny_pack.model, ids[2].tolist()))


def test_forward_longer_than_a_prefill_chunk_equals_the_reference(tiny_pack: Pack, tiny_engine: TorchEngine) -> None:
    ids = np.random.default_rng(11).integers(0, 288, 300).tolist()
    expected = reference.greedy(tiny_pack.model, ids, 3, [])
    assert list(tiny_engine.generate(ids, 3, []).ids) == expected


def test_numpy_engine_of_a_prompt_longer_than_its_chunk_equals_the_reference(tiny_pack: Pack) -> None:
    ids = np.random.default_rng(11).integers(0, 288, 150).tolist()
    assert list(NumpyEngine(tiny_pack.model).generate(ids, 3, []).ids) == reference.greedy(tiny_pack.model, ids, 3, [])


def test_forward_at_the_last_position_of_the_context_equals_the_reference(
    tiny_pack: Pack, tiny_engine: TorchEngine
) -> None:
    ids = np.random.default_rng(12).integers(0, 288, tiny_pack.limits.context - 2).tolist()
    generation = tiny_engine.generate(ids, 2, [])
    assert list(generation.ids) == reference.greedy(tiny_pack.model, ids, 2, [])
    assert generation.finish is Finish.LENGTH


def test_generate_of_repeated_calls_is_the_same(tiny_pack: Pack, tiny_engine: TorchEngine) -> None:
    first = tiny_engine.generate([1, 70, 80], 24, [])
    assert tiny_engine.generate([1, 70, 80], 24, []) == first
    assert list(first.ids) == reference.greedy(tiny_pack.model, [1, 70, 80], 24, [])
    assert len(set(first.ids)) > 3
