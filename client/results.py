"""What the client reports: quotes and jobs, as dataclasses with a stable JSON form.

Amounts are integers in base units of the token, times are unix seconds, ids and hashes 0x hex, addresses lower case.
The rule for numbers in `to_json`: base units of the token, seconds, counts and gas are JSON numbers; wei, of which
2^53 is 0.009 of a coin, are decimal strings, because readers with doubles (jq, JavaScript) lose digits from 2^53 on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from client.drawing import DrawOffer
from client.errors import JobCancelled, NoAgreement, OutputUnavailable
from client.log_probabilities import TokenLogProbabilities
from client.matching import LeftOut
from client.sampling import SamplingChoice
from client.selection import VerifiedQuote
from market.dispute_resolution import Resolution
from market.errors import AssayError
from market.receipts import ReceiptDocument
from market.signing import Domain
from market.types import Finish, Mode, Receipt, Request
from market.views import JobState, JobView, ReplicaState, ReplicaView

_FINISHES = {0: ""} | {int(finish): finish.name.lower() for finish in Finish}


@dataclass(frozen=True)
class TokenInfo:
    """The token jobs are paid in."""

    address: str
    symbol: str
    decimals: int

    def to_json(self) -> dict[str, Any]:
        return {"address": self.address.lower(), "symbol": self.symbol, "decimals": self.decimals}


@dataclass(frozen=True)
class QuoteReport:
    """What a job would cost and who would do it. No money has moved.

    Attributes:
        escrow: what `post` would take: the sum of the chosen prices for the request at its longest.
        bond: the smallest bond behind a chosen quote: what a proved liar loses at least.
        selection_seed: what decided between equals; the same seed and quotes give the same choice.
        sampling: how the answer's tokens would be chosen.
        drawn: what is offered to whoever the chain draws; then nobody is chosen, and there are no alternatives.
    """

    model_id: bytes
    model_name: str
    mode: Mode
    replicas: int
    quorum: int
    input_tokens: int
    max_output_tokens: int
    token: TokenInfo
    chosen: tuple[VerifiedQuote, ...]
    alternatives: tuple[VerifiedQuote, ...]
    left_out: tuple[LeftOut, ...]
    selection_seed: bytes
    steps_ms: Mapping[str, int]
    sampling: SamplingChoice
    drawn: DrawOffer | None = None

    @property
    def escrow(self) -> int:
        if self.drawn is not None:
            return self.drawn.price * self.replicas
        return sum(quote.price for quote in self.chosen)

    @property
    def bond(self) -> int:
        if self.drawn is not None:
            return self.drawn.quote.bond
        return min(quote.quote.bond for quote in self.chosen)

    def to_json(self) -> dict[str, Any]:
        return {
            "model_id": "0x" + self.model_id.hex(),
            "model": self.model_name,
            "mode": self.mode.name.lower(),
            "replicas": self.replicas,
            "quorum": self.quorum,
            "input_tokens": self.input_tokens,
            "max_output_tokens": self.max_output_tokens,
            "token": self.token.to_json(),
            "escrow": self.escrow,
            "bond": self.bond,
            "chosen": [_quote_json(quote) for quote in self.chosen],
            "alternatives": [_quote_json(quote) for quote in self.alternatives],
            "left_out": [item.to_json() for item in self.left_out],
            "sampling": self.sampling.to_json(),
            "selection_seed": "0x" + self.selection_seed.hex(),
            "drawn": None if self.drawn is None else self.drawn.to_json(),
            "steps_ms": dict(self.steps_ms),
        }


def _quote_json(quote: VerifiedQuote) -> dict[str, Any]:
    return {
        "provider": quote.provider.lower(),
        "endpoint": quote.endpoint,
        "price": quote.price,
        "bond": quote.quote.bond,
        "kill_fee": quote.quote.kill_fee,
        "miss_fee": quote.quote.miss_fee,
        "valid_until": quote.quote.valid_until,
        "latency_ms": quote.latency_ms,
        "stake": quote.stake,
        "jobs_paid": quote.jobs_paid,
        "jobs_missed": quote.jobs_missed,
        "digest": "0x" + quote.digest.hex(),
    }


@dataclass(frozen=True)
class Replica:
    """One provider's part in a job.

    Attributes:
        role: agreed, disagreed, late, missed (committed, not revealed), absent (accepted, never committed), refused
            (did not take the request), released (committed, but too few others did, or the job was cancelled), or
            working while the job is open. "undrawn" (address 0) is a place for which nobody was drawn yet, or in time.
        status: the replica's state on chain in lower case; bond: the same of its bond, "none" before a commit.
        paid: out of the escrow, base units.
    """

    address: str
    role: str
    status: str
    bond: str
    paid: int

    def to_json(self) -> dict[str, Any]:
        return {
            "address": self.address.lower(),
            "role": self.role,
            "status": self.status,
            "bond": self.bond,
            "paid": self.paid,
        }


def role_of(job: JobView, replica: ReplicaView, accepted: bool | None) -> str:
    """The role behind a replica's state; `accepted` is None where nobody here knows whether it took the request."""
    if replica.state is ReplicaState.UNDRAWN:
        return "undrawn"
    if replica.state is ReplicaState.REVEALED:
        if job.is_agreed:
            return "agreed" if replica.digest == job.output_hash else "disagreed"
        return "disagreed" if job.state.is_final else "working"
    if replica.state is ReplicaState.LATE:
        return "late"
    if replica.state is ReplicaState.MISSED:
        return "missed"
    if not job.state.is_final:
        return "refused" if accepted is False else "working"
    if replica.state is ReplicaState.COMMITTED or job.state is JobState.CANCELLED:
        return "released"
    return "refused" if accepted is False else "absent"


