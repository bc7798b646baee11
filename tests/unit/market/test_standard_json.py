"""The compiler's input for block explorers: compiling it gives the shipped code."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from market.artefacts import load, standard_input
from market.deployment import CONTRACTS, Deployment
from market.deployment_steps import DeploymentParameters, creations
from market.errors import ConfigError
from market.networks import Networks
from market.standard_json import compiler_input, contract_names, submission
from market.types import ZERO_ADDRESS
from tools.compiler import ROOT

STEPS = creations(DeploymentParameters())
ADDRESSES = {step.name: "0x" + f"{index:02x}" * 20 for index, step in enumerate(STEPS, 1)}
LIBRARIES = {name: address for name, address in ADDRESSES.items() if name not in CONTRACTS}


def deployment(parameters: DeploymentParameters | None = None) -> Deployment:
    return Deployment(
        chain_id=1,
        block=1,
        code_hashes={},
        network="ethereum",
        guardian="0x" + "aa" * 20,
        parameters=parameters or DeploymentParameters(),
        randomness=Networks().of(1).random,
        libraries=LIBRARIES,
        **{name: ADDRESSES[name] for name in CONTRACTS},
    )


def compiled(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Compiles in an empty folder, as an explorer does: whatever is not in the input is not there."""
    answer = subprocess.run(
        [ROOT / "tools" / "solc", "--standard-json"],
        cwd=folder,
        input=json.dumps(document),
        capture_output=True,
        text=True,
        check=True,
    )
    output = json.loads(answer.stdout)
    assert [error for error in output["errors"] if error["severity"] == "error"] == []
    return {name: contract for file in output["contracts"].values() for name, contract in file.items()}


def assert_shipped(document: dict[str, Any], folder: Path) -> set[str]:
    """Linked to this deployment's libraries, if there are any; the compiler leaves immutables zero."""
    contracts = compiled(document, folder)
    for name, contract in contracts.items():
        artefact = load(name)
        blank = {immutable: bytes(32) for immutable in artefact.runtime.immutables}
        assert contract["evm"]["bytecode"]["object"] == artefact.creation.linked(LIBRARIES).hex(), name
        expected = artefact.runtime.deployed(ZERO_ADDRESS, blank, LIBRARIES)
        assert contract["evm"]["deployedBytecode"]["object"] == expected.hex(), name
    return set(contracts)


def test_compiling_the_input_gives_the_shipped_code(tmp_path: Path) -> None:
    """Every source is read and checked; code is made for the vault, and for the jobs, which need libraries."""
    document = compiler_input(deployment=deployment())
    wanted = {load(name).source_name for name in ("Vault", "Jobs")}
    selection = document["settings"]["outputSelection"]
    document["settings"]["outputSelection"] = {path: names for path, names in selection.items() if path in wanted}
    assert assert_shipped(document, tmp_path) == {"Vault", "Jobs"}


@pytest.mark.slow
def test_compiling_the_input_gives_the_shipped_code_of_every_contract(tmp_path: Path) -> None:
    assert assert_shipped(compiler_input(deployment=deployment()), tmp_path) == set(contract_names())


def test_input_for_one_contract_asks_for_it_alone() -> None:
    document = compiler_input("Jobs")
    assert list(document["settings"]["outputSelection"]) == ["contracts/Jobs.sol"]
    assert document["sources"] == standard_input()["sources"]
    assert set(document) == {"language", "settings", "sources"}


def test_input_holds_what_is_deployed_and_no_other_test_contract() -> None:
    tests = {path for path in standard_input()["sources"] if path.startswith("contracts/test/")}
    assert tests == {"contracts/test/TestToken.sol"}


def test_submission_has_the_arguments_that_stand_behind_the_creation_code() -> None:
    beside = submission(deployment=deployment())
    assert sorted(beside) == sorted(contract_names())
    for name, entry in beside.items():
        assert entry["contract"].endswith(f".sol:{name}")
        assert entry["compiler_version"].startswith("v0.8.")
    vault = load("Vault").creation_code(
        ("0x" + "aa" * 20, ADDRESSES["token"], 14 * 86_400, [(ADDRESSES["token"], 10**12)])
    )
    assert vault.hex() == load("Vault").creation.code.hex() + beside["Vault"]["constructor_arguments"]
    assert beside["Vault"]["address"] == ADDRESSES["vault"]


def test_submission_of_a_market_with_a_token_of_others_leaves_that_out() -> None:
    assert "TestToken" not in submission(deployment=deployment(DeploymentParameters(token=ADDRESSES["token"])))


def test_submission_without_a_deployment_names_contract_and_compiler_alone() -> None:
    assert set(submission("Vault")["Vault"]) == {"contract", "compiler_version"}


def test_unknown_contract_is_refused_with_the_known_ones() -> None:
    for ask in (compiler_input, submission):
        with pytest.raises(ConfigError, match=", ".join(contract_names())) as refused:
            ask("Bank")
        assert refused.value.code == "UnknownContract"
