"""From a bargain to a job on chain, with its prompt on the way to every replica.

Order: the job's number is read, the record is stored, the transaction and the deliveries start together. A crash at any
point leaves either nothing on chain or a record that `watch` goes on from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from client.delivery import Courier, Parcel
from client.escrow import EscrowPlan, plan_escrow
from client.negotiation import Bargain
from client.progress import Progress, Report
from client.provider_http import ProviderHttp
from client.quotes import EXPIRY_MARGIN
from client.signatures import SignatureChecker
from client.steps import StepClock
from client.store import FAILED, POSTED, JobRecord, JobStore, StoredQuote, updated
from client.wallet import Wallet, await_earlier
from market.chain import same_address
from market.contracts import Jobs, Token, Vault
from market.errors import ChainError, MarketError
from market.events import decode_logs
from market.hashing import job_id as job_id_of
from market.hashing import pack_tokens
from market.transactions import Sent, TransactionPending, Transactions
from market.types import Mode
from market.views import JobParams, SignedQuote


class QuotesExpired(MarketError):
    """The quotes ended before the job was posted."""


@dataclass(frozen=True)
class Posted:
    """A job that is on chain, and the courier that is still bringing its prompt to whoever has not accepted."""

    record: JobRecord
    courier: Courier
    gas: dict[str, int]


class Poster:
    """Posts jobs of one account. Posts of one process are made one after the other: each takes the next job number.

    Args:
        now: unix seconds by the chain's clock.
    """

    def __init__(
        self,
        jobs: Jobs,
        vault: Vault,
        token: Token,
        wallet: Wallet,
        store: JobStore,
        http: ProviderHttp,
        signatures: SignatureChecker,
        *,
        now: Callable[[], int],
    ) -> None:
        self._jobs = jobs
        self._vault = vault
        self._token = token
        self._wallet = wallet
        self._store = store
        self._http = http
        self._signatures = signatures
        self._now = now
        self._one_at_a_time = anyio.Lock()

    async def post(self, bargain: Bargain, steps: StepClock, report: Report, group: TaskGroup) -> Posted:
        """Posts a job; the deliveries run in `group`, and go on after this returns.

        Raises:
            QuotesExpired, InsufficientFunds, NoAllowance, ContractError, TransactionRefused: nothing was escrowed.
            TransactionPending: it is not in a block yet; `watch` goes on with it.
        """
        async with self._one_at_a_time:
            with ExitStack() as stack:
                transactions = await anyio.to_thread.run_sync(lambda: stack.enter_context(self._wallet.open()))
                return await self._post(transactions, bargain, steps, report, group)

    async def _post(
        self, transactions: Transactions, bargain: Bargain, steps: StepClock, report: Report, group: TaskGroup
    ) -> Posted:
        record, escrow = await anyio.to_thread.run_sync(lambda: self._prepare(transactions, bargain, steps))
        gas: dict[str, int] = {}
        if escrow.approval is not None:
            approved = await anyio.to_thread.run_sync(transactions.send, escrow.approval)
            gas[approved.label] = approved.gas_used
        begin = steps.now()
        courier = self._start_courier(record, report, group)
        try:
            sent = await anyio.to_thread.run_sync(lambda: self._send(transactions, record, bargain, escrow))
        except TransactionPending as error:  # it may still be mined: the record stays
            error.hint = f"Go on with `assay job watch 0x{record.job_id.hex()}`; posting again would buy a second job."
            error.details["job_id"] = "0x" + record.job_id.hex()
            raise
        except BaseException:
            courier.stop()
            updated(self._store, record, state=FAILED)
            raise
        gas[sent.label] = sent.gas_used
        numbered = posted_id(self._jobs, sent)
        if numbered != record.job_id:  # another program posted with the same key a moment before
            courier.stop()
            self._store.forget(record.job_id)
            record = dataclasses.replace(record, job_id=numbered)
            courier = self._start_courier(record, report, group)
        record = updated(self._store, record, state=POSTED, post_transaction=sent.hash)
        report(Progress("distribution", "the job is on chain", {"job_id": "0x" + record.job_id.hex()}))
        await courier.first_round()
        steps.set("distribution", begin, courier.state.last_at or steps.now())
        record = self.note_deliveries(record, courier, steps)
        report(acceptances(record))
        return Posted(record, courier, gas)

    def note_deliveries(self, record: JobRecord, courier: Courier, steps: StepClock) -> JobRecord:
        """Writes who has accepted so far."""
        return updated(
            self._store,
            record,
            acceptances=dict(courier.state.accepted),
            refusals=dict(courier.state.refused),
            steps_ms=steps.measured(),
        )

    def start_again(self, record: JobRecord, report: Report, group: TaskGroup) -> Courier:
        """After a restart: brings the prompt to the replicas that have not accepted it."""
        return self._start_courier(record, report, group)

    def _prepare(self, transactions: Transactions, bargain: Bargain, steps: StepClock) -> tuple[JobRecord, EscrowPlan]:
        """The job's number, the money, and the record, which is on disk when this returns."""
        await_earlier(transactions)
        now, client = self._now(), self._wallet.account.address
        quotes, drawn = bargain.report.chosen, bargain.report.drawn
        terms = None if drawn is None else drawn.quote
        first_end = min(quote.valid_until for quote in ([q.quote for q in quotes] if terms is None else [terms]))
        if now + EXPIRY_MARGIN > first_end:
            raise QuotesExpired(
                f"{'A chosen quote' if terms is None else 'What the draw offers'} ended at {first_end}; it is {now}.",
                hint="Nothing was spent. Ask again, and confirm sooner.",
                valid_until=first_end,
                now=now,
            )
        escrow = plan_escrow(
            self._token,
            self._vault,
            self._wallet.account,
            bargain.report.escrow,
            now=now,
            source=bargain.options.escrow,
        )
        nonce = self._jobs.client_nonce(client)
        record = JobRecord(
            job_id=job_id_of(self._jobs.chain.chain_id, self._jobs.address, client, nonce),
            client=client,
            created_at=now,
            mode=bargain.options.mode,
            quorum=bargain.options.quorum,
            commit_window=bargain.options.commit_window,
            reveal_window=bargain.options.reveal_window,
            request=bargain.request,
            ids=bargain.ids,
            messages=bargain.prompt.messages,
            quotes=tuple(StoredQuote(q.quote, q.signature, q.endpoint) for q in quotes),
            selection_seed=bargain.report.selection_seed,
            stop_strings=bargain.options.stop_strings,
            log_probabilities=bargain.options.log_probabilities,
            steps_ms=steps.measured(),
            draw=0 if terms is None else bargain.options.replicas,
            terms=terms,
        )
        self._store.put(record)
        return record, escrow

    def _send(self, transactions: Transactions, record: JobRecord, bargain: Bargain, escrow: EscrowPlan) -> Sent:
        quotes = tuple(SignedQuote(q.quote, q.signature) for q in record.quotes)
        if record.terms is not None:
            quotes = (SignedQuote(record.terms, b""),)
        parameters = JobParams(
            mode=record.mode,
            quorum=record.quorum,
            max_escrow=bargain.report.escrow,
            commit_window=record.commit_window,
            reveal_window=record.reveal_window,
            request=record.request,
            quotes=quotes,
            permit=escrow.permit,
            # of a drawn job nobody knows yet whom to bring it, and an optimistic one lives on everybody's eyes
            inline_input=pack_tokens(record.ids) if record.draw or record.mode is Mode.OPTIMISTIC else b"",
            draw=record.draw,
        )
        return transactions.send(self._jobs.post(parameters), key=post_key(record))

    def _start_courier(self, record: JobRecord, report: Report, group: TaskGroup) -> Courier:
        def changed(provider: str, message: str) -> None:
            report(Progress("distribution", f"{provider.lower()[:10]}… {message}", {"provider": provider.lower()}))

        parcel = Parcel(record.job_id, record.request, record.ids, record.messages, record.log_probabilities)
        courier = Courier(self._http, self._signatures, parcel, on_change=changed)
        courier.state.accepted.update(record.acceptances)
        group.start_soon(
            courier.deliver,
            [
                (stored.quote.provider, stored.endpoint)
                for stored in record.quotes
                if stored.quote.provider.lower() not in record.acceptances
            ],
        )
        return courier


