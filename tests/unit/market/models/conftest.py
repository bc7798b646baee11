"""A tiny pack to read, and a place to damage copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from market.models.pack import Pack
from market.models.tiny import write_tiny_pack
from tests.unit.market.models import packs


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return write_tiny_pack(Path(tmp_path_factory.mktemp("tiny")) / "pack")


@pytest.fixture
def copy_of_pack(tiny_pack: Pack, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pack.path, tmp_path / "copy"))


@pytest.fixture(scope="session")
def real_pack() -> Pack:
    return packs.real_pack()
