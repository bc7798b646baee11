"""`assay model`: exit codes, JSON, and errors without a traceback, through the root command as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from market.models.pack import Pack
from tests.unit.market.models import sources
from tests.unit.market.models.test_pack import TINY_MODEL_ID


def assay(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "assay", "model", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pack_show_and_verify_of_a_gguf_agree_on_its_id(tmp_path: Path) -> None:
    source = sources.write_gguf(tmp_path / "tiny.gguf", sources.floats())
    bits = [10] * sources.SHAPE.layers
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        f'name = "tiny"\nlicence = "Apache-2.0"\ncontext = 512\n'
        f"[fraction_bits]\nquery = {bits}\nkey = {bits}\nvalue = {bits}\n"
    )
    packed = assay("pack", source, "--recipe", recipe, "--out", tmp_path / "pack", "--json")
    assert packed.returncode == 0, packed.stderr
    document = json.loads(packed.stdout)
    assert document["state"] == "packed"
    verified = assay("verify", tmp_path / "pack", "--json")
    assert json.loads(verified.stdout)["modelId"] == document["modelId"]
    recipe.write_text(f'model_id = "0x{"22" * 32}"\n' + recipe.read_text())
    refused = assay("pack", source, "--recipe", recipe, "--out", tmp_path / "other")
    assert refused.returncode == 2
    assert "model_id" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_show_prints_id_limits_and_bounds(tiny_pack: Pack) -> None:
    shown = assay("show", tiny_pack.path)
    assert shown.returncode == 0
    for part in (TINY_MODEL_ID, "context 512", "accumulator", "int32", "weightsRoot"):
        assert part in shown.stdout


def test_verify_of_a_corrupted_part_exits_with_its_name_and_no_traceback(copy_of_pack: Path) -> None:
    (copy_of_pack / "tokenizer.json").write_bytes(b"{}")
    refused = assay("verify", copy_of_pack)
    assert refused.returncode == 2
    assert "tokenizer.json" in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    as_json = assay("show", copy_of_pack, "--json")
    assert as_json.returncode == 2
    assert json.loads(as_json.stdout)["error"]["details"]["part"] == "tokenizer.json"


def test_pack_into_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    refused = assay("pack", "x.gguf", "--recipe", "y.toml", "--out", tmp_path / "mine")
    assert refused.returncode == 2
    assert "holds no pack" in refused.stderr
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"
