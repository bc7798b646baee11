"""The wire's vectors in Solidity; tests/unit/market holds Python to the same file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from market import types
from market.hashing import pack_tokens
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.world import World
from tools.compiler import ROOT

VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "wire.json").read_text(encoding="utf-8"))


@pytest.fixture
def harness(world: World) -> Contract:
    return world.deploy("WireHarness")


@pytest.mark.parametrize("vector", VECTORS["tokensRoot"])
def test_tokens_root_in_solidity_equals_the_vector(harness: Contract, vector: dict[str, Any]) -> None:
    assert harness.tokensRoot(pack_tokens(vector["ids"])).hex() == vector["root"][2:]


@pytest.mark.parametrize("name", VECTORS["structs"])
def test_struct_hash_in_solidity_equals_the_vector(harness: Contract, name: str) -> None:
    value = getattr(types, name).from_json(VECTORS["structs"][name]["value"])
    assert getattr(harness, name.lower())(value.values()).hex() == VECTORS["structs"][name]["hashStruct"][2:]


@pytest.mark.parametrize("name", VECTORS["digests"])
def test_digest_in_solidity_equals_the_vector(harness: Contract, name: str) -> None:
    domain = harness.separator(*VECTORS["domain"].values())
    value = getattr(types, name).from_json(VECTORS["digests"][name]["value"])
    assert getattr(harness, name.lower())(domain, value.values()).hex() == VECTORS["digests"][name]["digest"][2:]


@pytest.mark.parametrize(("count", "odd"), [(1, 1), (3, 3), (7, 7), (9, 9), (15, 15)])
def test_filler_is_checked_in_the_last_word_only(harness: Contract, count: int, odd: int) -> None:
    packed = pack_tokens(list(range(count)))
    assert harness.isFilled(packed, count)
    assert harness.isFilled(pack_tokens(list(range(8))), 8)
    broken = bytearray(packed)
    broken[4 * odd + 3] = 0xFE
    assert not harness.isFilled(bytes(broken), count)
