"""What is shipped is what the sources say, and every tool compiles with the same settings."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.build_contracts import SHIPPED, artefacts, stale
from tools.compiler import ROOT, SETTINGS, SOLC_VERSION, CompilationFailed, compile_sources

EIP_170 = 24_576
EIP_3860 = 2 * EIP_170
FORGE = ROOT / "node_modules" / "@foundry-rs" / "forge-linux-amd64" / "bin" / "forge"
SOLIDITY = sorted((ROOT / "contracts").rglob("*.sol"))


def test_shipped_abi_is_what_the_sources_compile_to() -> None:
    assert stale() == []


@pytest.mark.parametrize("name", SHIPPED.values())
def test_contract_fits_the_limits_of_eip_170_and_3860(name: str) -> None:
    artefact = artefacts()[name]
    assert 0 < len(artefact["deployedBytecode"]) // 2 - 1 < EIP_170
    assert len(artefact["bytecode"]) // 2 - 1 < EIP_3860


def test_ape_and_forge_use_the_compilers_settings() -> None:
    ape = yaml.safe_load((ROOT / "ape-config.yaml").read_text(encoding="utf-8"))["solidity"]
    forge = tomllib.loads((ROOT / "foundry.toml").read_text(encoding="utf-8"))["profile"]["default"]
    optimizer = SETTINGS["optimizer"]
    expected = (SETTINGS["evmVersion"], SETTINGS["viaIR"], optimizer["enabled"], optimizer["runs"])
    assert (ape["evm_version"], ape["via_ir"], ape["optimize"], ape["optimization_runs"]) == expected
    assert (forge["evm_version"], forge["via_ir"], forge["optimizer"], forge["optimizer_runs"]) == expected
    assert ape["version"] == SOLC_VERSION
    assert ape["import_remapping"] == forge["remappings"] == SETTINGS["remappings"]


def test_compiler_answers_the_version_of_the_package() -> None:
    answer = subprocess.run([ROOT / "tools" / "solc", "--version"], capture_output=True, text=True, check=True)
    assert f"Version: {SOLC_VERSION}+commit." in answer.stdout


def test_compiler_refuses_what_it_does_not_do() -> None:
    answer = subprocess.run([ROOT / "tools" / "solc", "--bin"], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "unsupported option --bin" in answer.stderr


@pytest.mark.parametrize(("body", "message"), [("uint x = ;", "ParserError"), ("function f() {}", "visibility")])
def test_source_with_an_error_fails_with_the_compilers_message(body: str, message: str) -> None:
    text = f"// SPDX-License-Identifier: Apache-2.0\npragma solidity {SOLC_VERSION};\ncontract X {{ {body} }}\n"
    with pytest.raises(CompilationFailed, match=message):
        compile_sources({"contracts/X.sol": text})


def test_contracts_are_formatted() -> None:
    answer = subprocess.run([FORGE, "fmt", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("path", SOLIDITY, ids=lambda path: path.name)
def test_source_states_licence_and_compiler(path: Path) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first == "// SPDX-License-Identifier: Apache-2.0"
    assert re.fullmatch(rf"pragma solidity {SOLC_VERSION};", second)