def replicas_of(job: JobView, replicas: Sequence[ReplicaView], accepted: Mapping[str, bool]) -> tuple[Replica, ...]:
    """Every replica's part. `accepted`: lower-case provider → whether it took the request."""
    return tuple(
        Replica(
            address=replica.provider,
            role=role_of(job, replica, accepted.get(replica.provider.lower())),
            status=replica.state.name.lower(),
            bond=replica.bond_state.name.lower(),
            paid=replica.paid,
        )
        for replica in replicas
    )


@dataclass(frozen=True)
class SignedReceipt:
    """A paid replica's receipt, verified."""

    provider: str
    receipt: Receipt
    signature: bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider.lower(),
            "receipt": self.receipt.to_json(),
            "signature": "0x" + self.signature.hex(),
        }

    def document(self, domain: Domain, request: Request | None, ids: tuple[int, ...]) -> ReceiptDocument:
        """The receipt with what it refers to, to be kept and verified offline."""
        return ReceiptDocument(domain, self.provider, request, self.receipt, self.signature, ids)


@dataclass(frozen=True)
class Checked:
    """What computing one replica's answer again found.

    Attributes:
        right: whether the model gives it; None where its ids are not known.
        dispute: what came of the dispute about it, if there was one; problem: why there was none, or none to its end.
    """

    provider: str
    right: bool | None
    dispute: Resolution | None = None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider.lower(),
            "right": self.right,
            "dispute": None if self.dispute is None else self.dispute.to_json(),
            "problem": self.problem,
        }


