"""A job's story, put together from the chain, the local record and what providers served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eth_utils.address import to_checksum_address

from client.log_probabilities import TokenLogProbabilities
from client.outputs import FetchedOutput, Source
from client.results import JobResult, SignedReceipt, TokenInfo, finish_name, replicas_of
from client.sampling import SamplingChoice
from client.stop_strings import cut
from client.store import JobRecord
from market.chain import Chain
from market.contracts import Jobs
from market.events import decode_logs
from market.hashing import ZERO32
from market.receipts import ReceiptDocument
from market.settlement import Terms, kill_fee
from market.signing import Domain
from market.types import Receipt
from market.views import JobState, JobView, ReplicaState, ReplicaView

_LABELS = {
    "JobPosted": "Jobs.post",
    "Drawn": "Jobs.draw",
    "Committed": "Jobs.commit",
    "Revealed": "Jobs.reveal",
    "Settled": "Jobs.settle",
    "Expired": "Jobs.settle",
    "DrawLapsed": "Jobs.settle",
    "Cancelled": "Jobs.cancel",
}


def gas_of(jobs: Jobs, job_id: bytes, first_block: int) -> dict[str, int]:
    """Gas of every transaction of a job's life, by label; those of replicas carry the first digits of their address.

    Raises:
        ChainUnreachable, ChainError.
    """
    chain = jobs.chain
    events = decode_logs(chain.logs([jobs.address], first_block, chain.head().number))
    gas: dict[str, int] = {}
    for event in events:
        label = _LABELS.get(event.name)
        if label is None or event.args["jobId"] != job_id:
            continue
        if "provider" in event.args:
            label += f" {event.args['provider'].lower()[:10]}"
        receipt = chain.receipt(event.transaction_hash)
        if receipt is not None:
            gas[label] = int(receipt["gasUsed"], 16)
    return gas


def first_block_of(chain: Chain, record: JobRecord | None, otherwise: int) -> int:
    """The block the job was posted in, or `otherwise` where nobody here knows."""
    receipt = chain.receipt(record.post_transaction) if record is not None and record.post_transaction else None
    return int(receipt["blockNumber"], 16) if receipt is not None else otherwise


def sources_of(job: JobView, replicas: Sequence[ReplicaView], endpoints: Mapping[str, str]) -> list[Source]:
    """The replicas that were paid for the agreed output and can be reached. `endpoints`: lower-case provider → URL."""
    return [
        Source(replica, endpoints[replica.provider.lower()])
        for replica in replicas
        if replica.state is ReplicaState.REVEALED
        and replica.digest == job.output_hash
        and endpoints.get(replica.provider.lower())
    ]


def outcome_json(
    output: FetchedOutput, answer: str | None, gas: Mapping[str, int], stop_strings: Sequence[str]
) -> dict[str, Any]:
    """What the local record keeps of a job's end."""
    text, stop = (None, None) if answer is None else cut(answer, stop_strings)
    return {
        "answer": text,
        "stopString": stop,
        "ids": None if output.ids is None else list(output.ids),
        "finish": output.finish,
        "receipts": [receipt.to_json() for receipt in output.receipts],
        "logProbabilities": [each.to_json() for each in output.log_probabilities],
        "gas": dict(gas),
    }


def chain_seed_of(jobs: Jobs, record: JobRecord | None) -> bytes:
    """The seed that the chain gave a job of this machine; zero where it gives none, or has not yet.

    Raises:
        ChainUnreachable, ChainError.
    """
    return ZERO32 if record is None else jobs.chain_seed(record.job_id, record.request)


def compose(
    job_id: bytes,
    job: JobView,
    replicas: Sequence[ReplicaView],
    record: JobRecord | None,
    token: TokenInfo,
    domain: Domain,
    steps_ms: Mapping[str, int],
    problems: Sequence[str] = (),
    chain_seed: bytes = ZERO32,
) -> JobResult:
    """The report of a job as the chain stores it, with the answer from the local record where there is one.

    `chain_seed`: see `chain_seed_of`.
    """
    accepted: dict[str, bool] = {}
    outcome: Mapping[str, Any] = {}
    if record is not None:
        accepted = dict.fromkeys(record.refusals, False) | dict.fromkeys(record.acceptances, True)
        outcome = record.result
        if record.is_encrypted:
            problems = [*problems, _unreadable(record)]
    paid = sum(replica.paid for replica in replicas)
    burnt = _draw_fee(job, replicas) if job.state is JobState.EXPIRED and not job.draw_failed else 0
    return JobResult(
        job_id=job_id,
        model_id=job.model_id,
        state=job.state,
        answer=outcome.get("answer"),
        ids=tuple(outcome.get("ids") or ()),
        finish=finish_name(outcome.get("finish", 0)),
        escrow=job.escrow,
        paid=paid,
        refunded=job.escrow - paid - burnt if job.state.is_final else 0,
        burnt=burnt,
        providers=replicas_of(job, replicas, accepted),
        gas=outcome.get("gas", {}),
        steps_ms=steps_ms,
        token=token,
        commit_deadline=job.commit_deadline,
        reveal_deadline=job.reveal_deadline,
        final_at=job.final_at,
        receipts=documents(map(_receipt, outcome.get("receipts", ())), domain, record, outcome.get("ids") or ()),
        problems=tuple(problems),
        sampling=None
        if record is None or record.is_encrypted
        else SamplingChoice.of_request(record.request, chain_seed),
        stop_string=outcome.get("stopString"),
        log_probabilities=tuple(map(TokenLogProbabilities.from_json, outcome.get("logProbabilities", ()))),
    )


def _unreadable(record: JobRecord) -> str:
    """Why a job of this machine is shown without its answer, and what to do."""
    return (
        f"prompt and answer are encrypted under the key of {record.client.lower()}: give its keystore's password "
        "(--password-file or ASSAY_PASSWORD) to see them"
    )


def _draw_fee(job: JobView, replicas: Sequence[ReplicaView]) -> int:
    """What is burnt where nobody makes the draw in time: the kill fees of the places (settlement.lapse_draw)."""
    return sum(
        kill_fee(
            Terms(r.base_fee, r.price_per_m_input, r.price_per_m_output, r.kill_fee, r.miss_fee, r.bond),
            job.input_tokens,
            job.max_output_tokens,
        )
        for r in replicas
        if r.state is ReplicaState.UNDRAWN
    )


def documents(
    receipts: Iterable[SignedReceipt], domain: Domain, record: JobRecord | None, ids: Iterable[int]
) -> tuple[ReceiptDocument, ...]:
    """The receipts as files to keep; without a local record nobody here knows the request."""
    request = None if record is None or record.is_encrypted else record.request
    whole = tuple(ids)
    return tuple(receipt.document(domain, request, whole) for receipt in receipts)


def _receipt(entry: Mapping[str, Any]) -> SignedReceipt:
    provider = to_checksum_address(entry["provider"])
    return SignedReceipt(provider, Receipt.from_json(entry["receipt"]), bytes.fromhex(entry["signature"][2:]))
