"""Proof jobs beside their model: same money, same errors, same states; and each broken twin is told from them."""

from __future__ import annotations

from functools import cache

import pytest

from tests.stateful.proof_machine import run_proof_machine
from tests.stateful.proof_twins import PROOF_TWINS
from tests.stateful.twins import Twin, compile_each
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.proofs import ProofWorld
from tests.unit.contracts.test_coverage import UNREACHABLE
from tools.compiler import Artefact

CONTRACTS = ("ProofJobs", "EzklVerifier")
ROUNDS_MIN, ROUNDS_MAX = 1, 10


@cache
def compiled(slow: bool) -> dict[str, dict[str, Artefact]]:
    return compile_each([twin for twin in PROOF_TWINS if twin.slow == slow])


def _missed(world: ProofWorld) -> set[str]:
    """External functions never called and custom errors never seen."""
    entries = [(name, entry) for name in CONTRACTS for entry in world.artefacts[name]["abi"]]
    functions = {(name, entry["name"]) for name, entry in entries if entry["type"] == "function"}
    errors = {entry["name"] for _, entry in entries if entry["type"] == "error"} - set(UNREACHABLE)
    called, seen = world.chain.coverage.functions, world.chain.coverage.errors
    return {f"{name}.{function}" for name, function in functions - set(called)} | (errors - set(seen))


def test_proof_jobs_beside_their_model_reach_every_function_and_every_error() -> None:
    world = ProofWorld()
    for start in range(ROUNDS_MAX):
        if start >= ROUNDS_MIN and not _missed(world):
            break
        run_proof_machine(world, examples=25, steps=20, start=start)
    assert _missed(world) == set()


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1_000, 1_004))
def test_proof_jobs_beside_their_model_for_a_long_time(start: int) -> None:
    run_proof_machine(ProofWorld(), examples=200, steps=60, start=start)


def _rounds(world: ProofWorld) -> None:
    for start in range(4):
        run_proof_machine(world, examples=25, steps=20, start=start, shrink=False)


@pytest.mark.parametrize(
    "twin",
    [
        pytest.param(twin, id=twin.name.replace(" ", "-"), marks=[pytest.mark.slow] if twin.slow else [])
        for twin in PROOF_TWINS
    ],
)
def test_broken_twin_is_caught(twin: Twin) -> None:
    world = ProofWorld(compiled(twin.slow)[twin.name])
    with pytest.raises((AssertionError, Revert)):
        _rounds(world)
