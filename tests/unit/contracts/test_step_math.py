"""contracts/libraries/StepMath.sol against exact integers, at the edges and at random."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from random import Random

import pytest

from market.hashing import keccak256, leaf_hash
from market.models import tables
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.revm import RevmChain
from tests.unit.market.inference import oracle
from tests.unit.market.inference.oracle import shift_round

HIGH = [int(x) for x in tables.exp2(8)]
LOW = [int(x) for x in tables.exp2(16)]
EDGES = [e for k in (0, 1, 14, 15, 16, 22, 30, 31, 32, 39, 47, 52, 61) for e in (2**k - 1, 2**k, 2**k + 1)]
SIGNED = [sign * e for e in EDGES for sign in (1, -1)]
CASES = 300
MANY = 10_000


@pytest.fixture(scope="module")
def harness() -> Contract:
    compiled = artefacts()
    chain = RevmChain(list(compiled.values()))
    return chain.deploy(compiled["StepMathHarness"], sender="0x" + "11" * 20)


def signed(random: Random, bits: int) -> int:
    """Of any size up to so many bits; an edge now and then."""
    if random.random() < 0.2:
        return random.choice([x for x in SIGNED if abs(x) < 2**bits])
    return random.choice([1, -1]) * (random.getrandbits(bits) >> random.randrange(bits))


def normalised(x: int, s: int, v: int, gain: int) -> int:
    return shift_round((shift_round(x, s) * v // 2**23) * gain, 16)


def inverse_root(squares: int, width: int, epsilon: int, s: int) -> int:
    return 2**52 // max(isqrt((squares // width + epsilon // 4**s) * 2**18), 1)


def clamp(a: int, limit: int) -> int:
    return max(-limit, min(limit, a))


Case = tuple[int, ...]
FUNCTIONS: dict[str, tuple[Callable[..., int], Callable[[Random], Case]]] = {
    "rsr": (shift_round, lambda r: (signed(r, 63), r.randint(-62, 62))),
    "floorDiv": (lambda a, b: a // b, lambda r: (signed(r, 62), abs(signed(r, 40)) + 1)),
    "abs": (abs, lambda r: (signed(r, 63),)),
    "bits": (int.bit_length, lambda r: (abs(signed(r, 63)),)),
    "isqrt": (isqrt, lambda r: (r.choice([abs(signed(r, 63)), max(r.getrandbits(32) ** 2 - r.randrange(2), 0)]),)),
    "clamp": (clamp, lambda r: (signed(r, 52), r.choice([32639, 32767]))),
    "normShift": (lambda a: max(a.bit_length() - 22, 0), lambda r: (abs(signed(r, 52)),)),
    "inverseRoot": (
        inverse_root,
        lambda r: (abs(signed(r, 62)), r.choice([1, 64, 576, 2048]), r.getrandbits(20), r.randint(0, 30)),
    ),
    "normalised": (normalised, lambda r: (signed(r, 52), r.randint(0, 30), abs(signed(r, 43)), signed(r, 20))),
    "quantiseShift": (lambda y: max(1, abs(y)).bit_length() - 15, lambda r: (signed(r, 52),)),
    "quantised": (lambda y, s: clamp(shift_round(y, s), 32639), lambda r: (signed(r, 52), r.randint(-14, 37))),
    "toCache": (oracle.to_cache, lambda r: (signed(r, 40), r.randint(0, 15))),
    "exp2neg": (
        lambda d: oracle.exp2_negative(d, HIGH, LOW),
        lambda r: (r.choice([r.randrange(32 << 16), (31 << 16) + r.randint(-300, 300), abs(signed(r, 41))]),),
    ),
    "weight": (
        lambda score, top: oracle.exp2_negative(top - score, HIGH, LOW) // 2**10,
        lambda r: (lambda top: (top - r.choice([r.randrange(32 << 16), abs(signed(r, 40))]), top))(signed(r, 39)),
    ),
    "mixed": (
        lambda num, total, f: (2 * num * 2 ** (16 - f) + total) // (2 * total),
        lambda r: (signed(r, 47), r.randint(1, 2**32), r.randint(0, 15)),
    ),
    "silu": (lambda x: oracle.silu(x, HIGH, LOW), lambda r: (r.choice([signed(r, 33), signed(r, 21)]),)),
    "gated": (
        lambda gate, up: shift_round(oracle.silu(gate, HIGH, LOW) * up, 16),
        lambda r: (r.choice([signed(r, 33), signed(r, 21)]), signed(r, 29)),
    ),
}


def compare(harness: Contract, name: str, seed: int, count: int) -> None:
    expected, make = FUNCTIONS[name]
    random = Random(seed)
    for _ in range(count):
        case = make(random)
        assert getattr(harness, name)(*case) == expected(*case), case


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arithmetic_in_solidity_equals_exact_integers(harness: Contract, name: str) -> None:
    compare(harness, name, 1, CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arithmetic_in_solidity_equals_exact_integers_many_times(harness: Contract, name: str) -> None:
    compare(harness, name, 2, MANY)


def test_halves_are_rounded_upward_and_negative_shifts_multiply(harness: Contract) -> None:
    assert [harness.rsr(a, 1) for a in (3, 1, -1, -3)] == [2, 1, 0, -1]
    assert [harness.rsr(a, 62) for a in (2**61, 2**61 - 1, -(2**61), -(2**61) - 1)] == [1, 0, 0, -1]
    assert [harness.rsr(a, -14) for a in (5, -5)] == [5 << 14, -5 << 14]
    assert [harness.rsr(a, 0) for a in (7, -7)] == [7, -7]


def test_division_of_negative_numbers_goes_down(harness: Contract) -> None:
    assert [harness.floorDiv(a, 3) for a in (-4, -3, -2, -1, 0, 1, 2, 3)] == [-2, -1, -1, -1, 0, 0, 0, 1]


@pytest.mark.parametrize(("name", "arguments"), [("floorDiv", (1, 0)), ("inverseRoot", (1, 0, 1, 0))])
def test_division_by_zero_panics(harness: Contract, name: str, arguments: tuple[int, ...]) -> None:
    with pytest.raises(Revert) as refused:
        getattr(harness, name)(*arguments)
    assert (refused.value.name, refused.value.values) == ("Panic", {"value": 0x12})


def test_exp2_tables_in_the_code_are_the_published_ones(harness: Contract) -> None:
    high, low = (tables.exp2(bits).astype(">i4").tobytes() for bits in (8, 16))
    table, node = harness.exp2Table()
    assert table == high + low
    assert node == keccak256(leaf_hash(high) + leaf_hash(low))


def test_exp2_ends_at_31(harness: Contract) -> None:
    assert harness.exp2neg(0) == 2**30
    assert [harness.exp2neg(d) for d in (30 << 16, (31 << 16) - 1, 31 << 16, 32 << 16, 2**41, 2**255)] == [
        *(1, oracle.exp2_negative((31 << 16) - 1, HIGH, LOW)),
        *(0, 0, 0, 0),
    ]
