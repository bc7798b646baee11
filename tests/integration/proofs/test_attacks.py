"""Real proofs against the real contracts: whatever is not this job's proof is refused, and nothing is paid."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
from eth_abi import decode

from market.hashing import pack_tokens, tokens_root
from market.proofs.artefact import CHECK_FILES, ProofArtefact
from market.proofs.backend import EzklProgram, InputForm, Proof, signed, unsigned
from market.proofs.ezkl_backend import EzklBackend
from tests.integration.proofs.conftest import COMMITTED, Lab
from tests.integration.proofs.tiny import forward
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.proofs import PRICE, PROVIDER, PostedProofJob, ProofWorld, pack
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CLIENT, DEPLOYER, REPLICAS

VALUES = [1, 2, 3, -4]
IDS = [unsigned(value) for value in VALUES]
PAID = PRICE + 3  # 4 ids at 0.5 and 3 at 2.000001, rounded up together


@dataclass(frozen=True)
class Scene:
    """A posted job and its proof, which nobody has used yet."""

    world: ProofWorld
    job: PostedProofJob
    proof: Proof

    @property
    def parts(self) -> tuple[bytes, list[int]]:
        data, instances = decode(["bytes", "uint256[]"], self.proof.data)
        return bytes(data), list(instances)

    def settle(self, data: bytes | None = None, **changes: Any) -> None:
        values: dict[str, Any] = {"output": self.proof.ids, **changes}
        self.world.settle_proof(self.job, self.proof.data if data is None else data, **values)

    def refuses(self, name: str, data: bytes | None = None, **changes: Any) -> None:
        """Nothing is paid, nothing changes, and the error has this name."""
        before = self.world.credit(PROVIDER)
        with pytest.raises(Revert) as caught:
            self.settle(data, **changes)
        assert caught.value.name == name
        assert self.world.credit(PROVIDER) == before
        assert self.world.proof_held() == PAID
        assert self.world.proof_job(self.job)["state"] == 1


def install(world: ProofWorld, artefact: ProofArtefact) -> Contract:
    """Publishes the model, deploys its verifier, registers it. Returns the verifier."""
    world.registry.publishModel(artefact.model.values(), artefact.name, "", sender=PROVIDER.address)
    address = world.chain.run_deploy(DEPLOYER.address, artefact.creation)
    world.verifier.register(artefact.model_id, address, artefact.program.values(), sender=CLIENT.address)
    abi = world.artefacts["ToyHalo2Verifier"]["abi"]
    return Contract(world.chain, "Halo2Verifier", address, abi)


def post(world: ProofWorld, artefact: ProofArtefact, **changes: Any) -> PostedProofJob:
    values = {"input_root": tokens_root(IDS), "input_tokens": 4, "max_output_tokens": 3, **changes}
    return world.post_proof(world.proof_request(artefact.model_id, **values))


_PROOFS: dict[tuple[bytes, bytes], Proof] = {}


def prove(backend: EzklBackend, artefact: ProofArtefact, job: PostedProofJob, **options: int) -> Proof:
    """Job ids repeat with every fresh market, and proofs take their time."""
    key = (artefact.model_id, job.id)
    if key not in _PROOFS or options:
        _PROOFS[key] = backend.prove(artefact.folder, IDS, job.id, **options)
    return _PROOFS[key]


@pytest.fixture
def scene(proving: ProofWorld, tiny: ProofArtefact, backend: EzklBackend) -> Scene:
    install(proving, tiny)
    job = post(proving, tiny)
    return Scene(proving, job, prove(backend, tiny, job))


def test_a_real_proof_settles_and_its_output_is_the_models(scene: Scene, tiny: ProofArtefact) -> None:
    before = scene.world.credit(PROVIDER)
    scene.settle()
    assert scene.world.credit(PROVIDER) == before + PAID
    found = [signed(token) / 2**tiny.output_scale for token in scene.proof.ids]
    assert found == pytest.approx(list(forward(1, VALUES)), abs=0.05)


def test_a_tampered_proof_is_refused_wherever_it_is_bent(scene: Scene) -> None:
    data, instances = scene.parts
    for place in range(0, len(data), 61):
        bent = bytearray(data)
        bent[place] ^= 1
        scene.refuses("ProofRefused", pack(bytes(bent), instances))
    scene.refuses("ProofRefused", pack(bytes(len(data)), instances))
    scene.settle()


def test_a_tampered_output_is_refused_on_both_sides_of_the_comparison(scene: Scene) -> None:
    data, instances = scene.parts
    claimed = [unsigned(signed(scene.proof.ids[0]) + 1), *scene.proof.ids[1:]]
    scene.refuses("StatementMismatch", output=claimed)
    instances[5] += 1  # the first output, after four inputs and the tag
    scene.refuses("StatementMismatch", pack(data, instances))
    scene.refuses("ProofRefused", pack(data, instances), output=claimed)


def test_a_tampered_input_is_refused(scene: Scene) -> None:
    data, instances = scene.parts
    instances[0] += 1
    scene.refuses("StatementMismatch", pack(data, instances))


def test_another_models_proof_is_refused(scene: Scene, other: ProofArtefact, backend: EzklBackend) -> None:
    foreign = prove(backend, other, scene.job)
    assert foreign.ids != scene.proof.ids
    scene.refuses("ProofRefused", foreign.data, output=foreign.ids)


def test_a_proof_is_not_used_twice_or_for_another_job(scene: Scene, tiny: ProofArtefact, backend: EzklBackend) -> None:
    second = post(scene.world, tiny)
    scene.settle()
    twin = dataclasses.replace(scene, job=second)
    twin.refuses("StatementMismatch")
    data, instances = scene.parts
    instances[4] = instances[-1] = second.tag  # the name alone is changed: the proof no longer holds
    twin.refuses("ProofRefused", pack(data, instances))
    with pytest.raises(Revert, match=r"^ProofJobNotOpen"):
        scene.settle()


def test_a_proof_for_another_chain_is_refused(scene: Scene, tiny: ProofArtefact) -> None:
    elsewhere = ProofWorld(chain=RevmChain(list(artefacts().values()), chain_id=1337))
    install(elsewhere, tiny)
    job = post(elsewhere, tiny)
    assert job.id != scene.job.id
    assert elsewhere.proofs.address == scene.world.proofs.address
    Scene(elsewhere, job, scene.proof).refuses("StatementMismatch")


def test_a_proof_for_another_contract_is_refused(scene: Scene) -> None:
    beside = scene.world.deploy("ProofJobs", scene.world.vault.address, scene.world.verifier.address)
    identity = beside.jobIdOf(CLIENT.address, 0)
    assert identity != scene.job.id
    statement = (identity, scene.job.request.model_id, scene.job.request.input_root, 4)
    with pytest.raises(Revert, match=r"^StatementMismatch"):
        scene.world.verifier.verify(statement, pack_tokens(scene.proof.ids), scene.proof.data)


class TwoMarkets(ProofWorld):
    """Two contracts of proof jobs at one vault, which pays for both: `proofs` and `beside`."""

    def _more_modules(self) -> list[str]:
        first = super()._more_modules()
        self.beside = self.deploy("ProofJobs", self.vault.address, self.verifier.address)
        return [*first, self.beside.address]

    def second(self) -> ProofWorld:
        """The same market, whose jobs are posted and settled at `beside`."""
        made = copy.copy(self)
        made.proofs = self.beside
        made.proof_domain = dataclasses.replace(self.proof_domain, verifying_contract=self.beside.address)
        return made


def test_a_proof_for_another_contracts_job_settles_nothing(tiny: ProofArtefact, backend: EzklBackend) -> None:
    """Both jobs are the client's first, of one request, for one provider, on one chain."""
    here = TwoMarkets(chain=RevmChain(list(artefacts().values())))
    there = here.second()
    install(here, tiny)
    ours, theirs = post(here, tiny), post(there, tiny)
    assert here.proofs.address != there.proofs.address
    assert ours.id != theirs.id
    proof = prove(backend, tiny, ours)
    data, instances = decode(["bytes", "uint256[]"], proof.data)
    elsewhere = Scene(there, theirs, proof)
    elsewhere.refuses("StatementMismatch")
    renamed = [*instances[:4], theirs.tag, *instances[5:-1], theirs.tag]
    elsewhere.refuses("ProofRefused", pack(data, renamed))
    Scene(here, ours, proof).settle()
    assert (here.proof_job(ours)["state"], there.proof_job(theirs)["state"]) == (2, 1)
    elsewhere.refuses("StatementMismatch")


