"""Deploys a market with ape, and writes the manifest that every other command reads.

ape run deploy --network ethereum:local:foundry --account TEST::0 --manifest deployment.json
ape run deploy --network ethereum:sepolia:node --account NAME --token 0x… --manifest deployment.json

Sends the steps of `assay chain deploy`, with the code that this installation ships, so that `assay chain verify` knows
it again; `assay chain deploy` besides says the cost first and goes on where it was stopped. The account becomes the
guardian. TEST::0 and the like are ape's test accounts, whose keys everybody knows: for development chains only. Any
other is one of `ape accounts list`. On ethereum:local:foundry ape uses the anvil at APE_FOUNDRY_HOST (or on port 8545);
where none runs it starts one and ends it with the script: a rehearsal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from ape import networks
from ape.api import AccountAPI, ReceiptAPI, TestAccountAPI
from ape.cli import ConnectedProviderCommand, account_option
from ape.exceptions import ContractLogicError
from eth_utils.address import is_address, to_checksum_address

from market.chain import CREATE, DEVELOPMENT_CHAIN_IDS, Call, Chain
from market.config import Home
from market.deployment import Deployment, finished, require_sound
from market.deployment_steps import Creation, DeploymentParameters, Plan, steps
from market.errors import AssayError
from market.networks import FILE_NAME, Networks
from market.reverts import decode


def deploy(account: AccountAPI, parameters: DeploymentParameters) -> Deployment:
    """Sends every step in order, signed by ape.

    Raises:
        click.UsageError: a test account on a chain that is no development one.
        ConfigError: as `require_sound`: no token, or too short a reply window.
        ContractError: a parameter is out of range (ShareOutOfRange, UnbondingTooShort, …).
    """
    chain_id = networks.provider.chain_id
    if chain_id not in DEVELOPMENT_CHAIN_IDS and isinstance(account, TestAccountAPI):
        raise click.UsageError(f"Everybody knows the key of a test account: not for chain {chain_id}.")
    network = Networks(Home.of(os.environ).path / FILE_NAME).of(chain_id)
    chain = Chain(networks.provider.http_uri)
    require_sound(chain, network, parameters)
    made: dict[str, str] = {}
    plan = Plan(chain_id, str(account.address), parameters, made)
    blocks: list[int] = []
    for step in steps(parameters):
        receipt = send(account, step.call(plan))
        blocks.append(receipt.block_number)
        if isinstance(step, Creation):
            made[step.name] = to_checksum_address(receipt.contract_address)
    return finished(chain, plan, network, min(blocks))


def send(account: AccountAPI, call: Call) -> ReceiptAPI:
    """Sends one call and awaits its receipt. Raises ContractError where the contract refuses."""
    to = {} if call.to == CREATE else {"receiver": call.to}
    try:
        return account.call(networks.ecosystem.create_transaction(data=call.data, sender=account.address, **to))
    except ContractLogicError as error:
        raise decode(_data(error), call.label) from None


def _data(error: ContractLogicError) -> bytes:
    """What the contract returned: ape leaves an error that it does not know as hex."""
    message = error.revert_message or ""
    return bytes.fromhex(message[2:]) if message.startswith("0x") else b""


def _address(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_address(value):
        raise click.BadParameter(f"{value!r} is no address.")
    return value


def parameters_as_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for every field of DeploymentParameters; the class says what they are."""
    for name, default in reversed(vars(DeploymentParameters()).items()):
        kind: dict[str, Any] = {"type": int} if isinstance(default, int) else {"callback": _address}
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, default=default, show_default=default is not None, **kind)(command)
    return command


@click.command(cls=ConnectedProviderCommand)
@account_option()
@click.option("--manifest", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@parameters_as_options
def cli(account: AccountAPI, manifest: Path, **parameters: Any) -> None:
    """Deploys vault, registry and jobs, seals the vault and writes the manifest."""
    if manifest.exists():
        raise click.UsageError(f"{manifest} exists; nothing was sent. Name another file, or move it away.")
    try:
        deployment = deploy(account, DeploymentParameters(**parameters))
    except AssayError as error:
        raise click.ClickException(str(error)) from None
    deployment.save(manifest)
    for name, address in deployment.addresses.items():
        click.echo(f"{name:<9} {address}")
    click.echo(f"manifest  {manifest}")
