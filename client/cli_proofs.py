"""`assay job classify`: a proved answer of a small model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import typer

from client import cli_question as asked
from client.cli_options import Connection, connected
from client.errors import BadRequest
from client.marketplace import Marketplace, open_marketplace
from client.proofs import OfferedProof, ProofClient
from client.provers import ProverPolicy, Provers
from client.rfq import GRACE_SHARE, RfqPolicy
from client.wallet import Wallet
from market.config import Home, index_url, queue_path
from market.errors import ConfigError
from market.index import Index
from market.keystore import load_account
from market.money import parse_amount
from market.proofs.artefact import load_artefact
from market.proofs.backend import InputForm, ProvingBackend
from market.proofs.backends import backend_of
from market.types import parse_bytes32

HTTP_SECONDS = 30.0


@connected
def classify_command(
    connection: Connection,
    numbers: str = typer.Argument(help="The input: integers with commas, or @file of them.", show_default=False),
    artefact: Path = typer.Option(..., "--artefact", help="Folder of the proof artefact."),
    provider: str | None = typer.Option(
        None, "--provider", help="URL of a provider of proofs. Left out: the best that the registry knows."
    ),
    allow: list[str] = asked.AllowOption,
    deny: list[str] = asked.DenyOption,
    max_price: str | None = typer.Option(None, "--max-price", help="Most that it may cost, in tokens."),
    window: int = typer.Option(120, "--window", help="Seconds in which the proof must be on chain."),
    srs_sha256: str | None = typer.Option(
        None, "--srs-sha256", help="Hash that the ceremony published of its powers of tau; a real chain needs it."
    ),
    allow_unsafe: bool = typer.Option(
        False, "--allow-unsafe", help="Accept powers of tau that somebody may know the secret of, on a real chain."
    ),
    quote_only: bool = typer.Option(
        False, "--quote", help="Only say who would prove it, and for what; nothing is paid."
    ),
    yes: bool = typer.Option(False, "--yes", "-y", help="Agree to the price without being asked."),
) -> None:
    """Buy an answer that is proved on chain: the proof's own transaction pays for it.

    No second provider, no window, nobody to trust. Without a proof in time the escrow comes back. The input is written
    on chain for all to see, unless the model was set up with hashed inputs.

    Examples:

        assay job classify @digit.txt --artefact build/proofs/digits

        assay job classify @digit.txt --artefact build/proofs/digits --quote --json

        assay job classify 0,0,5,13,… --artefact build/proofs/digits --provider http://127.0.0.1:8750 --yes --json
    """
    connection.must_be_able_to_ask(yes=yes or quote_only)
    model, values = load_artefact(artefact), _numbers(numbers)
    who = (asked.addresses("--allow", allow), asked.addresses("--deny", deny))
    backend = backend_of([model]) if model.program.form == InputForm.HASHED else None
    with _client(connection, backend, who) as (client, market):
        cap = None if max_price is None else parse_amount(max_price, market.token_info.decimals)
        offered = client.negotiate(
            model, values, provider, max_price=cap, srs_sha256=srs_sha256, allow_unsafe=allow_unsafe
        )
        if quote_only and connection.as_json:
            connection.emit(offered.to_json())
            return
        _tell(connection, offered)
        if quote_only:
            return
        connection.confirm("Post this job?", yes=yes)
        result = client.classify(offered, window=window, on_posted=lambda job_id: _posted(connection, job_id))
    if connection.as_json:
        connection.emit(result.to_json())
        return
    typer.echo(result.label)
    connection.console.print(
        f"[dim]proved by {result.provider} in {result.transaction}, {result.seconds:.2f} s after the post, "
        f"{result.paid} base units[/]"
    )


@connected
def expire_command(
    connection: Connection,
    job: str = typer.Argument(help="Id of a proof job, 0x and 64 hex digits.", show_default=False),
) -> None:
    """Take the escrow of a classify job back that was not proved until its deadline. Anyone may; the client gets it.

    Example: assay job expire-proof 0x5c1e…
    """
    job_id = parse_bytes32("job", job)
    with _client(connection) as (client, _):
        refunded = client.expire(job_id)
    if connection.as_json:
        connection.emit({"job_id": "0x" + job_id.hex(), "refunded": str(refunded)})
        return
    typer.echo(f"{refunded} base units are the client's credit again")


@contextmanager
def _client(
    connection: Connection,
    backend: ProvingBackend | None = None,
    who: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset()),
) -> Iterator[tuple[ProofClient, Marketplace]]:
    config = connection.config
    if config.rpc is None or config.deployment is None or config.keystore is None:
        raise ConfigError(
            "Which market, and with which key?",
            hint="Start a network with `assay up`, or give --rpc, --deployment and --keystore.",
        )
    account = load_account(config.keystore, connection.password())
    market = open_marketplace(config.rpc, config.deployment)
    folder = config.data_dir or Home.of(os.environ).path
    folder.mkdir(parents=True, exist_ok=True)
    chain, deployment = market.chain, market.deployment
    with ExitStack() as stack:
        wallet = Wallet(chain, account, queue_path(folder, chain.chain_id, account.address))
        stack.callback(wallet.close)
        url = config.index_url or index_url(folder, chain.chain_id, deployment.registry)
        index = Index(url, chain, deployment)
        stack.callback(index.close)
        policy = ProverPolicy(
            allow=who[0],
            deny=who[1],
            reach=market.reach(config.allow_private_endpoints),
            rfq=RfqPolicy(timeout=config.quote_timeout, grace=config.quote_timeout * GRACE_SHARE),
        )
        client = ProofClient(
            chain,
            deployment,
            account,
            wallet,
            http=stack.enter_context(httpx.Client(timeout=HTTP_SECONDS, trust_env=False)),
            now=market.clock.now,
            backend=backend,
            provers=Provers(index, policy, token=market.token.address, client=account.address),
        )
        yield client, market


def _posted(connection: Connection, job_id: bytes) -> None:
    connection.console.print(
        f"[dim]job 0x{job_id.hex()} waits for its proof; once it is late, `assay job expire-proof` takes it back[/]"
    )


def _tell(connection: Connection, offered: OfferedProof) -> None:
    if not connection.as_json:
        connection.console.print(
            f"{offered.artefact.name}: {offered.price} base units to {offered.quote.provider}, paid by its proof alone"
        )
        for item in offered.left_out:
            connection.console.print(f"[dim]not {item.provider.lower()}: {item.message}[/]")


def _numbers(text: str) -> list[int]:
    if text.startswith("@"):
        try:
            text = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise BadRequest(
                f"{text[1:]} cannot be read: {os.strerror(error.errno or 0)}; nothing was spent."
            ) from None
    try:
        given = json.loads(f"[{text.strip().strip('[]').rstrip(',')}]")
        return [value for value in given if _is_integer(value)]
    except ValueError:
        raise BadRequest("The input is not a list of integers with commas; nothing was spent.") from None


def _is_integer(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return True
