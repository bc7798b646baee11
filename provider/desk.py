"""What a client can ask of this provider: a quote, that it takes a prompt, the answer of a settled job.

No HTTP here: provider/app.py translates. Every method may block for a database write or an RPC call.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from eth_account.signers.local import LocalAccount

from market.api import LogProbabilitiesBody
from market.errors import BadSignature, WireError
from market.hashing import tokens_root
from market.inference.log_probabilities import fitting_top
from market.models.errors import TextError
from market.signing import Domain, sign, verify
from market.types import Acceptance, Mode, Output, OutputAccess, Quote, Receipt, Request
from market.views import JobState, ReplicaView
from provider.catalogue import Catalogue
from provider.chainside import Outlook
from provider.errors import Refusal
from provider.job_chain import JobChain
from provider.journal import Journal
from provider.pricing import Ask, Shop, Situation, check_request, unknown_model
from provider.records import JobRow, Stage

log = structlog.get_logger(__name__)

ACCESS_SECONDS = 300
"""How far ahead the time limit of an OutputAccess may lie."""


class DeskChain(JobChain, Protocol):
    """The node's chain, and what it last looked like."""

    @property
    def outlook(self) -> Outlook: ...


@dataclass(frozen=True)
class Delivered:
    """The answer of a job with its receipt, as it goes to the client. `signature` is the receipt's."""

    output: Output
    ids: tuple[int, ...]
    inference_ms: int | None
    receipt: Receipt
    signature: bytes
    log_probabilities: LogProbabilitiesBody | None = None


