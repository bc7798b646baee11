"""ProofJobs and its adapter as plain Python: what each call changes, or the custom error it is refused with."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from eth_abi import encode

from market.hashing import TOKENS_PER_LEAF, ZERO32, keccak256, pack_tokens, tokens_root
from market.proofs.backend import EzklProgram
from market.settlement import Terms, price
from market.signing import Domain
from market.types import ZERO_ADDRESS, Mode, Output, Quote, Request
from market.views import ProofJobState
from tests.stateful.ledger import Ledger, Refused, require

MIN_WINDOW, MAX_WINDOW = 30, 86_400
MAX_IDS = 4_096


@dataclass(frozen=True)
class ProofPost:
    """A call of `post`. `signer`: whoever signed the quote, in whichever domain."""

    request: Request
    quote: Quote
    signer: str
    signed_for: Domain
    max_escrow: int
    window: int
    given: bytes = b""


@dataclass(frozen=True)
class Claim:
    """A call of `settle`.

    Attributes:
        fault: the error of the adapter that the proof deserves, with its values without the job's id.
        holds: what the model's own verifier will say.
    """

    request: Request
    output: tuple[int, ...]
    fault: tuple[str, dict[str, Any]] | None = None
    holds: bool = True


@dataclass
class ModelProofJob:
    """As ProofJobs.job shows it."""

    client: str
    provider: str
    deadline: int
    escrow: int
    request_hash: bytes
    state: ProofJobState = ProofJobState.OPEN
    output_hash: bytes = ZERO32


@dataclass
class ProofModel(Ledger):
    """`held` is held by ProofJobs; `shapes`: ids in and out by model id; `roots`: what a published model names, as the
    hash of code and of program."""

    domain: Domain = field(default_factory=lambda: Domain(0, ZERO_ADDRESS))
    shapes: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    roots: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    used: set[tuple[bytes, str]] = field(default_factory=set)
    nonces: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    jobs: dict[bytes, ModelProofJob] = field(default_factory=dict)

    # --- the adapter

    def register(self, model_id: bytes, code_hash: bytes, has_code: bool, program: EzklProgram) -> None:
        require(model_id not in self.shapes, "VerifierAlreadyRegistered", modelId=model_id)
        require(model_id in self.roots, "UnknownModel", modelId=model_id)
        weights, shape = self.roots[model_id]
        for name, expected, got in (("weightsRoot", weights, code_hash), ("programRoot", shape, program.hash_struct())):
            where = name.encode().ljust(32, b"\0")
            require(expected == got, "VerifierMismatch", modelId=model_id, field=where, expected=expected, got=got)
        for name, number in (("inputs", program.inputs), ("outputs", program.outputs)):
            require(0 < number <= MAX_IDS, "BadProgram", field=name.encode().ljust(32, b"\0"))
        require(has_code, "BadProgram", field=b"verifier".ljust(32, b"\0"))
        self.shapes[model_id] = (program.inputs, program.outputs)

    # --- jobs

    def post(self, caller: str, call: ProofPost) -> bytes:
        inside = MIN_WINDOW <= call.window <= MAX_WINDOW
        limits = {"minimum": MIN_WINDOW, "maximum": MAX_WINDOW}
        require(inside, "ProofWindowOutOfRange", window=call.window, **limits)
        self._check_request(call)
        escrow = self._check_quote(caller, call)
        require(escrow <= call.max_escrow, "EscrowAboveCap", escrow=escrow, cap=call.max_escrow)
        require(not self.deprecated, "VaultDeprecated")
        missing = max(0, escrow - self.credit[caller])
        if missing:
            self._check_cap(missing)
            self._check_pull(caller, missing)
            self._pull(caller, missing)
        self.credit[caller] -= escrow - missing
        self.held += escrow
        self.used.add((self.domain.digest(call.quote), caller))
        identity = self.job_id(caller, self.nonces[caller])
        self.nonces[caller] += 1
        deadline = self.now + call.window
        self.jobs[identity] = ModelProofJob(caller, call.quote.provider, deadline, escrow, call.request.request_hash)
        return identity

    def job_id(self, client: str, nonce: int) -> bytes:
        kinds = ["uint256", "address", "address", "uint256"]
        return keccak256(encode(kinds, [self.domain.chain_id, self.domain.verifying_contract, client, nonce]))

    def settle(self, caller: str, identity: bytes, claim: Claim) -> None:
        job = self._open(identity)
        require(caller == job.provider, "NotTheProver", jobId=identity, caller=caller, provider=job.provider)
        late = self.now > job.deadline
        require(not late, "ProofTooLate", jobId=identity, timestamp=self.now, proofDeadline=job.deadline)
        got = claim.request.request_hash
        require(got == job.request_hash, "RequestMismatch", jobId=identity, expected=job.request_hash, got=got)
        if claim.fault is not None:
            name, values = claim.fault
            where = {"jobId": identity} if name == "StatementMismatch" else {}
            raise Refused(name, **where, **values)
        require(claim.holds, "ProofRefused", jobId=identity)
        job.state = ProofJobState.SETTLED
        job.output_hash = Output(tokens_root(claim.output), len(claim.output), 2).output_hash
        self.held -= job.escrow
        self.credit[caller] += job.escrow

    def expire(self, identity: bytes) -> None:
        job = self._open(identity)
        due = self.now > job.deadline
        require(due, "ProofNotDue", jobId=identity, timestamp=self.now, proofDeadline=job.deadline)
        job.state = ProofJobState.EXPIRED
        self.held -= job.escrow
        self.credit[job.client] += job.escrow

    def _open(self, identity: bytes) -> ModelProofJob:
        job = self.jobs.get(identity)
        if job is None:
            raise Refused("UnknownProofJob", jobId=identity)
        require(job.state == ProofJobState.OPEN, "ProofJobNotOpen", jobId=identity, state=job.state)
        return job

    def _check_request(self, call: ProofPost) -> None:
        request = call.request
        require(request.input_tokens > 0, "EmptyInput")
        require(request.max_output_tokens > 0, "NoOutputAsked")
        require(request.sampler == 0, "BadSampler", sampler=request.sampler)
        shape = self.shapes.get(request.model_id)
        if shape is None:
            raise Refused("ModelNotProvable", modelId=request.model_id)
        for name, expected, got in (
            ("inputTokens", shape[0], request.input_tokens),
            ("maxOutputTokens", shape[1], request.max_output_tokens),
        ):
            where = name.encode().ljust(32, b"\0")
            require(expected == got, "ShapeMismatch", modelId=request.model_id, field=where, expected=expected, got=got)
        if call.given:
            self._check_input(request, call.given)

    @staticmethod
    def _check_input(request: Request, given: bytes) -> None:
        length = 32 * -(-request.input_tokens // TOKENS_PER_LEAF)
        require(len(given) == length, "InputLengthMismatch", expected=length, got=len(given))
        filled = given[4 * request.input_tokens :].count(0xFF) == len(given) - 4 * request.input_tokens
        require(filled, "InputFillerMismatch", inputTokens=request.input_tokens)
        ids = [int.from_bytes(given[4 * i : 4 * i + 4]) for i in range(request.input_tokens)]
        assert pack_tokens(ids) == given
        root = tokens_root(ids)
        require(root == request.input_root, "InputMismatch", expected=request.input_root, got=root)

    def _check_quote(self, caller: str, call: ProofPost) -> int:
        quote, request = call.quote, call.request
        who = quote.provider
        expired = self.now > quote.valid_until
        require(not expired, "QuoteExpired", provider=who, validUntil=quote.valid_until, timestamp=self.now)
        for name, holds in (
            ("client", quote.client in (ZERO_ADDRESS, caller)),
            ("modelId", quote.model_id == request.model_id),
            ("requestHash", quote.request_hash in (ZERO32, request.request_hash)),
            ("mode", quote.mode == Mode.PROOF),
        ):
            require(holds, "QuoteMismatch", provider=who, field=name.encode().ljust(32, b"\0"))
        require(quote.token == self.constants.token, "WrongToken", token=quote.token, expected=self.constants.token)
        for name, limit, asked in (
            ("maxInputTokens", quote.max_input_tokens, request.input_tokens),
            ("maxOutputTokens", quote.max_output_tokens, request.max_output_tokens),
        ):
            where = name.encode().ljust(32, b"\0")
            require(asked <= limit, "QuoteLimit", provider=who, field=where, has=limit, needs=asked)
        for name, amount in (("bond", quote.bond), ("missFee", quote.miss_fee), ("killFee", quote.kill_fee)):
            require(amount == 0, "NoCollateral", provider=who, field=name.encode().ljust(32, b"\0"))
        digest = self.domain.digest(quote)
        require((digest, caller) not in self.used, "QuoteUsed", provider=who, quoteDigest=digest)
        require(call.signer == who and call.signed_for == self.domain, "BadSignature", provider=who)
        return price(Terms.of(quote), request.input_tokens, request.max_output_tokens)
