"""contracts/steps of attention and activation: an honest element is never wrong, any other always is, and nothing but
the right leaf is taken for an input.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from market.hashing import keccak256
from market.verification.geometry import CHUNK, Place
from market.verification.step import Step as PythonStep
from market.verification.structs import Accusation, LayerFormat, Opening, Shape
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.attention_steps import CACHE_LIMIT, MAXIMA, VALUES, Make, weight
from tests.unit.contracts.claims import Court, Ground
from tests.unit.contracts.forest import Forest, Step, encode_accusation
from tests.unit.contracts.revm import RevmChain
from tools.compiler import ROOT

CONTEXT = (
    "((uint32,uint32,uint32,uint32,uint16,uint16,uint16,uint16,uint64,uint64,bool,uint8,uint8),"
    "(uint8,uint8,uint8,uint8,uint8,uint8,uint8,uint8,uint8,uint8),"
    "bytes32,bytes32,bytes32,bytes32,bytes32,uint32,uint32,int256)"
)
ACCUSATION = "(uint32,uint32,uint32,uint32,uint32,uint32,(bytes,bytes32[]),(bytes,bytes32[])[])"
SENDER = "0x" + "11" * 20
SIGNATURE = f"isWrong({CONTEXT},{ACCUSATION})"
SELECTOR = keccak256(SIGNATURE.encode())[:4]
LIBRARIES = ("Rotary", "Scores", "Softmax", "MixSum", "Mix", "QuantiseMix", "Activation")
STEPS = VALUES | MAXIMA
CASES = 200
MANY = 10_000
EIP_170 = 24_576
VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "trace.json").read_text(encoding="utf-8"))
OPERATIONS = {name.split()[0] for name in STEPS}


@pytest.fixture(scope="module")
def harness() -> Contract:
    compiled = artefacts()
    chain = RevmChain(list(compiled.values()))
    libraries = {name: chain.deploy(compiled[name], sender=SENDER).address for name in LIBRARIES}
    return chain.deploy(compiled["StepsHarness"], sender=SENDER, libraries=libraries)


def is_wrong(harness: Contract, step: Step, accusation: Accusation | None = None, **roots: bytes) -> bool:
    data = call_data(step, step.accusation() if accusation is None else accusation, **roots)
    return bool(int.from_bytes(harness.chain.run_call(SENDER, harness.address, data, True), "big"))


def call_data(step: Step, accusation: Accusation, **roots: bytes) -> bytes:
    """Of StepsHarness.isWrong."""
    context = step.forest.context(**roots)
    words = b"".join(word if isinstance(word, bytes) else word.to_bytes(32, "big") for word in flat(context))
    return SELECTOR + words + (len(words) + 32).to_bytes(32, "big") + encode_accusation(accusation)


def flat(values: tuple[Any, ...]) -> list[Any]:
    return [word for value in values for word in (value if isinstance(value, tuple) else (value,))]


def test_calls_are_encoded_as_eth_abi_does(harness: Contract) -> None:
    for name in STEPS:
        step = case(name)
        accusation = step.accusation()
        expected = harness.encode("isWrong", step.forest.context(), accusation.values())
        assert call_data(step, accusation) == expected


def refused(harness: Contract, step: Step, accusation: Accusation | None = None, **roots: bytes) -> Revert:
    with pytest.raises(Revert) as error:
        is_wrong(harness, step, accusation, **roots)
    return error.value


def off_by_one(step: Step, by: int = 1) -> list[int]:
    """The other way where the type ends."""
    section = step.forest.geometry.section(step.place.group, step.place.operation)
    limit = 1 << (8 * section.element_size(step.place.slot) - 1)
    return step.altered(by if -limit <= step.values[step.element] + by < limit else -by)


def check_value(harness: Contract, make: Make, seed: int) -> None:
    random = Random(seed)
    step = make(random)
    step.claim()
    assert not is_wrong(harness, step), seed
    step.claim(off_by_one(step, random.choice([1, -1])))
    assert is_wrong(harness, step), seed


@pytest.mark.parametrize("name", VALUES)
def test_honest_element_is_right_and_its_neighbour_wrong(harness: Contract, name: str) -> None:
    for seed in range(CASES):
        check_value(harness, VALUES[name], seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
def test_honest_element_is_right_and_its_neighbour_wrong_many_times(
    harness: Contract, name: str, judged: Callable[[str, int], None]
) -> None:
    for seed in range(CASES, CASES + MANY):
        check_value(harness, VALUES[name], seed)
    judged(name, 2 * MANY)


def speaks_against(row: list[int], maximum: int, index: int) -> int | None:
    """A witness against a claimed maximum, by the page's words; None where there is none."""
    if not 0 <= index < len(row):
        return 0
    if row[index] != maximum:
        return index
    best = row.index(max(row))
    return best if (row[best], -best) > (maximum, -index) else None