def post_key(record: JobRecord) -> str:
    """Idempotency key of the posting transaction: the request's nonce makes it unlike any other job's."""
    return f"post:{record.request.request_hash.hex()}"


def posted_id(jobs: Jobs, sent: Sent) -> bytes:
    """The id that the contract gave the job.

    Raises:
        ChainError: code NoJobPosted: the transaction succeeded and posted nothing, so the endpoint lies.
    """
    for event in decode_logs(sent.logs):
        if event.name == "JobPosted" and same_address(event.address, jobs.address):
            return bytes(event.args["jobId"])
    raise ChainError(
        "The transaction was mined but no job appeared.",
        hint="Check the deployment.",
        code="NoJobPosted",
        hash=sent.hash,
    )


def acceptances(record: JobRecord) -> Progress:
    """Who holds the prompt, and what that means for the quorum."""
    accepted, total = len(record.acceptances), len(record.quotes)
    if record.draw:
        message = "the prompt is public on chain, for whoever is drawn"
    elif accepted == total:
        message = f"all {total} providers hold the prompt"
    else:
        missing = "; ".join(f"{provider[:10]}…: {why}" for provider, why in record.refusals.items())
        outlook = (
            f"{record.quorum} are enough"
            if accepted >= record.quorum
            else f"{record.quorum} are needed: unless more accept, the job expires and the escrow comes back"
        )
        message = f"{accepted} of {total} providers hold the prompt, {outlook} ({missing})"
    return Progress("distribution", message, {"accepted": accepted, "of": total, "quorum": record.quorum})
