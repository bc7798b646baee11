"""Writes market/abi: ABI and bytecode of the contracts that running Assay needs, so that running needs no compiler.

python -m tools.build_contracts           writes
python -m tools.build_contracts --check   exits 1 where market/abi is stale, and says which file
"""

from __future__ import annotations

import argparse
import json
import sys

from tools.compiler import ROOT, Artefact, compile_sources, read_sources

SHIPPED = {
    "contracts/Vault.sol": "Vault",
    "contracts/Registry.sol": "Registry",
    "contracts/Jobs.sol": "Jobs",
    "contracts/test/TestToken.sol": "TestToken",
}
"""TestToken is the development chain's money: `assay up` and the demo deploy it."""
ABI = ROOT / "market" / "abi"


def artefacts() -> dict[str, Artefact]:
    """Contract name → artefact, compiled from the sources as they are."""
    compiled = compile_sources(read_sources())
    return {name: compiled[path][name] for path, name in SHIPPED.items()}


def render(artefact: Artefact) -> str:
    """The file's text: the same for the same artefact, one ABI entry a line."""
    entries = ",\n  ".join(json.dumps(entry) for entry in artefact["abi"])
    rest = {key: artefact[key] for key in ("bytecode", "deployedBytecode")}
    tail = ",\n ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rest.items())
    name = json.dumps(artefact["contractName"])
    return f'{{\n "contractName": {name},\n "abi": [\n  {entries}\n ],\n {tail}\n}}\n'


def stale() -> list[str]:
    """Files of market/abi that are missing, differ from the sources or belong to no contract."""
    wanted = {f"{name}.json": render(artefact) for name, artefact in artefacts().items()}
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
    built = artefacts()
    for path in ABI.glob("*.json"):
        if path.stem not in built:
            path.unlink()
    for name, artefact in built.items():
        (ABI / f"{name}.json").write_text(render(artefact), encoding="utf-8")
        print(f"market/abi/{name}.json  {len(artefact['deployedBytecode']) // 2 - 1:,} bytes at run time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
