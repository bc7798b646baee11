"""Compiles Solidity with py-solc-x and the executable tools/solc, and keeps what it compiled under build/contracts.

The settings here are those of ape-config.yaml and foundry.toml (a test compares them).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
CACHE = ROOT / "build" / "contracts"
SOLC_VERSION = "0.8.37"
OPENZEPPELIN = "node_modules/@openzeppelin/contracts"
SETTINGS: dict[str, Any] = {
    "evmVersion": "cancun",
    "viaIR": False,
    "optimizer": {"enabled": True, "runs": 200},
    "remappings": [f"@openzeppelin/contracts={OPENZEPPELIN}"],
    # A comment is no reason for other bytecode: leave the hash of the sources out.
    "metadata": {"bytecodeHash": "none"},
}
_OUTPUTS = [
    *("abi", "evm.bytecode.object", "evm.bytecode.linkReferences"),
    *(f"evm.deployedBytecode.{part}" for part in ("object", "linkReferences", "immutableReferences")),
]
_SHARED_OUTPUTS = {"*": {"": ["ast"]}}
"""Of every source: says what an immutable is called, and what a source imports."""

Artefact = dict[str, Any]
"""One contract, bytecode as 0x-prefixed hex:

contractName, sourceName, abi, bytecode, deployedBytecode
linkReferences, deployedLinkReferences: library → places [start, length] of its address in the two bytecodes
immutableReferences: name of an immutable → places [start, length] of its value in the deployed bytecode
sources: paths of the source and of everything it imports, sorted
"""


class CompilationFailed(Exception):
    """The compiler reported an error or a warning of our own sources; the message is the compiler's."""


def read_sources() -> dict[str, str]:
    """Path from the repository root → text, of every Solidity file under contracts/."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(CONTRACTS.rglob("*.sol"))
    }


def compile_sources(
    sources: Mapping[str, str],
    selection: Mapping[str, list[str]] | None = None,
    *,
    strict: bool = True,
    keep: bool = True,
) -> dict[str, dict[str, Artefact]]:
    """Compiles sources (path → text) unless the same ones were compiled before.

    Args:
        sources: imports not among them are read from the repository.
        selection: path → contract names wanted; all contracts of all sources by default.
        strict: a warning about one of the sources is an error.
        keep: write the result down for the next time.

    Returns:
        path → contract name → artefact.

    Raises:
        CompilationFailed: the compiler reported an error, or, where strict, a warning about one of the sources.
    """
    wanted = {path: list(names) for path, names in (selection or {path: ["*"] for path in sources}).items()}
    key = json.dumps([SOLC_VERSION, _dependencies(), SETTINGS, _OUTPUTS, wanted, sorted(sources.items())])
    cached = CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if cached.exists():
        result: dict[str, dict[str, Artefact]] = json.loads(cached.read_text(encoding="utf-8"))
        return result
    compiled = _compile(sources, wanted, strict)
    if keep:
        _write_whole(cached, json.dumps(compiled))
    return compiled


def recompile(
    sources: Mapping[str, str], paths: list[str], before: Mapping[str, Mapping[str, Artefact]]
) -> dict[str, dict[str, Artefact]]:
    """Compiles the contracts of `paths` after a small change, in a third of the time: the compiler makes bytecode of
    whatever it is asked the syntax tree of, so what only trees tell (immutables, imports) stays what it was before.

    Args:
        sources: all that `paths` import of ours; nothing is written down.
        before: what `compile_sources` gave for the unchanged sources.

    Raises:
        CompilationFailed: the compiler reported an error.
    """
    output = _run(sources, {path: {"*": _OUTPUTS} for path in paths})
    return {
        path: {name: before[path][name] | _codes(contract) for name, contract in contracts.items()}
        for path, contracts in output["contracts"].items()
        if path in paths
    }


def syntax_trees(sources: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The compiler's syntax tree of each source; offsets in it count bytes of UTF-8.

    Raises:
        CompilationFailed: the compiler reported an error.
    """
    output = _run(sources, {path: {"": ["ast"]} for path in sources})
    return {path: output["sources"][path]["ast"] for path in sources}


def _dependencies() -> str:
    """Version of OpenZeppelin: part of what decides the bytecode."""
    package = json.loads((ROOT / OPENZEPPELIN / "package.json").read_text(encoding="utf-8"))
    return str(package["version"])


