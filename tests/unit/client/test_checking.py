"""When a client computes its own answers again."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest

from client.checking import audit_secret, is_due
from market.types import Mode
from market.views import BondState, JobState, ReplicaState, ReplicaView
from tests.unit.client.test_watching import AGREED, job

SECRET = b"s" * 32
SHARE_BPS = 3_000
REPLICA = ReplicaView(
    provider="0x" + "11" * 20,
    state=ReplicaState.REVEALED,
    bond_state=BondState.LOCKED,
    finish=2,
    output_tokens=16,
    base_fee=1_000,
    price_per_m_input=0,
    price_per_m_output=0,
    kill_fee=0,
    miss_fee=1_000,
    bond=10_000,
    paid=1_000,
    digest=AGREED,
)
SETTLED = job(state=JobState.SETTLED, output_hash=AGREED)


def test_quorum_that_agrees_is_its_own_check() -> None:
    assert not any(is_due(SETTLED, [REPLICA] * 3, bytes([i] * 32), SHARE_BPS, SECRET) for i in range(100))


def test_replicas_that_disagree_are_always_checked() -> None:
    other = dataclasses.replace(REPLICA, digest=b"\2" * 32, paid=0)
    assert is_due(SETTLED, [REPLICA, REPLICA, other], bytes(32), SHARE_BPS, SECRET)


def test_single_answer_is_checked_as_often_as_deters() -> None:
    alone = dataclasses.replace(SETTLED, mode=Mode.OPTIMISTIC)
    due = [is_due(alone, [REPLICA], i.to_bytes(32, "big"), SHARE_BPS, SECRET) for i in range(4_000)]
    # a bond of ten prices: 12.5 % break even, a fifth above it (docs/auditing.md)
    assert 0.13 < sum(due) / len(due) < 0.17
    assert due == [is_due(alone, [REPLICA], i.to_bytes(32, "big"), SHARE_BPS, SECRET) for i in range(4_000)]
    assert due != [is_due(alone, [REPLICA], i.to_bytes(32, "big"), SHARE_BPS, b"t" * 32) for i in range(4_000)]


def test_secret_is_drawn_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    first = audit_secret(tmp_path)
    assert len(first) == 32
    assert audit_secret(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "audit.secret").stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    assert audit_secret(tmp_path / "other") != first


@pytest.mark.parametrize("mode", [Mode.NONE, Mode.OPTIMISTIC])
def test_answer_without_a_bond_worth_mentioning_is_always_checked(mode: Mode) -> None:
    cheap = dataclasses.replace(REPLICA, bond=0)
    view = dataclasses.replace(SETTLED, mode=mode)
    assert all(is_due(view, [cheap], bytes([i] * 32), SHARE_BPS, SECRET) for i in range(20))
