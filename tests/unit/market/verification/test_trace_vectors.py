"""tests/vectors/trace.json is what its generator writes, and the steps agree with it; Solidity reads the same file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from market.hashing import leaf_hash
from market.verification.step import Step
from market.verification.structs import (
    Accusation,
    Claim,
    LayerFormat,
    Opening,
    OutputAccusation,
    Shape,
    TraceStruct,
)
from market.verification.tree import fold
from tests.unit.market.verification import vectors

VECTORS: dict[str, Any] = json.loads(vectors.FILE.read_text(encoding="utf-8"))


def read(data: dict[str, Any], kind: type[Any]) -> Any:
    """A struct from its JSON."""
    values: dict[str, Any] = {}
    for name, value in data.items():
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).replace("p_q16", "p_q16")
        if name == "topPQ16":
            snake = "top_p_q16"
        elif name == "temperatureQ16":
            snake = "temperature_q16"
        if isinstance(value, dict):
            value = read(value, Opening)
        elif isinstance(value, list):
            value = tuple(read(v, Opening) if isinstance(v, dict) else bytes.fromhex(v[2:]) for v in value)
        elif isinstance(value, str) and name not in ("subject", "provider"):
            value = bytes.fromhex(value[2:])
        values[snake] = value
    return kind(**values)


@pytest.fixture(scope="module")
def step() -> Step:
    return Step(read(VECTORS["shape"], Shape), [read(layer, LayerFormat) for layer in VECTORS["layers"]])


def test_the_file_is_fresh() -> None:
    assert vectors.FILE.read_text(encoding="utf-8") == vectors.text(), (
        "stale: python -m tests.unit.market.verification.vectors"
    )


def test_leaves_and_reveals() -> None:
    for leaf in VECTORS["leaves"]:
        assert leaf_hash(bytes.fromhex(leaf["payload"][2:])).hex() == leaf["hash"][2:]
    first = VECTORS["reveals"][0]
    assert fold([bytes.fromhex(h[2:]) for h in first["hashes"]])[-1][0].hex() == VECTORS["root"][2:]


@pytest.mark.parametrize("case", VECTORS["accusations"], ids=lambda case: f"{case['name']} {case['wrong']}")
def test_verdicts(step: Step, case: dict[str, Any]) -> None:
    claim, root = read(VECTORS["claim"], Claim), bytes.fromhex(case["root"][2:])
    assert step.is_wrong(claim, root, read(case["accusation"], Accusation)) is case["wrong"]


def test_every_operation_is_accused_and_acquitted() -> None:
    named = {(case["name"].split()[0], case["wrong"]) for case in VECTORS["accusations"]}
    assert len(named) == 2 * 20


def test_verdicts_on_outputs(step: Step) -> None:
    for case in VECTORS["outputs"]:
        claim, root = read(case["claim"], Claim), bytes.fromhex(case["root"][2:])
        assert {one["wrong"] for one in case["accusations"]} == {True, False}
        for one in case["accusations"]:
            assert step.is_output_wrong(claim, root, read(one["accusation"], OutputAccusation)) is one["wrong"]


def test_values_are_what_eth_abi_takes(step: Step) -> None:
    accusation: TraceStruct = read(VECTORS["accusations"][0]["accusation"], Accusation)
    *numbers, accused, inputs = accusation.values()
    assert all(isinstance(number, int) for number in numbers)
    assert isinstance(accused, tuple)
    assert isinstance(inputs, list)
    assert isinstance(inputs[0], tuple)
    assert isinstance(inputs[0][1], list)
