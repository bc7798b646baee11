"""GGUF files and snapshots: the same floats give the same integers, and what cannot be packed is refused by name."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from market.models.errors import SourceError
from market.models.packer import open_source, write_pack
from market.models.text import load_text
from tests.unit.market.models import sources

FLOATS = sources.floats()


def test_pack_of_a_snapshot_and_of_a_gguf_of_the_same_floats_has_one_weights_root(tmp_path: Path) -> None:
    snapshot = sources.write_snapshot(tmp_path / "snapshot", FLOATS, torch.float32)
    file = sources.write_gguf(tmp_path / "model.gguf", FLOATS)
    first = write_pack(open_source(snapshot), sources.recipe(), tmp_path / "first")
    second = write_pack(open_source(file), sources.recipe(), tmp_path / "second")
    assert first.roots.weights_root == second.roots.weights_root
    assert first.roots.tables_root == second.roots.tables_root
    assert first.roots.program_root == second.roots.program_root


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pack_of_a_snapshot_in_other_float_types_has_the_same_weights_root(dtype: torch.dtype, tmp_path: Path) -> None:
    plain = sources.write_snapshot(tmp_path / "plain", FLOATS, torch.float32)
    other = sources.write_snapshot(tmp_path / "other", FLOATS, dtype)
    packs = [
        write_pack(open_source(folder), sources.recipe(), tmp_path / folder.name / "pack") for folder in (plain, other)
    ]
    assert packs[0].roots.weights_root == packs[1].roots.weights_root


@pytest.mark.parametrize("quantisation", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_read_of_a_quantised_gguf_is_what_gguf_dequantises(quantisation: str, tmp_path: Path) -> None:
    source = open_source(sources.write_gguf(tmp_path / "model.gguf", FLOATS, quantisation=quantisation))
    kind = gguf.GGMLQuantizationType[quantisation]
    for name in ("embedding", "layers.1.down", "layers.0.query"):
        original = FLOATS[name].astype(np.float32)  # rows are quantised one by one, so their order does not matter
        expected = gguf.dequantize(gguf.quantize(original, kind), kind)
        assert np.array_equal(np.concatenate(list(source.read(name))), expected)


def test_tokenizer_of_a_gguf_splits_digits_and_keeps_special_tokens(tmp_path: Path) -> None:
    source = open_source(sources.write_gguf(tmp_path / "model.gguf", FLOATS))
    text = load_text(write_pack(source, sources.recipe(), tmp_path / "pack"))
    ids = text.encode("<|im_start|>the 42<|im_end|>")
    assert ids[0] == 1
    assert ids[-1] == 2
    assert text.decode(ids) == "the 42"
    assert text.decode(ids, keep_special=True) == "<|im_start|>the 42<|im_end|>"
    assert len(text.encode("42")) == 2


def test_template_of_a_gguf_binds_the_special_tokens_it_names(tmp_path: Path) -> None:
    source = open_source(sources.write_gguf(tmp_path / "model.gguf", FLOATS))
    text = load_text(write_pack(source, sources.recipe(), tmp_path / "pack"))
    rendered = text.render([{"role": "user", "content": "hi"}])
    assert rendered == "<|im_start|><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ({"model_type": "mamba"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_size": None}, "config.json"),
        ({"num_hidden_layers": 3}, "model.layers.2"),
        ({"num_hidden_layers": 1}, "model.layers.1"),
        ({"intermediate_size": 95}, "mlp"),
    ],
)
def test_pack_of_a_snapshot_with_another_architecture_is_refused_by_name(
    override: dict[str, object], part: str, tmp_path: Path
) -> None:
    folder = sources.write_snapshot(tmp_path / "snapshot", FLOATS, torch.float32, **override)
    layers = 2 if override.get("num_hidden_layers") is None else int(str(override["num_hidden_layers"]))
    bits = (10,) * layers
    fractions = type(sources.recipe().fractions)(bits, bits, bits)
    with pytest.raises(SourceError) as caught:
        write_pack(open_source(folder), sources.recipe(fractions=fractions), tmp_path / "pack")
    assert part in caught.value.part
    assert "Nothing was written" in str(caught.value)
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("options", [{"architecture": "gemma"}, {"rope_scaling": True}])
def test_open_of_a_gguf_of_another_kind_is_refused(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        open_source(sources.write_gguf(tmp_path / "model.gguf", FLOATS, **options))


def test_open_of_a_gguf_with_an_unknown_tensor_is_refused_by_name(tmp_path: Path) -> None:
    extra = {**FLOATS, "layers.9.gate": FLOATS["layers.0.gate"]}
    with pytest.raises(SourceError) as caught:
        open_source(sources.write_gguf(tmp_path / "model.gguf", extra))
    assert caught.value.part == "blk.9.ffn_gate.weight"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pack_of_floats_that_are_no_numbers_is_refused_by_name(value: float, tmp_path: Path) -> None:
    broken = {**FLOATS, "layers.1.up": FLOATS["layers.1.up"].copy()}
    broken["layers.1.up"][3, 4] = value
    folder = sources.write_snapshot(tmp_path / "snapshot", broken, torch.float32)
    file = sources.write_gguf(tmp_path / "model.gguf", broken)
    for path, part in ((folder, "model.layers.1.mlp.up_proj.weight"), (file, "blk.1.ffn_up.weight")):
        with pytest.raises(SourceError) as caught:
            write_pack(open_source(path), sources.recipe(), tmp_path / "pack")
        assert caught.value.part == part


def test_open_of_files_that_are_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("not a model")
    (tmp_path / "zero.gguf").write_bytes(b"")
    (tmp_path / "model.bin").write_bytes(b"1234")
    folder = sources.write_snapshot(tmp_path / "cut", FLOATS, torch.float32)
    shard = folder / "model-0.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    for name in ("empty", "text.gguf", "zero.gguf", "model.bin", "cut", "missing"):
        with pytest.raises(SourceError):
            open_source(tmp_path / name)
