"""Packs that tests share: the real model's, made once under build/, and tiny ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from market.models.fetch import ensure_pack
from market.models.pack import Pack

ROOT = Path(__file__).parents[4]
RECIPE = ROOT / "recipes" / "smollm2-135m-instruct.toml"
PACK = ROOT / "build" / "models" / "smollm2-135m-instruct"
DOWNLOADS = ROOT / "build" / "downloads"


@cache
def real_pack() -> Pack:
    """SmolLM2-135M-Instruct, packed unless `make demo` or an earlier run has done it."""
    return ensure_pack(RECIPE, PACK, DOWNLOADS)
