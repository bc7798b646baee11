"""What the node does in a job whose seed the chain gives: waits for it, keeps it alive, and answers to no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from market.errors import ContractError
from market.hashing import ZERO32, keccak256
from market.inference.sampling import Sampling
from market.types import Commitment
from market.views import BondState, JobState, ReplicaState, SeedView
from provider.executor import Answer
from provider.node import Next
from provider.records import Stage
from provider.seeds import FIX_AFTER, LOOK, REACH, JobSeed
from tests.unit.provider import samples
from tests.unit.provider.desk import ANSWER, JOB, NOW, OUTPUT, SALT, Desk
from tests.unit.provider.fakes import DOMAIN

FIRST, SECOND = keccak256(b"first seed"), keccak256(b"second seed")
BLOCK = 1_000
REQUEST = samples.request(sampler=2, temperature_q16=65_536, top_p_q16=65_536)
DEADLINE = Next(at=NOW + 61)
OTHER_ANSWER = replace(ANSWER, ids=(9, 2))


def give(desk: Desk, seed: bytes, *, age: int = 1, fixed: bool = False) -> None:
    desk.chain.seeded = JobSeed(SeedView(seed, BLOCK, fixed), age)


@pytest.fixture
def seeded(desk: Desk) -> Desk:
    """A job with sampler 2, its prompt delivered."""
    give(desk, FIRST)
    desk.chain.change(request_hash=REQUEST.request_hash)
    desk.journal.put_request(REQUEST, samples.IDS, NOW + 600)
    desk.journal.mark_public(JOB)
    return desk


def compute(desk: Desk, answer: Answer = ANSWER) -> None:
    """The engine is given the job, and ends with it."""
    desk.run()
    assert JOB in desk.executor.work
    desk.executor.outcomes[JOB] = answer


def sent(desk: Desk) -> list[str]:
    return [what for what, _ in desk.chain.sent]


def marks(desk: Desk) -> list[str]:
    return desk.journal.mark_names("seed:")


def test_job_is_computed_with_the_chains_seed_and_committed(seeded: Desk) -> None:
    compute(seeded)
    assert seeded.executor.work[JOB].sampling == Sampling(65_536, 0, 65_536, FIRST)
    seeded.run()
    expected = DOMAIN.digest(Commitment(JOB, samples.PROVIDER, OUTPUT.output_hash, SALT))
    assert seeded.chain.commitments == [expected]


def test_job_waits_until_the_seed_is_known(seeded: Desk) -> None:
    give(seeded, ZERO32, age=0)
    assert seeded.run() == Next(at=NOW + 1)
    assert seeded.executor.work == {}
    assert seeded.row().stage is Stage.SEEN
    give(seeded, FIRST)
    seeded.run()
    assert JOB in seeded.executor.work


def test_job_whose_seed_is_gone_is_refused_and_nothing_is_sent(seeded: Desk) -> None:
    give(seeded, ZERO32, age=REACH + 1)
    assert seeded.run() == Next()
    assert (seeded.row().stage, seeded.row().reason) == (Stage.REFUSED, "SeedOutOfReach")
    assert sent(seeded) == []


def test_job_whose_seed_goes_while_it_is_computed_is_refused(seeded: Desk) -> None:
    compute(seeded)
    error = ContractError("gone", code="SeedOutOfReach")
    seeded.chain.refuse_next = error
    give(seeded, ZERO32, age=REACH + 1)
    seeded.run()
    assert (seeded.row().stage, seeded.row().reason) == (Stage.REFUSED, "SeedOutOfReach")
    assert marks(seeded) == []


# --- a block that gets old


def test_seed_is_fixed_once_where_its_block_gets_old(seeded: Desk) -> None:
    assert seeded.run() == Next(at=NOW + LOOK)
    give(seeded, FIRST, age=FIX_AFTER)
    assert seeded.run() == Next(at=NOW + LOOK)
    assert sent(seeded) == []
    give(seeded, FIRST, age=FIX_AFTER + 1)
    assert seeded.run() == DEADLINE
    assert seeded.chain.sent == [("fix", f"seed:{JOB.hex()}:{BLOCK}")]
    assert seeded.run() == DEADLINE
    assert sent(seeded) == ["fix"]


def test_seed_that_somebody_fixed_is_not_fixed_again(seeded: Desk) -> None:
    give(seeded, FIRST, age=FIX_AFTER + 1, fixed=True)
    assert seeded.run() == DEADLINE
    assert sent(seeded) == []


def test_fixing_that_is_refused_holds_nothing_up(seeded: Desk) -> None:
    give(seeded, FIRST, age=FIX_AFTER + 1)
    seeded.chain.refuse_next = ContractError("somebody was faster", code="WrongState")
    assert seeded.run() == Next(at=NOW + LOOK)
    assert seeded.row().stage is Stage.RUNNING


def test_seed_is_fixed_while_the_engine_has_no_room(seeded: Desk) -> None:
    seeded.executor.full = True
    assert seeded.run() == Next(at=NOW + 1)
    give(seeded, FIRST, age=FIX_AFTER + 1)
    assert seeded.run() == Next(at=NOW + 1)
    assert sent(seeded) == ["fix"]


def test_greedy_job_asks_for_no_seed(desk: Desk) -> None:
    desk.deliver()
    give(desk, FIRST, age=FIX_AFTER + 1)
    assert desk.run() == DEADLINE
    assert (sent(desk), marks(desk)) == ([], [])


# --- a reorganisation of the posting block


def test_reorganisation_while_computing_starts_the_computation_again(seeded: Desk) -> None:
    seeded.run()
    give(seeded, SECOND)
    assert seeded.run() == Next(at=NOW + 1)
    assert not seeded.executor.holds(JOB)
    compute(seeded, OTHER_ANSWER)
    assert seeded.executor.work[JOB].sampling == Sampling(65_536, 0, 65_536, SECOND)
    seeded.run()
    assert seeded.row().ids == (9, 2)
    assert sent(seeded) == ["commit"]


def test_answer_to_a_seed_that_changed_is_not_committed(seeded: Desk) -> None:
    compute(seeded)
    give(seeded, SECOND)
    assert seeded.run() == Next(at=NOW + 1)
    assert sent(seeded) == []
    assert (seeded.row().stage, seeded.row().salt) == (Stage.RUNNING, None)
    compute(seeded, OTHER_ANSWER)
    seeded.run()
    assert (seeded.row().ids, sent(seeded)) == ((9, 2), ["commit"])


def test_answer_on_disk_to_a_seed_that_changed_is_forgotten_after_a_restart(seeded: Desk) -> None:
    compute(seeded)
    seeded.chain.refuse_next = ContractError("a second is missing", code="SeedNotReady")
    assert seeded.run() == Next(at=NOW + 1)
    assert seeded.row().stage is Stage.COMMITTING
    seeded.restart()
    give(seeded, SECOND)
    assert seeded.run() == Next(at=NOW + 1)
    assert (seeded.row().stage, seeded.row().salt, seeded.row().attempts) == (Stage.RUNNING, None, 1)
    compute(seeded, OTHER_ANSWER)
    seeded.run()
    assert [key for what, key in seeded.chain.sent if what == "commit"] == [f"commit:{JOB.hex()}:1"]


def test_commitment_that_a_reorganisation_took_back_is_made_anew(seeded: Desk) -> None:
    compute(seeded)
    seeded.run()
    assert seeded.row().stage is Stage.COMMITTED
    seeded.chain.mine = replace(
        seeded.chain.mine, state=ReplicaState.ASSIGNED, bond_state=BondState.NONE, digest=ZERO32
    )
    give(seeded, SECOND)
    assert seeded.run() == Next(at=NOW + 1)
    compute(seeded, OTHER_ANSWER)
    seeded.run()
    assert len(set(seeded.chain.commitments)) == 2


def test_commitment_to_an_answer_to_another_seed_is_never_opened(seeded: Desk) -> None:
    """The miss fee is lost, which is what the quote said; the bond, to a dispute, is not."""
    compute(seeded)
    seeded.run()
    seeded.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 60)
    give(seeded, SECOND, fixed=True)
    assert seeded.run() == Next()
    assert (seeded.row().stage, seeded.row().reason) == (Stage.REFUSED, "SEED_CHANGED")
    assert sent(seeded) == ["commit"]


def test_old_commitment_that_came_through_after_all_is_never_opened(seeded: Desk) -> None:
    compute(seeded)
    seeded.run()
    old = seeded.chain.mine
    seeded.chain.mine = replace(old, state=ReplicaState.ASSIGNED, bond_state=BondState.NONE, digest=ZERO32)
    give(seeded, SECOND)
    seeded.run()
    compute(seeded, OTHER_ANSWER)
    seeded.chain.mine = old  # before the new one is sent
    seeded.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 60)
    seeded.run()
    assert (seeded.row().stage, seeded.row().reason) == (Stage.REFUSED, "JOURNAL_LOST")
    assert sent(seeded) == ["commit"]


def test_second_answer_is_not_given_once_the_first_may_have_been_seen(seeded: Desk) -> None:
    compute(seeded)
    seeded.run()
    seeded.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 60)
    seeded.run()
    assert seeded.row().stage is Stage.REVEALED
    seeded.chain.change(state=JobState.OPEN, committed=0)
    seeded.chain.mine = replace(
        seeded.chain.mine, state=ReplicaState.ASSIGNED, bond_state=BondState.NONE, digest=ZERO32
    )
    give(seeded, SECOND)
    seeded.run()
    assert (seeded.row().stage, seeded.row().reason) == (Stage.REFUSED, "SEED_CHANGED")
    assert sent(seeded) == ["commit", "reveal"]


def test_seed_that_cannot_be_read_any_more_is_not_taken_for_another(seeded: Desk) -> None:
    compute(seeded)
    give(seeded, ZERO32, age=0)
    seeded.run()
    assert seeded.row().ids == ANSWER.ids


def test_nothing_of_the_seed_is_kept_after_the_job(seeded: Desk) -> None:
    compute(seeded)
    seeded.run()
    assert marks(seeded) == ["seed:" + JOB.hex()]
    seeded.chain.change(state=JobState.SETTLED, final_at=NOW)
    seeded.run()
    assert marks(seeded) == []
