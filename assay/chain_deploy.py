"""`assay chain deploy`: estimate, ask, send, go on where an earlier run stopped, write the manifest."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from eth_account.signers.local import LocalAccount
from eth_utils.address import is_address, to_checksum_address

from assay.chain_options import (
    DataDir,
    Json,
    Keystore,
    PasswordFile,
    Quiet,
    Rpc,
    address_of,
    connection_of,
    own_networks,
)
from assay.chain_render import coins, show_cost, show_deployed, show_reply, step_line
from client.cli_options import Connection
from client.render import page
from market.chain import Chain, same_address
from market.config import queue_path
from market.deployer import Deployed, Deployer, done_json
from market.deployment_cost import Cost, cost_json
from market.deployment_steps import DeploymentParameters
from market.dispute_gas import REPLY
from market.errors import ChainError, ConfigError
from market.fees import FeePolicy
from market.keystore import KeystoreError, load_account
from market.networks import Kind, Network
from market.transactions import Transactions

DEFAULTS = DeploymentParameters()
KEYWORD = inspect.Parameter.KEYWORD_ONLY
HELP = {
    "token": "The ERC-20 of stakes and prices.",
    "dispute_window": "Seconds a bond stays locked after settlement.",
    "unbonding_window": "Seconds that stake takes to leave.",
    "challenger_share_bps": "Challenger's share of a slashed bond, in 1/10 000.",
    "cap": "Base units of the token that the vault takes at most.",
    "draw_stake_cap": "Base units of stake above which a provider is drawn no more often.",
    "demand_window": "Seconds to publish an output that is demanded.",
    "demand_fee": "Base units that a demand of up to 512 tokens costs and publishing them earns.",
    "reply_window": "Seconds to give a reply in a dispute: 3 rebuilds of a trace and the chain's censorship budget.",
    "root_fee": "Base units that opening a dispute prepays.",
    "request_fee": "Base units that each request in a dispute prepays.",
}
"""What a parameter is, for --help; one without a line here is an option all the same."""


class TooPoor(ChainError):
    """The account cannot pay the deployment at the present price of gas; code InsufficientFunds."""


@dataclass(frozen=True)
class Site:
    """Where a deployment goes, and who pays it."""

    connection: Connection
    chain: Chain
    network: Network
    sender: str
    manifest: Path
    deployer: Deployer

    def document(self) -> dict[str, Any]:
        """What every JSON document of this command begins with."""
        return {
            "network": self.network.name,
            "chain_id": self.network.chain_id,
            "coin": self.network.coin,
            "sender": self.sender.lower(),
            "manifest": str(self.manifest),
        }


def with_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Gives the command an option for every field of DeploymentParameters; it receives them as `parameters`."""

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in vars(DEFAULTS)}
        for name, value in chosen.items():
            if isinstance(value, str):
                chosen[name] = _address(f"--{name.replace('_', '-')}", value)
        command(parameters=DeploymentParameters(**chosen), **values)

    hints = get_type_hints(command, include_extras=True)
    own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "parameters"]
    options = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
    for name, default in vars(DEFAULTS).items():
        shown = "on test chains a worthless one" if default is None else True
        option = typer.Option(help=HELP.get(name, ""), rich_help_panel="Fixed for ever", show_default=shown)
        kind: Any = int if isinstance(default, int) else str | None
        options.append(inspect.Parameter(name, KEYWORD, default=default, annotation=Annotated[kind, option]))
    options = [option.replace(kind=KEYWORD) for option in options]
    wrapper.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {option.name: option.annotation for option in options}
    del wrapper.__wrapped__  # typer must read the new signature
    return wrapper


