from __future__ import annotations

from pathlib import Path

import pytest

from market.models.pack import load_pack
from tests.unit.market.verification.setting import Setting, setting


@pytest.fixture(scope="session")
def tiny(tiny_pack: Path) -> Setting:
    """71 positions of the tiny model, two blocks; 12 of them answer."""
    return setting(load_pack(tiny_pack))
