"""`assay dispute contradict`: two outputs that a provider signed for one request; guilty at once, without a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from eth_abi.abi import encode

from assay.dispute_render import show_prospects, show_verdict
from client.cli_options import Connection, connected
from client.disputing import player_of
from client.errors import BadRequest
from client.marketplace import Marketplace
from client.render import money, page
from client.results import TokenInfo
from client.store import JobRecord
from market.chain import same_address
from market.dispute_contracts import Disputes
from market.dispute_evidence import answers_of
from market.dispute_play import NotDisputable, rewarded
from market.disputes import Dispute, dispute_id_of
from market.errors import ConfigError, ContractError, WireError
from market.receipts import ReceiptDocument
from market.signing import verify
from market.types import Output, Receipt, Request


@connected
def contradict_command(
    connection: Connection,
    job: str = typer.Argument(help="Job id, or its first digits.", show_default=False),
    receipt: Path = typer.Argument(help="File of a receipt that says otherwise.", show_default=False),
    yes: bool = typer.Option(False, "--yes", "-y", help="Send it without being asked."),
) -> None:
    """Show that a provider signed another output for a job than the one it revealed: guilty at once.

    Takes the receipt's file (as `assay job post --json` gives under `receipts`), no pack, and prepays nothing. The
    request's hash becomes public, the prompt does not. Exits with 5 where the receipt says what was revealed.

    Examples:

        assay dispute contradict 0x1f2e other-receipt.json

        assay dispute contradict 0x1f2e other-receipt.json --yes --json | jq '.verdict, .reward'
    """
    connection.must_be_able_to_ask(yes=yes)
    document = read_receipt(receipt)
    with connection.open(with_key=True) as client:
        place, wallet = client.marketplace, client.wallet
        if wallet is None:
            raise ConfigError("No keystore was named.", hint="Give --keystore (ASSAY_KEYSTORE). Nothing was sent.")
        job_id = client.find(job)
        check_contradiction(place, job_id, document)
        request = _request_of(place, job_id, client.store.get(job_id), document)
        player = player_of(place, wallet, [])
        call = Disputes(place.chain, place.deployment.disputes).contradict(
            place.jobs.address, job_id, document.provider, encoded(request), contradiction_of(document)
        )
        reward = player.reward(job_id, document.provider)
        show_prospects(connection.console, player.prospects(call, 0, 0, reward), place.token_info)
        connection.confirm(f"Have the bond of {document.provider.lower()} slashed?", yes=yes)
        dispute_id = dispute_id_of(place.jobs.address, job_id, document.provider)
        sent = wallet.send(call, f"contradict:{dispute_id.hex()}")
        found = player.look(dispute_id)
        verdict = found.verdict if isinstance(found, Dispute) else found
        if verdict is None:
            raise ContractError("The verdict was taken back by a reorganisation.", code="Reorganised")
        player.refund(dispute_id)  # of a dispute that was open
        if connection.as_json:
            connection.emit(
                {
                    "dispute_id": "0x" + dispute_id.hex(),
                    "verdict": verdict.state.name,
                    "fault": None if verdict.fault is None else verdict.fault.name,
                    "reward": rewarded(sent, player.address),
                    "gas": sent.gas_used,
                    "transaction": sent.hash,
                }
            )
        else:
            show_verdict(page(), verdict)
            _show_reward(place.token_info, rewarded(sent, player.address))


def read_receipt(path: Path) -> ReceiptDocument:
    """Raises BadRequest."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        return ReceiptDocument.from_json(document)
    except (OSError, ValueError, WireError) as error:
        raise BadRequest(f"{path} holds no receipt: {error}.", hint="docs/cli.md shows its form.") from None


def check_contradiction(place: Marketplace, job_id: bytes, document: ReceiptDocument) -> None:
    """Says before anything is sent what the contract would refuse.

    Raises:
        NotDisputable: the receipt is about another job or request, or says what was revealed.
        BadSignature: the provider did not sign it.
    """
    receipt, replicas = document.receipt, place.jobs.replicas(job_id)
    replica = next((r for r in replicas if same_address(r.provider, document.provider)), None)
    if replica is None:
        raise NotDisputable(
            f"{document.provider.lower()} is no replica of job 0x{job_id.hex()}. Nothing was sent.", code="NotReplica"
        )
    if receipt.subject_id != job_id or receipt.request_hash != place.jobs.job(job_id).request_hash:
        raise NotDisputable("The receipt is about another job or another request. Nothing was sent.", code="OtherJob")
    if output_of(receipt).output_hash == replica.digest:
        raise NotDisputable(
            "The receipt says what the provider revealed. Nothing was sent.", code="NoContradiction", hint=""
        )
    if not place.chain.code(document.provider):  # a contract's signature only the chain can check
        verify(place.jobs.domain, receipt, document.signature, document.provider)


def output_of(receipt: Receipt) -> Output:
    return Output(receipt.output_root, receipt.output_tokens, receipt.finish)


def contradiction_of(document: ReceiptDocument) -> bytes:
    """As `Jobs.contradicts` takes it: abi.encode(Receipt, signature)."""
    kinds = f"({','.join(kind for _, _, kind in Receipt.members())})"
    return encode([kinds, "bytes"], [document.receipt.values(), document.signature])


def encoded(request: Request) -> bytes:
    """As `Jobs.freeze` takes it: abi.encode(Request)."""
    return encode([kind for _, _, kind in Request.members()], list(request.values()))


def _request_of(place: Marketplace, job_id: bytes, record: JobRecord | None, document: ReceiptDocument) -> Request:
    if record is not None and not record.is_encrypted:
        return record.request
    if document.request is not None:
        return document.request
    public = answers_of(place.chain, place.jobs, job_id, place.deployment.block).request(job_id)
    if public is None:
        raise BadRequest(
            "The request is neither in the file, nor on this machine, nor on chain. Nothing was sent.",
            hint="Make the file again on the machine that posted the job.",
        )
    return public[0]


def _show_reward(token: TokenInfo, reward: int) -> None:
    if reward:
        page().print(f"The challengers' share is yours: {money(reward, token)}, as credit.")
