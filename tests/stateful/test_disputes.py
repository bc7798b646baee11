"""The game of a dispute beside its model: same money, same errors, same states; who keeps its promises is cleared, who
does not loses. With a judge that is told what is wrong, and with the deployed one and the tiny model, whose provider
lies about one number of any operation, in a padding, outside the program or about an id, answers too long, signs twice,
or is honest and accused of everything.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.depth import DEPTH, alone
from tests.stateful.dispute_machine import run_dispute_machine
from tests.stateful.dispute_stage import JudgedStage, ToyStage
from tests.stateful.dispute_table import BEHAVIOURS, Stage
from tests.unit.contracts.disputes import DisputeWorld

LOST = {f"{behaviour} lost" for behaviour in BEHAVIOURS if behaviour != "honest"} | {"cleared"}
PROVED = {"contradicted", "proved", "proved_output", "proved_outside"}
SEEN = {
    *("opened", "answered", "requested", "missed", "closed", "expired", "refunded"),
    *("AlreadyDisputed", "AlreadyRequested", "NotAnswered", "AlreadyAnswered", "NothingWrong", "NotYet", "BadReply"),
    *("NotProvider", "WrongDisputeState", "PastDeadline", "NotRequested", "NothingToRefund", "NotNow"),
    *("NoSuchPlace", "BadPath", "BadReplyLength", "BadPadding", "BadReceipt", "NoContradiction"),
    *LOST,
    *PROVED,
}
ROUNDS = range(3, 8)  # 3 sees it all with the Hypothesis that is pinned
GAMES, JUDGED_GAMES = 25, 4  # of each behaviour
STARTS, DECIDED = range(1, 17), 125
"""Each start plays another prompt and other lies. In so many games of each the honest was cleared or who broke its part
was convicted: 2,000 in all, without those that nobody challenged in time.
"""


def play(stage: Stage, games: int, steps: int, start: int) -> set[str]:
    """So many games of each behaviour, and what came of them."""
    outcomes: set[str] = set()
    for behaviour in BEHAVIOURS:
        seen = run_dispute_machine(stage, examples=games, steps=steps, start=start, behaviours=(behaviour,))
        assert behaviour != "honest" or not seen.keys() & (LOST - {"cleared"})
        outcomes |= seen.keys()
    return outcomes


def test_disputes_beside_their_model() -> None:
    """One round, and more where a rare outcome has not come up yet."""
    outcomes: set[str] = set()
    for start in ROUNDS:
        outcomes |= play(ToyStage(DisputeWorld()), GAMES, 25, start)
        if outcomes >= SEEN:
            break
    assert outcomes >= SEEN, SEEN - outcomes


def test_disputes_with_the_deployed_judge(tiny_pack: Path) -> None:
    outcomes = play(JudgedStage(tiny_pack, scenes=3), JUDGED_GAMES, 20, 0)
    assert outcomes >= LOST | PROVED | {"twisted"}, LOST - outcomes


@pytest.mark.slow
@pytest.mark.parametrize("start", alone("disputes", range(1, 9)))
def test_disputes_beside_their_model_for_a_long_time(start: int) -> None:
    run_dispute_machine(ToyStage(DisputeWorld()), examples=300, steps=40 * DEPTH, start=start)


@pytest.mark.slow
@pytest.mark.parametrize("start", alone("judged disputes", STARTS))
def test_disputes_with_the_deployed_judge_for_a_long_time(tiny_pack: Path, start: int) -> None:
    stage, outcomes = JudgedStage(tiny_pack, seed=start), Counter[str]()
    for behaviour in BEHAVIOURS:
        outcomes += run_dispute_machine(stage, examples=28, steps=40, start=start, behaviours=(behaviour,))
    assert {*LOST, *PROVED, "twisted", "NothingWrong"} <= set(outcomes)
    assert sum(outcomes[name] for name in LOST) >= DECIDED
