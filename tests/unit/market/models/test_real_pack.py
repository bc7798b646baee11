"""The demo's model: packing it here gives the modelId that the recipe states, in little memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

from market.models import recipe as recipes
from market.models.fetch import fetch_source, present
from market.models.pack import Pack, verify_pack
from tests.unit.market.models.packs import DOWNLOADS, RECIPE

PEAK_LIMIT = 1 << 30  # bytes

PACK_AND_MEASURE = """
import json, re, sys
from pathlib import Path
from market.models import recipe
from market.models.packer import open_source, write_pack
pack = write_pack(open_source(Path(sys.argv[1])), recipe.read(Path(sys.argv[2])), Path(sys.argv[3]))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]  # getrusage counts the parent, too
print(json.dumps(["0x" + pack.model_id.hex(), 1024 * int(peak)]))
"""


def test_pack_of_the_real_model_has_the_stated_id_within_a_gigabyte(tmp_path: Path) -> None:
    recipe = recipes.read(RECIPE)
    source = fetch_source(recipe, DOWNLOADS)
    command = [sys.executable, "-c", PACK_AND_MEASURE, str(source), str(RECIPE), str(tmp_path / "pack")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    model_id, peak = json.loads(output)
    assert model_id == recipe.model_id
    assert peak < PEAK_LIMIT


def test_verify_of_the_real_pack_rebuilds_its_roots(real_pack: Pack) -> None:
    assert verify_pack(real_pack.path).model_id == real_pack.model_id
    assert present(recipes.read(RECIPE), real_pack.path) is not None


def test_bounds_of_the_real_pack_are_those_of_the_design(real_pack: Pack) -> None:
    accumulators = {bound["operation"]: bound for bound in real_pack.manifest["bounds"] if "l1Max" in bound}
    assert accumulators["down"] == {"operation": "down", "l1Max": 57902, "accumulatorBits": 31, "type": "int32"}
    assert {bound["type"] for bound in accumulators.values()} == {"int32"}
    others = {(b["operation"], b["quantity"]): b["bits"] for b in real_pack.manifest["bounds"] if "quantity" in b}
    assert others["residual", "value"] <= 40
    assert others["scores", "value"] <= 33
    assert others["gate", "value"] <= 25
    assert others["up", "value"] <= 25


def test_recipe_states_the_hash_of_its_calibration_text() -> None:
    calibration = tomllib.loads(RECIPE.read_text())["calibration"]
    assert hashlib.sha256((RECIPE.parent / calibration["text"]).read_bytes()).hexdigest() == calibration["sha256"]
