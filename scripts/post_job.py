"""Buys an answer on a deployed market with one of ape's test accounts, and prints it.

ape run post_job "The capital of France is" --network ethereum:local:foundry --account TEST::1 --manifest FILE

For development chains: elsewhere `assay job post` takes your keystore. The chain is the one at APE_FOUNDRY_HOST (or on
port 8545); `assay up` prints the URL and the manifest of a local market.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from ape import networks
from ape.api import AccountAPI, TestAccountAPI
from ape.cli import ConnectedProviderCommand, account_option
from eth_account import Account

from client import Client, JobOptions
from market.chain import DEVELOPMENT_CHAIN_IDS
from market.deployment import Deployment
from market.errors import AssayError
from market.types import Mode


def post_job(account: TestAccountAPI, manifest: Path, prompt: str, options: JobOptions) -> str:
    """Asks for quotes, posts, waits for the agreed answer. Returns its text.

    Raises:
        AssayError: whatever stopped it; the message says what became of the money.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Client.connect(
            rpc_url=networks.provider.http_uri,
            deployment=Deployment.load(manifest),
            account=Account.from_key(account.private_key),
            data_dir=Path(folder),
        ) as client,
    ):
        result = client.run(prompt, options=options)
        result.raise_for_state()
        return result.answer or ""


@click.command(cls=ConnectedProviderCommand)
@account_option()
@click.argument("prompt")
@click.option("--manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--model", help="Name or id. Default: the only one on sale.")
@click.option("--replicas", type=int, default=3, show_default=True)
@click.option("--quorum", type=int, default=2, show_default=True)
@click.option("--max-output-tokens", type=int, default=32, show_default=True)
def cli(
    account: AccountAPI,
    prompt: str,
    manifest: Path,
    model: str | None,
    replicas: int,
    quorum: int,
    max_output_tokens: int,
) -> None:
    """Posts a job and prints its answer."""
    chain_id = networks.provider.chain_id
    if not isinstance(account, TestAccountAPI) or chain_id not in DEVELOPMENT_CHAIN_IDS:
        raise click.UsageError(f"Only for a test account on a development chain, not chain {chain_id}.")
    mode = Mode.NONE if replicas == 1 else Mode.QUORUM
    options = JobOptions(
        model=model, mode=mode, replicas=replicas, quorum=min(quorum, replicas), max_output_tokens=max_output_tokens
    )
    try:
        click.echo(post_job(account, manifest, prompt, options))
    except AssayError as error:
        raise click.ClickException(str(error)) from None
