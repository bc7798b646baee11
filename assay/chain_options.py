"""Options that the commands of `assay chain` share, and what they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from client.cli_options import Connection
from client.config import load_config
from market.chain import Chain
from market.config import Home
from market.deployment import Deployment
from market.errors import ConfigError
from market.keystore import load_account, read_address
from market.networks import FILE_NAME, Networks

Rpc = Annotated[str | None, typer.Option(help="HTTP URL of the chain (ASSAY_RPC).", show_default=False)]
Keystore = Annotated[Path | None, typer.Option(help="Your encrypted key (ASSAY_KEYSTORE).", show_default=False)]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="File with its password; else ASSAY_PASSWORD, else you are asked.", show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where the key's transaction queue is kept (ASSAY_DATA_DIR).", show_default=False),
]
Manifest = Annotated[
    Path | None, typer.Option("--deployment", help="Manifest of the market (ASSAY_DEPLOYMENT).", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on standard error but errors.")]


def connection_of(*, as_json: bool, quiet: bool = False, **options: Any) -> Connection:
    """The settings of a command: its options, then ASSAY_ variables, then client.toml, then the local network."""
    return Connection(load_config(options, os.environ), as_json, quiet)


def own_networks() -> Networks:
    """The shipped networks and those in the user's own file."""
    return Networks(Home.of(os.environ).path / FILE_NAME)


def market_of(connection: Connection) -> tuple[Chain, Deployment]:
    """The chain and the manifest that the settings name, not compared with each other yet.

    Raises:
        ConfigError: one of them is missing or unreadable; ChainUnreachable.
    """
    config = connection.config
    if config.rpc is None or config.deployment is None:
        raise ConfigError(
            "No chain was named.",
            hint="Give --rpc (ASSAY_RPC) and --deployment (ASSAY_DEPLOYMENT), or start a local network: `assay up`.",
        )
    deployment = Deployment.load(config.deployment)
    return Chain(config.rpc), deployment


def address_of(connection: Connection) -> str:
    """The address of the key, from its keystore; it is opened only where it does not state its address.

    Raises:
        ConfigError: no keystore, or no password for one that hides its address.
    """
    keystore = connection.config.keystore
    if keystore is None:
        raise ConfigError("No keystore was named.", hint="Give --keystore (ASSAY_KEYSTORE). Nothing was sent.")
    address = read_address(keystore)
    return address if address is not None else str(load_account(keystore, connection.password()).address)