def check_maximum(harness: Contract, make: Make, seed: int) -> int:
    """Returns how many accusations were judged."""
    random = Random(seed)
    step = make(random)
    row = list(step.row)
    step.claim()
    witnesses = [step.values[1], 0, len(row) - 1, random.randrange(len(row))]
    tried = [w for w in witnesses if w == step.witness] + [random.choice(witnesses)]
    for witness in tried:
        step.bring(witness)
        step.element = random.randrange(2)
        assert not is_wrong(harness, step), (seed, witness)

    maximum, index, *rest = step.values
    other = random.randrange(len(row))
    ties = [i for i, value in enumerate(row) if value == maximum]
    lies = [
        (maximum + random.choice([-1, 1]), index),
        (maximum, other),
        (row[other], other),
        (maximum, random.choice(ties)),
        (maximum, random.choice([-1, len(row), -(2**63), 2**63 - 1])),
    ]
    claimed = random.choice(lies)
    step.claim([*claimed, *rest])
    against = speaks_against(row, *claimed)
    if against is None:
        assert claimed == (maximum, index)
        return len(tried)
    step.bring(against)
    assert is_wrong(harness, step), (seed, claimed, against)
    return len(tried) + 1


@pytest.mark.parametrize("name", MAXIMA)
def test_honest_maximum_is_right_and_any_other_has_a_witness_against_it(harness: Contract, name: str) -> None:
    for seed in range(CASES):
        check_maximum(harness, MAXIMA[name], seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAXIMA)
def test_honest_maximum_is_right_and_any_other_has_a_witness_many_times(
    harness: Contract, name: str, judged: Callable[[str, int], None]
) -> None:
    judged(name, sum(check_maximum(harness, MAXIMA[name], seed) for seed in range(CASES, CASES + MANY)))


def case(name: str, wanted: Callable[[Step], bool] = lambda _: True) -> Step:
    """The first case of a step that is as wanted, its honest leaf in the trace."""
    for seed in range(5_000):
        step = STEPS[name](Random(seed))
        if wanted(step):
            step.claim()
            return step
    raise AssertionError(name)


@pytest.mark.parametrize("name", STEPS)
def test_steps_in_python_say_the_same(harness: Contract, name: str) -> None:
    """market/verification judges what it is about to send: honest elements and their neighbours."""
    for seed in range(20):
        step = STEPS[name](Random(seed))
        shape, layers = step.forest.shape, [step.forest.layer] * step.forest.shape.layers
        for values in (step.values, off_by_one(step)):
            step.claim(values)
            claim = step.forest.claim()
            accusation = step.accusation()
            twin = PythonStep(shape, layers).is_wrong(claim, step.forest.trace.root, accusation)
            assert twin == is_wrong(harness, step, accusation), seed


# ---- maxima


@pytest.mark.parametrize("name", MAXIMA)
def test_index_outside_the_row_is_wrong_whatever_is_opened(harness: Contract, name: str) -> None:
    step = case(name)
    for index in (-1, len(step.row), 2**63 - 1, -(2**63)):
        step.claim([step.values[0], index, *step.values[2:]])
        assert is_wrong(harness, step)
        assert is_wrong(harness, step, step.accusation(inputs=()))
        assert is_wrong(harness, step, step.accusation(witness=2**32 - 1, inputs=()))


@pytest.mark.parametrize("name", MAXIMA)
def test_witness_outside_the_row_is_no_witness(harness: Contract, name: str) -> None:
    step = case(name)
    for witness in (len(step.row), len(step.row) + 64, 2**32 - 1):
        error = refused(harness, step, step.accusation(witness=witness))
        assert (error.name, error.values) == ("WitnessOutsideRow", {"witness": witness, "length": len(step.row)})