@with_parameters
def deploy(
    parameters: DeploymentParameters,
    rpc: Rpc = None,
    network: Annotated[
        str | None,
        typer.Option(help="Refuse any other chain than this; see `assay chain networks`.", show_default=False),
    ] = None,
    keystore: Keystore = None,
    password_file: PasswordFile = None,
    deployment: Annotated[
        Path | None, typer.Option(help="The manifest to write.", show_default="deployment-NETWORK.json")
    ] = None,
    confirmations: Annotated[
        int | None, typer.Option(min=0, help="Blocks on top before it counts.", show_default="the network's")
    ] = None,
    data_dir: DataDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost; send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before spending.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Deploy a market: vault, registry, judge, disputes, jobs; then seal the vault and write the manifest. You become
    its guardian.

    A run that was stopped, whatever stopped it, is taken up by the same command: nothing is deployed twice. Until the
    manifest is written, what has been reached is kept in a file beside it.

    Examples:

        assay chain deploy --rpc https://rpc.example --keystore key.json --dry-run

        assay chain deploy --network sepolia --keystore key.json      (the URL is in SEPOLIA_RPC_URL)

        assay chain deploy --rpc http://127.0.0.1:8545 --keystore key.json --password-file password --yes --json
    """
    networks = own_networks()
    chosen = None if network is None else networks.named(network)
    connection = connection_of(
        as_json=as_json,
        quiet=quiet,
        rpc=_rpc(rpc, chosen),
        keystore=keystore,
        password_file=password_file,
        data_dir=data_dir,
    )
    if not dry_run:
        connection.must_be_able_to_ask(yes=yes)
    sender = to_checksum_address(address_of(connection))
    chain = Chain(connection.config.rpc or "", expected_chain_id=None if chosen is None else chosen.chain_id)
    known = chosen or networks.of(chain.chain_id)
    manifest = deployment or Path(f"deployment-{known.name}.json")
    site = Site(connection, chain, known, sender, manifest, Deployer(chain, known, parameters, sender, manifest))
    if site.deployer.is_finished and not dry_run:
        _report(site, site.deployer.tidy_up())
        return
    cost, balance = site.deployer.cost(FeePolicy()), chain.balance(sender)
    if dry_run:
        _dry_run(site, cost, balance)
        return
    if not quiet:
        show_cost(page(stderr=True), cost, known, sender, balance)
    if balance < cost.needs:
        raise _too_poor(site, cost, balance)
    money = " REAL MONEY, and this software has had no audit." if known.kind is Kind.MAIN else ""
    connection.confirm(f"Deploy on {known.name} for about {coins(cost.wei, known)}?{money}", yes=yes)
    account = _unlocked(connection, sender)
    _report(site, _send(site, account, known.confirmations if confirmations is None else confirmations))


def _send(site: Site, account: LocalAccount, confirmations: int) -> Deployed:
    console = site.connection.console
    folder = site.connection.config.data_dir or Path()
    with Transactions(site.chain, account, queue_path(folder, site.chain.chain_id, account.address)) as transactions:
        return site.deployer.run(
            transactions,
            confirmations=confirmations,
            on_step=lambda entry: console.print(step_line(entry, site.network)),
            on_wait=lambda missing: console.print(f"[dim]confirmations still missing: {missing}[/]"),
        )


def _dry_run(site: Site, cost: Cost, balance: int) -> None:
    if site.connection.as_json:
        done = [done_json(entry) for entry in site.deployer.done]
        parameters = site.deployer.plan.parameters
        fees = {"root_fee": str(parameters.root_fee), "request_fee": str(parameters.request_fee)}
        reply = {"gas": REPLY, "wei": str(REPLY * cost.price), **fees}
        held: dict[str, Any] = {
            "dispute_reply": reply,
            "balance_wei": str(balance),
            "enough": balance >= cost.needs,
            "done": done,
        }
        site.connection.emit({**site.document(), **cost_json(cost), **held})
        return
    show_cost(page(), cost, site.network, site.sender, balance)
    show_reply(page(), cost, site.deployer.plan.parameters, site.network)
    if balance < cost.needs:
        page().print(f"[yellow]It has {coins(cost.needs - balance, site.network)} too little.[/]")
    page().print("Nothing was sent.")


def _report(site: Site, deployed: Deployed) -> None:
    if site.connection.as_json:
        steps = [done_json(entry) for entry in deployed.done]
        result = {"deployment": deployed.deployment.to_json(), "steps": steps, "total_wei": str(deployed.wei)}
        site.connection.emit({**site.document(), **result})
    else:
        show_deployed(page(), deployed, site.network, site.manifest)


def _too_poor(site: Site, cost: Cost, balance: int) -> TooPoor:
    network = site.network
    return TooPoor(
        f"{site.sender} holds {coins(balance, network)}; what is left of the deployment needs "
        f"{coins(cost.needs, network)} at the present price of gas. Nothing was sent.",
        hint=f"Send it {coins(cost.needs - balance, network)} more, or wait until gas is cheaper.",
        code="InsufficientFunds",
        address=site.sender,
        has=str(balance),
        needs=str(cost.needs),
    )


def _unlocked(connection: Connection, sender: str) -> LocalAccount:
    keystore = connection.config.keystore or Path()
    account = load_account(keystore, connection.password())
    if not same_address(account.address, sender):
        raise KeystoreError(
            f"{keystore} states the address {sender}, but its key is that of {account.address}. Nothing was sent.",
            hint="Restore it from a backup, or import the key again.",
            path=str(keystore),
        )
    return account


def _rpc(rpc: str | None, network: Network | None) -> str:
    """The URL: the option, else the network's own variable, else ASSAY_RPC. Never the local network's by default: what
    is deployed is meant to be somewhere."""
    named = None if network is None else os.environ.get(network.rpc_variable)
    found = rpc or named or os.environ.get("ASSAY_RPC")
    if not found:
        variable = "ASSAY_RPC" if network is None else network.rpc_variable
        raise ConfigError("No chain was named; nothing was sent.", hint=f"Give --rpc, or set {variable} to its URL.")
    return found


def _address(option: str, value: str) -> str:
    if not is_address(value):
        raise ConfigError(f"{option}: “{value[:60]}” is no address; nothing was sent.", code="BadAddress")
    return str(to_checksum_address(value))
