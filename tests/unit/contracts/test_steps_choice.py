"""The output predicate: an id is wrong exactly where another one's key beats its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from market.hashing import ZERO32, keccak256
from market.verification.geometry import Operation, Place
from market.verification.structs import OutputAccusation
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.claims import Court, Ground
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.step_cases import SHAPES, TINY, formats
from tests.unit.market.inference import oracle
from tools.compiler import ROOT

FEW, MANY = 60, 10_000
ALL = 65_536
GREEDY = (0, 0, 0, 0, ZERO32)


@pytest.fixture(scope="module")
def court(judge_chain: RevmChain) -> Court:
    return Court(judge_chain)


class Choosing:
    """A claim of which the logits of some ids are known, at one output position."""

    def __init__(self, position: int, ids: list[int], sampling: tuple[int, int, int, int, bytes], shape: Any = TINY):
        self.ground = Ground(shape, formats(shape), [1, 2, 3], ids, sampling=sampling)
        self.position = position
        self.group = shape.layers + 1
        self._logits: dict[int, list[int]] = {}

    def put(self, token: int, logit: int) -> None:
        slot, place = token // 128, token % 128
        section = self.ground.geometry.section(self.group, Operation.LOGITS)
        leaf = self._logits.setdefault(slot, [0] * section.elements(0, slot))
        leaf[place] = logit
        self.ground.put(Place(self.group, Operation.LOGITS, self.position, slot), leaf)

    def accuse(self, output: int, rival: int) -> OutputAccusation:
        opened = [
            self.ground.open(Place(self.group, Operation.LOGITS, self.position, token // 128))
            for token in (output, rival)
        ]
        return OutputAccusation(self.position, output, rival, self.ground.open_ids(3 + self.position), *opened)


def finds_wrong(court: Court, at: Choosing, accusation: OutputAccusation, **claim: Any) -> bool:
    court.know(at.ground.shape, at.ground.layers, at.ground.program_root)
    told = replace(at.ground.claim(), **claim)
    found: bool = court.judge.isOutputWrong(told.values(), at.ground.trace.root, accusation.values())
    return found


def refusal(court: Court, at: Choosing, accusation: OutputAccusation, **claim: Any) -> tuple[str, dict[str, Any]]:
    with pytest.raises(Revert) as refused:
        finds_wrong(court, at, accusation, **claim)
    return refused.value.name, refused.value.values


@pytest.mark.parametrize(
    ("own", "other", "rival", "wrong"),
    [
        (5, 6, 200, True),
        (6, 5, 10, False),
        (5, 5, 99, True),  # of equal ones the lowest
        (5, 5, 101, False),
        (-(2**31), 2**31 - 1, 287, True),
        (2**31 - 1, -(2**31), 0, False),
        (-1, 0, 200, True),
    ],
)
@pytest.mark.parametrize("position", [0, 7, 8, 19])
def test_greedy_id_is_wrong_where_a_rival_beats_it(
    court: Court, position: int, own: int, other: int, rival: int, wrong: bool
) -> None:
    at = Choosing(position, [100] * 20, GREEDY)
    at.put(100, own)
    at.put(rival, other)
    assert finds_wrong(court, at, at.accuse(100, rival)) == wrong


def test_id_does_not_beat_itself(court: Court) -> None:
    for sampling in (GREEDY, (1, 45_875, 0, ALL, keccak256(b"seed"))):
        at = Choosing(2, [100] * 20, sampling)
        at.put(100, 7)
        assert not finds_wrong(court, at, at.accuse(100, 100))


def test_temperature_zero_is_greedy_whatever_the_filters_are(court: Court) -> None:
    at = Choosing(0, [100], (1, 0, 5, 1_000, keccak256(b"seed")))
    at.put(100, 5)
    at.put(50, 6)
    assert finds_wrong(court, at, at.accuse(100, 50))
    at.put(50, 4)
    assert not finds_wrong(court, at, at.accuse(100, 50))


def beats(logits: dict[int, int], position: int, temperature: int, seed: bytes, output: int, rival: int) -> bool:
    number = oracle.draw(seed, position)

    def key(token: int) -> tuple[int, int]:
        noise = oracle.gumbel(oracle.token_hash(number, token))
        return (logits[token] * 2**20 + temperature * noise, -token)

    return key(rival) > key(output)


def compare_seeded(court: Court, seed: int, count: int) -> None:
    random = Random(seed)
    for _ in range(count):
        shape = random.choice(SHAPES)
        outputs = random.randint(1, 40)
        position = random.randrange(outputs)
        ids = [random.randrange(shape.vocabulary) for _ in range(outputs)]
        temperature = random.choice((1, 45_875, 65_536, 2**32 - 1, random.getrandbits(32) or 1))
        top_k = random.choice((0, shape.vocabulary, 2**32 - 1))
        key = random.randbytes(32)
        at = Choosing(position, ids, (random.choice((1, 2)), temperature, top_k, ALL, key), shape)
        output, rival = ids[position], random.randrange(shape.vocabulary)
        limit = random.choice((1, 2**16, 2**20, 2**25, 2**31 - 1))
        logits = {token: random.randint(-limit, limit) for token in (output, rival)}
        for token, logit in logits.items():
            at.put(token, logit)
        expected = output != rival and beats(logits, position, temperature, key, output, rival)
        assert finds_wrong(court, at, at.accuse(output, rival)) == expected


def test_seeded_id_is_wrong_where_a_rivals_key_is_larger(court: Court) -> None:
    compare_seeded(court, 1, FEW)


@pytest.mark.slow
def test_seeded_id_is_wrong_where_a_rivals_key_is_larger_many_times(
    court: Court, judged: Callable[[str, int], None]
) -> None:
    compare_seeded(court, 2, MANY)
    judged("output, seeded", MANY)


def compare_greedy(court: Court, seed: int, count: int) -> None:
    """Equal logits and neighbouring ones as often as any."""
    random = Random(seed)
    for _ in range(count):
        shape = random.choice(SHAPES)
        ids = [random.randrange(shape.vocabulary) for _ in range(random.randint(1, 40))]
        position = random.randrange(len(ids))
        at = Choosing(position, ids, GREEDY, shape)
        output = ids[position]
        near = max(0, min(shape.vocabulary - 1, output + random.choice((-1, 1))))
        rival = random.choice((near, random.randrange(shape.vocabulary)))
        own = random.choice((-(2**31), 2**31 - 1, random.randint(-(2**31), 2**31 - 1)))
        other = max(-(2**31), min(2**31 - 1, own + random.choice((0, 0, -1, 1, random.randint(-(2**32), 2**32)))))
        logits = {rival: other} | {output: own}
        for token, logit in logits.items():
            at.put(token, logit)
        expected = (logits[rival], -rival) > (own, -output)
        assert finds_wrong(court, at, at.accuse(output, rival)) == expected


def test_greedy_id_is_wrong_where_a_rivals_logit_is_larger(court: Court) -> None:
    compare_greedy(court, 3, FEW)


@pytest.mark.slow
def test_greedy_id_is_wrong_where_a_rivals_logit_is_larger_many_times(
    court: Court, judged: Callable[[str, int], None]
) -> None:
    compare_greedy(court, 4, MANY)
    judged("output, greedy", MANY)


def test_published_choices_are_beaten_by_nobody(court: Court) -> None:
    """tests/vectors/numerics.json: what the sampler chose, against every other id."""
    case = json.loads((ROOT / "tests" / "vectors" / "numerics.json").read_text(encoding="utf-8"))["sampling"]
    logits, seed = [max(-(2**31), logit) for logit in case["logits"]], bytes.fromhex(case["seed"][2:])
    tried = 0
    for temperature, top_k, top_p, _, chosen in case["chosen"]:
        if top_k or top_p != ALL:
            continue
        for position, token in enumerate(chosen[:4]):
            at = Choosing(position, chosen[:4], (1, temperature, 0, ALL, seed))
            for j, logit in enumerate(logits):
                at.put(j, logit)
            assert not any(finds_wrong(court, at, at.accuse(token, j)) for j in range(len(logits)))
            other = Choosing(position, [(token + 1) % len(logits)] * 4, (1, temperature, 0, ALL, seed))
            for j, logit in enumerate(logits):
                other.put(j, logit)
            assert finds_wrong(court, other, other.accuse((token + 1) % len(logits), token))
            tried += 1
    assert tried


@pytest.mark.parametrize(
    "sampling",
    [
        *((1, 1, 50, ALL), (1, 1, TINY.vocabulary - 1, ALL), (1, 1, 0, ALL - 1), (1, 1, 0, 0)),
        *((2, 1, 50, ALL), (2, 1, 0, ALL - 1), (3, 1, 0, ALL), (3, 0, 0, ALL), (255, 0, 0, 0)),
    ],
)
def test_sampler_that_two_logits_do_not_decide_has_no_step(court: Court, sampling: tuple[int, int, int, int]) -> None:
    at = Choosing(0, [100], (*sampling, ZERO32))
    at.put(100, 5)
    at.put(50, 60)
    assert refusal(court, at, at.accuse(100, 50)) == ("SamplerWithoutStep", {"sampler": sampling[0]})


def test_id_that_was_not_returned_there_is_refused(court: Court) -> None:
    at = Choosing(3, [10, 11, 12, 13, 14], GREEDY)
    for token in (13, 12, 50):
        at.put(token, 5)
    right = at.accuse(13, 50)
    assert not finds_wrong(court, at, replace(right, rival=50, rival_logits=right.rival_logits))
    accusation = at.accuse(12, 50)
    assert refusal(court, at, accusation) == ("IdMismatch", {"expected": 12, "actual": 13})


def test_openings_of_the_output_must_hold(court: Court) -> None:
    at = Choosing(3, [10, 11, 12, 13, 14], GREEDY)
    for token in (13, 250):
        at.put(token, token)
    right = at.accuse(13, 250)
    assert finds_wrong(court, at, right)
    swapped = replace(right, rival_logits=right.output_logits)
    assert refusal(court, at, swapped)[0] == "OpeningMismatch"
    other_ids = replace(right, ids=replace(right.ids, payload=bytes(32)))
    assert refusal(court, at, other_ids)[0] == "OpeningMismatch"
    assert refusal(court, at, right, output_root=keccak256(b"another"))[0] == "OpeningMismatch"
    assert refusal(court, at, replace(right, position=4, output=14))[0] == "OpeningMismatch"  # logits of position 3
    assert refusal(court, at, replace(right, position=5))[0] == "ElementOutside"


@pytest.mark.parametrize("rival", [288, 383, 384, 2**32 - 1])
def test_rival_outside_the_vocabulary_is_refused(court: Court, rival: int) -> None:
    at = Choosing(0, [100], GREEDY)
    at.put(100, -5)
    at.put(287, 0)
    accusation = replace(at.accuse(100, 287), rival=rival)
    assert refusal(court, at, accusation)[0] in ("ElementOutside", "OutsideProgram")
