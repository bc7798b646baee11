"""Disputes for a client: a player with its wallet, and the evidence about answers of jobs it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.errors import BadRequest
from client.marketplace import Marketplace
from client.store import JobRecord
from client.wallet import Wallet
from market.chain import same_address
from market.contracts import Registry
from market.dispute_contracts import Disputes
from market.dispute_evidence import Evidence, answers_of, evidence_of
from market.dispute_play import Player
from market.disputes import DisputeBook
from market.errors import ContractError
from market.models.pack import Pack, load_pack
from market.verification.traces import Traces


def book_of(place: Marketplace, *, forget: bool = True) -> DisputeBook:
    """The disputes of a market."""
    deployment = place.deployment
    return DisputeBook(place.chain, deployment.disputes, start_block=deployment.block, forget=forget)


def player_of(place: Marketplace, wallet: Wallet, packs: Sequence[Pack]) -> Player:
    """One account in the disputes of a market. `packs`: the models that it can compute."""
    return Player(
        place.chain,
        place.jobs,
        place.vault,
        place.token,
        Disputes(place.chain, place.deployment.disputes),
        book_of(place),
        Traces(packs),
        wallet.account,
        wallet.send,
        place.clock.now,
    )


def load_packs(folders: Sequence[Path]) -> list[Pack]:
    """The packs in these folders. Raises PackError."""
    return [load_pack(folder) for folder in folders]


def evidence_for(
    place: Marketplace,
    job_id: bytes,
    provider: str | None,
    record: JobRecord | None = None,
    output_ids: tuple[int, ...] | None = None,
) -> Evidence:
    """One answer of a job: from the chain, from what this machine kept of its own job, or as given.

    Args:
        provider: whose answer; None where only one replica revealed.
        output_ids: of its output, where the chain does not have them.

    Raises:
        BadRequest: no such job or answer, or which provider? NoEvidence, HashMismatch: see market.dispute_evidence.
    """
    answers = answers_of(place.chain, place.jobs, job_id, place.deployment.block)
    found = answers.providers(job_id)
    if not found:
        state = _state(place, job_id)
        raise BadRequest(
            f"Nobody revealed an answer in job 0x{job_id.hex()}, which is {state}.",
            hint="Only an answer that was revealed can be judged: `assay job show` says how far it is.",
        )
    names = ", ".join(found)
    if provider is None:
        if len(found) != 1:
            raise BadRequest(f"Whose answer? In job 0x{job_id.hex()} {names} revealed one.", hint="Name the provider.")
        provider = found[0]
    who = next((address for address in found if same_address(address, provider)), None)
    if who is None:
        raise BadRequest(f"{provider} revealed no answer in job 0x{job_id.hex()}.", hint=f"These did: {names}.")
    request = None if record is None else record.question
    if output_ids is None and answers.ids(job_id, who) is None and record is not None:
        output_ids = _kept(record, who)
    registry = Registry(place.chain, place.deployment.registry)
    return evidence_of(answers, place.jobs, registry, job_id, who, request=request, output_ids=output_ids)


def _state(place: Marketplace, job_id: bytes) -> str:
    """Raises BadRequest: there is no such job."""
    try:
        return place.jobs.job(job_id).state.name.lower()
    except ContractError as error:
        if error.code != "UnknownJob":
            raise
        raise BadRequest(
            f"This market has no job 0x{job_id.hex()}.", hint="Is it the right chain, and the right deployment?"
        ) from None


def _kept(record: JobRecord, provider: str) -> tuple[int, ...] | None:
    """The ids of a provider's output in the receipts that this machine kept."""
    receipts: Any = record.result.get("receipts", ())
    for receipt in receipts:
        if isinstance(receipt, dict) and str(receipt.get("provider", "")).lower() == provider.lower():
            ids = receipt.get("ids") or record.result.get("ids")
            return None if ids is None else tuple(ids)
    return None
