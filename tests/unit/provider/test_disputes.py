"""Which disputes an agent answers at all."""

from __future__ import annotations

import dataclasses

import pytest

from market.verification.structs import Claim
from provider.disputes import concerns

OWN, JOBS, STRANGER = ("0x" + digit * 40 for digit in ("a", "b", "c"))
CLAIM = Claim(
    subject=JOBS,
    subject_id=bytes(32),
    provider=OWN,
    weights_root=bytes(32),
    program_root=bytes(32),
    tables_root=bytes(32),
    input_root=bytes(32),
    output_root=bytes(32),
    input_tokens=1,
    output_tokens=1,
    sampler=0,
    temperature_q16=0,
    top_k=0,
    top_p_q16=0,
    seed=bytes(32),
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"provider": OWN.upper().replace("0X", "0x")}, True),
        ({"provider": STRANGER}, False),
        ({"subject": STRANGER}, False),
    ],
)
def test_agent_answers_only_where_its_own_bond_is_at_stake(change: dict[str, str], expected: bool) -> None:
    assert concerns(dataclasses.replace(CLAIM, **change), OWN, JOBS) is expected  # type: ignore[arg-type]
