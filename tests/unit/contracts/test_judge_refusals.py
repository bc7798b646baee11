"""Openings that do not hold, places that are none: the judge reverts, so nobody is found guilty by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from market.hashing import keccak256
from market.verification.geometry import Operation, Place, number_of
from market.verification.structs import Accusation, Opening
from tests.unit.contracts import step_cases as cases
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.claims import Court, Ground
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.step_cases import TINY, Case, formats

Op = Operation
IDS = [7] * 70, [8] * 60  # three blocks


@pytest.fixture(scope="module")
def court() -> Court:
    return Court(RevmChain(list(artefacts().values())))


def case_of(make: Callable[[Random, Ground], Case], wanted: Callable[[Case], bool] = lambda case: True) -> Case:
    """The first case that is as wanted."""
    random = Random(9)
    while True:
        case = make(random, Ground(TINY, formats(TINY), *IDS))
        if wanted(case):
            return case


def down(wanted: Callable[[Case], bool] = lambda case: True) -> Case:
    """Opens a row, a weight row and a leaf."""
    return case_of(lambda r, at: cases.matrix(r, at, Op.DOWN), wanted)


def refusal(court: Court, case: Case, accusation: Accusation, **claim: Any) -> tuple[str, dict[str, Any]]:
    with pytest.raises(Revert) as refused:
        court.finds_wrong(case.ground, accusation, **claim)
    return refused.value.name, refused.value.values


def with_input(accusation: Accusation, number: int, **changes: Any) -> Accusation:
    inputs = list(accusation.inputs)
    inputs[number] = replace(inputs[number], **changes)
    return replace(accusation, inputs=tuple(inputs))


def openings(accusation: Accusation) -> list[tuple[Opening, Callable[..., Accusation]]]:
    """The accused one and every input, each with what puts another in its place."""
    found: list[tuple[Opening, Callable[..., Accusation]]] = [
        (accusation.accused, lambda **changes: replace(accusation, accused=replace(accusation.accused, **changes)))
    ]
    for i, opening in enumerate(accusation.inputs):
        found.append((opening, lambda i=i, **changes: with_input(accusation, i, **changes)))  # type: ignore[misc]
    return found


EVERY = [down, lambda: case_of(cases.embedding), lambda: case_of(lambda r, at: cases.norm_value(r, at, Op.OUTPUT_NORM))]


@pytest.mark.parametrize("make", EVERY, ids=["down", "embedding", "output norm"])
def test_changed_openings_are_refused(court: Court, make: Callable[[], Case]) -> None:
    case = make()
    accusation = case.accuse()
    assert not court.finds_wrong(case.ground, accusation)
    random = Random(1)
    for opening, put in openings(accusation):
        depth, size = len(opening.path), len(opening.payload)
        flipped = bytearray(opening.payload)
        # of a weight's header its multiplier
        flipped[9 if size >= 10 else 0] ^= 1 << random.randrange(8)
        assert refusal(court, case, put(payload=bytes(flipped)))[0] == "OpeningMismatch"
        for i in (0, depth // 2, depth - 1):
            path = [*opening.path[:i], keccak256(opening.path[i]), *opening.path[i + 1 :]]
            assert refusal(court, case, put(path=tuple(path)))[0] == "OpeningMismatch"
        for path in (opening.path[1:], opening.path[:-1], (*opening.path, bytes(32)), ()):
            name, values = refusal(court, case, put(path=tuple(path)))
            assert (name, values) == ("PathMisfit", {"expected": depth, "actual": len(path)})
        for payload in (b"", opening.payload[:-32], opening.payload[:-1], opening.payload + bytes(32)):
            name, values = refusal(court, case, put(payload=payload))
            assert (name, values) == ("PayloadMisfit", {"expected": size, "actual": len(payload)})


def test_inner_node_does_not_pass_for_a_leaf(court: Court) -> None:
    """Two hashes as a payload and a path one shorter."""
    case = down()
    accusation = case.accuse()
    chunk = accusation.inputs[2]
    left = keccak256(b"\0" + chunk.payload)
    name, _ = refusal(court, case, with_input(accusation, 2, payload=left + chunk.path[0], path=chunk.path[1:]))
    assert name == "PayloadMisfit"


def test_inputs_are_counted(court: Court) -> None:
    case = down()
    accusation = case.accuse()
    for inputs in ((), accusation.inputs[:2], (*accusation.inputs, accusation.inputs[0])):
        name, values = refusal(court, case, replace(accusation, inputs=inputs))
        assert (name, values) == ("InputsMiscounted", {"expected": 3, "actual": len(inputs)})


def test_input_of_another_place_is_refused(court: Court) -> None:
    """The contract computes where an input lies; a true leaf of elsewhere does not do."""
    case = down(lambda case: 0 < case.place.row < 100 and case.place.slot == 0)
    ground, place = case.ground, case.place
    row, chunk = ground.open_row(place.group, Op.ACTIVATION, place.row), Place(place.group, Op.ATTENTION_OUTPUT, 0, 0)
    statistic = [3, 0]
    for other in (place.row - 1, place.row + 1):
        ground.put_row(place.group, Op.ACTIVATION, other, [1] * TINY.feed_forward, statistic)
        accusation = case.accuse()
        moved = ground.open_row(place.group, Op.ACTIVATION, other)
        assert refusal(court, case, replace(accusation, inputs=(moved, *accusation.inputs[1:])))[0] == "OpeningMismatch"
    other_group = 3 - place.group
    ground.put_row(other_group, Op.ACTIVATION, place.row, [1] * TINY.feed_forward, statistic)
    accusation = case.accuse()
    moved = ground.open_row(other_group, Op.ACTIVATION, place.row)
    assert refusal(court, case, replace(accusation, inputs=(moved, *accusation.inputs[1:])))[0] == "OpeningMismatch"
    ground.put(chunk._replace(row=place.row + 1), [5] * 64)
    accusation = case.accuse()
    moved = ground.open(chunk._replace(row=place.row + 1))
    assert refusal(court, case, replace(accusation, inputs=(*accusation.inputs[:2], moved)))[0] == "OpeningMismatch"
    tensor = f"layers.{place.group - 1}.down"
    ground.put_weights(tensor, case.element + 1, 1, [1] * TINY.feed_forward)
    accusation = case.accuse()
    moved = ground.open_weights(tensor, case.element + 1)
    inputs = (accusation.inputs[0], moved, accusation.inputs[2])
    assert refusal(court, case, replace(accusation, inputs=inputs))[0] == "OpeningMismatch"
    assert row.payload == ground.open_row(place.group, Op.ACTIVATION, place.row).payload


@pytest.mark.parametrize("root", ["weights_root", "input_root", "output_root"])
def test_opening_of_another_tree_is_refused(court: Court, root: str) -> None:
    def asks(case: Case) -> bool:
        return (case.place.row < len(IDS[0])) == (root != "output_root")

    case = case_of(cases.embedding, asks)
    accusation = case.accuse()
    assert refusal(court, case, accusation, **{root: keccak256(b"another")})[0] == "OpeningMismatch"


def test_another_traces_root_is_refused(court: Court) -> None:
    case = down()
    accusation = case.accuse()
    case.ground.put(Place(2, Op.MIX, 0, 0), [0] * 16)  # anything beside: another root
    assert refusal(court, case, accusation)[0] == "OpeningMismatch"


@pytest.mark.parametrize("part", [0, 1, 2, 3], ids=["tensor", "row", "both", "next row"])
def test_weight_leaf_with_another_header_is_refused(court: Court, part: int) -> None:
    """A tree of weights that has another row in a row's place."""
    case = down()
    accusation = case.accuse()
    node_payload = bytearray(accusation.inputs[1].payload)
    node_payload[(1, 5, 0, 2)[part]] ^= 1
    number = 64 * case.place.slot + case.element
    tensor = f"layers.{case.place.group - 1}.down"
    case.ground.put_weight_leaf(case.ground.leaves.row(tensor, number), bytes(node_payload))
    name, values = refusal(court, case, case.accuse())
    assert name == "HeaderMismatch"
    assert values["expected"] == case.ground.number(tensor) << 32 | number
    assert values["actual"] == int.from_bytes(node_payload[:6], "big")


