"""What the provider's commands share: options, passwords, the chain of a configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from eth_utils.address import to_checksum_address

from market.chain import Chain
from market.deployment import Contracts, Deployment
from market.errors import ConfigError
from market.keystore import read_address, read_password
from provider.config import ProviderConfig

Config = Annotated[Path, typer.Option("--config", help="The provider's configuration file.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File with the keystore's password. Else ASSAY_PASSWORD, else you are asked.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
DEFAULT_CONFIG = Path("provider.toml")


def password(file: Path | None) -> str:
    """The keystore's password.

    Raises:
        ConfigError: there is none, and nobody to ask.
    """
    asks = sys.stdin.isatty()
    return read_password(
        password_file=file,
        environment=os.environ,
        prompt=(lambda: str(typer.prompt("Password", hide_input=True, err=True))) if asks else None,
    )


def connect(settings: ProviderConfig) -> tuple[Chain, Contracts]:
    """The chain and its contracts, checked against the manifest.

    Raises:
        ConfigError, ChainError: see `market.deployment`.
    """
    deployment = Deployment.load(settings.deployment)
    chain = Chain(settings.rpc_url, expected_chain_id=deployment.chain_id)
    deployment.check(chain)
    return chain, Contracts.of(chain, deployment)


def address_of(settings: ProviderConfig) -> str:
    """The provider's address, as its keystore states it; no password needed.

    Raises:
        ConfigError: it states none.
    """
    stated = read_address(settings.keystore)
    if stated is None:
        raise ConfigError(
            f"{settings.keystore} does not state its address.",
            hint='Add the field "address" to the keystore, as geth writes it.',
        )
    return str(to_checksum_address(stated))
