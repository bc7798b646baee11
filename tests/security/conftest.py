"""The world of the contracts' unit tests."""

from __future__ import annotations

from tests.unit.contracts.conftest import deployed, world

__all__ = ["deployed", "world"]
