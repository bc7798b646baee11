"""The adapter of ezkl's verifiers: who may register what, and which proofs it passes on. The verifier behind it is a
toy that says yes to everything, so whatever is refused here the adapter refused itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from market.hashing import ZERO32, keccak256, pack_tokens, tokens_root
from market.proofs.backend import EzklProgram, InputForm
from market.proofs.ezkl_worker import FIELD
from market.types import ZERO_ADDRESS
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.proofs import INPUT, OUTPUT, PROGRAM, PROVIDER, ProofWorld, instance, pack
from tests.unit.contracts.world import STRANGER

JOB = keccak256(b"job")
TAG = int.from_bytes(JOB) >> 8
PROOF = bytes(range(96))
INSTANCES = [*map(instance, INPUT), TAG, *map(instance, OUTPUT), TAG]


def _statement(model_id: bytes, **changes: Any) -> tuple[Any, ...]:
    values = {"job": JOB, "model": model_id, "root": tokens_root(INPUT), "tokens": len(INPUT)}
    return tuple((values | changes).values())


def _verify(proving: ProofWorld, model_id: bytes, data: bytes | None = None, **changes: Any) -> bool:
    ids = changes.pop("ids", pack_tokens(OUTPUT))
    proof = pack(PROOF, INSTANCES) if data is None else data
    return bool(proving.verifier.verify(_statement(model_id, **changes), ids, proof))


def _mismatch(field: str) -> Any:
    return pytest.raises(Revert, match=f"^StatementMismatch.*{field}")


def test_a_proof_of_the_statement_is_accepted(proving: ProofWorld) -> None:
    assert _verify(proving, proving.offer())


@pytest.mark.parametrize("answer", ["NO", "REVERT", "TWO", "NOTHING"])
def test_whatever_is_not_true_is_a_no(proving: ProofWorld, answer: str) -> None:
    model_id = proving.offer()
    proving.halo2.setAnswer(getattr(proving.halo2, answer)(), sender=STRANGER.address)
    assert _verify(proving, model_id) is False
    proving.halo2.setAnswer(proving.halo2.YES(), sender=STRANGER.address)
    assert _verify(proving, model_id)


def test_a_proof_for_another_job_is_refused(proving: ProofWorld) -> None:
    model_id = proving.offer()
    with _mismatch("jobId"):
        _verify(proving, model_id, job=keccak256(b"other job"))
    for place in (len(INPUT), len(INSTANCES) - 1):  # both ends of the pass-through
        changed = [*INSTANCES]
        changed[place] += 1
        with _mismatch("jobId"):
            _verify(proving, model_id, pack(PROOF, changed))


def test_a_proof_of_another_input_is_refused(proving: ProofWorld) -> None:
    model_id = proving.offer()
    with _mismatch("input"):
        _verify(proving, model_id, root=tokens_root([3, 2**32 - 2, 1]))
    with _mismatch("input"):
        _verify(proving, model_id, tokens=len(INPUT) + 1)


def test_a_proof_of_another_output_is_refused(proving: ProofWorld) -> None:
    model_id = proving.offer()
    for ids in ([7, 0], [7], [], [7, 2**32 - 3, 0]):
        with _mismatch("output"):
            _verify(proving, model_id, ids=pack_tokens(ids))


@pytest.mark.parametrize("value", [2**31, 2**32, FIELD - 2**31, FIELD, FIELD + 7, 2**256 - 1])
@pytest.mark.parametrize("place", [0, len(INPUT) + 1])
def test_an_instance_that_is_no_id_is_refused_however_its_low_bits_look(
    proving: ProofWorld, place: int, value: int
) -> None:
    model_id = proving.offer()
    changed = [*INSTANCES]
    changed[place] = value
    with pytest.raises(Revert, match=r"^NotAnId"):
        _verify(proving, model_id, pack(PROOF, changed))


def test_the_smallest_and_the_largest_id_are_read(proving: ProofWorld) -> None:
    output = [2**32 - 3, 2**32 - 2]
    instances = [*map(instance, INPUT), TAG, FIELD - 2**31 + 1, 2**31 - 1, TAG]
    assert _verify(proving, proving.offer(), pack(PROOF, instances), ids=pack_tokens(output))


@pytest.mark.parametrize("count", [8, 9, 16, 17, 40])
def test_an_input_of_several_words_has_the_root_of_its_ids(proving: ProofWorld, count: int) -> None:
    """Whole words, started ones, and as many as need EMPTY ones beside them."""
    given = [2 * i for i in range(count)]
    model_id = proving.offer(dataclasses.replace(PROGRAM, inputs=count))
    instances = [*map(instance, given), TAG, *map(instance, OUTPUT), TAG]
    assert _verify(proving, model_id, pack(PROOF, instances), root=tokens_root(given), tokens=count)
    for other in ([*given[:-1], 1], [1, *given[1:]]):
        with _mismatch("input"):
            _verify(proving, model_id, pack(PROOF, instances), root=tokens_root(other), tokens=count)


def _malformed() -> list[bytes]:
    good = pack(PROOF, INSTANCES)

    def put(place: int, word: int) -> bytes:
        return good[:place] + word.to_bytes(32) + good[place + 32 :]

    return [
        b"",
        good[:95],
        good[:-1],
        good[:-32],
        good + bytes(32),
        good + b"\0",
        put(0, 96),  # an encoding that other readers take apart otherwise
        put(32, 0),
        put(64, 64),
        put(64, 97),
        put(64, 2**256 - 32),
        put(192, len(INSTANCES) - 1),
        put(192, 2**255),
        pack(PROOF, INSTANCES[:-1]),
        pack(PROOF, [*INSTANCES, TAG]),
    ]


@pytest.mark.parametrize("case", range(len(_malformed())))
def test_a_malformed_proof_is_refused(proving: ProofWorld, case: int) -> None:
    model_id = proving.offer()
    with pytest.raises(Revert, match=r"^MalformedProof"):
        _verify(proving, model_id, _malformed()[case])


def test_a_hashed_input_is_compared_with_the_requests_root(proving: ProofWorld) -> None:
    model_id = proving.offer(dataclasses.replace(PROGRAM, form=InputForm.HASHED))
    instances = [123456789, 5, *map(instance, OUTPUT), TAG]
    assert _verify(proving, model_id, pack(PROOF, instances), root=(123456789).to_bytes(32))
    with _mismatch("input"):
        _verify(proving, model_id, pack(PROOF, instances))
    with _mismatch("jobId"):
        _verify(proving, model_id, pack(PROOF, [*instances[:-1], TAG - 1]), root=(123456789).to_bytes(32))


WEIGHTS_HASH = 987654321


def test_committed_weights_are_compared_with_the_proof(proving: ProofWorld) -> None:
    """Their hash comes first, and moves nothing else out of its check."""
    model_id = proving.offer(dataclasses.replace(PROGRAM, weights_commitment=WEIGHTS_HASH.to_bytes(32)))
    instances = [WEIGHTS_HASH, *INSTANCES]
    assert _verify(proving, model_id, pack(PROOF, instances))
    for place, field in ((0, "model"), (1, "input"), (4, "jobId"), (5, "output"), (7, "jobId")):
        bent = [*instances]
        bent[place] += 1
        with _mismatch(field):
            _verify(proving, model_id, pack(PROOF, bent))
    with pytest.raises(Revert, match=r"^MalformedProof"):
        _verify(proving, model_id, pack(PROOF, INSTANCES))


def test_committed_weights_are_compared_beside_a_hashed_input(proving: ProofWorld) -> None:
    program = dataclasses.replace(PROGRAM, form=InputForm.HASHED, weights_commitment=WEIGHTS_HASH.to_bytes(32))
    model_id = proving.offer(program)
    instances = [123456789, 5, WEIGHTS_HASH, *map(instance, OUTPUT), TAG]
    root = (123456789).to_bytes(32)
    assert _verify(proving, model_id, pack(PROOF, instances), root=root)
    for place, field in ((0, "input"), (2, "model"), (3, "output"), (5, "jobId")):
        bent = [*instances]
        bent[place] += 1
        with _mismatch(field):
            _verify(proving, model_id, pack(PROOF, bent), root=root)


def test_nothing_is_verified_for_a_model_without_a_verifier(proving: ProofWorld) -> None:
    model_id = proving.publish()
    assert proving.verifier.shapeOf(model_id) == (0, 0)
    with pytest.raises(Revert, match=r"^NoVerifier"):
        _verify(proving, model_id)


def test_anybody_registers_but_only_the_verifier_that_the_model_names(proving: ProofWorld) -> None:
    model_id = proving.publish()
    for verifier, program, field in (
        (proving.token.address, PROGRAM, "weightsRoot"),
        (STRANGER.address, PROGRAM, "weightsRoot"),
        (proving.halo2.address, dataclasses.replace(PROGRAM, outputs=3), "programRoot"),
        (proving.halo2.address, dataclasses.replace(PROGRAM, form=1), "programRoot"),
    ):
        with pytest.raises(Revert, match=f"^VerifierMismatch.*{field}"):
            proving.verifier.register(model_id, verifier, program.values(), sender=PROVIDER.address)
    proving.verifier.register(model_id, proving.halo2.address, PROGRAM.values(), sender=STRANGER.address)
    assert proving.verifier.shapeOf(model_id) == (len(INPUT), len(OUTPUT))
    assert proving.verifier.verifierOf(model_id)[0] == proving.halo2.address
    other = proving.deploy("ToyHalo2Verifier")
    with pytest.raises(Revert, match=r"^VerifierAlreadyRegistered"):
        proving.verifier.register(model_id, other.address, PROGRAM.values(), sender=PROVIDER.address)


def test_a_model_that_is_not_published_has_no_verifier(proving: ProofWorld) -> None:
    with pytest.raises(Revert, match=r"^UnknownModel"):
        proving.verifier.register(ZERO32, proving.halo2.address, PROGRAM.values(), sender=PROVIDER.address)


@pytest.mark.parametrize(
    ("program", "field"),
    [
        (EzklProgram(0, 2, 0), "inputs"),
        (EzklProgram(4_097, 2, 0), "inputs"),
        (EzklProgram(3, 0, 0), "outputs"),
        (EzklProgram(3, 4_097, 0), "outputs"),
    ],
)
def test_programs_that_no_job_fits_are_refused(proving: ProofWorld, program: EzklProgram, field: str) -> None:
    model_id = proving.publish(program)
    with pytest.raises(Revert, match=f"^BadProgram.*{field}"):
        proving.verifier.register(model_id, proving.halo2.address, program.values(), sender=PROVIDER.address)


def test_an_account_without_code_is_no_verifier(proving: ProofWorld) -> None:
    """Its code hash is that of nothing, which a model may name: a call to it succeeds, and must not be a yes."""
    model_id = proving.publish(weights_root=keccak256(b""))
    with pytest.raises(Revert, match=r"^(BadProgram|VerifierMismatch)"):
        proving.verifier.register(model_id, STRANGER.address, PROGRAM.values(), sender=PROVIDER.address)
    model_id = proving.publish(weights_root=ZERO32)
    with pytest.raises(Revert, match=r"^(BadProgram|VerifierMismatch)"):
        proving.verifier.register(model_id, ZERO_ADDRESS, PROGRAM.values(), sender=PROVIDER.address)


def test_a_program_hashes_alike_on_both_sides(proving: ProofWorld) -> None:
    program = EzklProgram(3, 2, 1, keccak256(b"weights"))
    assert proving.verifier.hashProgram(program.values()) == program.hash_struct()
    assert proving.verifier.tagOf(JOB) == TAG
