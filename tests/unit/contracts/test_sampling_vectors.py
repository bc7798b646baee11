"""The sampler's vectors in Solidity: a wrong token is provable on chain by two logits, at a stated cost."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from tests.unit.contracts.abi import Contract
from tests.unit.contracts.world import World
from tests.unit.market.inference import oracle
from tools.compiler import ROOT

VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "numerics.json").read_text(encoding="utf-8"))
CASE = VECTORS["sampling"]
SEED = bytes.fromhex(CASE["seed"][2:])
TRANSACTION = 21_000
COMPARISON = 8_000
"""Most gas that comparing two tokens may take: ADR 20 rests on it being small beside opening two logits (~100,000)."""


@pytest.fixture
def harness(world: World) -> Contract:
    return world.deploy("SamplingHarness")


def test_noise_in_solidity_equals_the_vectors(harness: Contract) -> None:
    for position, number in CASE["draws"]:
        assert hex(harness.draw(SEED, position)) == number
    number = int(dict(CASE["draws"])[7], 16)
    for token, expected in CASE["token_hash"]:
        assert harness.tokenHash(number, token) == int(expected)
    for x, fraction, expected in CASE["minus_ln"]:
        assert harness.minusLn(int(x), fraction) == int(expected)
    for h, expected in CASE["gumbel"]:
        assert harness.gumbel(int(h)) == expected


def test_no_token_beats_the_chosen_one_in_solidity(harness: Contract) -> None:
    logits = CASE["logits"]
    for temperature, top_k, top_p, order, chosen in CASE["chosen"]:
        if top_k or top_p != 65536:
            continue
        for position, token in enumerate(chosen[:6]):
            rivals = [j for j in range(len(logits)) if j != token]
            assert not any(
                harness.beats(SEED, position, temperature, j, logits[j], token, logits[token]) for j in rivals
            )
            assert all(harness.beats(SEED, position, temperature, token, logits[token], j, logits[j]) for j in rivals)
            assert order is None or token in order


def test_comparing_two_tokens_costs_little(harness: Contract, world: World) -> None:
    costs = []
    for position in range(20):
        harness.beats(SEED, position, 45875, 49151, 1234567, 17, -1234567)
        costs.append(world.chain.gas_used - TRANSACTION)
    assert max(costs) < COMPARISON, costs


def test_noise_of_any_hash_in_solidity_equals_exact_integers(harness: Contract) -> None:
    random = Random(20)
    for _ in range(100):
        h = random.getrandbits(64) >> random.randrange(64) | 1
        assert harness.gumbel(h) == oracle.gumbel(h)
