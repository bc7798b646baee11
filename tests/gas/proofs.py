"""What every call of proof mode costs, on anvil, with a verifier that is a toy: what ProofJobs and its adapter take.

A real verifier takes 420,000 to 640,000 more (docs/benchmarks.md), a little different for each proof; a test holds the
whole of a real settlement to the bar (tests/integration/proofs).
"""

from __future__ import annotations

from collections.abc import Callable

from market.hashing import pack_tokens, tokens_root
from market.proofs.backend import EzklProgram, InputForm
from tests.gas.anvil import AnvilChain, anvil
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.proofs import PROVIDER, PostedProofJob, ProofWorld, instance, pack
from tests.unit.contracts.world import CLIENT, STRANGER

PROOF = bytes(range(1, 97)) * 20  # as long as the shipped classifier's
PIXELS, CLASSES = list(range(64)), list(range(1, 11))
WINDOW = 60


def measure_proofs() -> dict[str, int]:
    """Call → gas used by its transaction. Starts and stops anvil; takes about two seconds."""
    with anvil() as url:
        world = ProofWorld(chain=AnvilChain(list(artefacts().values()), url))
        gas: dict[str, int] = {}

        def meter(name: str, call: Callable[[], object]) -> None:
            call()
            gas[f"proof: {name}"] = world.chain.gas_used

        shown, hidden = (EzklProgram(len(PIXELS), len(CLASSES), form) for form in InputForm)
        model_id, private_id = world.publish(shown), world.publish(hidden)
        for name, model, program in (("register", model_id, shown), ("register, hashed input", private_id, hidden)):
            values, halo2 = program.values(), world.halo2.address
            meter(
                name,
                lambda m=model, v=values, h=halo2: world.verifier.register(m, h, v, sender=STRANGER.address),  # type: ignore[misc]
            )

        def post(model: bytes, root: bytes, given: bytes = b"") -> PostedProofJob:
            shape = {"input_tokens": len(PIXELS), "max_output_tokens": len(CLASSES)}
            return world.post_proof(world.proof_request(model, input_root=root, **shape), given=given)

        jobs: list[PostedProofJob] = []
        root, packed, digest = tokens_root(PIXELS), pack_tokens(PIXELS), (123_456_789).to_bytes(32)
        meter("post, 64 ids, a client's first", lambda: jobs.append(post(model_id, root, packed)))
        meter("post, 64 ids", lambda: jobs.append(post(model_id, root, packed)))
        meter("post, hashed input", lambda: jobs.append(post(private_id, digest)))
        late = post(model_id, root, packed)
        outputs = list(map(instance, CLASSES))
        for name, job in zip(("settle, 64 ids, a provider's first", "settle, 64 ids"), jobs, strict=False):
            proof = pack(PROOF, [*map(instance, PIXELS), job.tag, *outputs, job.tag])
            meter(name, lambda j=job, p=proof: world.settle_proof(j, p, output=CLASSES))  # type: ignore[misc]
        proof = pack(PROOF, [int.from_bytes(digest), 5, *outputs, jobs[2].tag])
        meter("settle, hashed input", lambda: world.settle_proof(jobs[2], proof, output=CLASSES))
        world.warp(WINDOW + 1)
        meter("expire", lambda: world.proofs.expire(late.id, sender=STRANGER.address))
        assert world.proof_held() == 0
        assert world.credit(PROVIDER) > 0
        assert world.credit(CLIENT) > 0
        return gas
