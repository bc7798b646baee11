"""Deploys a market with ape, and writes the manifest that every other command reads.

ape run deploy --network ethereum:local:foundry --account TEST::0 --manifest deployment.json
ape run deploy --network ethereum:sepolia:node --account NAME --token 0x… --manifest deployment.json

The account becomes the guardian. TEST::0 and the like are ape's test accounts, whose keys everybody knows: for
development chains only. Any other is one of `ape accounts list`. On ethereum:local:foundry ape uses the anvil at
APE_FOUNDRY_HOST (or on port 8545); where none runs it starts one and ends it with the script: a rehearsal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from ape import networks, project
from ape.api import AccountAPI, TestAccountAPI
from ape.cli import ConnectedProviderCommand, account_option
from ape.exceptions import ContractLogicError
from eth_utils.address import is_address

from market.chain import DEVELOPMENT_CHAIN_IDS
from market.deployment import CONTRACTS, Deployment, DeploymentParameters
from market.errors import AssayError
from market.hashing import keccak256
from market.reverts import decode

DEFAULTS = DeploymentParameters()


def deploy(account: AccountAPI, parameters: DeploymentParameters) -> Deployment:
    """Sends what market.deployment.deploy sends, in its order, compiled and signed by ape.

    Raises:
        click.UsageError: without a token, or with a test account, on a chain that is no development one.
        ContractError: a parameter is out of range (ShareOutOfRange, UnbondingTooShort, …).
    """
    chain_id = networks.provider.chain_id
    if chain_id not in DEVELOPMENT_CHAIN_IDS:
        if isinstance(account, TestAccountAPI):
            raise click.UsageError(f"Everybody knows the key of a test account: not for chain {chain_id}.")
        if parameters.token is None:
            raise click.UsageError(f"Chain {chain_id} is no development chain: name the token that stakes are in.")
    project.load_contracts(use_cache=False)  # all at once: a source that is compiled alone gives other code
    created: dict[str, Any] = {}

    def create(name: str, contract: str, *arguments: Any) -> str:
        try:
            created[name] = account.deploy(getattr(project, contract), *arguments)
        except ContractLogicError as error:
            raise decode(_data(error), f"{contract}.constructor") from None
        return str(created[name].address)

    token = parameters.token or create("token", "TestToken")
    listed = [(token, parameters.cap)]
    vault = create("vault", "Vault", account.address, token, parameters.unbonding_window, listed)
    registry = create("registry", "Registry")
    jobs = create("jobs", "Jobs", vault, parameters.arbiter, parameters.dispute_window, parameters.challenger_share_bps)
    created["vault"].seal([jobs], sender=account)
    addresses = {"vault": vault, "registry": registry, "jobs": jobs, "token": token}
    return Deployment(
        chain_id=chain_id,
        block=min(contract.creation_metadata.block for contract in created.values()),
        code_hashes={name: _code_hash(addresses[name]) for name in CONTRACTS},
        **addresses,
    )


def _code_hash(address: str) -> str:
    return "0x" + keccak256(bytes(networks.provider.get_code(address))).hex()


def _data(error: ContractLogicError) -> bytes:
    """What the constructor returned: ape leaves an error that it does not know as hex."""
    message = error.revert_message or ""
    return bytes.fromhex(message[2:]) if message.startswith("0x") else b""


def _address(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_address(value):
        raise click.BadParameter(f"{value!r} is no address.")
    return value


@click.command(cls=ConnectedProviderCommand)
@account_option()
@click.option("--manifest", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@click.option("--token", callback=_address, help="Default: a worthless test token (development chains only).")
@click.option("--arbiter", callback=_address, default=DEFAULTS.arbiter, show_default=True, help="Who may slash.")
@click.option("--dispute-window", type=int, default=DEFAULTS.dispute_window, show_default=True, help="Seconds.")
@click.option("--unbonding-window", type=int, default=DEFAULTS.unbonding_window, show_default=True, help="Seconds.")
@click.option("--challenger-share-bps", type=int, default=DEFAULTS.challenger_share_bps, show_default=True)
@click.option("--cap", type=int, default=DEFAULTS.cap, show_default=True, help="Base units the vault takes at most.")
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