class Desk:
    """See the module. Thread-safe.

    Args:
        load: jobs the engine has to do.
        kick: called with the id of a job that may go on because its prompt arrived.
        admit: raises a Refusal while nothing new is promised.
    """

    def __init__(
        self,
        chain: DeskChain,
        journal: Journal,
        shop: Shop,
        catalogue: Catalogue,
        account: LocalAccount,
        *,
        load: Callable[[], int],
        kick: Callable[[bytes], None],
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        self._chain = chain
        self._journal = journal
        self._shop = shop
        self._catalogue = catalogue
        self._account = account
        self._domain: Domain = chain.domain
        self._load = load
        self._kick = kick
        self._admit = admit

    # ------------------------------------------------------------------------------------------------- quotes

    def quote(self, ask: Ask) -> tuple[Quote, bytes]:
        """A signed quote, recorded before it is given out.

        Raises:
            Refusal: with the code and the numbers.
        """
        self._admit()
        now = self._chain.now()
        outlook = self._chain.outlook
        situation = Situation(
            now=now,
            stake=outlook.stake,
            reserved=self._journal.reserved(),
            load=self._load(),
            fee_per_gas=outlook.fee_per_gas,
        )
        quote = self._shop.quote(ask, situation, nonce=secrets.randbits(128))
        signature = sign(self._domain, quote, self._account)
        keep = self._shop.limits.kept_quotes
        self._journal.add_quote(self._domain.digest(quote), quote, signature, now, keep=keep)
        return quote, signature

    # ------------------------------------------------------------------------------------------------ prompts

    def accept(
        self,
        request_hash: bytes,
        subject_id: bytes,
        request: Request,
        ids: Sequence[int],
        messages: Sequence[dict[str, str]] | None,
        log_probabilities: int = 0,
    ) -> tuple[Acceptance, bytes]:
        """Takes a prompt for a job (that may not be posted yet). The same delivery again gives the same answer.

        Args:
            log_probabilities: of how many likeliest tokens the client wants to be told; as many are as the provider's
                limit and the answer's longest length allow.

        Raises:
            Refusal: NOT_QUOTED (404), HashMismatch, TEMPLATE_MISMATCH, OVERLOADED and those of a quote.
        """
        self._check_hashes(request_hash, subject_id, request, ids)
        known = self._journal.acceptance(subject_id, request_hash)
        if known is not None and self._journal.request(request_hash) is not None:
            return known
        now = self._chain.now()
        limits = self._shop.limits
        if self._journal.job(subject_id) is None and not self._journal.covers(
            request, now - limits.stored_request_seconds
        ):
            raise Refusal(
                "NOT_QUOTED",
                "This provider has not quoted this request.",
                hint="POST /v1/quotes first.",
                status=404,
                requestHash="0x" + request_hash.hex(),
            )
        served = self._catalogue.get(request.model_id)
        if served is None:
            raise unknown_model(request.model_id)
        check_request(request, served.product, limits, self._shop.samplers)
        _check_vocabulary(ids, served.product.vocabulary)
        if messages is not None:
            self._check_template(served.text.encode_chat, messages, ids)
        self._check_room(subject_id, request_hash, now)
        acceptance = Acceptance(subject_id, request_hash, now)
        signature = sign(self._domain, acceptance, self._account)
        self._journal.put_request(request, ids, now + limits.stored_request_seconds)
        top = fitting_top(min(log_probabilities, limits.max_log_probabilities), request.max_output_tokens)
        if top:
            self._journal.want_log_probabilities(subject_id, top)
        self._journal.add_acceptance(acceptance, signature)
        self._kick(subject_id)
        return acceptance, signature

    def _check_hashes(self, request_hash: bytes, subject_id: bytes, request: Request, ids: Sequence[int]) -> None:
        row = self._journal.job(subject_id)
        expected = request_hash if row is None else row.request_hash
        for what, promised, found in (
            ("request", request_hash, request.request_hash),
            ("job's request", expected, request_hash),
            ("inputRoot", request.input_root, _root(ids)),
        ):
            if promised != found:
                raise Refusal(
                    "HashMismatch",
                    f"The {what} should hash to 0x{promised.hex()} but hashes to 0x{found.hex()}.",
                    hint="Send exactly what the quote was made for.",
                    expected="0x" + promised.hex(),
                    got="0x" + found.hex(),
                )
        if len(ids) != request.input_tokens:
            raise Refusal(
                "HashMismatch",
                f"The request states {request.input_tokens} prompt tokens, {len(ids)} came.",
                expected=request.input_tokens,
                got=len(ids),
            )

    def _check_template(
        self,
        encode: Callable[[Sequence[dict[str, str]]], list[int]],
        messages: Sequence[dict[str, str]],
        ids: Sequence[int],
    ) -> None:
        try:
            rendered = encode(messages)
        except TextError as error:
            raise Refusal("TEMPLATE_MISMATCH", error.message) from None
        if rendered != list(ids):
            raise Refusal(
                "TEMPLATE_MISMATCH",
                f"The messages render to {len(rendered)} tokens that differ from the {len(ids)} ids sent with them.",
                hint="Render with the model's own tokenizer and template.",
                rendered=len(rendered),
                sent=len(ids),
            )

    def _check_room(self, subject_id: bytes, request_hash: bytes, now: int) -> None:
        """Prompts for jobs on chain, which cost their client something, always find room: strangers cannot fill it."""
        limits = self._shop.limits
        stored = self._journal.request_count()
        if stored >= limits.stored_requests:
            self._journal.forget(now, outputs_before=0)
            stored = self._journal.request_count()
        waits = self._journal.job(subject_id) is not None or self._journal.request(request_hash) is not None
        if stored >= limits.stored_requests and not waits:
            raise Refusal(
                "OVERLOADED",
                f"This provider holds {stored} prompts, its limit is {limits.stored_requests}.",
                hint="Deliver the prompt once its job is on chain.",
                status=429,
                retry_after=5,
                count=stored,
                limit=limits.stored_requests,
            )
        accepted = self._journal.acceptance_count(request_hash)
        if accepted >= limits.acceptances_per_request:
            raise Refusal(
                "OVERLOADED",
                f"This prompt was accepted for {accepted} jobs already, the limit is {limits.acceptances_per_request}.",
                hint="Give each job a request with a nonce of its own.",
                status=429,
                retry_after=limits.stored_request_seconds,
                count=accepted,
                limit=limits.acceptances_per_request,
            )

    # ------------------------------------------------------------------------------------------------- answers

    def output(self, subject_id: bytes, access: OutputAccess | None, signature: bytes) -> Delivered:
        """The answer of a settled job. `access` may be None where the job's request is public.

        Raises:
            Refusal: UnknownJob (404), NOT_SETTLED, NOT_PAID, NO_OUTPUT (404), ACCESS_EXPIRED (401).
            BadSignature: the access is missing, by somebody else, or for another job.
        """
        row = self._journal.job(subject_id)
        if row is None:
            raise Refusal(
                "UnknownJob",
                "This provider has no part in that job.",
                status=404,
                subjectId="0x" + subject_id.hex(),
            )
        if not row.public:
            self._check_access(row, access, signature)
        row = self._settled(row)
        if row.ids is None or row.output is None:
            raise Refusal("NO_OUTPUT", "This provider has no answer to that job (any more).", status=404)
        self._check_paid(row.job_id, row.paid, row.output)
        receipt = Receipt(
            subject_id=row.job_id,
            index=0,
            request_hash=row.request_hash,
            output_root=row.output.output_root,
            output_tokens=row.output.output_tokens,
            finish=row.output.finish,
            charged=row.paid,
            issued_at=row.final_at,
        )
        signed = sign(self._domain, receipt, self._account)
        told = self._journal.log_probabilities(row.job_id)
        parsed = None if told is None else LogProbabilitiesBody.model_validate_json(told)
        return Delivered(row.output, row.ids, row.inference_ms, receipt, signed, parsed)

    def _settled(self, row: JobRow) -> JobRow:
        """The row with what the chain paid; asks the chain where the node has not seen the end yet."""
        if row.stage in (Stage.FINAL, Stage.RELEASING, Stage.CLOSED):
            if row.outcome == JobState.SETTLED.name:
                return row
            raise _not_settled(row.outcome)
        job = self._chain.job(row.job_id)
        if job is not None and job.mode is Mode.OPTIMISTIC and job.is_agreed and job.state is JobState.REVEALING:
            return row.with_payment(paid=self._mine(row.job_id).charge(job), final_at=self._chain.now())
        if job is None or job.state != JobState.SETTLED:
            raise _not_settled("UNKNOWN" if job is None else job.state.name)
        mine = self._mine(row.job_id)
        self._kick(row.job_id)
        return row.with_payment(paid=mine.paid, final_at=job.final_at)

    def _mine(self, job_id: bytes) -> ReplicaView:
        return next(r for r in self._chain.replicas(job_id) if r.provider.lower() == self._chain.address.lower())

    def _check_paid(self, job_id: bytes, paid: int, output: Output) -> None:
        """A majority of one's own accounts that agrees on nonsense must not get the honest answer for nothing.

        Only the agreed output is ever paid (contracts/libraries/Payout.sol), but it may have cost nothing: then its
        hash decides.
        """
        if paid > 0:
            return
        job = self._chain.job(job_id)
        if job is None or job.output_hash != output.output_hash:
            raise Refusal(
                "NOT_PAID",
                "The job was settled with another answer than this provider's. What was not paid is not given out.",
                hint="Ask a replica that was paid for the agreed answer.",
            )

    def _check_access(self, row: JobRow, access: OutputAccess | None, signature: bytes) -> None:
        if access is None:
            raise BadSignature(
                "This answer belongs to the client who posted the job; the request is not signed.",
                hint="Send X-Assay-Client, X-Assay-Valid-Until and X-Assay-Signature.",
            )
        now = self._chain.now()
        if not now <= access.valid_until <= now + ACCESS_SECONDS:
            raise Refusal(
                "ACCESS_EXPIRED",
                f"The access is valid until {access.valid_until}; now is {now}, the limit {ACCESS_SECONDS} s ahead.",
                hint="Sign a new one.",
                status=401,
                validUntil=str(access.valid_until),
                now=str(now),
            )
        if access.client.lower() != row.client.lower():
            raise BadSignature(
                f"The job was posted by {row.client}, not by {access.client}.",
                expected=row.client.lower(),
                got=access.client.lower(),
            )
        verify(self._domain, access, signature, row.client)


def _root(ids: Sequence[int]) -> bytes:
    try:
        return tokens_root(ids)
    except ValueError as error:
        raise WireError(f"ids: {error}.") from None


def _check_vocabulary(ids: Sequence[int], vocabulary: int) -> None:
    largest = max(ids)
    if largest >= vocabulary:
        raise Refusal(
            "UNKNOWN_TOKEN",
            f"Token {largest} is outside the vocabulary of {vocabulary}.",
            token=largest,
            limit=vocabulary - 1,
        )


def _not_settled(state: str) -> Refusal:
    return Refusal(
        "NOT_SETTLED",
        f"The job is {state}; an answer is given out once its job is SETTLED.",
        hint="Ask again after settlement.",
        state=state,
    )
