"""What every suite shares: the tiny pack and the real model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from market.models.fetch import ensure_pack
from market.models.tiny import write_tiny_pack

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "smollm2-135m-instruct.toml"
REAL_PACK = ROOT / "build" / "models" / "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of the same architecture that takes milliseconds."""
    path = tmp_path_factory.mktemp("tiny") / "pack"
    write_tiny_pack(path)
    return path


@pytest.fixture(scope="session")
def real_pack() -> Path:
    """SmolLM2-135M-Instruct, made once and shared with the demo."""
    ensure_pack(RECIPE, REAL_PACK)
    return REAL_PACK
