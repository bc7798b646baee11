"""A market with proof jobs: deployed contracts, a model whose verifier answers as it is told, a job in a few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi import encode
from eth_account.signers.local import LocalAccount

from market.hashing import ZERO32, keccak256, pack_tokens, tokens_root
from market.proof_contracts import PROOFS_DOMAIN
from market.proofs.backend import EzklProgram, InputForm, signed
from market.proofs.ezkl_worker import FIELD
from market.signing import Domain, sign
from market.types import Mode, Model, Quote, Request
from tests.unit.contracts.world import CLIENT, REPLICAS, World
from tests.unit.contracts.world import request as plain_request

PROVIDER = REPLICAS[0]
INPUT = [3, 2**32 - 2, 0]
OUTPUT = [7, 2**32 - 3]
PROGRAM = EzklProgram(len(INPUT), len(OUTPUT), InputForm.PUBLIC)
WINDOW = 60
PRICE = 1_000 + 6  # base fee; 3 ids at 0.5 and 2 at 2.000001, rounded up together


def instance(value: int) -> int:
    """The field element of an id."""
    return signed(value) % FIELD


def pack(proof: bytes, instances: Sequence[int]) -> bytes:
    """The one encoding that the adapter takes."""
    return encode(["bytes", "uint256[]"], [proof, list(instances)])


@dataclass(frozen=True)
class PostedProofJob:
    id: bytes
    request: Request

    @property
    def tag(self) -> int:
        return int.from_bytes(self.id) >> 8


class ProofWorld(World):
    """See the module. `verifier` is the adapter, `halo2` the toy model's verifier."""

    def _more_modules(self) -> list[str]:
        self.verifier = self.deploy("EzklVerifier", self.registry.address)
        self.proofs = self.deploy("ProofJobs", self.vault.address, self.verifier.address)
        self.proof_domain = Domain(self.chain.chain_id, self.proofs.address, PROOFS_DOMAIN)
        self.halo2 = self.deploy("ToyHalo2Verifier")
        return [self.proofs.address]

    @property
    def toy_code(self) -> bytes:
        return bytes.fromhex(self.artefacts["ToyHalo2Verifier"]["deployedBytecode"].removeprefix("0x"))

    def publish(self, program: EzklProgram = PROGRAM, **roots: bytes) -> bytes:
        """Publishes a model; its verifier is the toy unless `weights_root` names another. Returns its id."""
        values = {"weights_root": keccak256(self.toy_code), "program_root": program.hash_struct(), **roots}
        model = Model(tables_root=ZERO32, tokenizer_hash=ZERO32, template_hash=ZERO32, **values)
        self.registry.publishModel(model.values(), "toy", "", sender=PROVIDER.address)
        return model.model_id

    def offer(self, program: EzklProgram = PROGRAM) -> bytes:
        """A published model with its verifier registered."""
        model_id = self.publish(program)
        self.verifier.register(model_id, self.halo2.address, program.values(), sender=CLIENT.address)
        return model_id

    def proof_request(self, model_id: bytes, **changes: Any) -> Request:
        values = {
            "model_id": model_id,
            "input_root": tokens_root(INPUT),
            "input_tokens": len(INPUT),
            "max_output_tokens": len(OUTPUT),
        }
        return plain_request(**(values | changes))

    def proof_quote(self, model_id: bytes, provider: LocalAccount = PROVIDER, **changes: Any) -> Quote:
        values = {"model_id": model_id, "mode": Mode.PROOF, "bond": 0, "miss_fee": 0, "kill_fee": 0}
        return self.quote(provider, **(values | changes))

    def sign_proof_quote(self, quote: Quote, signer: LocalAccount | None = None) -> tuple[Any, bytes]:
        who = signer or next(p for p in (*REPLICAS, CLIENT) if p.address == quote.provider)
        return quote.values(), sign(self.proof_domain, quote, who)

    def post_proof(
        self,
        asked: Request,
        quote: Quote | tuple[Any, bytes] | None = None,
        *,
        client: LocalAccount = CLIENT,
        max_escrow: int = 10**8,
        window: int = WINDOW,
        permit: bytes = b"",
        given: bytes = b"",
    ) -> PostedProofJob:
        offered = self.proof_quote(asked.model_id) if quote is None else quote
        signed = self.sign_proof_quote(offered) if isinstance(offered, Quote) else offered
        params = (max_escrow, window, asked.values(), signed, permit, given)
        return PostedProofJob(self.proofs.post(params, sender=client.address), asked)

    def instances(self, job: PostedProofJob, given: Sequence[int] = INPUT, output: Sequence[int] = OUTPUT) -> list[int]:
        """Public instances of a proof of this job by a model of public input."""
        return [*map(instance, given), job.tag, *map(instance, output), job.tag]

    def settle_proof(
        self,
        job: PostedProofJob,
        proof: bytes,
        *,
        output: Sequence[int] = OUTPUT,
        sender: LocalAccount = PROVIDER,
        asked: Request | None = None,
    ) -> None:
        values = (asked or job.request).values()
        self.proofs.settle(job.id, values, pack_tokens(output), proof, sender=sender.address)

    def proof_job(self, job: PostedProofJob) -> dict[str, Any]:
        found: dict[str, Any] = self.proofs.job(job.id)
        return found

    def proof_held(self) -> int:
        return int(self.vault.held(self.proofs.address, self.token.address))