def test_gain_leaf_with_another_header_is_refused(court: Court) -> None:
    case = case_of(lambda r, at: cases.norm_value(r, at, Op.ATTENTION_NORM))
    i = 64 * (case.place.slot - 1) + case.element
    tensor = f"layers.{case.place.group - 1}.attention_norm"
    payload = bytearray(case.ground.open_gains(tensor, i).payload)
    payload[1] ^= 4  # FEED_FORWARD_NORM's or another's
    case.ground.put_weight_leaf(case.ground.leaves.gain(tensor, i), bytes(payload))
    assert refusal(court, case, case.accuse())[0] == "HeaderMismatch"


# ---- rows


def test_row_with_a_leaf_too_few_or_too_many_is_refused(court: Court) -> None:
    case = down()
    accusation = case.accuse()
    row = accusation.inputs[0].payload
    for payload in (row[:-64], row[:-128], row[32:], row + bytes(64), row[:32] + row[160:]):
        name, values = refusal(court, case, with_input(accusation, 0, payload=payload))
        assert (name, values) == ("PayloadMisfit", {"expected": len(row), "actual": len(payload)})


def test_row_whose_leaves_are_cut_elsewhere_is_refused(court: Court) -> None:
    """The same bytes under leaves of other sizes are another row."""
    case = down()
    ground, (group, _, row, _) = case.ground, case.place
    accusation = case.accuse()
    payload = accusation.inputs[0].payload
    for slot, start, stop in ((0, 0, 160), (1, 160, 288)):
        ground.put_raw(Place(group, Op.ACTIVATION, row, slot), payload[start:stop])
    moved = replace(ground.open_row(group, Op.ACTIVATION, row), payload=payload)
    again = replace(case.accuse(), inputs=(moved, *accusation.inputs[1:]))
    assert refusal(court, case, again)[0] == "OpeningMismatch"


