"""No call costs more, or less, than the snapshot says: a change of gas is a change of the snapshot."""

from __future__ import annotations

from tests.gas import snapshot
from tests.gas.lifecycle import JOB_KEYS, JOB_TOTAL, measure

BAR = 1_400_000


def test_gas_of_every_lifecycle_call_equals_the_snapshot() -> None:
    """Where it differs on purpose: python -m tests.gas.snapshot."""
    assert measure() == snapshot.read()


def test_gas_of_a_job_of_three_replicas_meets_the_bar() -> None:
    gas = snapshot.read()
    assert gas[JOB_TOTAL] == sum(gas[key] for key in JOB_KEYS) <= BAR
