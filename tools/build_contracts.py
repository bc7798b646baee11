"""Writes market/abi: ABI and bytecode of the contracts that running Assay needs, so that running needs no compiler, and
the compiler's input that gives this bytecode, for block explorers.

python -m tools.build_contracts           writes
python -m tools.build_contracts --check   exits 1 where market/abi is stale, and says which file
"""

from __future__ import annotations

import argparse
import json
import sys

from market.artefacts import LIBRARIES, STEPS
from tools.compiler import (
    ROOT,
    SETTINGS,
    Artefact,
    compile_sources,
    compiler_version,
    read_sources,
)

SHIPPED = {
    "contracts/Vault.sol": "Vault",
    "contracts/Registry.sol": "Registry",
    **{f"contracts/steps/{name}.sol": name for name in STEPS},
    "contracts/Judge.sol": "Judge",
    "contracts/Disputes.sol": "Disputes",
    **{f"contracts/libraries/{name}.sol": name for name in LIBRARIES},
    "contracts/Jobs.sol": "Jobs",
    "contracts/EzklVerifier.sol": "EzklVerifier",
    "contracts/ProofJobs.sol": "ProofJobs",
    "contracts/test/TestToken.sol": "TestToken",
}
"""TestToken is the development chain's money: `assay up` and the demo deploy it."""
ABI = ROOT / "market" / "abi"
STANDARD_INPUT = "standard_input.json"
_CODE = ("bytecode", "deployedBytecode", "linkReferences", "deployedLinkReferences", "immutableReferences")


def artefacts() -> dict[str, Artefact]:
    """Contract name → artefact, compiled from the sources as they are."""
    compiled = compile_sources(read_sources())
    return {name: compiled[path][name] for path, name in SHIPPED.items()}


def render(artefact: Artefact) -> str:
    """The file's text: the same for the same artefact, one ABI entry a line."""
    entries = ",\n  ".join(json.dumps(entry) for entry in artefact["abi"])
    head, tail = (
        ",\n ".join(f"{json.dumps(key)}: {json.dumps(artefact[key])}" for key in keys)
        for keys in (("contractName", "sourceName"), _CODE)
    )
    return f'{{\n {head},\n "abi": [\n  {entries}\n ],\n {tail}\n}}\n'


def render_input(built: dict[str, Artefact]) -> str:
    """The standard-JSON input for all shipped contracts, less the selection of outputs, and the compiler's version.

    It has the sources that these contracts import and no others; a test compiles it and compares the bytecode.
    """
    paths = sorted({path for artefact in built.values() for path in artefact["sources"]})
    document = {
        "compilerVersion": compiler_version(),
        "language": "Solidity",
        "settings": SETTINGS,
        "sources": {path: {"content": (ROOT / path).read_text(encoding="utf-8")} for path in paths},
    }
    return json.dumps(document, indent=1) + "\n"


def files() -> dict[str, str]:
    """Name in market/abi → text, of every file that belongs there."""
    built = artefacts()
    return {f"{name}.json": render(artefact) for name, artefact in built.items()} | {
        STANDARD_INPUT: render_input(built)
    }


def stale() -> list[str]:
    """Files of market/abi that are missing, differ from the sources or belong to no contract."""
    wanted = files()
    found = {path.name: path.read_text(encoding="utf-8") for path in ABI.glob("*.json")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    if parser.parse_args().check:
        names = stale()
        for name in names:
            print(f"market/abi/{name} is stale; run: python -m tools.build_contracts", file=sys.stderr)
        return 1 if names else 0
    ABI.mkdir(parents=True, exist_ok=True)
    wanted = files()
    for path in ABI.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (ABI / name).write_text(text, encoding="utf-8")
    for name, artefact in artefacts().items():
        print(f"market/abi/{name}.json  {len(artefact['deployedBytecode']) // 2 - 1:,} bytes at run time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