def test_a_seen_proof_is_worth_nothing_to_others(scene: Scene) -> None:
    scene.refuses("NotTheProver", sender=REPLICAS[1])


def test_malformed_calldata_is_refused(scene: Scene) -> None:
    data, instances = scene.parts
    good = scene.proof.data
    for bad in (b"", good[:31], good[:-1], good + bytes(32), pack(data[:-32], [*instances, 0]), bytes(len(good))):
        scene.refuses("MalformedProof", bad)
    scene.refuses("ProofRefused", pack(data[:-32], instances))
    scene.refuses("ProofRefused", pack(data + bytes(32), instances))
    instances[-1] += 2**254  # above the field
    scene.refuses("StatementMismatch", pack(data, instances))


def test_a_private_input_is_shown_by_its_hash_alone(
    proving: ProofWorld, private: ProofArtefact, backend: EzklBackend
) -> None:
    install(proving, private)
    blinding = 1 << 200
    root = backend.input_root(private.folder, IDS, blinding=blinding)
    job = post(proving, private, input_root=root)
    scene = Scene(proving, job, prove(backend, private, job, blinding=blinding))
    _, instances = scene.parts
    assert instances[0] == int.from_bytes(root)
    assert not {value % 2**256 for value in VALUES} & set(instances[:2])
    wrong = backend.prove(private.folder, IDS, job.id, blinding=blinding + 1)
    scene.refuses("StatementMismatch", wrong.data, output=wrong.ids)
    scene.settle()


