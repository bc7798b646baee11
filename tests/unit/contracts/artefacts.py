"""Everything under contracts/, compiled at most once for the same sources."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

from tools.compiler import Artefact, compile_sources, read_sources
from tools.security.environment import INSTEAD


@cache
def artefacts() -> dict[str, Artefact]:
    """Contract name → artefact, test contracts included. Mutants or instrumented ones where tools/security says so."""
    if INSTEAD in os.environ:
        given: dict[str, Artefact] = json.loads(Path(os.environ[INSTEAD]).read_text(encoding="utf-8"))
        return given
    compiled = compile_sources(read_sources())
    return {name: artefact for contracts in compiled.values() for name, artefact in contracts.items()}
