"""Buying a proved answer: the classify job. One quote, one transaction to post, and the proof settles by itself.

The answer needs no trust in anybody: it is read from the event of the transaction whose proof the chain has checked.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
from eth_account.signers.local import LocalAccount
from pydantic import ValidationError

from client.errors import BadRequest, PriceAboveCap
from client.escrow import plan_escrow
from client.matching import LeftOut
from client.provers import Provers
from client.provider_http import printable
from client.quotes import EXPIRY_MARGIN
from client.wallet import Wallet
from market.api import BODY_LIMIT, Body, QuoteRequest, SignedQuoteBody
from market.chain import DEVELOPMENT_CHAIN_IDS, Chain
from market.deployment import Contracts, Deployment
from market.errors import ChainError, MarketError, WireError
from market.events import Event, decode_logs
from market.hashing import ZERO32, pack_stop_tokens, pack_tokens, tokens_root, unpack_tokens
from market.proof_contracts import ProofJobParams
from market.proofs.api import PrivateInputBody
from market.proofs.artefact import ProofArtefact, check_powers
from market.proofs.backend import InputForm, ProvingBackend, signed, unsigned
from market.settlement import Terms, price
from market.signing import verify
from market.types import Mode, Quote, Request, Sampler
from market.views import ProofJobState

FIELD_BITS = 248
POLL_SECONDS = 0.05
EVENT_SECONDS = 30.0
"""For which a settled job's event may be missing: blocks come a moment after the state that they made."""


class ProofNotMade(MarketError):
    """The provider did not prove the job in time; the escrow came back."""


@dataclass(frozen=True)
class Classification:
    """A proved answer.

    Attributes:
        scores: the model's outputs, as value / 2^output_scale; ids: as they stand on chain.
        label: name of the largest output, or its number.
        paid: base units; seconds: from the post until the settlement was seen, wall.
    """

    job_id: bytes
    ids: tuple[int, ...]
    scores: tuple[float, ...]
    label: str
    paid: int
    provider: str
    transaction: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "job_id": "0x" + self.job_id.hex(),
            "label": self.label,
            "scores": list(self.scores),
            "ids": list(self.ids),
            "paid": str(self.paid),
            "provider": self.provider.lower(),
            "transaction": self.transaction,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class OfferedProof:
    """A checked quote for one request; nothing was spent yet.

    Attributes:
        price: base units. found: by the index, not named by the caller: only checked addresses are connected to.
        left_out: providers that were not taken, with the reason.
    """

    artefact: ProofArtefact
    request: Request
    ids: tuple[int, ...]
    blinding: int
    quote: Quote
    signature: bytes
    price: int
    endpoint: str
    found: bool = False
    left_out: tuple[LeftOut, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "model_id": "0x" + self.artefact.model_id.hex(),
            "provider": self.quote.provider.lower(),
            "endpoint": self.endpoint,
            "price": str(self.price),
            "valid_until": self.quote.valid_until,
            "left_out": [item.to_json() for item in self.left_out],
        }


