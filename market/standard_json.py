"""What a block explorer asks for to show a contract's source: the compiler's input, and the constructor's arguments.

The input is the one the shipped code was compiled from (market/abi/standard_input.json), so compiling it gives the
deployed bytecode (https://docs.soliditylang.org/en/latest/using-the-compiler.html#compiler-input-and-output-json-description).
"""

from __future__ import annotations

from typing import Any

from market.artefacts import load, standard_input
from market.deployment import Deployment
from market.deployment_steps import DeploymentParameters, creations
from market.errors import ConfigError

_OUTPUTS = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]


def contract_names() -> tuple[str, ...]:
    """The contracts of a deployment, by their Solidity names."""
    return tuple(step.contract for step in creations(DeploymentParameters()))


def compiler_input(contract: str | None = None, deployment: Deployment | None = None) -> dict[str, Any]:
    """The standard-JSON input.

    Args:
        contract: ask the compiler for this contract alone; None: for every contract of a deployment.
        deployment: whose external libraries the code is linked to.

    Raises:
        ConfigError: code UnknownContract.
    """
    names = contract_names() if contract is None else (_known(contract),)
    document = standard_input()
    del document["compilerVersion"]
    selection: dict[str, dict[str, list[str]]] = {}
    libraries: dict[str, dict[str, str]] = {}
    for name in names:
        artefact = load(name)
        selection.setdefault(artefact.source_name, {})[name] = _OUTPUTS
        if deployment is not None:
            for library in artefact.libraries:
                address = deployment.libraries[library].lower()
                libraries.setdefault(load(library).source_name, {})[library] = address
    settings = {**document["settings"], "outputSelection": selection}
    return {**document, "settings": {**settings, "libraries": libraries} if libraries else settings}


def submission(contract: str | None = None, deployment: Deployment | None = None) -> dict[str, Any]:
    """What an explorer's form asks for beside the input, for each contract by its Solidity name.

    `address` and `constructor_arguments` (hex without 0x, as explorers take it) only for a deployment. An existing
    token that is no contract of ours is left out.
    """
    version = standard_input()["compilerVersion"]
    wanted = None if contract is None else _known(contract)
    found: dict[str, Any] = {}
    for step in creations(DeploymentParameters() if deployment is None else deployment.parameters):
        if wanted in (None, step.contract):
            entry = {"contract": f"{step.artefact.source_name}:{step.contract}", "compiler_version": version}
            if deployment is not None:
                entry["address"] = deployment.addresses[step.name].lower()
                entry["constructor_arguments"] = step.constructor_arguments(deployment.plan).hex()
            found[step.contract] = entry
    return found


def _known(contract: str) -> str:
    if contract not in contract_names():
        raise ConfigError(
            f"A deployment has no contract called “{contract[:60]}”; it has {', '.join(contract_names())}.",
            code="UnknownContract",
            contract=contract,
        )
    return contract
