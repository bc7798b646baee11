"""Typed clients of the contracts of proof mode; see market.contracts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from eth_utils.address import to_checksum_address

from market.chain import Call
from market.contracts import BlockTag, Contract
from market.hashing import pack_tokens
from market.proofs.backend import EzklProgram
from market.signing import Domain
from market.types import ZERO_ADDRESS, Quote, Request
from market.views import ProofJobState

PROOFS_DOMAIN = "Assay Proofs"


@dataclass(frozen=True)
class ProofJobView:
    """A proof job as it stands: `escrow` in base units, `proof_deadline` in unix seconds, `output_hash` 0 if OPEN."""

    client: str
    state: ProofJobState
    provider: str
    proof_deadline: int
    escrow: int
    request_hash: bytes
    output_hash: bytes

    @classmethod
    def of(cls, values: Any) -> ProofJobView:
        client, state, provider, *rest = values
        return cls(to_checksum_address(client), ProofJobState(state), to_checksum_address(provider), *rest)


@dataclass(frozen=True)
class ProofJobParams:
    """What `ProofJobs.post` takes: `proof_window` in seconds, `max_escrow` in base units, `input` b"" to hide it."""

    max_escrow: int
    proof_window: int
    request: Request
    quote: Quote
    signature: bytes
    permit: bytes = b""
    input: bytes = b""

    def values(self) -> tuple[Any, ...]:
        return (
            self.max_escrow,
            self.proof_window,
            self.request.values(),
            (self.quote.values(), self.signature),
            self.permit,
            self.input,
        )


class EzklVerifier(Contract):
    """The adapter of ezkl's verifiers: which of them belongs to which model."""

    artefact_name = "EzklVerifier"

    def register(self, model_id: bytes, verifier: str, program: EzklProgram) -> Call:
        """Names the verifier of a published model. Anybody may send it; the modelId decides what is right."""
        return self._write("register", model_id, verifier, program.values())

    def verifier_of(self, model_id: bytes) -> str | None:
        """The verifier's address, None where none is registered."""
        address, _ = self._read("verifierOf", model_id)
        return None if address == ZERO_ADDRESS else str(to_checksum_address(address))

    def shape_of(self, model_id: bytes) -> tuple[int, int]:
        """Ids of a request's input and of its output; zeros where no verifier is registered."""
        return cast(tuple[int, int], self._read("shapeOf", model_id))

    def registry(self) -> str:
        """Address of the registry that knows the models."""
        return str(to_checksum_address(self._read("registry")))


class ProofJobs(Contract):
    """Jobs that are paid by the transaction that proves their answer."""

    artefact_name = "ProofJobs"

    @property
    def domain(self) -> Domain:
        """What quotes of proof jobs are signed in."""
        return Domain(self.chain.chain_id, self.address, PROOFS_DOMAIN)

    def post(self, params: ProofJobParams) -> Call:
        """Posts a job with its escrow."""
        return self._write("post", params.values())

    def settle(self, job_id: bytes, request: Request, ids: tuple[int, ...], proof: bytes) -> Call:
        """Proves the answer and is paid; only the job's provider, until its deadline."""
        return self._write("settle", job_id, request.values(), pack_tokens(ids), proof)

    def expire(self, job_id: bytes) -> Call:
        """Gives the escrow back once the deadline is past; anybody may send it."""
        return self._write("expire", job_id)

    def job(self, job_id: bytes, block: BlockTag = "latest") -> ProofJobView:
        """The job as it stands. Raises ContractError UnknownProofJob."""
        return ProofJobView.of(self._read("job", job_id, block=block))

    def client_nonce(self, client: str) -> int:
        """Number of the client's next job."""
        return cast(int, self._read("clientNonce", client))

    def job_id_of(self, client: str, nonce: int) -> bytes:
        """The id of the client's job of that number."""
        return cast(bytes, self._read("jobIdOf", client, nonce))

    def quote_used(self, digest: bytes, client: str) -> bool:
        """Whether the quote was accepted from this client already."""
        return bool(self._read("quoteUsed", digest, client))

    def vault(self) -> str:
        """Address of the vault that holds the escrows."""
        return str(to_checksum_address(self._read("vault")))

    def verifier(self) -> str:
        """Address of the contract that says which proofs hold."""
        return str(to_checksum_address(self._read("verifier")))

    def stake_token(self) -> str:
        """Address of the token that jobs are paid in."""
        return str(to_checksum_address(self._read("stakeToken")))
