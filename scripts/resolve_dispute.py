"""Judges an answer of a deployed market and disputes it to the end where it is wrong, with one of ape's accounts.

ape run resolve_dispute JOB --pack FOLDER --network ethereum:local:foundry --account TEST::1 --manifest FILE

JOB is the id of a job whose prompt and answer are on chain. For development chains: elsewhere `assay dispute auto`
takes your keystore. The chain is the one at APE_FOUNDRY_HOST (or on port 8545); `assay up` prints URL and manifest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from ape import networks
from ape.api import AccountAPI, TestAccountAPI
from ape.cli import ConnectedProviderCommand, account_option
from eth_account import Account

from client import Client
from client.disputing import evidence_for, load_packs, player_of
from market.chain import DEVELOPMENT_CHAIN_IDS
from market.deployment import Deployment
from market.dispute_play import Prospects
from market.dispute_resolution import Resolution, move_name, resolve
from market.disputes import Dispute
from market.errors import AssayError, ConfigError
from market.types import parse_bytes32
from market.verification.challenger import Move, Wait


def resolve_dispute(
    account: TestAccountAPI,
    manifest: Path,
    pack: Path,
    job: str,
    provider: str | None,
    say: Callable[[str], None],
    output_ids: tuple[int, ...] | None = None,
) -> Resolution | None:
    """Computes the answer again; None where it is right. Else opens a dispute, or joins it, and plays until a verdict.

    Raises:
        AssayError: whatever stopped it; the message says what was sent.
    """

    def before(_dispute: Dispute, move: Move, prospects: Prospects | None) -> None:
        if not isinstance(move, Wait):
            costs = "" if prospects is None else f" ({prospects.gas:,} gas, {prospects.prepaid} base units prepaid)"
            say(f"{move_name(move)}{costs}: {move.reason}")

    with (
        tempfile.TemporaryDirectory() as folder,
        Client.connect(
            rpc_url=networks.provider.http_uri,
            deployment=Deployment.load(manifest),
            account=Account.from_key(account.private_key),
            data_dir=Path(folder),
        ) as client,
    ):
        if client.wallet is None:
            raise ConfigError("The client has no key.")
        player = player_of(client.marketplace, client.wallet, load_packs([pack]))
        evidence = evidence_for(client.marketplace, parse_bytes32("job", job), provider, output_ids=output_ids)
        wrong = player.fault(evidence)
        if wrong is None:
            say("Computed again, the answer comes out the same.")
            return None
        say(f"The answer is wrong: {wrong}.")
        if player.look(evidence.dispute_id) is None:
            say(f"Opening a dispute; it can win {player.reward(evidence.subject_id, evidence.provider)} base units.")
            player.open(evidence)
        return resolve(player, evidence.dispute_id, before=before)


@click.command(cls=ConnectedProviderCommand)
@account_option()
@click.argument("job")
@click.option("--manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--pack", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--of", "whose", help="Provider (address) whose answer it is. Default: the only one that revealed.")
def cli(account: AccountAPI, job: str, manifest: Path, pack: Path, whose: str | None) -> None:
    """Disputes a wrong answer to the end."""
    chain_id = networks.provider.chain_id
    if not isinstance(account, TestAccountAPI) or chain_id not in DEVELOPMENT_CHAIN_IDS:
        raise click.UsageError(f"Only for a test account on a development chain, not chain {chain_id}.")
    try:
        result = resolve_dispute(account, manifest, pack, job, whose, click.echo)
    except AssayError as error:
        raise click.ClickException(str(error)) from None
    if result is not None:
        verdict = "no verdict" if result.verdict is None else result.verdict.state.name
        click.echo(f"{verdict}: {len(result.played)} moves, {result.reward} base units won. {result.reason}".rstrip())
