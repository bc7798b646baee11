"""How `assay chain` looks to a person."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from market.deployer import Deployed, Done
from market.deployment_cost import Cost
from market.deployment_steps import DeploymentParameters
from market.deployment_verify import Check
from market.dispute_gas import REPLY
from market.money import format_amount
from market.networks import Network

_HASH_LENGTH = 66
_DIGITS = 8  # of a coin that are worth reading in an estimate


def coins(wei: int, network: Network) -> str:
    """Wei as coins, rounded up to eight places, or all of them where that says nothing."""
    unit = 10 ** (18 - _DIGITS)
    rounded = -(-wei // unit) * unit
    return format_amount(rounded if wei >= unit else wei, 18, network.coin)


def show_cost(console: Console, cost: Cost, network: Network, sender: str, balance: int) -> None:
    """What every step that is left takes, and whether the account has it."""
    table = _table("step", "gas", "cost", "")
    for step in cost.steps:
        how = "" if step.simulated else "at most, by reckoning"
        table.add_row(f"{step.name} ({step.label})", f"{step.gas:,}", coins(step.wei, network), how)
    table.add_row("[bold]in all[/]", f"{sum(step.gas for step in cost.steps):,}", coins(cost.wei, network), "")
    console.print(f"network    {network.name} (chain {network.chain_id}, {network.kind})")
    console.print(f"sender     {sender.lower()}, which becomes the guardian, holds {coins(balance, network)}")
    console.print(table)
    console.print(
        f"Gas costs {format_amount(cost.price, 9, 'gwei')} now. The account must hold {coins(cost.needs, network)}: "
        "nodes want room for a dearer block; what is not used stays."
    )
    if network.l1_fee:
        console.print("This chain adds a fee for publishing the data on its parent chain; it is not in these figures.")


def show_reply(console: Console, cost: Cost, parameters: DeploymentParameters, network: Network) -> None:
    """What a provider spends on a reply in a dispute, beside what it is prepaid: coin here, token there."""
    console.print(
        f"A reply in a dispute takes about {REPLY:,} gas, {coins(REPLY * cost.price, network)} now; it is prepaid with "
        f"{parameters.root_fee} (root) or {parameters.request_fee} base units of the token; nine tenths are the "
        "provider's. They should be worth half as much again as the gas."
    )


def step_line(entry: Done, network: Network) -> str:
    """One step that is in a block."""
    what = f"{entry.name:<9} {entry.address or entry.transaction}"
    cost = f"block {entry.block}, {entry.gas:,} gas, {coins(entry.wei, network)}"
    return f"{what}  {'already there: ' if entry.resumed else ''}{cost}"


def show_deployed(console: Console, deployed: Deployed, network: Network, manifest: Path) -> None:
    for name, address in deployed.deployment.addresses.items():
        console.print(f"{name:<9} {address}")
    console.print(f"manifest  {manifest}")
    console.print(f"spent     {coins(deployed.wei, network)} in {len(deployed.done)} transactions")
    console.print(f"Check it: [bold]assay chain verify --deployment {manifest} --rpc URL[/]")


def show_checks(console: Console, checks: Iterable[Check]) -> None:
    table = _table("", "check", "expected", "found")
    for check in checks:
        mark = "·" if check.note else "[green]✓[/]" if check.ok else "[red]✗[/]"
        found = Text(_short(check.found), style="" if check.ok else "red")
        table.add_row(mark, check.what, Text(_short(check.expected)), found)
    console.print(table)


def _short(text: str) -> str:
    """A hash by its ends: --json has all of it, and two that differ, differ there."""
    return f"{text[:12]}…{text[-8:]}" if text.startswith("0x") and len(text) == _HASH_LENGTH else text


def show_networks(console: Console, networks: Iterable[Network]) -> None:
    table = _table(
        "network", "chain id", "kind", "coin", "blocks", "wait for", "final after", "RPC URL in", "bias of a draw"
    )
    for network in networks:
        every = f"{network.block_time_ms / 1000:g} s" if network.block_time_ms else "on demand"
        table.add_row(
            network.name,
            str(network.chain_id),
            network.kind.value,
            network.coin,
            every,
            f"{network.confirmations} blocks",
            f"{network.finality} s",
            network.rpc_variable,
            Text(network.bias),
        )
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in ("gas", "cost") else "left", overflow="fold")
    return table
