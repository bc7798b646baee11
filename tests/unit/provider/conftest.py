"""Fixtures that the provider's unit tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provider.journal import Journal
from tests.unit.provider import samples
from tests.unit.provider.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "journal.sqlite")
    yield desk
    desk.journal.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "data" / "journal.sqlite", samples.OWNER)
    yield journal
    journal.close()