def test_row_with_anything_but_empty_behind_it_is_refused(court: Court) -> None:
    case = case_of(lambda r, at: cases.matrix(r, at, Op.QUERY))
    group, _, row, _ = case.place
    assert case.ground.geometry.section(group, Op.ATTENTION_NORM).slots == 3
    assert not court.finds_wrong(case.ground, case.accuse())
    case.ground.trace.put(case.ground.geometry.node_of(Place(group, Op.ATTENTION_NORM, row, 3)), bytes(32))
    assert refusal(court, case, case.accuse())[0] == "OpeningMismatch"


# ---- padding


def test_input_with_anything_in_its_padding_is_refused(court: Court) -> None:
    """72 elements: the second chunk of X has 8, 48 bytes and 16 of padding."""
    case = down(lambda case: case.place.slot == 1)
    place = Place(case.place.group, Op.ATTENTION_OUTPUT, case.place.row, 1)
    payload = bytearray(case.ground.open(place).payload)
    payload[63] = 1
    case.ground.put_raw(place, bytes(payload))
    assert refusal(court, case, case.accuse()) == ("PaddingNotZero", {})


@pytest.mark.parametrize("byte", [16, 31])
def test_row_with_anything_behind_its_statistic_is_refused(court: Court, byte: int) -> None:
    case = down()
    place = Place(case.place.group, Op.ACTIVATION, case.place.row, 0)
    payload = bytearray(case.ground.open(place).payload)
    payload[byte] = 1
    case.ground.put_raw(place, bytes(payload))
    assert refusal(court, case, case.accuse()) == ("PaddingNotZero", {})


def test_row_with_anything_behind_its_last_element_is_refused(court: Court) -> None:
    case = case_of(lambda r, at: cases.norm_size(r, at, Op.ATTENTION_NORM))
    group, operation, row = cases.residual(case.ground, case.place)
    place = Place(group, operation, row, 1)
    payload = bytearray(case.ground.open(place).payload)
    payload[48] = 1
    case.ground.put_raw(place, bytes(payload))
    assert refusal(court, case, case.accuse()) == ("PaddingNotZero", {})


def test_weights_with_anything_behind_them_are_refused(court: Court) -> None:
    case = case_of(cases.embedding)  # 72 weights
    token = [*IDS[0], *IDS[1]][case.place.row]
    payload = bytearray(case.ground.open_weights("embedding", token).payload)
    payload[-1] = 1
    case.ground.put_weight_leaf(token, bytes(payload))
    assert refusal(court, case, case.accuse()) == ("PaddingNotZero", {})


