"""pytest plugin of `tools.security.branches`: lets instrumented contracts be deployed and writes what was asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.unit.contracts.revm import RevmChain
from tools.security.environment import ASKED

_chains: list[RevmChain] = []
RevmChain.code_size_limit = 1 << 20  # probes make contracts longer than any chain allows
RevmChain.made = _chains.append


def pytest_sessionfinish() -> None:
    asked = set[str]().union(*(chain.asked() for chain in _chains))
    Path(os.environ[ASKED]).write_text(json.dumps(sorted(asked)), encoding="utf-8")
