"""How deep the long sweeps of `make test-slow` go, and how they are shared out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

DEPTH = int(os.environ.get("ASSAY_DEPTH", "1"))
"""At 1 the whole of `make test-slow` takes about an hour on two cores; at more, state machines go further."""


def alone(name: str, values: Iterable[Any]) -> list[Any]:
    """Parameters whose tests need not stay together: any worker that is free takes the next."""
    return [pytest.param(value, marks=pytest.mark.xdist_group(f"{name} {value}")) for value in values]
