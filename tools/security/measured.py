"""Whether what was measured once is said of the contracts as they are: by a digest of their bytecode."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tools.compiler import Artefact, compile_sources, read_sources

COUNTED = ("caught", "survived")
KEY = "contracts"
"""Of a report: the digest of what it was measured on."""


def digests(compiled: Mapping[str, Mapping[str, Artefact]]) -> dict[str, str]:
    """Name → digest of the bytecode, of every contract that `compile_sources` gave."""
    return {
        name: hashlib.sha256(artefact["bytecode"].encode()).hexdigest()[:16]
        for contracts in compiled.values()
        for name, artefact in contracts.items()
    }


def present() -> dict[str, str]:
    """The same of the contracts that are shipped, as they are now; compiles them where nobody did."""
    compiled = compile_sources(read_sources())
    return digests({path: made for path, made in compiled.items() if not path.startswith("contracts/test/")})


def digest(contracts: Mapping[str, str]) -> str:
    """One digest of them all."""
    return hashlib.sha256(json.dumps(sorted(contracts.items())).encode()).hexdigest()[:16]


def is_of(report: Mapping[str, Any], contracts: Mapping[str, str]) -> bool:
    """Whether a report was measured on these contracts.

    One of mutants that was written without a digest says it by its entries: as many as were tried must be of them.
    """
    if KEY in report:
        return str(report[KEY]) == digest(contracts)
    holding = [entry for entry in report.get("mutants", {}).values() if _holds(entry, contracts)]
    return 0 < int(report.get("tried", 0)) <= len(holding)


def _holds(entry: Mapping[str, Any], contracts: Mapping[str, str]) -> bool:
    ours = {name: made for name, made in entry["of"].items() if name in contracts}
    return entry["result"] in COUNTED and bool(ours) and all(contracts[name] == made for name, made in ours.items())