def test_committed_weights_are_held_to_their_commitment(
    proving: ProofWorld, committed: tuple[ProofArtefact, ProofArtefact], backend: EzklBackend
) -> None:
    """One key fits every network of this shape, so the verifier alone accepts another model's proof: the trap that the
    comparison with the commitment closes."""
    ours, theirs = committed
    assert ours.creation == theirs.creation
    assert ours.model_id != theirs.model_id
    verifier = install(proving, ours)
    job = post(proving, ours)
    scene = Scene(proving, job, prove(backend, ours, job))
    foreign = prove(backend, theirs, job)
    data, instances = decode(["bytes", "uint256[]"], foreign.data)
    assert verifier.verifyProof(data, instances)
    scene.refuses("StatementMismatch", foreign.data, output=foreign.ids)
    # told as a proof of our weights, it is one of nothing
    claimed = [int.from_bytes(ours.program.weights_commitment), *instances[1:]]
    scene.refuses("ProofRefused", pack(data, claimed), output=foreign.ids)
    scene.settle()


def test_committed_weights_stand_beside_a_hashed_input(proving: ProofWorld, lab: Lab, backend: EzklBackend) -> None:
    options = dataclasses.replace(COMMITTED, form=InputForm.HASHED)
    ours, theirs = (lab.make(f"secret-{seed}", seed, options, hidden=1) for seed in (1, 2))
    assert ours.creation == theirs.creation
    install(proving, ours)
    root = backend.input_root(ours.folder, IDS, blinding=7)
    job = post(proving, ours, input_root=root)
    scene = Scene(proving, job, prove(backend, ours, job, blinding=7))
    foreign = prove(backend, theirs, job, blinding=7)
    scene.refuses("StatementMismatch", foreign.data, output=foreign.ids)
    scene.settle()


def test_nothing_that_a_client_gets_depends_on_committed_weights_but_their_hash(
    committed: tuple[ProofArtefact, ProofArtefact],
) -> None:
    """Keys, verifier and settings of two models are the same bytes."""
    ours, theirs = committed
    for name in CHECK_FILES:
        assert (ours.folder / name).read_bytes() == (theirs.folder / name).read_bytes(), name
    assert ours.program.weights_commitment != theirs.program.weights_commitment


def test_the_columns_of_committed_weights_are_blinded_and_the_counts_of_lookups_are_not(
    committed: tuple[ProofArtefact, ProofArtefact], backend: EzklBackend
) -> None:
    """A column that every proof commits to alike and opens at another point is one equation in its numbers a proof:
    after as many proofs as weights anybody has them. ezkl's `polycommit` has such a column, in the first 64 bytes.

    What is left is what docs/proofs.md says: how often each row of a table was looked up.
    """
    folder = committed[0].folder
    first, second = (decode(["bytes", "uint256[]"], backend.prove(folder, IDS, b"\x01" * 32).data) for _ in range(2))
    assert first[1] == second[1]
    pairs = [(first[0][at : at + 32], second[0][at : at + 32]) for at in range(0, len(first[0]), 32)]
    assert [place for place, (one, other) in enumerate(pairs) if one == other] == [12, 13, 14, 15]
    elsewhere = decode(["bytes", "uint256[]"], backend.prove(folder, [8, *IDS[1:]], b"\x02" * 32).data)[0]
    assert not {one for one, _ in pairs} & {elsewhere[at : at + 32] for at in range(0, len(elsewhere), 32)}


@pytest.mark.parametrize("part", range(4))
def test_the_commitment_is_to_every_weight(lab: Lab, committed: tuple[ProofArtefact, ProofArtefact], part: int) -> None:
    """Another model may share all weights but one, the last of a tensor: w1, b1, w2 or b2."""
    ours = committed[0]
    theirs = lab.make(f"bent-{part}", 1, COMMITTED, hidden=2, bent=part)
    assert theirs.creation == ours.creation
    assert theirs.program.weights_commitment != ours.program.weights_commitment


def test_a_verifier_is_registered_only_for_the_model_that_names_it(
    proving: ProofWorld, tiny: ProofArtefact, other: ProofArtefact
) -> None:
    proving.registry.publishModel(tiny.model.values(), tiny.name, "", sender=PROVIDER.address)
    foreign = proving.chain.run_deploy(DEPLOYER.address, other.creation)
    with pytest.raises(Revert, match=r"^VerifierMismatch"):
        proving.verifier.register(tiny.model_id, foreign, tiny.program.values(), sender=PROVIDER.address)
    wider = EzklProgram(5, 3, 0)
    with pytest.raises(Revert, match=r"^VerifierMismatch"):
        proving.verifier.register(tiny.model_id, foreign, wider.values(), sender=PROVIDER.address)