@pytest.mark.parametrize("name", MAXIMA)
def test_of_equal_elements_the_lowest_is_the_maximum(harness: Contract, name: str) -> None:
    step = case(name, lambda s: list(s.row).count(max(s.row)) >= 2)
    first, second, *_ = [i for i, value in enumerate(step.row) if value == max(step.row)]
    step.bring(second)
    assert not is_wrong(harness, step)
    step.claim([step.values[0], second, *step.values[2:]])
    assert not is_wrong(harness, step)  # the second attains it: no evidence by itself
    step.bring(first)
    assert is_wrong(harness, step)


@pytest.mark.parametrize("name", MAXIMA)
def test_smaller_element_is_no_witness_against_a_maximum_that_another_attains(harness: Contract, name: str) -> None:
    step = case(name, lambda s: min(s.row) < max(s.row))
    lowest = list(step.row).index(min(step.row))
    step.bring(lowest)
    assert not is_wrong(harness, step)
    step.claim([min(step.row), lowest, *step.values[2:]])
    assert not is_wrong(harness, step)
    step.bring(step.values[1])
    assert is_wrong(harness, step)


def test_row_of_zeros_and_ones_has_its_maximum_at_index_0(harness: Contract) -> None:
    """max(1, |y|) has one bit for both, so that s′ is −14 and nothing before the one is lower."""
    step = case("QUANTISE_MIX statistic", lambda s: max(s.row) == -14)
    assert step.values == [-14, 0]
    assert not is_wrong(harness, step)


# ---- sums


def test_total_goes_on_from_the_claimed_one_before(harness: Contract) -> None:
    """A wrong sum makes the next one wrong by itself only if it does not go on from it."""
    step = case("SOFTMAX total", lambda s: s.element >= 3)
    step.claim(off_by_one(replace(step, element=step.element - 1)))
    assert is_wrong(harness, step)
    carried = list(step.values)
    carried[step.element - 1] += 5
    carried[step.element] += 5
    step.claim(carried)
    assert not is_wrong(harness, step)


def test_mix_sum_goes_on_from_the_leaf_before(harness: Contract) -> None:
    step = case("MIX_SUM", lambda s: len(s.inputs) == 4)
    before = step.inputs[0]
    assert isinstance(before, Place)
    step.forest.put(before, [value + 7 for value in step_values(step, before)])
    assert is_wrong(harness, step)
    step.claim(step.altered(7))
    assert not is_wrong(harness, step)


def test_values_after_the_position_have_no_weight(harness: Contract) -> None:
    """VALUE leaves reach to the end of their block: what is after the query's position changes nothing."""
    step = case("MIX_SUM", lambda s: (s.place.row + 1) % CHUNK != 0 and s.forest.geometry.positions > s.place.row + 1)
    values = step.inputs[-1]
    assert isinstance(values, Place)
    mine = step.place.row - CHUNK * values.row + 1
    stored = step.forest.geometry.section(values.group, values.operation).elements(values.row, values.slot)
    assert 0 < mine < stored
    for fill in (CACHE_LIMIT, -CACHE_LIMIT):
        step.forest.put(values, [*step_values(step, values)[:mine], *[fill] * (stored - mine)])
        assert not is_wrong(harness, step)
    step.forest.put(values, [v ^ 1 for v in step_values(step, values)])
    assert is_wrong(harness, step) == (sum(weights_of(step)[:mine]) > 0)


def step_values(step: Step, place: Place) -> list[int]:
    payload = step.forest.open(place).payload
    section = step.forest.geometry.section(place.group, place.operation)
    size = section.element_size(place.slot)
    return [
        int.from_bytes(payload[size * i : size * i + size], "big", signed=True)
        for i in range(section.elements(place.row, place.slot))
    ]


def weights_of(step: Step) -> list[int]:
    """Of a MIX_SUM step's block."""
    scores, totals = step.inputs[-3], step.inputs[-2]
    assert isinstance(scores, Place)
    assert isinstance(totals, Place)
    top = step_values(step, totals)[0]
    return [weight(score, top) for score in step_values(step, scores)]


# ---- what is taken for an input


