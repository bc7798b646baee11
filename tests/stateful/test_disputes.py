"""The game of a dispute beside its model: same money, same errors, same states; who keeps its promises is cleared, who
does not loses. With a judge that is told what is wrong, and with the deployed one and the tiny model, whose provider
lies about one number of any operation.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.depth import DEPTH, alone
from tests.stateful.dispute_machine import run_dispute_machine
from tests.stateful.dispute_stage import JudgedStage, ToyStage
from tests.unit.contracts.disputes import DisputeWorld

SEEN = {
    *("opened", "answered", "requested", "proved", "missed", "closed", "expired", "refunded"),
    *("AlreadyDisputed", "AlreadyRequested", "NotAnswered", "AlreadyAnswered", "NothingWrong", "NotYet", "BadReply"),
    *("NotProvider", "WrongDisputeState", "PastDeadline", "NotRequested", "NothingToRefund"),
    *("silent lost", "liar lost", "cleared"),
}
ROUNDS = range(2, 7)  # 2 sees it all with the Hypothesis that is pinned


def test_disputes_beside_their_model() -> None:
    """One round, and more where a rare outcome has not come up yet."""
    outcomes: set[str] = set()
    for start in ROUNDS:
        outcomes |= set(run_dispute_machine(ToyStage(DisputeWorld()), examples=120, steps=25, start=start))
        if outcomes >= SEEN:
            break
    assert outcomes >= SEEN


def test_disputes_with_the_deployed_judge(tiny_pack: Path) -> None:
    outcomes = run_dispute_machine(JudgedStage(tiny_pack, scenes=3), examples=12, steps=20, start=0)
    assert {"liar lost", "cleared"} <= set(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("start", alone("disputes", range(1, 9)))
def test_disputes_beside_their_model_for_a_long_time(start: int) -> None:
    run_dispute_machine(ToyStage(DisputeWorld()), examples=300, steps=40 * DEPTH, start=start)


@pytest.mark.slow
@pytest.mark.parametrize("start", alone("judged disputes", range(1, 17)))
def test_disputes_with_the_deployed_judge_for_a_long_time(tiny_pack: Path, start: int) -> None:
    outcomes = run_dispute_machine(JudgedStage(tiny_pack), examples=250, steps=40, start=start)
    assert {"liar lost", "silent lost", "cleared", "NothingWrong"} <= set(outcomes)
