"""What a step of attention or activation costs for SmolLM2's shapes: a transaction that carries its openings and runs.

Calldata costs 16 gas a byte (4 where it is zero), but a transaction pays at least 40 (10) by EIP-7623; most of a step
is that. Every byte of a payload is counted as one that is not zero. The game's own storage and transfers come on top.
"""

from __future__ import annotations

from random import Random

import pytest

from market.verification.structs import Accusation, LayerFormat, Shape
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.attention_steps import MAXIMA, VALUES
from tests.unit.contracts.forest import Forest, Step
from tests.unit.contracts.test_steps_attention import call_data, harness, is_wrong

__all__ = ["harness"]

TRANSACTION = 21_000
ZERO, NON_ZERO = 4, 16
FLOOR_ZERO, FLOOR_NON_ZERO = 10, 40
LIMIT = 400_000
"""Below the 500,000 of a whole `prove`, which also reads and writes the game's state."""

SMOLLM2 = Shape(49152, 2048, 576, 1536, 30, 9, 3, 64, 42949, 47274, True, 30, 30)
LAYER = LayerFormat(30, 30, 30, 30, 30, 30, 30, 10, 10, 12)
STEPS = VALUES | MAXIMA


def worst(name: str, tokens: int) -> Step:
    """At the trace's last position, its last block."""
    for seed in range(1000):
        forest = Forest(SMOLLM2, LAYER, tokens - 64, 64)
        step = STEPS[name](Random(seed), forest)
        last_block = 2 + (tokens - 2) // 64
        if step.place.row == tokens - 2 and (name != "SOFTMAX total" or step.element == last_block):
            if name == "MIX_SUM" and len(step.inputs) < 4:
                continue
            step.claim()
            return step
    raise AssertionError(name)


def transaction_gas(harness: Contract, step: Step) -> int:
    accusation = step.accusation()
    assert not is_wrong(harness, step, accusation)
    data = call_data(step, accusation)
    zeros = data.count(0)
    running = harness.chain.gas_used - TRANSACTION - ZERO * zeros - NON_ZERO * (len(data) - zeros)
    zeros -= sum(payload.count(0) for payload in payloads(accusation))
    non_zero = len(data) - zeros
    usual = ZERO * zeros + NON_ZERO * non_zero + running
    return TRANSACTION + max(usual, FLOOR_ZERO * zeros + FLOOR_NON_ZERO * non_zero)


def payloads(accusation: Accusation) -> list[bytes]:
    return [accusation.accused.payload, *(opening.payload for opening in accusation.inputs)]


@pytest.mark.parametrize("tokens", [192, 2048])
@pytest.mark.parametrize("name", STEPS)
def test_step_is_far_below_half_a_million_gas(harness: Contract, name: str, tokens: int) -> None:
    gas = transaction_gas(harness, worst(name, tokens))
    print(f"{name} at T = {tokens}: {gas:,} gas")
    assert gas < LIMIT