def _compile(sources: Mapping[str, str], wanted: dict[str, list[str]], strict: bool) -> dict[str, dict[str, Artefact]]:
    output = _run(sources, {path: dict.fromkeys(names, _OUTPUTS) for path, names in wanted.items()} | _SHARED_OUTPUTS)
    ours = [e for e in output.get("errors", []) if e["sourceLocation"]["file"] in sources]
    if ours and strict:
        raise CompilationFailed("\n".join(e["formattedMessage"] for e in ours))
    trees = {path: source["ast"] for path, source in output["sources"].items()}
    immutables = {key: name for tree in trees.values() for key, name in _immutables(tree)}
    return {
        path: {name: _artefact(path, name, contract, immutables, trees) for name, contract in contracts.items()}
        for path, contracts in output["contracts"].items()
        if path in wanted
    }


def _run(sources: Mapping[str, str], selection: Mapping[str, Any]) -> dict[str, Any]:
    """The compiler's whole answer."""
    os.environ.setdefault("SOLCX_BINARY_PATH", str(link_compiler()))
    import solcx  # reads SOLCX_BINARY_PATH

    data = {
        "language": "Solidity",
        "sources": {path: {"content": text} for path, text in sources.items()},
        "settings": SETTINGS | {"outputSelection": selection},
    }
    try:
        output: dict[str, Any] = solcx.compile_standard(data, base_path=str(ROOT), solc_version=SOLC_VERSION)
    except solcx.exceptions.SolcError as error:
        raise CompilationFailed(str(error)) from error
    return output


def _artefact(
    path: str, name: str, contract: dict[str, Any], immutables: dict[str, str], trees: dict[str, Any]
) -> Artefact:
    deployed = contract["evm"]["deployedBytecode"]
    values: dict[str, list[list[int]]] = {}
    for key, places in deployed["immutableReferences"].items():
        # two immutables of one name (a base's private one) could not be told apart by whoever fills them in
        assert immutables[key] not in values, f"{name} has two immutables called {immutables[key]}"
        values[immutables[key]] = _places(places)
    return {
        "contractName": name,
        "sourceName": path,
        **_codes(contract),
        "immutableReferences": values,
        "sources": sorted(_with_imports(path, trees)),
    }


def _codes(contract: dict[str, Any]) -> Artefact:
    """The part of an artefact that the compiler says about the contract alone."""
    created, deployed = contract["evm"]["bytecode"], contract["evm"]["deployedBytecode"]
    return {
        "abi": contract["abi"],
        "bytecode": "0x" + created["object"],
        "deployedBytecode": "0x" + deployed["object"],
        "linkReferences": _links(created),
        "deployedLinkReferences": _links(deployed),
    }


def _links(code: dict[str, Any]) -> dict[str, list[list[int]]]:
    return {library: _places(places) for file in code["linkReferences"].values() for library, places in file.items()}


def _places(places: list[dict[str, int]]) -> list[list[int]]:
    return [[place["start"], place["length"]] for place in places]


def _immutables(node: Any) -> Iterator[tuple[str, str]]:
    """(id in the syntax tree, name) of every immutable below a node."""
    if isinstance(node, dict):
        if node.get("nodeType") == "VariableDeclaration" and node.get("mutability") == "immutable":
            yield str(node["id"]), node["name"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _immutables(child)


def _with_imports(path: str, trees: dict[str, Any]) -> set[str]:
    found, left = set(), [path]
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += [node["absolutePath"] for node in trees[name]["nodes"] if node["nodeType"] == "ImportDirective"]
    return found


def link_compiler() -> Path:
    """Links tools/solc where py-solc-x looks for it. Returns the folder for SOLCX_BINARY_PATH."""
    folder = ROOT / ".solcx"
    folder.mkdir(exist_ok=True)
    link = folder / f"solc-v{SOLC_VERSION}"
    target = ROOT / "tools" / "solc"
    if not link.is_symlink() or link.resolve() != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return folder


def compiler_version() -> str:
    """As block explorers name it: v0.8.37+commit.…"""
    answer = subprocess.run([ROOT / "tools" / "solc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Version: (\S+\+commit\.[0-9a-f]+)", answer)
    assert found, answer
    return f"v{found[1]}"


def _write_whole(path: Path, text: str) -> None:
    """Writes beside and renames, so that a killed or a concurrent run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)
