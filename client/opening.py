"""From settings to an open client: what the commands do, for programs."""

from __future__ import annotations

import os
from typing import Any

from eth_account.signers.local import LocalAccount

from client.client import Client
from client.config import ClientConfig, load_config
from client.rfq import GRACE_SHARE, RfqPolicy
from market.errors import ConfigError
from market.keystore import load_account, read_password


def connect(**options: Any) -> Client:
    """A client with its key, from the settings that the commands use too.

    Args:
        options: fields of `client.config.ClientConfig`; what is not given comes from ASSAY_ variables, client.toml, or
            the local network that `assay up` started. The keystore's password comes from `password_file` or
            ASSAY_PASSWORD.

    Raises:
        ConfigError: a setting is missing or wrong; KeystoreError, WrongPassword: the key does not open.
        ChainUnreachable, WrongChain, ChainError: the chain is dead, or not the manifest's.
    """
    config = load_config(options, os.environ)
    password = read_password(password_file=config.password_file, environment=os.environ)
    if config.keystore is None:
        raise ConfigError("No keystore was named.", hint="Give keystore=… or set ASSAY_KEYSTORE.")
    return open_client(config, account=load_account(config.keystore, password))


def open_client(config: ClientConfig, *, account: LocalAccount | None = None, address: str | None = None) -> Client:
    """A client of the market that the settings name. Raises as `connect`."""
    if config.rpc is None:
        raise ConfigError(
            "No chain was named.",
            hint="Start a local network with `assay up`, or give --rpc (ASSAY_RPC) and --deployment.",
        )
    if config.deployment is None:
        raise ConfigError("No market was named.", hint="Give --deployment (ASSAY_DEPLOYMENT).")
    return Client.connect(
        rpc_url=config.rpc,
        ws_url=config.ws,
        deployment=config.deployment,
        account=account,
        address=address,
        data_dir=config.data_dir,
        index=config.index_url,
        packs=config.packs,
        allow_private=config.allow_private_endpoints,
        rfq=RfqPolicy(timeout=config.quote_timeout, grace=config.quote_timeout * GRACE_SHARE),
    )