@dataclass(frozen=True)
class JobResult:
    """A job as it stands or ended.

    Attributes:
        answer: text of the agreed output, cut at the first stop string; None before agreement, or where the tokenizer
            could not be had.
        ids: its token ids; finish: "stop" or "length", "" before agreement.
        state: the job's state on chain in lower case; settled: whether an agreed output was paid.
        paid, refunded: what left the escrow to replicas, and came back as credit; base units. burnt: the fee of a draw
            that nobody made in time.
        sampling: how its tokens were chosen, with the seed: the same model, prompt and sampling give the same ids. None
            for a job of another machine.
        stop_string: the one the answer was cut at; ids and receipts hold all that was computed.
        log_probabilities: what a provider told of each of `ids`, where that was asked for. Unverified: no part of what
            was agreed, signed or paid; `market.inference.log_probabilities.recomputed` computes them from the pack.
        gas: label of each transaction ("Jobs.post", "Jobs.commit 0x1234…") → gas used.
        receipts: of every paid replica that served its output; each is a file that market.receipts.verify_receipt
            checks offline.
        checks: what computing the replicas' answers again found, where that was done (`Client.check`).
    """

    job_id: bytes
    model_id: bytes
    state: JobState
    answer: str | None
    ids: tuple[int, ...]
    finish: str
    escrow: int
    paid: int
    refunded: int
    providers: tuple[Replica, ...]
    gas: Mapping[str, int]
    steps_ms: Mapping[str, int]
    token: TokenInfo
    commit_deadline: int
    reveal_deadline: int
    final_at: int
    receipts: tuple[ReceiptDocument, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    problems: tuple[str, ...] = field(default=())
    burnt: int = 0
    sampling: SamplingChoice | None = None
    stop_string: str | None = None
    log_probabilities: tuple[TokenLogProbabilities, ...] = ()
    checks: tuple[Checked, ...] = ()

    @property
    def settled(self) -> bool:
        return self.state is JobState.SETTLED

    def raise_for_state(self) -> None:
        """Raises NoAgreement, JobCancelled or OutputUnavailable where there is no answer at the end. Nothing while
        the job is open."""
        money = f"{self.refunded} base units came back as credit, {self.paid} were paid."
        if self.state is JobState.EXPIRED and any(replica.role == "undrawn" for replica in self.providers):
            why = f"nobody made the draw, its fee of {self.burnt} is burnt" if self.burnt else "too few took its terms"
            raise NoAgreement(
                f"The job expired without its providers being drawn: {why}. {money}",
                hint="Ask again, without --draw or with a higher price; `assay withdraw` takes the credit out.",
                code="NobodyDrawn",
                refunded=self.refunded,
                burnt=self.burnt,
            )
        if self.state is JobState.EXPIRED:
            roles = ", ".join(f"{replica.address.lower()[:10]}… {replica.role}" for replica in self.providers)
            raise NoAgreement(
                f"The job expired without agreement ({roles}). {money}",
                hint="Ask again; `assay withdraw` takes the credit out.",
                refunded=self.refunded,
                paid=self.paid,
            )
        if self.state is JobState.CANCELLED:
            raise JobCancelled(f"The job was cancelled. {money}", refunded=self.refunded, paid=self.paid)
        if self.state is JobState.SETTLED and not self.ids:
            why = "; ".join(self.problems) or "no answer"
            raise OutputUnavailable(
                f"The job is settled, but no paid replica served its output: {why}.",
                hint=f"Try again with `assay job watch 0x{self.job_id.hex()}`; the output hash is on chain.",
            )

    @property
    def exit_code(self) -> int:
        """What a command exits with: 0, or that of the error `raise_for_state` raises."""
        try:
            self.raise_for_state()
        except AssayError as error:
            return error.exit_code
        return 0

    def to_json(self) -> dict[str, Any]:
        return {
            "job_id": "0x" + self.job_id.hex(),
            "model_id": "0x" + self.model_id.hex(),
            "state": self.state.name.lower(),
            "settled": self.settled,
            "answer": self.answer,
            "ids": list(self.ids),
            "finish": self.finish,
            "stop_string": self.stop_string,
            "log_probabilities": [each.to_json() for each in self.log_probabilities],
            "sampling": None if self.sampling is None else self.sampling.to_json(),
            "token": self.token.to_json(),
            "escrow": self.escrow,
            "paid": self.paid,
            "refunded": self.refunded,
            "burnt": self.burnt,
            "providers": [replica.to_json() for replica in self.providers],
            "gas": dict(self.gas),
            "steps_ms": dict(self.steps_ms),
            "commit_deadline": self.commit_deadline,
            "reveal_deadline": self.reveal_deadline,
            "final_at": self.final_at,
            "receipts": [receipt.to_json() for receipt in self.receipts],
            "left_out": [item.to_json() for item in self.left_out],
            "problems": list(self.problems),
            "checks": [check.to_json() for check in self.checks],
        }


def finish_name(finish: int) -> str:
    """ "stop", "length", "cancelled", "error", or "" for none."""
    return _FINISHES.get(finish, "")


@dataclass(frozen=True)
class Balance:
    """Where an account's money is. Base units of the stake token, wei for gas, seconds for times.

    Attributes:
        wallet: held by the account itself; credit: withdrawable from the vault; staked: free stake;
        exiting, exit_ready_at: stake on its way out; escrowed: in open jobs that this machine knows.
    """

    account: str
    token: TokenInfo
    wallet: int
    credit: int
    staked: int
    exiting: int
    exit_ready_at: int
    escrowed: int
    gas_wei: int

    def to_json(self) -> dict[str, Any]:
        return {
            "account": self.account.lower(),
            "token": self.token.to_json(),
            "wallet": self.wallet,
            "credit": self.credit,
            "staked": self.staked,
            "exiting": self.exiting,
            "exit_ready_at": self.exit_ready_at,
            "escrowed": self.escrowed,
            "gas_wei": str(self.gas_wei),
        }


@dataclass(frozen=True)
class Withdrawal:
    """Credit that left the vault. Base units."""

    amount: int
    to: str
    transaction: str
    gas: int
    token: TokenInfo

    def to_json(self) -> dict[str, Any]:
        return {
            "amount": self.amount,
            "to": self.to.lower(),
            "transaction": self.transaction,
            "gas": self.gas,
            "token": self.token.to_json(),
        }


@dataclass(frozen=True)
class JobSummary:
    """A line of `assay job list`.

    Attributes:
        state: as on chain in lower case, or prepared or failed for a job that never got there.
        prompt: the last message's first characters, "" for a prompt given as ids.
        is_encrypted: the key of the account that posted it is not here: prompt and answer cannot be read.
    """

    job_id: bytes
    created_at: int
    state: str
    model_id: bytes
    mode: Mode
    replicas: int
    quorum: int
    escrow: int
    prompt: str
    answer: str | None
    is_encrypted: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "job_id": "0x" + self.job_id.hex(),
            "created_at": self.created_at,
            "state": self.state,
            "model_id": "0x" + self.model_id.hex(),
            "mode": self.mode.name.lower(),
            "replicas": self.replicas,
            "quorum": self.quorum,
            "escrow": self.escrow,
            "prompt": self.prompt,
            "answer": self.answer,
            "is_encrypted": self.is_encrypted,
        }