def test_padding_of_the_accused_leaf_is_accused_by_itself(court: Court) -> None:
    case = down(lambda case: case.place.slot == 1)
    case.accuse()  # puts the right elements
    ground, place = case.ground, case.place
    payload = bytearray(ground.open(place).payload)
    assert not court.finds_wrong(ground, ground.accuse(place, 8, []))
    for byte in (48, 63):
        other = bytearray(payload)
        other[byte] = 128
        ground.put_raw(place, bytes(other))
        assert court.finds_wrong(ground, ground.accuse(place, 8, []))
        # its elements are right all the same
        assert not court.finds_wrong(ground, ground.accuse(place, case.element, case.inputs()))
    again = ground.accuse(place, 8, case.inputs())
    assert refusal(court, case, again) == ("InputsMiscounted", {"expected": 0, "actual": 3})


def test_leaf_without_padding_has_none_that_is_wrong(court: Court) -> None:
    case = down(lambda case: case.place.slot == 0)
    case.accuse()
    ground = case.ground
    assert not court.finds_wrong(ground, ground.accuse(case.place, 64, []))


# ---- places

P = len(IDS[0]) + len(IDS[1]) - 1
OUTSIDE = {
    "group": (4, Op.DOWN, 0, 0),
    "group of no depth": (2**32 - 1, Op.DOWN, 0, 0),
    "operation of the embedding": (0, Op.QUERY, 0, 0),
    "operation of a layer": (1, 17, 0, 0),
    "operation 32": (1, 32, 0, 0),
    "operation of the head": (3, Op.KEY, 0, 0),
    "row": (1, Op.DOWN, P, 0),
    "row of the head": (3, Op.LOGITS, len(IDS[1]), 0),
    "block of values": (1, Op.VALUE, 3, 0),
    "slot": (1, Op.DOWN, 0, 2),
    "slot of a statistic's row": (1, Op.ACTIVATION, 0, 4),
    "head": (1, Op.SOFTMAX, 0, 6),
    "block after the position's own": (1, Op.SCORES, 63, 1),
    "sum after the position's own": (1, Op.MIX_SUM, 64, 2),
    "block that no position has": (1, Op.SCORES, P - 1, 3),
    "head of scores": (1, Op.SCORES, P - 1, 6 << 2),
}


@pytest.mark.parametrize("place", OUTSIDE.values(), ids=OUTSIDE)
def test_place_outside_the_program_is_refused(court: Court, place: tuple[int, Any, int, int]) -> None:
    case = down()
    group, operation, row, slot = place
    number = number_of(operation) if isinstance(operation, Operation) else operation
    accusation = replace(case.accuse(), group=group, operation=number, row=row, slot=slot)
    expected = {"group": group, "operation": number, "row": row, "slot": slot}
    assert refusal(court, case, accusation) == ("OutsideProgram", expected)


ELEMENTS = {
    "chunk": (Place(1, Op.DOWN, 0, 0), 64),
    "last chunk": (Place(1, Op.DOWN, 0, 1), 8),
    "statistic of a norm": (Place(1, Op.ATTENTION_NORM, 0, 0), 4),
    "statistic of the mix": (Place(1, Op.QUANTISE_MIX, 0, 0), 2),
    "score of a later position": (Place(1, Op.SCORES, 70, 1), 7),
    "total of a later block": (Place(1, Op.SOFTMAX, 70, 0), 4),
    "value of a later position": (Place(1, Op.VALUE, 2, 0), P - 128),
    "logits": (Place(3, Op.LOGITS, 0, 2), 32),
}


@pytest.mark.parametrize(("place", "elements"), ELEMENTS.values(), ids=ELEMENTS)
def test_element_behind_the_padding_is_refused(court: Court, place: Place, elements: int) -> None:
    case = down()
    case.ground.put(place, [1] * elements)
    for element in (elements + 1, 2**32 - 1):
        accusation = case.ground.accuse(place, element, [])
        expected = {"element": element, "elements": elements}
        assert refusal(court, case, accusation) == ("ElementOutside", expected)


def test_witness_outside_the_row_is_refused(court: Court) -> None:
    random = Random(3)
    ground = Ground(TINY, formats(TINY), *IDS)
    place = Place(1, Op.ATTENTION_NORM, 5, 0)
    row = cases.norm_row(random, ground, place)
    ground.put(place, row.statistic)
    accusation = ground.accuse(place, 2, cases.norm_inputs(ground, place, 71), 72)
    with pytest.raises(Revert) as refused:
        court.finds_wrong(ground, accusation)
    assert (refused.value.name, refused.value.values) == ("WitnessOutsideRow", {"witness": 72, "length": 72})
