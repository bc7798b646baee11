"""Small arithmetic of stake and display."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.views import Stake
from provider.journal import Journal
from provider.onboard import StakePlan, stake_problem
from provider.status import Bond, EngineInUse, Status
from tests.unit.provider import samples

AMOUNTS = st.integers(0, 2**100)


@given(target=AMOUNTS, staked=AMOUNTS, locked=AMOUNTS, credit=AMOUNTS, wallet=AMOUNTS)
def test_stake_plan_reaches_the_target_or_says_what_is_missing(**money: int) -> None:
    stake = Stake(money["staked"], money["locked"], since=1)
    plan = StakePlan.of(target=money["target"], stake=stake, credit=money["credit"], wallet=money["wallet"])
    assert 0 <= plan.from_credit <= money["credit"]
    assert 0 <= plan.from_wallet <= money["wallet"]
    reached = money["staked"] + money["locked"] + plan.from_credit + plan.from_wallet
    assert reached + plan.missing == max(money["target"], money["staked"] + money["locked"])
    assert bool(stake_problem(plan, money["target"])) == (plan.missing > 0)
    if plan.missing:
        assert (plan.from_credit, plan.from_wallet) == (money["credit"], money["wallet"])


def test_status_json_has_the_shape_of_the_clients_json() -> None:
    numbers: dict[str, Any] = dict.fromkeys(("staked", "credit", "wallet", "gas_wei", "exiting", "earned"), 2**100)
    status = Status(
        address="0xa",
        endpoint="",
        token="0xb",
        symbol="ABC",
        decimals=6,
        exit_ready_at=5,
        settled_jobs=1,
        draining=True,
        engine=EngineInUse("cpu", ("avx2",), 2, 7),
        bonds=(Bond("0x1", 7, 9), Bond("0x2", 2**90, 0)),
        open_jobs=(),
        refused_jobs=(),
        **numbers,
    )
    shown = status.to_json()
    assert (shown["staked"], shown["gas_wei"], shown["exit_ready_at"]) == (2**100, str(2**100), 5)
    assert shown["bonds"][0] == {"job_id": "0x1", "amount": 7, "free_at": 9}
    assert (shown["locked"], shown["draining"]) == (7 + 2**90, True)
    assert shown["token"] == {"address": "0xb", "symbol": "ABC", "decimals": 6}
    assert json.loads(json.dumps(shown["engine"])) == {
        "device": "cpu",
        "kernels": ["avx2"],
        "threads": 2,
        "started_at": 7,
    }


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (EngineInUse("cpu", ("avx2",), 1, 0), "avx2 on cpu, 1 thread"),
        (EngineInUse("cpu", ("avx2", "numpy"), 2, 0), "avx2, numpy on cpu, 2 threads"),
        (EngineInUse("cuda:1", ("torch int8 on cuda:1",), None, 0), "torch int8 on cuda:1"),
    ],
)
def test_engine_in_use_is_told_in_words_and_read_back(tmp_path: Path, engine: EngineInUse, words: str) -> None:
    assert str(engine) == words
    journal = Journal(tmp_path / "journal.sqlite", samples.OWNER)
    assert EngineInUse.noted(journal) is None
    engine.note(journal)
    assert EngineInUse.noted(journal) == engine
    journal.close()
