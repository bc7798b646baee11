"""Jobs: views and hashes."""

from __future__ import annotations

import pytest

from market.hashing import job_id, keccak256
from market.types import Commitment
from tests.unit.contracts.abi import CHAIN_ID
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.world import CLIENT, REPLICAS, World, answer, request

P = REPLICAS[0].address


@pytest.mark.parametrize("view", ["job", "replicas"])
def test_view_of_an_unknown_job_reverts(world: World, view: str) -> None:
    unknown = keccak256(b"unknown")
    with reverts("UnknownJob", jobId=unknown):
        getattr(world.jobs, view)(unknown)


def test_hashes_equal_those_of_the_python_twin(world: World) -> None:
    quote = world.quote(REPLICAS[0])
    commitment = Commitment(keccak256(b"job"), P, answer().output_hash, keccak256(b"salt"))
    assert world.jobs.hashRequest(request().values()) == request().request_hash
    assert world.jobs.hashOutput(answer().values()) == answer().output_hash
    assert world.jobs.hashQuote(quote.values()) == world.domain.digest(quote)
    assert world.jobs.hashCommitment(*commitment.values()) == world.domain.digest(commitment)
    assert world.jobs.jobIdOf(CLIENT.address, 3) == job_id(CHAIN_ID, world.jobs.address, CLIENT.address, 3)


def test_domain_is_the_wires(world: World) -> None:
    fields, name, version, chain_id, contract, _, extensions = world.jobs.eip712Domain()
    assert (fields, name, version, chain_id, contract) == (b"\x0f", "Assay Jobs", "1", CHAIN_ID, world.jobs.address)
    assert extensions == []
