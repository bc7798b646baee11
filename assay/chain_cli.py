"""`assay chain networks|deploy|verify|standard-json|faucet`. Errors are AssayErrors; the root command prints them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from eth_utils.address import is_address, to_checksum_address

from assay.chain_deploy import deploy
from assay.chain_options import (
    DataDir,
    Json,
    Keystore,
    Manifest,
    PasswordFile,
    Rpc,
    address_of,
    connection_of,
    market_of,
    own_networks,
)
from assay.chain_render import show_checks, show_networks
from client.render import page
from market.chain import Chain
from market.config import queue_path
from market.contracts import Token
from market.deployment import Deployment
from market.deployment_steps import DeploymentParameters, creations
from market.deployment_verify import Check, verify
from market.errors import ChainError, ConfigError
from market.files import write_atomically
from market.keystore import load_account
from market.money import format_amount, parse_amount
from market.standard_json import compiler_input, submission
from market.transactions import Transactions

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Deploy a market on a chain, or check one that somebody else deployed.",
)
app.command("deploy")(deploy)


class Differs(ChainError):
    """The chain is not what the manifest says; the code is that of the first difference."""


@app.command("networks")
def networks_command(as_json: Json = False) -> None:
    """List the chains that Assay knows by name: ids, coins, how long to wait, who can bend a draw. No keys are in it.

    Your own go into networks.toml in the folder of ASSAY_HOME, as:

        [staging]
        chain_id = 424242
        kind = "test"          # development, test or main
        coin = "ETH"
        block_time_ms = 2000
        confirmations = 2
        finality = 60
        censorship_budget = 600
        rpc_variable = "STAGING_RPC_URL"
        bias = "We run its only sequencer."

    Examples:

        assay chain networks

        assay chain networks --json | jq '.[] | select(.kind == "test") | .name'
    """
    found = own_networks()
    if as_json:
        typer.echo(json.dumps([network.model_dump(mode="json") for network in found], ensure_ascii=False))
    else:
        show_networks(page(), found)


@app.command("verify")
def verify_command(rpc: Rpc = None, deployment: Manifest = None, as_json: Json = False) -> None:
    """Compare a manifest with its chain: code as this version ships it, wiring, sealed modules, parameters.

    The code is rebuilt from the contracts of this installation, so a manifest with wrong hashes cannot vouch for other
    code. Exits with 3 and the reason on any difference.

    Examples:

        assay chain verify --rpc https://rpc.example --deployment deployment-sepolia.json

        assay chain verify --json | jq '.checks[] | select(.ok | not)'        (the local network)
    """
    connection = connection_of(as_json=as_json, rpc=rpc, deployment=deployment)
    chain, manifest = market_of(connection)
    checks = verify(chain, manifest, own_networks())
    wrong = [check for check in checks if not check.ok]
    if as_json:
        connection.emit({"ok": not wrong, "checks": [check.to_json() for check in checks]})
        if wrong:
            raise typer.Exit(Differs.exit_code)
        return
    show_checks(page(), checks)
    if wrong:
        raise _difference(wrong)


def _difference(wrong: list[Check]) -> Differs:
    first, more = wrong[0], len(wrong) - 1
    return Differs(
        f"The chain is not what the manifest says: {first.what}: expected {first.expected}, found {first.found}"
        + (f", and {more} more." if more else "."),
        hint="Do not deposit there. Get the manifest from somebody you trust, and check the RPC URL.",
        code=first.code,
    )


@app.command("standard-json")
def standard_json_command(
    out: Annotated[Path, typer.Option(help="The file to write; what the form asks for besides lies beside it.")],
    contract: Annotated[
        str | None, typer.Argument(help="Vault, Registry, Jobs, …", show_default="all of a deployment")
    ] = None,
    deployment: Manifest = None,
    as_json: Json = False,
) -> None:
    """Write the compiler's standard-JSON input, with which block explorers show a contract's source.

    Compiling it gives the deployed bytecode. With --deployment, constructor arguments and addresses are written beside
    it (FILE.submission.json). Nothing is sent.

    Examples:

        assay chain standard-json --out input.json --deployment deployment-sepolia.json

        assay chain standard-json Jobs --out jobs.json --deployment deployment-sepolia.json
    """
    manifest = None if deployment is None else Deployment.load(deployment)
    document, beside = compiler_input(contract, manifest), submission(contract, manifest)
    form = out.with_name(out.name + ".submission.json")
    try:
        write_atomically(out, json.dumps(document).encode() + b"\n", mode=0o644)
        write_atomically(form, json.dumps(beside, indent=1).encode() + b"\n", mode=0o644)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}.", path=str(out)) from None
    if as_json:
        typer.echo(json.dumps({"input": str(out), "submission": str(form), "contracts": beside}))
        return
    typer.echo(f"input       {out}\nsubmission  {form}")
    for name, entry in beside.items():
        typer.echo(f"{name:<11} {entry['contract']}  {entry.get('address', '')}")


@app.command("faucet")
def faucet_command(
    amount: Annotated[
        str | None, typer.Argument(help="In units of the token.", show_default="the most that one call gives")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Who gets it.", show_default="your own address")] = None,
    rpc: Rpc = None,
    deployment: Manifest = None,
    keystore: Keystore = None,
    password_file: PasswordFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take worthless test tokens out of the faucet of a market on a development or test chain. You pay the gas.

    Examples:

        assay chain faucet --rpc https://rpc.example --deployment deployment-sepolia.json --keystore key.json

        assay chain faucet 250 --to 0x1111111111111111111111111111111111111111
    """
    if to is not None and not is_address(to):
        raise ConfigError(f"--to: “{to[:60]}” is no address; nothing was sent.", code="BadAddress")
    connection = connection_of(
        as_json=as_json,
        rpc=rpc,
        deployment=deployment,
        keystore=keystore,
        password_file=password_file,
        data_dir=data_dir,
    )
    chain, manifest = market_of(connection)
    manifest.check(chain)
    token = _faucet_of(chain, manifest)
    decimals = token.decimals()
    units = token.faucet_limit() if amount is None else parse_amount(amount, decimals)
    receiver = to_checksum_address(to or address_of(connection))
    account = load_account(connection.config.keystore or Path(), connection.password())
    folder = connection.config.data_dir or Path()
    with Transactions(chain, account, queue_path(folder, chain.chain_id, account.address)) as transactions:
        sent = transactions.send(token.faucet(receiver, units))
    if as_json:
        connection.emit({"to": receiver.lower(), "amount": units, "transaction": sent.hash})
    else:
        page().print(f"{format_amount(units, decimals, 'tUSD')} went to {receiver.lower()} ({sent.hash})")


def _faucet_of(chain: Chain, manifest: Deployment) -> Token:
    """
    Raises:
        ConfigError: code NoFaucet: the market's token is not the test token of this version.
    """
    (shipped,) = (step for step in creations(DeploymentParameters()) if step.name == "token")
    if chain.code(manifest.token) != shipped.runtime_code(manifest.plan, manifest.token):
        raise ConfigError(
            f"The token of this market, {manifest.token}, is not the test token and has no faucet; nothing was sent.",
            hint="Buy the token where it is sold.",
            code="NoFaucet",
            token=manifest.token,
        )
    return Token(chain, manifest.token)