def neighbours(step: Step, where: Place) -> list[Place]:
    """Leaves of the same section that a careless contract might take as well."""
    section = step.forest.geometry.section(where.group, where.operation)
    found = [
        *(where._replace(row=where.row + by) for by in (-1, 1)),
        *(where._replace(slot=where.slot + by) for by in (-1, 1)),
        *(where._replace(group=where.group + by) for by in (-1, 1)),
    ]
    return [
        place
        for place in found
        if place != step.place
        and place not in step.inputs
        and min(place) >= 0
        and 1 <= place.group <= step.forest.shape.layers
        and section.inside(place.row, place.slot)
    ]


@pytest.mark.parametrize("name", STEPS)
def test_leaf_of_another_place_is_refused(harness: Contract, name: str) -> None:
    """What lies at another position, head, block or layer opens there, but is no input of this step."""

    def fresh() -> Step:
        return case(name, lambda s: s.place.row > 0 and s.forest.shape.layers > 1)

    errors = []
    for i, where in enumerate(fresh().inputs):
        for other in neighbours(fresh(), where) if isinstance(where, Place) else []:
            step = fresh()
            payload = step.forest.open(where).payload
            # not the same payload: siblings alike have one path
            step.forest.put_raw(other, bytes([payload[0] ^ 1]) + payload[1:])
            assert not is_wrong(harness, step)
            accusation = step.accusation()
            inputs = list(accusation.inputs)
            inputs[i] = step.forest.open(other)
            errors.append(refused(harness, step, replace(accusation, inputs=tuple(inputs))).name)
    assert set(errors) <= {"OpeningMismatch", "PayloadMisfit"}
    assert errors.count("OpeningMismatch") > 2


@pytest.mark.parametrize("name", STEPS)
def test_changed_opening_is_refused(harness: Contract, name: str) -> None:
    step = case(name)
    honest = step.accusation()
    for i, opening in enumerate([honest.accused, *honest.inputs]):
        for changed, errors in changes(opening):
            if i == 0:
                accusation = replace(honest, accused=changed)
            else:
                inputs = list(honest.inputs)
                inputs[i - 1] = changed
                accusation = replace(honest, inputs=tuple(inputs))
            assert refused(harness, step, accusation).name in errors, (i, errors)


def changes(opening: Opening) -> list[tuple[Opening, tuple[str, ...]]]:
    payload, path = opening.payload, opening.path
    flipped = bytes([payload[0] ^ 1]) + payload[1:]
    side = (bytes([path[0][0] ^ 1]) + path[0][1:], *path[1:])
    return [
        (Opening(flipped, path), ("OpeningMismatch",)),
        (Opening(payload, side), ("OpeningMismatch",)),
        (Opening(payload, path[1:]), ("PathMisfit",)),
        (Opening(payload, (*path, path[0])), ("PathMisfit",)),
        (Opening(payload, ()), ("PathMisfit",)),
        (Opening(payload + bytes(32), path), ("PayloadMisfit",)),
        (Opening(payload[:-32], path), ("PayloadMisfit",)),
        (Opening(b"", path), ("PayloadMisfit",)),
    ]


@pytest.mark.parametrize("name", STEPS)
def test_inputs_are_counted(harness: Contract, name: str) -> None:
    step = case(name)
    honest = step.accusation()
    count = len(honest.inputs)
    for inputs in ((), honest.inputs[:-1], (*honest.inputs, honest.inputs[0])):
        error = refused(harness, step, replace(honest, inputs=inputs))
        assert (error.name, error.values) == ("InputsMiscounted", {"expected": count, "actual": len(inputs)})


@pytest.mark.parametrize("name", [name for name in STEPS if len(case(name).inputs) > 1])
def test_inputs_have_an_order(harness: Contract, name: str) -> None:
    step = case(name)
    honest = step.accusation()
    error = refused(harness, step, replace(honest, inputs=honest.inputs[::-1]))
    assert error.name in ("OpeningMismatch", "PayloadMisfit", "PathMisfit")


