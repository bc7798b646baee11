"""Everything under contracts/, compiled at most once for the same sources."""

from __future__ import annotations

from functools import cache

from tools.compiler import Artefact, compile_sources, read_sources


@cache
def artefacts() -> dict[str, Artefact]:
    """Contract name → artefact, test contracts included."""
    compiled = compile_sources(read_sources())
    return {name: artefact for contracts in compiled.values() for name, artefact in contracts.items()}
