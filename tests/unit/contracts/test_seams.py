"""The seams' toy implementations keep their interfaces' promises."""

from __future__ import annotations

from eth_abi import encode

from market.hashing import keccak256
from tests.unit.contracts.world import World, request

JOB, MODEL, INPUT = (keccak256(label) for label in (b"job", b"model", b"input"))


def test_proof_verifier_returns_false_on_a_malformed_proof(world: World) -> None:
    verifier = world.deploy("ToyProofVerifier")
    statement = (JOB, MODEL, INPUT, 1)
    proof = keccak256(encode(["(bytes32,bytes32,bytes32,uint32)", "bytes"], [statement, b"ids"]))
    assert verifier.verify(statement, b"ids", proof)
    for bad in (b"", proof[:31], proof + b"\0", bytes(32)):
        assert not verifier.verify(statement, b"ids", bad)
    assert not verifier.verify(statement, b"other", proof)


def test_arbiter_says_what_it_can_judge(world: World) -> None:
    model = (MODEL, MODEL, MODEL, MODEL, MODEL)
    assert world.arbiter.canJudge(model, request().values())
    assert not world.arbiter.canJudge((MODEL, MODEL, bytes(32), MODEL, MODEL), request().values())
