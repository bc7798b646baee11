"""Steps of EMBEDDING, the norms and every matrix: an honest element is never wrong, any other one always."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from market.verification.geometry import Operation
from tests.depth import alone
from tests.unit.contracts import step_cases as cases
from tests.unit.contracts.claims import Court, Ground
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.step_cases import LARGEST, MATRICES, NORMS, TINY, Case

FEW, MANY = 40, 10_000
Make = Callable[[Random, Ground], Case]
STEPS: dict[str, Make] = {
    "embedding": cases.embedding,
    **{op.name.lower(): lambda r, at, op=op: cases.matrix(r, at, op) for op in MATRICES},
    **{f"{op.name.lower()}, s and v": lambda r, at, op=op: cases.norm_size(r, at, op) for op in NORMS},
    **{f"{op.name.lower()}, value": lambda r, at, op=op: cases.norm_value(r, at, op) for op in NORMS},
}


@pytest.fixture(scope="module")
def court(judge_chain: RevmChain) -> Court:
    return Court(judge_chain)


def judge(court: Court, make: Make, seed: int, count: int) -> None:
    """So many cases, each of its own lengths and numbers; of each the right value and a wrong one."""
    random = Random(seed)
    for _ in range(count):
        case = make(random, cases.ground(random))
        assert not court.finds_wrong(case.ground, case.accuse()), case.place
        claimed = random.choice(case.wrong_values(random))
        assert court.finds_wrong(case.ground, case.accuse(claimed)), (case.place, claimed)


@pytest.mark.parametrize("name", STEPS)
def test_step_finds_what_differs_and_nothing_else(court: Court, name: str) -> None:
    judge(court, STEPS[name], 1, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", alone("rows", STEPS))
def test_step_finds_what_differs_and_nothing_else_many_times(
    court: Court, name: str, judged: Callable[[str, int], None]
) -> None:
    judge(court, STEPS[name], 2, MANY)
    judged(name, 2 * MANY)


@pytest.mark.parametrize("name", STEPS)
def test_step_of_the_largest_program_is_exact(court: Court, name: str) -> None:
    random = Random(3)
    case = STEPS[name](random, cases.ground(random, [LARGEST]))
    assert not court.finds_wrong(case.ground, case.accuse())
    assert all(court.finds_wrong(case.ground, case.accuse(claimed)) for claimed in case.wrong_values(random))


# ---- maxima: s′ and i′


def maximum(court: Court, ground: Ground, operation: Operation, claim: tuple[int, int] | None, seed: int) -> list[bool]:
    """What the judge finds of each witness of a row of that seed; None claims what is right."""
    random = Random(seed)
    place, _ = cases.somewhere(random, ground, operation, statistic=True)
    row = cases.norm_row(random, ground, place)
    s, v, *right = row.statistic
    ground.put(place, [s, v, *(claim or right)])
    found = []
    for witness in range(len(row.y)):
        inputs = cases.norm_inputs(ground, place, witness)
        found.append(court.finds_wrong(ground, ground.accuse(place, 2, inputs, witness)))
        if witness % 8 == 0:  # the two fields are one claim
            assert court.finds_wrong(ground, ground.accuse(place, 3, inputs, witness)) == found[-1]
    return found


def right_maximum(ground: Ground, operation: Operation, seed: int) -> tuple[list[int], int, int]:
    random = Random(seed)
    place, _ = cases.somewhere(random, ground, operation, statistic=True)
    row = cases.norm_row(random, ground, place)
    return [max(1, abs(y)).bit_length() - 15 for y in row.y], row.statistic[2], row.statistic[3]


@pytest.mark.parametrize("operation", NORMS, ids=lambda operation: operation.name)
def test_true_maximum_is_contradicted_by_no_witness(court: Court, operation: Operation) -> None:
    for seed in range(4):
        ground = cases.ground(Random(seed), [TINY])
        assert not any(maximum(court, ground, operation, None, seed))


@pytest.mark.parametrize("operation", NORMS, ids=lambda operation: operation.name)
def test_false_maximum_is_contradicted_by_exactly_the_witnesses_of_the_rule(court: Court, operation: Operation) -> None:
    for seed in range(2):
        ground = cases.ground(Random(seed), [TINY])
        sizes, scale, largest = right_maximum(ground, operation, seed)
        other = next((i for i, size in enumerate(sizes) if i > largest and size == scale), None)
        claims = [(scale + 1, largest), (scale - 1, largest), (scale, (largest + 1) % len(sizes))]
        claims += [(scale, other)] if other is not None else []  # a tie that is not the lowest
        for claim in claims:
            found = maximum(court, ground, operation, claim, seed)
            expected = [
                size != claim[0] if i == claim[1] else size > claim[0] or (size == claim[0] and i < claim[1])
                for i, size in enumerate(sizes)
            ]
            assert found == expected
            assert any(found)


@pytest.mark.parametrize("index", [-1, 72, 2**40, -(2**63)])
def test_index_outside_the_row_is_wrong_without_a_witness(court: Court, index: int) -> None:
    random = Random(5)
    ground = cases.ground(random, [TINY])
    place, _ = cases.somewhere(random, ground, Operation.ATTENTION_NORM, statistic=True)
    row = cases.norm_row(random, ground, place)
    ground.put(place, [*row.statistic[:3], index])
    assert court.finds_wrong(ground, ground.accuse(place, 3, []))
    assert court.finds_wrong(ground, ground.accuse(place, 2, []))


@pytest.mark.slow
@pytest.mark.parametrize("operation", alone("maxima of", NORMS), ids=lambda operation: operation.name)
def test_maxima_are_judged_by_the_rule_many_times(
    court: Court, operation: Operation, judged: Callable[[str, int], None]
) -> None:
    """As many rows, each with two of their witnesses."""
    random, witnesses = Random(6), 2
    for _ in range(MANY):
        ground = cases.ground(random)
        place, _ = cases.somewhere(random, ground, operation, statistic=True)
        row = cases.norm_row(random, ground, place)
        s, v, scale, largest = row.statistic
        width = len(row.y)
        claims = (scale, largest), (scale, random.randrange(width)), (scale + random.choice((-1, 1)), largest)
        claim = random.choice(claims)
        ground.put(place, [s, v, *claim])
        for witness in random.sample((largest, claim[1], random.randrange(width), random.randrange(width)), witnesses):
            size = max(1, abs(row.y[witness])).bit_length() - 15
            expected = size > claim[0] or (size == claim[0] and witness < claim[1])
            if witness == claim[1]:
                expected = size != claim[0]
            inputs = cases.norm_inputs(ground, place, witness)
            assert court.finds_wrong(ground, ground.accuse(place, 2, inputs, witness)) == expected
    judged(f"{operation.name.lower()}, s′ and i′", MANY * witnesses)