def test_table_of_another_position_is_refused(harness: Contract) -> None:
    """A query turned by the wrong angle: the tables' leaf follows from the row."""
    step = case("ROTATE_QUERY", lambda s: s.place.row > 0 and s.forest.shape.context > 1000)
    half = step.forest.shape.head_size // 2
    cos, sin, _ = step.forest.weights.rope(step.place.row, step.element)
    far = next(p for p in range(step.forest.shape.context) if step.forest.weights.rope(p, 0)[0] not in (cos,))
    others = step.forest.put_rope(far, step.element % half, 5, 6)
    for inputs in ([step.inputs[0], others[0], sin], [step.inputs[0], cos, others[1]], [step.inputs[0], sin, cos]):
        assert refused(harness, replace(step, inputs=inputs)).name == "OpeningMismatch"
    assert not is_wrong(harness, step)


@pytest.mark.parametrize("name", ["ROTATE_QUERY", "ROTATE_KEY"])
def test_tables_come_from_the_claims_own_model(harness: Contract, name: str) -> None:
    step = case(name)
    assert refused(harness, step, tables=bytes(32)).name == "OpeningMismatch"


@pytest.mark.parametrize("name", STEPS)
def test_everything_lies_under_the_providers_root(harness: Contract, name: str) -> None:
    assert refused(harness, case(name), trace=bytes(32)).name == "OpeningMismatch"


def test_input_with_anything_in_its_padding_is_refused(harness: Contract) -> None:
    """A statistic has sixteen bytes behind its fields: an input has one form only."""
    step = case("QUANTISE_MIX value")
    statistic = step.inputs[1]
    assert isinstance(statistic, Place)
    payload = step.forest.open(statistic).payload
    step.forest.put_raw(statistic, payload[:-1] + b"\x01")
    assert refused(harness, step).name == "PaddingNotZero"


def test_what_divides_by_nothing_proves_nothing(harness: Contract) -> None:
    """Z = 0 is no honest input: the step panics, and the leaf before is the one to accuse."""
    step = case("MIX")
    totals = step.inputs[1]
    assert isinstance(totals, Place)
    step.forest.put(totals, [0] * len(step_values(step, totals)))
    assert refused(harness, step).name == "Panic"


@pytest.mark.parametrize("name", LIBRARIES)
def test_step_fits_the_limit_of_eip_170(name: str) -> None:
    assert 0 < len(artefacts()[name]["deployedBytecode"]) // 2 - 1 < EIP_170


# ---- the judge


@pytest.mark.parametrize("name", STEPS)
def test_judge_asks_the_right_step(name: str) -> None:
    """Through the judge, who takes shapes and format from the program: in the last of two layers that differ."""
    shape = Shape(300, 2048, 64, 130, 2, 4, 2, 32, 42949, 66854, True, 30, 30)
    layers = tuple(LayerFormat(30, 31, 32, 33, 34, 35, 36, 7 + i, 8 + i, 9 + i) for i in range(2))
    court = Court(RevmChain(list(artefacts().values())))
    for seed in range(100):
        step = STEPS[name](Random(seed), Forest(shape, layers[1], 100, 50))
        if step.place.group == 2:
            break
    ground = Ground(shape, layers, list(range(100)), list(range(50)), step.forest.trace)
    step.claim()
    tables_root = step.forest.tables.root
    assert not court.finds_wrong(ground, step.accusation(), tables_root=tables_root)
    step.claim(off_by_one(step))
    assert court.finds_wrong(ground, step.accusation(), tables_root=tables_root)


@pytest.fixture(scope="module")
def court() -> Court:
    found = Court(RevmChain(list(artefacts().values())))
    shape, layers = (VECTORS[key] for key in ("shape", "layers"))
    found.judge.acceptProgram(tuple(shape.values()), [tuple(layer.values()) for layer in layers])
    return found


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS["accusations"] if v["name"].split()[0] in OPERATIONS], ids=lambda v: v["name"]
)
def test_vector_is_judged_as_python_does(court: Court, vector: dict[str, Any]) -> None:
    claim, accusation = of_json(VECTORS["claim"]), of_json(vector["accusation"])
    assert court.judge.isWrong(claim, bytes.fromhex(vector["root"][2:]), accusation) is vector["wrong"]


def of_json(value: Any) -> Any:
    """What eth_abi takes for a struct of the vectors; addresses stay text."""
    if isinstance(value, dict):
        return tuple(of_json(part) for part in value.values())
    if isinstance(value, list):
        return [of_json(part) for part in value]
    return bytes.fromhex(value[2:]) if isinstance(value, str) and len(value) != 42 else value
