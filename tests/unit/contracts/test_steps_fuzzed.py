"""Every kind of accusation is fuzzed in ten thousand cases: that of the padding here, the others in the files it names.
A case has lengths and numbers of its own; most have two claims judged, a right one and a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from market.verification.geometry import Operation, Place
from tests.unit.contracts import (
    attention_steps,
    step_cases,
    test_steps_attention,
    test_steps_choice,
    test_steps_of_rows,
)
from tests.unit.contracts.claims import Court, Ground
from tests.unit.contracts.revm import RevmChain

FEW, MANY = 200, 10_000


@pytest.fixture(scope="module")
def court(judge_chain: RevmChain) -> Court:
    return Court(judge_chain)


def any_leaf(random: Random, at: Ground) -> Place:
    """Statistics, the last slot and the last row more often."""
    group = random.choice((0, 1, at.shape.layers, at.shape.layers + 1))
    section = at.geometry.section(group, random.choice(at.geometry.operations(group)))
    while True:
        row = random.choice((section.rows - 1, random.randrange(section.rows)))
        slot = random.choice((0, section.slots - 1, random.randrange(section.slots)))
        if section.inside(row, slot):
            return Place(group, section.operation, row, slot)


def accuse_paddings(court: Court, seed: int, count: int) -> int:
    """A padding is wrong exactly where a byte of it is not zero, whatever the elements are. Returns how many were."""
    random, dirty = Random(seed), 0
    for _ in range(count):
        at = step_cases.ground(random)
        looked = random.randrange(40)  # most leaves have none
        for _ in range(looked + 1):
            place = any_leaf(random, at)
            section = at.geometry.section(place.group, place.operation)
            elements = section.elements(place.row, place.slot)
            used = elements * section.element_size(place.slot)
            length = section.payload_bytes(place.row, place.slot)
            if length > used:
                break
        payload = bytearray(random.randbytes(used).ljust(length, b"\0"))
        is_dirty = length > used and random.random() < 0.5
        if is_dirty:
            payload[random.choice((used, length - 1, random.randrange(used, length)))] ^= 1 << random.randrange(8)
        at.put_raw(place, bytes(payload))
        assert court.finds_wrong(at, at.accuse(place, elements, [])) == is_dirty, place
        dirty += is_dirty
    return dirty


def test_padding_is_wrong_where_a_byte_of_it_is_not_zero(court: Court) -> None:
    assert accuse_paddings(court, 1, FEW) > FEW // 4


@pytest.mark.slow
def test_padding_is_wrong_where_a_byte_of_it_is_not_zero_many_times(
    court: Court, judged: Callable[[str, int], None]
) -> None:
    accuse_paddings(court, 2, MANY)
    judged("padding", MANY)


def test_no_operation_is_left_out() -> None:
    """Elements: (s, v), (s′, i′) or (M, i′), and values; of the norms each is a test of its own."""
    rows = {name.split(",")[0] for name in test_steps_of_rows.STEPS}
    attention = {name.split()[0].lower() for name in test_steps_attention.STEPS}
    assert rows | attention == {operation.name.lower() for operation in Operation}
    norms = {operation.name.lower() for operation in step_cases.NORMS}
    assert {f"{norm}, {what}" for norm in norms for what in ("s and v", "value")} < set(test_steps_of_rows.STEPS)
    assert {name.split()[0] for name in attention_steps.MAXIMA} == {"SOFTMAX", "QUANTISE_MIX", "ACTIVATION"}


def test_each_is_judged_in_ten_thousand_cases() -> None:
    counts = (test_steps_of_rows.MANY, test_steps_attention.MANY, test_steps_choice.MANY, MANY)
    assert min(counts) >= 10_000
