"""However an accusation against an honest trace is twisted, the judge refuses it or finds nothing wrong.

The accusations of tests/vectors/trace.json that find nothing are taken apart and put together anew: other places,
elements and witnesses than the openings were made for, openings of other accusations, changed, cut and swapped.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from market.verification.structs import Accusation, Opening
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.claims import deploy_judge
from tests.unit.contracts.revm import RevmChain
from tools.compiler import ROOT

VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "trace.json").read_text(encoding="utf-8"))
FEW, MANY = 600, 40_000
NEAR = (-64, -2, -1, 1, 2, 64)


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
OPENINGS = [opening for a in HONEST for opening in (a.accused, *a.inputs)]


@pytest.fixture(scope="module")
def judge() -> Contract:
    deployed = deploy_judge(RevmChain(list(artefacts().values())))
    shape, layers = (VECTORS[key] for key in ("shape", "layers"))
    deployed.acceptProgram(tuple(shape.values()), [tuple(layer.values()) for layer in layers])
    return deployed


def another_number(random: Random, accusation: Accusation) -> Accusation:
    """Biased to what a step reads without looking: element and witness."""
    field = random.choice(["group", "operation", "row", "slot", *["element", "witness"] * 3])
    before: int = getattr(accusation, field)
    number = random.choice([before + random.choice(NEAR), random.randrange(72), 2**32 - 1])
    return replace(accusation, **{field: max(number, 0) % 2**32})


def another_place(random: Random, accusation: Accusation) -> Accusation:
    """The openings of one accusation, said to be about the leaf of another one."""
    other = random.choice(HONEST)
    moved = replace(other, inputs=accusation.inputs, witness=accusation.witness)
    return random.choice(
        [moved, replace(moved, accused=accusation.accused), replace(accusation, accused=other.accused)]
    )


def another_opening(random: Random, accusation: Accusation) -> Accusation:
    inputs = list(accusation.inputs)
    if inputs:
        inputs[random.randrange(len(inputs))] = random.choice(OPENINGS)
    return replace(accusation, inputs=tuple(inputs))


def another_order(random: Random, accusation: Accusation) -> Accusation:
    inputs = [*accusation.inputs, accusation.accused][: random.randint(0, 4)]
    random.shuffle(inputs)
    return replace(accusation, inputs=tuple(inputs))


def another_payload(random: Random, accusation: Accusation) -> Accusation:
    openings = [accusation.accused, *accusation.inputs]
    i = random.randrange(len(openings))
    payload, path = bytearray(openings[i].payload), list(openings[i].path)
    how = random.randrange(4)
    if how == 0 and payload:
        payload[random.randrange(len(payload))] ^= 1 << random.randrange(8)
    elif how == 1:
        payload = payload[32:] if random.random() < 0.5 else payload[:-32]
    elif how == 2 and len(path) > 1:  # the level below as a payload
        payload, path = bytearray(path[0] + path[1]), path[2:]
    elif path:
        path.pop(random.randrange(len(path)))
    openings[i] = Opening(bytes(payload), tuple(path))
    return replace(accusation, accused=openings[0], inputs=tuple(openings[1:]))


TWISTS = (another_number, another_number, another_place, another_opening, another_order, another_payload)


def twist(judge: Contract, seed: int, count: int) -> Counter[str]:
    """What came of so many twisted accusations: names of errors, and "nothing wrong"."""
    random, claim = Random(seed), of_json(VECTORS["claim"])
    root = bytes.fromhex(VECTORS["root"][2:])
    seen: Counter[str] = Counter()
    for _ in range(count):
        accusation = random.choice(HONEST)
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            accusation = random.choice(TWISTS)(random, accusation)
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
