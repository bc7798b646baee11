"""tests/vectors/trace.json in Solidity: geometry, elements of every kind, choices of ids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from market.verification.structs import Shape
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.claims import deploy_judge
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.step_cases import formats
from tools.compiler import ROOT

VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "trace.json").read_text(encoding="utf-8"))
ADDRESSES = ("subject", "provider")


def values(struct: Any) -> Any:
    """What eth_abi takes for a struct of the vectors, whose fields are in Solidity's order."""
    if isinstance(struct, dict):
        return tuple(field if name in ADDRESSES else values(field) for name, field in struct.items())
    if isinstance(struct, list):
        return [values(item) for item in struct]
    return bytes.fromhex(struct[2:]) if isinstance(struct, str) else struct


@pytest.fixture(scope="module")
def judge(judge_chain: RevmChain) -> Contract:
    deployed = deploy_judge(judge_chain)
    root = deployed.acceptProgram(values(VECTORS["shape"]), values(VECTORS["layers"]))
    assert root == values(VECTORS["claim"]["programRoot"])
    return deployed


def test_tables_are_accepted(judge: Contract) -> None:
    root = values(VECTORS["claim"]["tablesRoot"])
    judge.acceptTables(root, values(VECTORS["tablesPath"]))
    assert judge.acceptsTables(values(VECTORS["claim"]["programRoot"]), root)


@pytest.mark.parametrize("number", range(len(VECTORS["geometries"])))
def test_nodes_lie_where_the_vectors_say(judge: Contract, number: int) -> None:
    geometry = VECTORS["geometries"][number]
    claim = dict(VECTORS["claim"])
    if geometry["shape"] != VECTORS["shape"]:
        smollm2 = values(geometry["shape"])
        layers = [layer.values() for layer in formats_of(geometry["shape"])]
        claim["programRoot"] = "0x" + judge.acceptProgram(smollm2, layers).hex()
    claim |= {name: geometry[name] for name in ("inputTokens", "outputTokens")}
    told = values(claim)
    assert judge.rounds(told) == geometry["rounds"]
    for depth, index, *expected in geometry["nodes"]:
        assert list(judge.nodeAt(told, depth, index)) == expected, (depth, index)


def formats_of(shape: dict[str, Any]) -> Any:
    return formats(Shape(*values(shape)))


@pytest.mark.parametrize("number", range(len(VECTORS["accusations"])))
def test_element_is_as_wrong_as_the_vectors_say(judge: Contract, number: int) -> None:
    case = VECTORS["accusations"][number]
    found = judge.isWrong(values(VECTORS["claim"]), values(case["root"]), values(case["accusation"]))
    assert found == case["wrong"], case["name"]


@pytest.mark.parametrize("number", range(len(VECTORS["outputs"])))
def test_id_is_as_wrong_as_the_vectors_say(judge: Contract, number: int) -> None:
    case = VECTORS["outputs"][number]
    for one in case["accusations"]:
        found = judge.isOutputWrong(values(case["claim"]), values(case["root"]), values(one["accusation"]))
        assert found == one["wrong"]
