"""Packing and loading: the same bytes every time, all or nothing, and a bad part is named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from market.models import packer
from market.models.errors import BoundError, PackError, RecipeError, SourceError
from market.models.pack import FILES, Pack, load_pack, load_pack_beside, verify_pack
from market.models.packer import write_pack
from market.models.program import Fractions
from market.models.tiny import TINY, RandomSource, tiny_recipe, write_tiny_pack

TINY_MODEL_ID = "0x2be334bf940d2e0956e502b9d687708dea115661562e0744f3c59d6d790ee3cc"


def restate(folder: Path, name: str) -> None:
    """Makes the manifest's hash of a file true again."""
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / name).read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_pack_of_the_tiny_model_has_the_stated_id(tiny_pack: Pack) -> None:
    assert "0x" + tiny_pack.model_id.hex() == TINY_MODEL_ID


def test_pack_written_twice_is_the_same_to_the_byte(tiny_pack: Pack, tmp_path: Path) -> None:
    again = write_tiny_pack(tmp_path / "again")
    for name in (*FILES, "manifest.json"):
        assert again.read_file(name) == tiny_pack.read_file(name), name


def test_pack_of_another_seed_is_another_model(tiny_pack: Pack, tmp_path: Path) -> None:
    assert write_tiny_pack(tmp_path / "other", seed="other").model_id != tiny_pack.model_id


def test_pack_files_are_safetensors_to_the_library(tiny_pack: Pack) -> None:
    with safe_open(tiny_pack.path / "weights.safetensors", "np") as file:
        layer = tiny_pack.model.layers[1]
        assert np.array_equal(file.get_tensor("layers.1.down.weight"), layer.down.weight)
        assert np.array_equal(file.get_tensor("layers.1.down.multiplier"), layer.down.multiplier)
        assert np.array_equal(file.get_tensor("layers.1.attention_norm"), layer.attention_norm)


def test_loaded_weights_cannot_be_written(tiny_pack: Pack) -> None:
    with pytest.raises(ValueError, match="read-only"):
        tiny_pack.model.embedding.weight[0, 0] = 1


def test_verify_of_a_whole_pack_returns_it(tiny_pack: Pack) -> None:
    assert verify_pack(tiny_pack.path).model_id == tiny_pack.model_id


@pytest.mark.parametrize("name", FILES)
def test_load_of_a_corrupted_part_names_it(name: str, copy_of_pack: Path) -> None:
    path = copy_of_pack / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackError) as caught:
        load_pack(copy_of_pack)
    assert caught.value.part == name
    assert "corrupted" in str(caught.value)


def test_work_beside_the_check_of_bad_weights_is_dropped(copy_of_pack: Path) -> None:
    """Whether the work went well or died of the weights, the caller hears of the weights alone."""
    data = bytearray((copy_of_pack / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (copy_of_pack / "weights.safetensors").write_bytes(data)
    seen: list[Pack] = []

    def die(pack: Pack) -> None:
        seen.append(pack)
        raise RuntimeError

    for work in (seen.append, die):
        with pytest.raises(PackError, match=r"weights\.safetensors is corrupted"):
            load_pack_beside(copy_of_pack, work)
    assert len(seen) == 2  # the check did not come first


def test_work_beside_the_check_of_a_whole_pack_is_returned(tiny_pack: Pack) -> None:
    pack, context = load_pack_beside(tiny_pack.path, lambda mapped: mapped.limits.context)
    assert (pack.model_id, context) == (tiny_pack.model_id, tiny_pack.limits.context)


@pytest.mark.parametrize("name", FILES)
def test_load_of_a_cut_or_missing_part_names_it(name: str, copy_of_pack: Path) -> None:
    path = copy_of_pack / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PackError) as caught:
        load_pack(copy_of_pack)
    assert caught.value.part == name
    path.unlink()
    with pytest.raises(PackError) as caught:
        load_pack(copy_of_pack)
    assert caught.value.part == name


@pytest.mark.parametrize(
    ("name", "root"),
    [("weights.safetensors", "weightsRoot"), ("tables.safetensors", "tablesRoot"), ("template.jinja", "templateHash")],
)
def test_verify_of_a_part_swapped_with_its_hash_names_the_root(name: str, root: str, copy_of_pack: Path) -> None:
    path = copy_of_pack / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    restate(copy_of_pack, name)
    load_pack(copy_of_pack)  # the manifest alone cannot tell
    with pytest.raises(PackError) as caught:
        verify_pack(copy_of_pack)
    assert caught.value.part == root


def test_verify_of_other_bounds_in_the_manifest_names_them(copy_of_pack: Path) -> None:
    edit_manifest(copy_of_pack, bounds=[])
    with pytest.raises(PackError) as caught:
        verify_pack(copy_of_pack)
    assert caught.value.part == "bounds"


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"architecture": "mamba"},
        {"name": 5},
        {"modelId": "0x00"},
        {"modelId": "0x" + "11" * 32},
        {"roots": {}},
        {"files": {}},
        {"limits": {"context": 512, "vocabulary": 288}},
        {"limits": {"context": 4096, "vocabulary": 288, "stopTokens": []}},
        {"limits": {"context": 512, "vocabulary": 288, "stopTokens": [288]}},
        {"limits": {"context": True, "vocabulary": 288, "stopTokens": []}},
    ],
)
def test_load_with_a_contradictory_manifest_is_refused(changes: dict[str, object], copy_of_pack: Path) -> None:
    edit_manifest(copy_of_pack, **changes)
    with pytest.raises(PackError) as caught:
        load_pack(copy_of_pack)
    assert caught.value.part == "manifest.json"


