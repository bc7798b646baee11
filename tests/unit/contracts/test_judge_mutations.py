"""However an accusation against an honest trace is twisted, the judge refuses it or finds nothing wrong.

The accusations of tests/vectors/trace.json that find nothing are taken apart and put together anew (`twists.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from market.verification.structs import Accusation, Opening
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.claims import deploy_judge
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.twists import Twister
from tools.compiler import ROOT

VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "trace.json").read_text(encoding="utf-8"))
FEW, MANY = 600, 40_000


def of_json(value: Any) -> Any:
    """Structs as tuples, hashes and payloads as bytes; addresses stay text."""
    if isinstance(value, dict):
        return tuple(of_json(part) for part in value.values())
    if isinstance(value, list):
        return [of_json(part) for part in value]
    return bytes.fromhex(value[2:]) if isinstance(value, str) and len(value) != 42 else value


def accusation_of(value: dict[str, Any]) -> Accusation:
    *place, accused, inputs = of_json(value)
    return Accusation(*place, opening_of(accused), tuple(opening_of(opening) for opening in inputs))


def opening_of(value: tuple[bytes, list[bytes]]) -> Opening:
    return Opening(value[0], tuple(value[1]))


HONEST = [accusation_of(v["accusation"]) for v in VECTORS["accusations"] if v["root"] == VECTORS["root"]]


@pytest.fixture(scope="module")
def judge() -> Contract:
    deployed = deploy_judge(RevmChain(list(artefacts().values())))
    shape, layers = (VECTORS[key] for key in ("shape", "layers"))
    deployed.acceptProgram(tuple(shape.values()), [tuple(layer.values()) for layer in layers])
    return deployed


def twist(judge: Contract, seed: int, count: int) -> Counter[str]:
    """What came of so many twisted accusations: names of errors, and "nothing wrong"."""
    random, claim, twister = Random(seed), of_json(VECTORS["claim"]), Twister(HONEST)
    root = bytes.fromhex(VECTORS["root"][2:])
    seen: Counter[str] = Counter()
    for _ in range(count):
        accusation = twister.twisted(random)
        try:
            assert not judge.isWrong(claim, root, accusation.values()), accusation
            seen["nothing wrong"] += 1
        except Revert as error:
            seen[error.name] += 1
    return seen


def test_twisted_accusation_finds_nothing_wrong_in_an_honest_trace(judge: Contract) -> None:
    seen = twist(judge, 1, FEW)
    assert seen["nothing wrong"] > FEW / 30
    assert {"OpeningMismatch", "OutsideProgram", "ElementOutside", "InputsMiscounted"} <= set(seen)
    assert {"PayloadMisfit", "PathMisfit"} <= set(seen)


@pytest.mark.slow
def test_twisted_accusation_finds_nothing_wrong_many_times(judge: Contract) -> None:
    twist(judge, 2, MANY)
