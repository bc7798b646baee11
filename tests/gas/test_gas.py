"""No call costs more, or less, than the snapshot says: a change of gas is a change of the snapshot."""

from __future__ import annotations

from tests.gas import snapshot
from tests.gas.disputes import TOTAL, measure_disputes
from tests.gas.lifecycle import JOB_KEYS, JOB_TOTAL, measure
from tests.gas.proofs import measure_proofs

BAR = 1_400_000
DISPUTE_BAR = 2_000_000
"""2,500,000 less the dearest step."""


def test_gas_of_every_lifecycle_call_equals_the_snapshot() -> None:
    """Where it differs on purpose: python -m tests.gas.snapshot."""
    assert measure() | measure_disputes() | measure_proofs() == snapshot.read()


def test_gas_of_a_job_of_three_replicas_meets_the_bar() -> None:
    gas = snapshot.read()
    assert gas[JOB_TOTAL] == sum(gas[key] for key in JOB_KEYS) <= BAR


def test_gas_of_a_dispute_leaves_room_for_its_step() -> None:
    assert snapshot.read()[TOTAL] <= DISPUTE_BAR