@pytest.mark.parametrize("content", [None, "", "[]", "{", "{}"])
def test_load_without_a_usable_manifest_is_refused(content: str | None, copy_of_pack: Path) -> None:
    (copy_of_pack / "manifest.json").unlink()
    if content is not None:
        (copy_of_pack / "manifest.json").write_text(content)
    with pytest.raises(PackError, match=r"manifest\.json"):
        load_pack(copy_of_pack)


def test_load_of_a_program_that_is_not_its_own_shapes_is_refused(copy_of_pack: Path) -> None:
    program = json.loads((copy_of_pack / "program.json").read_text())
    program["operations"][1], program["operations"][2] = program["operations"][2], program["operations"][1]
    (copy_of_pack / "program.json").write_text(json.dumps(program))
    restate(copy_of_pack, "program.json")
    with pytest.raises(PackError) as caught:
        load_pack(copy_of_pack)
    assert caught.value.part == "program.json"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source_sha256": "00" * 32}, "source.sha256"),
        ({"context": 513}, "context"),
        ({"context": 0}, "context"),
        ({"fractions": Fractions((10,), (10,), (10,))}, "fraction_bits.query"),
        ({"stop_tokens": (288,)}, "stop_tokens"),
        ({"stop_tokens": tuple(range(9))}, "stop_tokens"),
        ({"model_id": "0x" + "11" * 32}, "model_id"),
    ],
)
def test_pack_with_a_recipe_of_another_model_is_refused(changes: dict[str, object], field: str, tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny_recipe(), **changes)  # type: ignore[arg-type]
    with pytest.raises(RecipeError) as caught:
        write_pack(RandomSource(), recipe, tmp_path / "pack")
    assert caught.value.field == field
    assert list(tmp_path.glob("[!.]*")) == []
    assert list(tmp_path.glob(".pack.partial-*")) == []


def test_pack_whose_bound_fails_is_refused_and_leaves_the_old_pack(tmp_path: Path) -> None:
    old = write_tiny_pack(tmp_path / "pack")
    sixteen = (16,) * TINY.layers
    recipe = dataclasses.replace(tiny_recipe(), fractions=Fractions(sixteen, sixteen, sixteen))
    with pytest.raises(BoundError):
        write_pack(RandomSource(), recipe, tmp_path / "pack")
    assert load_pack(tmp_path / "pack").model_id == old.model_id


def test_pack_over_an_older_pack_replaces_it(tmp_path: Path) -> None:
    write_tiny_pack(tmp_path / "pack", seed="older")
    assert "0x" + write_tiny_pack(tmp_path / "pack").model_id.hex() == TINY_MODEL_ID
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pack.lock", "pack"]


class StalledSource(RandomSource):
    """Tells that it has begun, then never delivers its last tensor."""

    def read(self, name: str):  # type: ignore[no-untyped-def]
        if name == "output_norm":
            time.sleep(60)
        return super().read(name)


def _pack_slowly(path: str) -> None:
    write_pack(StalledSource(), tiny_recipe(), Path(path))


def test_pack_after_a_killed_run_succeeds_and_clears_what_it_left(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_pack_slowly, args=(str(tmp_path / "pack"),))
    process.start()
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".pack.partial-*/pack/weights.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "pack").exists()
    assert "0x" + write_tiny_pack(tmp_path / "pack").model_id.hex() == TINY_MODEL_ID
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pack.lock", "pack"]


class WideTokenizer(RandomSource):
    """Has more tokens than the embedding has rows."""

    def __init__(self) -> None:
        super().__init__(dataclasses.replace(TINY, vocabulary=200))


class BrokenTokenizer(RandomSource):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = b"{}"


@pytest.mark.parametrize("source", [WideTokenizer(), BrokenTokenizer()])
def test_pack_with_an_unfitting_tokenizer_is_refused(source: RandomSource, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        write_pack(source, tiny_recipe(), tmp_path / "pack")
    assert caught.value.part == "tokenizer.json"


def test_progress_of_packing_counts_to_the_whole(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    write_pack(RandomSource(), tiny_recipe(), tmp_path / "pack", lambda *step: heard.append(step))
    assert heard[-1] == ("packed", 1, 1)
    done = [done for stage, done, total in heard if stage.startswith("quantising")]
    assert done == sorted(done)
    packer.silent("nobody listens", 0, 1)