class ProofClient:
    """Buys proved answers for one account.

    Args:
        http: talks to the provider that the caller names; redirects are not followed.
        now: unix seconds, as the chain has them.
        backend: hashes private inputs; without it only public ones can be bought.
        provers: finds providers in the index; without it the caller names one.
    """

    def __init__(
        self,
        chain: Chain,
        deployment: Deployment,
        account: LocalAccount,
        wallet: Wallet,
        *,
        http: httpx.Client,
        now: Callable[[], int],
        backend: ProvingBackend | None = None,
        provers: Provers | None = None,
    ) -> None:
        self._chain = chain
        self._deployment = deployment
        self._contracts = Contracts.of(chain, deployment)
        self._account = account
        self._wallet = wallet
        self._http = http
        self._now = now
        self._backend = backend
        self._provers = provers

    # ------------------------------------------------------------------------------------------------------ asking

    def negotiate(
        self,
        artefact: ProofArtefact,
        values: Sequence[int],
        endpoint: str | None = None,
        *,
        max_price: int | None = None,
        srs_sha256: str | None = None,
        allow_unsafe: bool = False,
    ) -> OfferedProof:
        """A quote for proving this input, checked against every rule of the contract.

        Args:
            values: integers; a model's input x stands as x · 2^input_scale.
            endpoint: of a provider; None: the best of those that the index knows.
            srs_sha256: that the ceremony published of its powers of tau; needed on a real chain.
            allow_unsafe: accept an artefact whose powers of tau somebody may know the secret of.
        Raises:
            BadRequest: shape. SrsError: an unsafe artefact on a real chain (`check_powers`). PriceAboveCap.
            WireError: the provider's answer.
            NotEnoughProviders: no endpoint was named, and nobody gave a quote that holds.
            MarketError: code ModelNotProvable, no verifier of the model is registered.
        """
        if not allow_unsafe and self._chain.chain_id not in DEVELOPMENT_CHAIN_IDS:
            check_powers(artefact, srs_sha256)
        self._check(artefact, values)
        ids = tuple(unsigned(value) for value in values)
        request, blinding = self._request(artefact, ids)
        if endpoint is None:
            return self._find(artefact, request, ids, blinding, max_price)
        body = QuoteRequest(request=request, client=self._account.address, mode=int(Mode.PROOF))
        offered = self._ask("POST", endpoint, "/v1/quotes", body, SignedQuoteBody)
        quote = offered.quote
        cost, _ = self._check_quote(quote, offered.signature, request)
        if max_price is not None and cost > max_price:
            raise PriceAboveCap(
                f"The provider asks {cost} base units, your cap is {max_price}; nothing was spent.",
                price=cost,
                cap=max_price,
            )
        return OfferedProof(artefact, request, ids, blinding, quote, offered.signature, cost, endpoint)

    def _find(
        self, artefact: ProofArtefact, request: Request, ids: tuple[int, ...], blinding: int, max_price: int | None
    ) -> OfferedProof:
        if self._provers is None:
            raise BadRequest("No provider was named and there is no index to look in; nothing was spent.")
        found = self._provers.find(
            request,
            artefact.name,
            lambda quote, signature: self._check_quote(quote, signature, request),
            max_price=max_price,
        )
        best = found.quote
        return OfferedProof(
            artefact,
            request,
            ids,
            blinding,
            best.quote,
            best.signature,
            best.price,
            best.endpoint,
            found=True,
            left_out=found.left_out,
        )

    def _check(self, artefact: ProofArtefact, values: Sequence[int]) -> None:
        if len(values) != artefact.program.inputs:
            raise BadRequest(
                f"The model takes {artefact.program.inputs} numbers, {len(values)} were given; nothing was spent."
            )
        shape = self._contracts.verifier.shape_of(artefact.model_id)
        if shape != (artefact.program.inputs, artefact.program.outputs):
            raise MarketError(
                f"No verifier of model 0x{artefact.model_id.hex()} is registered on this chain; nothing was spent.",
                hint="Register it with `assay model prove-register`.",
                code="ModelNotProvable",
            )

    def _request(self, artefact: ProofArtefact, ids: tuple[int, ...]) -> tuple[Request, int]:
        blinding, root = 0, tokens_root(ids)
        if artefact.program.form == InputForm.HASHED:
            if self._backend is None:
                raise BadRequest("This model's inputs are hashed, which takes a proving backend; nothing was spent.")
            blinding = secrets.randbits(FIELD_BITS)
            root = self._backend.input_root(artefact.folder, ids, blinding=blinding)
        request = Request(
            model_id=artefact.model_id,
            input_root=root,
            input_tokens=artefact.program.inputs,
            max_output_tokens=artefact.program.outputs,
            stop_tokens=pack_stop_tokens([]),
            sampler=Sampler.GREEDY,
            temperature_q16=0,
            top_k=0,
            top_p_q16=0,
            seed=ZERO32,
            nonce=secrets.token_bytes(32),
        )
        return request, blinding

    def _check_quote(self, quote: Quote, signature: bytes, request: Request) -> tuple[int, bytes]:
        """Its price and its digest."""
        client = self._account.address.lower()
        fields = {
            "client": int(quote.client, 16) == 0 or quote.client.lower() == client,
            "modelId": quote.model_id == request.model_id,
            "requestHash": quote.request_hash in (ZERO32, request.request_hash),
            "mode": quote.mode == Mode.PROOF,
            "token": quote.token.lower() == self._contracts.token.address.lower(),
            "collateral": quote.bond == quote.kill_fee == quote.miss_fee == 0,
            "limits": request.input_tokens <= quote.max_input_tokens
            and request.max_output_tokens <= quote.max_output_tokens,
            "validUntil": quote.valid_until >= self._now() + EXPIRY_MARGIN,
        }
        for name, holds in fields.items():
            if not holds:
                raise WireError(f"The quote does not sell this job ({name}); nothing was spent.", code="QuoteMismatch")
        domain = self._contracts.proofs.domain
        verify(domain, quote, signature, quote.provider)
        return price(Terms.of(quote), request.input_tokens, request.max_output_tokens), domain.digest(quote)

    # ------------------------------------------------------------------------------------------------------ buying

    def classify(
        self, offered: OfferedProof, *, window: int = 120, on_posted: Callable[[bytes], None] = lambda _job_id: None
    ) -> Classification:
        """Posts the job and waits for its proof, or until the escrow is back.

        Args:
            window: seconds in which the proof must be on chain.
            on_posted: told the job's id once its escrow is on chain: whoever stops waiting can `expire` it later.
        Raises:
            ProofNotMade: nobody proved it in time; nothing was lost. ChainError, InsufficientFunds: see there; code
                EventMissing: proved and paid, but the endpoint does not show the answer.
        """
        contracts, request = self._contracts, offered.request
        plan = plan_escrow(contracts.token, contracts.vault, self._account, offered.price, now=self._now())
        if plan.approval is not None:
            self._wallet.send(plan.approval)
        private = offered.artefact.program.form == InputForm.HASHED
        if private:
            self._deliver(offered)
        params = ProofJobParams(
            max_escrow=offered.price,
            proof_window=window,
            request=request,
            quote=offered.quote,
            signature=offered.signature,
            permit=plan.permit,
            input=b"" if private else pack_tokens(offered.ids),
        )
        started = time.monotonic()
        sent = self._wallet.send(contracts.proofs.post(params))
        posted = next(event for event in decode_logs(sent.logs) if event.name == "ProofJobPosted")
        on_posted(posted.args["jobId"])
        if private:
            with suppress(WireError):  # it has it, unless others crowded it out before a job held its place
                self._deliver(offered)
        return self._await(offered, posted.args["jobId"], sent.block_number, started)

    def _deliver(self, offered: OfferedProof) -> None:
        request = offered.request
        body = PrivateInputBody(request=request, ids=list(offered.ids), blinding=offered.blinding.to_bytes(32))
        if offered.found and self._provers is not None:
            self._provers.deliver(offered.endpoint, body)
        else:
            self._ask("PUT", offered.endpoint, f"/v1/requests/0x{request.request_hash.hex()}", body, None)

    def expire(self, job_id: bytes) -> int:
        """Takes the escrow of a job back that was not proved in time. Returns base units, now the client's credit.

        Raises:
            ContractError: ProofNotDue, ProofJobNotOpen, UnknownProofJob; nothing was sent.
        """
        sent = self._wallet.send(self._contracts.proofs.expire(job_id))
        event = next(event for event in decode_logs(sent.logs) if event.name == "ProofExpired")
        return int(event.args["refunded"])

    def _await(self, offered: OfferedProof, job_id: bytes, block: int, started: float) -> Classification:
        proofs, settled = self._contracts.proofs, 0.0
        while True:
            job = proofs.job(job_id)
            if job.state == ProofJobState.SETTLED:
                proved = self._proved(offered, job_id, block, started)
                if proved is not None:
                    return proved
                settled = settled or time.monotonic()
                if time.monotonic() - settled > EVENT_SECONDS:
                    raise ChainError(
                        f"Job 0x{job_id.hex()} was proved and paid, but the endpoint shows no event `Proved` of it "
                        f"from block {block} on. Nothing was lost: the answer stands in that event.",
                        hint="Read it from another endpoint.",
                        code="EventMissing",
                        job_id="0x" + job_id.hex(),
                    )
            else:
                settled = 0.0
            if job.state == ProofJobState.OPEN and self._now() > job.proof_deadline:
                self._wallet.send(proofs.expire(job_id))
                job = proofs.job(job_id)
            if job.state == ProofJobState.EXPIRED:
                raise ProofNotMade(
                    f"Job 0x{job_id.hex()} was not proved until its deadline; its escrow of {job.escrow} base units is "
                    "your credit again, nothing was lost.",
                    hint="Ask another provider.",
                    job_id="0x" + job_id.hex(),
                )
            time.sleep(POLL_SECONDS)

    def _proved(self, offered: OfferedProof, job_id: bytes, block: int, started: float) -> Classification | None:
        """None: an endpoint's state may be ahead of its blocks, anvil's is for a moment."""
        seconds = time.monotonic() - started
        logs = self._chain.logs([self._deployment.proofs], block, self._chain.head().number)
        event = next((e for e in decode_logs(logs) if _is_proof_of(e, job_id)), None)
        if event is None:
            return None
        ids = tuple(unpack_tokens(event.args["ids"], offered.artefact.program.outputs))
        values = [signed(token) for token in ids]
        best = max(range(len(values)), key=values.__getitem__)
        labels = offered.artefact.labels
        return Classification(
            job_id=job_id,
            ids=ids,
            scores=tuple(value / 2**offered.artefact.output_scale for value in values),
            label=labels[best] if labels else str(best),
            paid=event.args["paid"],
            provider=event.args["provider"],
            transaction=event.transaction_hash,
            seconds=seconds,
        )

    # --------------------------------------------------------------------------------------------------- plumbing

    def _ask(self, method: str, endpoint: str, path: str, body: Body, kind: type[Any] | None) -> Any:
        content = bytearray()
        try:
            with self._http.stream(method, endpoint.rstrip("/") + path, json=body.to_json()) as answer:
                for chunk in answer.iter_bytes():
                    content += chunk
                    if len(content) > BODY_LIMIT:
                        raise WireError("The provider's answer is too large; nothing was spent.", code="too_large")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise WireError(
                f"The provider cannot be reached ({type(error).__name__}); nothing was spent.", code="unreachable"
            ) from None
        if answer.status_code != 200:
            try:
                told = json.loads(content)["error"]
                code, message = str(told["code"]), printable(str(told["message"]))
            except (ValueError, KeyError, TypeError):
                code, message = "REFUSED", f"HTTP {answer.status_code}"
            raise WireError(f"The provider refuses: {message} Nothing was spent.", code=code)
        if kind is None:
            return None
        try:
            return kind.model_validate_json(bytes(content))
        except ValidationError:
            raise WireError("The provider's answer is malformed; nothing was spent.", code="malformed") from None


def _is_proof_of(event: Event, job_id: bytes) -> bool:
    return event.name == "Proved" and event.args["jobId"] == job_id
