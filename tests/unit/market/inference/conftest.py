"""Models and engines that several test files need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from market.inference.torch_engine import TorchEngine
from market.models.pack import Pack
from market.models.tiny import write_tiny_pack
from tests.unit.market.models import packs


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Short products on two threads wait for each other longer than they compute, the more so on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return write_tiny_pack(Path(tmp_path_factory.mktemp("tiny")) / "pack")


@pytest.fixture(scope="session")
def tiny_engine(tiny_pack: Pack) -> TorchEngine:
    return TorchEngine(tiny_pack.model)


@pytest.fixture(scope="session")
def real_pack() -> Pack:
    return packs.real_pack()
