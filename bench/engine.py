"""The integer engine beside llama.cpp and torch float32 on the same weights: speed, memory, start-up, quality."""

from __future__ import annotations

from pathlib import Path

from bench import engine_quality, engine_speed, engine_start, handbook
from bench.common import Row
from bench.peer import LlamaCpp, command
from market.models import recipe
from market.models.fetch import ensure_pack, fetch_source
from market.models.packer import open_source
from market.models.text import load_text

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "smollm2-135m-instruct.toml"
PACK = ROOT / "build" / "models" / "smollm2-135m-instruct"
DOWNLOADS = ROOT / "build" / "downloads"


def run() -> list[Row]:
    """All rows of the engine: a quarter of an hour on two cores, and ten minutes once before to build llama.cpp."""
    pack = ensure_pack(RECIPE, PACK, DOWNLOADS)
    path = fetch_source(recipe.read(RECIPE), DOWNLOADS)
    source = open_source(path)
    ids = load_text(pack).encode(handbook.text(DOWNLOADS))
    peers = command(path, DOWNLOADS)
    with LlamaCpp.start(peers) as peer:
        speed, label = engine_speed.rows(pack, source, peer, ids), peer.label
    return [*speed, *engine_start.rows(pack, peers, label, ids), *engine_quality.rows(pack, source, ids)]
