"""The seams' toy implementations keep their interfaces' promises."""

from __future__ import annotations

from eth_abi import encode

from market.hashing import keccak256
from tests.unit.contracts.world import World, request

MODEL, REQUEST, OUTPUT = (keccak256(label) for label in (b"model", b"request", b"output"))


def test_proof_verifier_returns_false_on_a_malformed_proof(world: World) -> None:
    verifier = world.deploy("ToyProofVerifier")
    proof = keccak256(encode(["bytes32"] * 3, [MODEL, REQUEST, OUTPUT]))
    assert verifier.verify(MODEL, REQUEST, OUTPUT, proof)
    for bad in (b"", proof[:31], proof + b"\0", bytes(32)):
        assert not verifier.verify(MODEL, REQUEST, OUTPUT, bad)
    assert not verifier.verify(MODEL, REQUEST, MODEL, proof)


def test_arbiter_says_what_it_can_judge(world: World) -> None:
    model = (MODEL, MODEL, MODEL, MODEL, MODEL)
    assert world.arbiter.canJudge(model, request().values())
    assert not world.arbiter.canJudge((MODEL, MODEL, bytes(32), MODEL, MODEL), request().values())
