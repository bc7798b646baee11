"""The game of a dispute beside its model: same money, same errors, same states; who keeps its promises is cleared, who
does not loses."""

from __future__ import annotations

import pytest

from tests.depth import DEPTH, alone
from tests.stateful.dispute_machine import run_dispute_machine
from tests.unit.contracts.disputes import DisputeWorld

SEEN = {
    *("opened", "answered", "requested", "proved", "missed", "closed", "expired", "refunded"),
    *("AlreadyDisputed", "AlreadyRequested", "NotAnswered", "AlreadyAnswered", "NothingWrong", "NotYet", "BadReply"),
    *("NotProvider", "WrongDisputeState", "PastDeadline", "NotRequested", "NothingToRefund"),
    *("silent lost", "liar lost", "cleared"),
}


def test_disputes_beside_their_model() -> None:
    outcomes = run_dispute_machine(DisputeWorld(), examples=120, steps=25, start=0)
    assert set(outcomes) >= SEEN


@pytest.mark.slow
@pytest.mark.parametrize("start", alone("disputes", range(1, 9)))
def test_disputes_beside_their_model_for_a_long_time(start: int) -> None:
    run_dispute_machine(DisputeWorld(), examples=300, steps=40 * DEPTH, start=start)
