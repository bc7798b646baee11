"""`step` does the one next thing, whatever happened before it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from market.errors import ContractError
from market.hashing import ZERO32, keccak256
from market.inference.log_probabilities import LogProbability, PositionLogProbabilities
from market.types import ZERO_ADDRESS, Commitment, Mode
from market.views import BondState, JobState, ReplicaState
from provider.config import Gas
from provider.executor import Failure
from provider.node import IDLE, Next
from provider.records import Stage
from tests.unit.provider import samples
from tests.unit.provider.desk import ANSWER, JOB, NOW, OUTPUT, SALT, Desk
from tests.unit.provider.fakes import DOMAIN, OTHER, Crash


def test_job_without_its_request_waits_and_is_refused_at_the_deadline(desk: Desk) -> None:
    assert desk.run() == Next(at=NOW + 61)
    assert desk.row().stage is Stage.SEEN
    desk.chain.time = NOW + 61
    assert desk.run() == Next()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "REQUEST_MISSING")
    assert desk.chain.sent == []


def test_job_of_a_request_delivered_for_another_job_never_runs(desk: Desk) -> None:
    """The hash is public in calldata: a stranger's job must not be answered out of somebody's private prompt."""
    desk.accept(keccak256(b"the job of the one who delivered"))
    desk.journal.put_request(samples.request(), samples.IDS, NOW + 600)
    assert desk.run() == Next(at=NOW + 61)
    assert desk.executor.work == {}
    desk.chain.time = NOW + 61
    desk.run()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "REQUEST_MISSING")


def test_job_whose_request_stands_on_chain_needs_no_delivery(desk: Desk) -> None:
    desk.journal.put_request(samples.request(), samples.IDS, NOW + 600)
    desk.journal.mark_public(JOB)
    desk.run()
    assert desk.executor.work[JOB].ids == samples.IDS


def test_job_with_its_request_starts_inference_once(desk: Desk) -> None:
    desk.deliver()
    assert desk.run() == Next(at=NOW + 61)
    assert desk.run() == Next(at=NOW + 61)
    work = desk.executor.work[JOB]
    assert (work.ids, work.max_output_tokens, work.stop_tokens) == (samples.IDS, 16, (2,))
    assert work.owner == bytes.fromhex(samples.CLIENT[2:])  # nobody else's prompt shares what this one's prefix cost
    assert desk.row().stage is Stage.RUNNING


def test_log_probabilities_are_asked_of_the_engine_and_kept_beside_the_answer(desk: Desk) -> None:
    desk.journal.want_log_probabilities(JOB, 1)
    desk.deliver()
    desk.run()
    assert desk.executor.work[JOB].log_probabilities == 1
    likely = LogProbability(7, -3)
    desk.executor.outcomes[JOB] = replace(
        ANSWER, log_probabilities=(PositionLogProbabilities(likely, (likely,)),) * len(ANSWER.ids)
    )
    desk.run()
    assert desk.row().output == OUTPUT  # the output knows nothing of them
    told = desk.journal.log_probabilities(JOB)
    assert told is not None
    assert json.loads(told) == {"chosen": [-3] * 3, "topIds": [[7]] * 3, "top": [[-3]] * 3}


def settled(desk: Desk) -> None:
    """The job is over, and this provider's bond waits for its window."""
    desk.answered()
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 60)
    desk.run()
    desk.chain.change(state=JobState.SETTLED, revealed=2, final_at=NOW)
    desk.run()


def drawn(desk: Desk, **changes: int) -> None:
    """The job's replicas were drawn: no quote of this provider stands behind its terms."""
    desk.chain.change(draw_block=5)
    desk.chain.mine = replace(desk.chain.mine, **changes)  # type: ignore[arg-type]
    desk.deliver()


def test_drawn_job_that_takes_this_providers_terms_is_worked_on(desk: Desk) -> None:
    desk.shop = samples.shop(max_bond=desk.chain.mine.bond)
    desk.restart()
    drawn(desk)
    desk.run()
    assert desk.row().stage is Stage.RUNNING


@pytest.mark.parametrize(
    "changes",
    [{"base_fee": 9}, {"price_per_m_input": 49_999}, {"price_per_m_output": 199_999}, {"bond": 1_001}],
    ids=lambda changes: next(iter(changes)),
)
def test_drawn_job_below_this_providers_terms_is_refused(desk: Desk, changes: dict[str, int]) -> None:
    desk.shop = samples.shop(max_bond=1_000)
    desk.restart()
    drawn(desk, **{"bond": 1_000, **changes})
    desk.run()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "TERMS_NOT_OURS")


def test_demanded_output_is_published_once_and_the_bond_waits_for_its_longer_window(desk: Desk) -> None:
    settled(desk)
    desk.run()
    assert desk.chain.view is not None
    assert desk.row().release_at == desk.chain.view.final_at + desk.chain.dispute_window + 1
    deadline = desk.chain.time + 50
    desk.chain.mine = replace(desk.chain.mine, demander=OTHER, demand_deadline=deadline)
    desk.run()
    assert desk.chain.published == (7, 8, 2)
    assert desk.row().release_at == deadline + desk.chain.dispute_window + 1
    assert desk.run() == Next(at=deadline + desk.chain.dispute_window + 1 + 2)
    assert [what for what, _ in desk.chain.sent].count("publish") == 1


def test_public_optimistic_answer_is_published_at_once_and_settled_when_its_window_is_over(desk: Desk) -> None:
    desk.answered()
    desk.chain.change(mode=Mode.OPTIMISTIC, inline_input=True, quorum=1, replicas=1)
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=1, reveal_deadline=NOW + 60)
    desk.run()
    desk.chain.change(revealed=1, output_hash=OUTPUT.output_hash)
    desk.run()
    assert desk.chain.published == (7, 8, 2)
    desk.chain.mine = replace(desk.chain.mine, demand_deadline=NOW)  # when it was published
    assert desk.run() == Next(at=NOW + 10)
    desk.chain.time = NOW + 10
    early = ContractError("too early", code="TooEarly")
    early.details["opensAt"] = NOW + 101
    desk.chain.refuse_next = early
    assert desk.run() == Next(at=NOW + 101)
    desk.chain.time = NOW + 101
    desk.run()
    assert [what for what, _ in desk.chain.sent].count("publish") == 1
    assert [what for what, _ in desk.chain.sent][-1] == "settle"


def test_disputed_optimistic_answer_is_not_settled_before_the_verdict(desk: Desk) -> None:
    desk.answered()
    desk.chain.change(mode=Mode.OPTIMISTIC, quorum=1, replicas=1)
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=1, reveal_deadline=NOW + 60)
    desk.run()
    desk.chain.change(revealed=1, output_hash=OUTPUT.output_hash)
    desk.chain.mine = replace(desk.chain.mine, bond_state=BondState.DISPUTED)
    desk.run()
    desk.chain.time = NOW + 10
    early = ContractError("too early", code="TooEarly")
    early.details["opensAt"] = NOW + 1_101
    desk.chain.refuse_next = early
    assert desk.run() == Next(at=NOW + 1_101)
    assert "settle" not in [what for what, _ in desk.chain.sent]
    desk.chain.time = NOW + 1_101  # no verdict came
    assert desk.run() == Next(at=NOW + 1_102 + 2)
    assert [what for what, _ in desk.chain.sent][-1] == "settle"


def test_job_whose_draw_a_reorganisation_took_back_waits_for_the_next(desk: Desk) -> None:
    mine = desk.chain.mine
    desk.chain.change(state=JobState.DRAWING)
    desk.chain.mine = replace(mine, provider=ZERO_ADDRESS, state=ReplicaState.UNDRAWN)
    assert desk.run() == Next(at=NOW + 1)
    assert desk.row().stage is Stage.SEEN
    desk.chain.change(state=JobState.OPEN)
    desk.chain.mine = replace(mine, provider=OTHER)
    desk.run()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "NotReplica")


def test_demand_that_has_passed_is_not_answered(desk: Desk) -> None:
    settled(desk)
    desk.chain.mine = replace(desk.chain.mine, demander=OTHER, demand_deadline=desk.chain.time - 1)
    desk.run()
    assert desk.chain.published is None


def test_full_engine_queue_is_tried_again_soon(desk: Desk) -> None:
    desk.deliver()
    desk.executor.full = True
    assert desk.run() == Next(at=NOW + 1)
    assert desk.row().stage is Stage.SEEN


def test_honest_run_goes_through_every_stage_and_is_paid(desk: Desk) -> None:
    desk.answered()
    assert desk.run() == Next(at=NOW + 61)  # committed, the other replica has not
    assert desk.chain.commitments == [DOMAIN.digest(Commitment(JOB, samples.PROVIDER, OUTPUT.output_hash, SALT))]
    desk.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 60)
    assert desk.run() == Next(at=NOW + 61)
    assert desk.chain.salts == [SALT]
    desk.chain.change(revealed=2, output_hash=OUTPUT.output_hash)
    assert desk.run() == Next(at=NOW + 10)  # somebody else may settle first
    desk.chain.time = NOW + 10
    assert desk.run() == Next(at=NOW + 10 + 100 + 1 + 2)
    desk.chain.time = NOW + 113
    assert desk.run() == Next()
    assert desk.journal.history(JOB) == [stage for stage in Stage if stage is not Stage.REFUSED]
    assert [what for what, _ in desk.chain.sent] == ["commit", "reveal", "settle", "release"]
    assert (desk.row().outcome, desk.row().paid) == ("SETTLED", 13)


@pytest.mark.parametrize("call", ["settle", "release"])
def test_what_costs_more_gas_than_it_brings_waits_until_gas_is_cheaper(desk: Desk, call: str) -> None:
    desk.answered()
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 60)
    desk.run()
    desk.chain.change(revealed=2, output_hash=OUTPUT.output_hash)
    if call == "release":
        desk.chain.change(state=JobState.SETTLED, final_at=NOW)
    desk.run()
    desk.chain.time = NOW + 200
    desk.shop = samples.shop(gas=Gas(token_per_coin=10**9, settle_gas=1_000, release_gas=1_000))
    desk.restart()
    desk.chain.gas_price = 2 * 10**9  # 1,000 gas cost 2,000 base units; bond and price are 1,028
    desk.run()
    desk.chain.time += 10  # the grace that others get to settle begins anew after a restart
    assert desk.run() == Next(at=NOW + 210 + 600)
    assert [what for what, _ in desk.chain.sent] == ["commit", "reveal"]
    desk.chain.gas_price = 10**8
    desk.chain.time = NOW + 810
    desk.run()
    assert [what for what, _ in desk.chain.sent][:3] == ["commit", "reveal", call]


def test_job_settled_by_somebody_else_costs_nothing(desk: Desk) -> None:
    settled(desk)
    assert [what for what, _ in desk.chain.sent] == ["commit", "reveal"]
    assert desk.row().stage is Stage.FINAL


@pytest.mark.parametrize("crash", ["commit", "reveal", "settle", "release"])
def test_crash_after_a_transaction_goes_on_without_repeating_it(desk: Desk, crash: str) -> None:
    desk.answered()
    desk.chain.crash_after = crash
    for _ in range(12):
        try:
            desk.run()
        except Crash:
            desk.journal.close()
            desk.restart()
        if desk.chain.mine.state is ReplicaState.COMMITTED:
            desk.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 60)
        if desk.chain.mine.state is ReplicaState.REVEALED and not desk.chain.view.state.is_final:  # type: ignore[union-attr]
            desk.chain.change(revealed=2, output_hash=OUTPUT.output_hash)
        desk.chain.time += 15
    assert [what for what, _ in desk.chain.sent] == ["commit", "reveal", "settle", "release"]
    assert desk.chain.salts == [SALT]
    assert desk.row().stage is Stage.CLOSED


def test_restart_during_inference_runs_it_again(desk: Desk) -> None:
    desk.deliver()
    desk.run()
    desk.journal.close()
    desk.restart()
    desk.run()
    assert JOB in desk.executor.work
    assert desk.row().stage is Stage.RUNNING


def test_restart_with_an_answer_keeps_its_salt(desk: Desk) -> None:
    desk.answered()
    desk.node.step(JOB)  # the answer is on disk, nothing was sent
    assert desk.chain.sent == []
    desk.journal.close()
    desk.restart()
    desk.run()
    assert desk.chain.commitments == [DOMAIN.digest(Commitment(JOB, samples.PROVIDER, OUTPUT.output_hash, SALT))]
    assert desk.executor.work == {}


def test_commit_taken_back_by_a_reorganisation_is_sent_again_with_the_same_salt(desk: Desk) -> None:
    desk.answered()
    desk.run()
    desk.chain.mine = replace(desk.chain.mine, state=ReplicaState.ASSIGNED, bond_state=BondState.NONE, digest=ZERO32)
    assert desk.run() == Next(at=NOW + 1)  # the read may only be late
    assert len(desk.chain.sent) == 1
    for _ in range(2):  # the first key is tried once more: the transaction queue may be repeating it already
        assert len(desk.chain.sent) == 1
        desk.clock += 5
        desk.run()
    assert [key.rsplit(":", 1)[1] for _, key in desk.chain.sent] == ["0", "1"]
    assert len(set(desk.chain.commitments)) == 1


def test_reveal_taken_back_by_a_reorganisation_is_sent_again(desk: Desk) -> None:
    desk.answered()
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=2, reveal_deadline=NOW + 60)
    desk.run()
    desk.chain.mine = replace(desk.chain.mine, state=ReplicaState.COMMITTED, digest=desk.chain.commitments[0])
    for _ in range(2):
        assert desk.chain.salts == [SALT]
        desk.clock += 5
        desk.run()
    assert desk.chain.salts == [SALT, SALT]


def test_first_to_notice_the_end_of_the_commit_window_reveals(desk: Desk) -> None:
    desk.answered()
    desk.run()
    desk.chain.change(committed=2, replicas=3)
    assert desk.run() == Next(at=NOW + 61)
    desk.chain.time = NOW + 61
    desk.run()
    assert desk.chain.salts == [SALT]


def test_job_short_of_a_quorum_is_settled_to_free_the_bond(desk: Desk) -> None:
    desk.answered()
    desk.run()
    desk.chain.change(committed=1)
    desk.chain.time = NOW + 61
    assert desk.run() == Next(at=NOW + 71)
    desk.chain.time = NOW + 71
    desk.run()
    assert [what for what, _ in desk.chain.sent] == ["commit", "settle"]
    assert desk.chain.salts == []


@pytest.mark.parametrize(
    ("agreed", "sent"), [(OUTPUT.output_hash, ["commit", "reveal"]), (keccak256(b"x"), ["commit"])]
)
def test_late_answer_is_revealed_only_where_it_is_the_agreed_one(desk: Desk, agreed: bytes, sent: list[str]) -> None:
    desk.answered()
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=2, revealed=1, reveal_deadline=NOW + 60, output_hash=agreed)
    desk.chain.time = NOW + 61
    desk.run()
    assert [what for what, _ in desk.chain.sent] == sent


def test_later_replica_waits_longer_to_settle(desk: Desk) -> None:
    desk.answered()
    desk.run()
    desk.chain.change(state=JobState.REVEALING, committed=2, revealed=2, reveal_deadline=NOW + 60)
    desk.chain.mine = replace(desk.chain.mine, state=ReplicaState.REVEALED)
    desk.chain.replicas = lambda job_id: [replace(desk.chain.mine, provider=OTHER), desk.chain.mine]  # type: ignore[method-assign]
    assert desk.run() == Next(at=NOW + 15)


def test_cancelled_job_stops_the_engine(desk: Desk) -> None:
    desk.deliver()
    desk.run()
    desk.chain.change(state=JobState.CANCELLED, final_at=NOW)
    desk.chain.mine = replace(desk.chain.mine, paid=1)
    desk.run()
    assert desk.executor.work == {}
    assert (desk.row().stage, desk.row().outcome, desk.row().paid) == (Stage.CLOSED, "CANCELLED", 1)


@pytest.mark.parametrize("mode", [Mode.QUORUM, Mode.OPTIMISTIC])
def test_disputed_bond_is_released_once_no_verdict_can_come_any_more(desk: Desk, mode: Mode) -> None:
    """Anybody may then; an optimistic job was not settled before, so its bond is free with it."""
    desk.chain.change(mode=mode, state=JobState.SETTLED, final_at=NOW)
    desk.chain.mine = replace(desk.chain.mine, state=ReplicaState.REVEALED, bond_state=BondState.DISPUTED)
    free_at = NOW + 1 if mode is Mode.OPTIMISTIC else NOW + 100 + 1_000 + 1
    assert desk.run() == Next(at=free_at + 2)
    assert desk.row().release_at == free_at
    desk.chain.time = free_at + 1
    assert desk.run() == Next(at=free_at + 2)
    desk.chain.time = free_at + 2
    desk.run()
    assert [what for what, _ in desk.chain.sent] == ["release"]
    assert (desk.row().stage, desk.row().detail) == (Stage.CLOSED, "bond RELEASED")


def test_bond_that_a_verdict_gave_back_waits_for_its_own_window_again(desk: Desk) -> None:
    desk.chain.change(state=JobState.SETTLED, final_at=NOW)
    desk.chain.mine = replace(desk.chain.mine, state=ReplicaState.REVEALED, bond_state=BondState.DISPUTED)
    desk.run()
    desk.chain.mine = replace(desk.chain.mine, bond_state=BondState.LOCKED)
    assert desk.run() == Next(at=NOW + 101 + 2)
    assert desk.row().release_at == NOW + 101


def test_bond_of_an_output_that_was_demanded_and_withheld_is_not_asked_for(desk: Desk) -> None:
    settled(desk)
    desk.run()
    sent = len(desk.chain.sent)
    deadline = desk.chain.time + 50
    desk.chain.mine = replace(desk.chain.mine, demander=OTHER, demand_deadline=deadline)
    desk.chain.time = deadline + 500
    assert desk.run() == IDLE
    assert len(desk.chain.sent) == sent
    desk.chain.mine = replace(desk.chain.mine, demander=ZERO_ADDRESS, bond_state=BondState.SLASHED)
    desk.run()
    assert (desk.row().stage, desk.row().detail) == (Stage.CLOSED, "bond SLASHED")


def test_disputed_bond_that_is_slashed_is_over(desk: Desk) -> None:
    desk.chain.change(state=JobState.SETTLED, final_at=NOW)
    desk.chain.mine = replace(desk.chain.mine, state=ReplicaState.REVEALED, bond_state=BondState.DISPUTED)
    desk.chain.time = NOW + 500
    assert desk.run() == Next(at=NOW + 1_101 + 2)
    desk.chain.mine = replace(desk.chain.mine, bond_state=BondState.SLASHED)
    desk.run()
    assert (desk.row().stage, desk.row().detail) == (Stage.CLOSED, "bond SLASHED")


def test_commit_that_the_contract_refuses_is_looked_at_again(desk: Desk) -> None:
    desk.answered()
    desk.chain.refuse_next = ContractError("not yet", code="TooEarly")
    assert desk.run() == Next(at=NOW + 1)
    assert desk.row().stage is Stage.COMMITTING
    desk.run()
    assert [what for what, _ in desk.chain.sent] == ["commit"]


def refused(desk: Desk, reason: str) -> None:
    desk.deliver()
    desk.run()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, reason)
    assert desk.executor.work == {}
    assert desk.chain.sent == []


def test_job_of_a_model_that_is_not_served_is_refused(desk: Desk) -> None:
    desk.chain.change(model_id=keccak256(b"other"))
    refused(desk, "UnknownModel")


def test_job_whose_prompt_hashes_to_something_else_is_refused(desk: Desk) -> None:
    desk.accept(JOB)
    desk.journal.put_request(samples.request(), (9, 9, 9, 9), NOW + 600)
    refused(desk, "HashMismatch")


def test_job_with_a_quote_this_provider_never_signed_is_refused(desk: Desk) -> None:
    desk.journal._db.execute("DELETE FROM quotes")
    refused(desk, "TERMS_NOT_OURS")


@pytest.mark.parametrize("field", ["base_fee", "price_per_m_output", "kill_fee", "miss_fee", "bond"])
def test_job_with_other_terms_than_signed_is_refused(desk: Desk, field: str) -> None:
    desk.chain.mine = replace(desk.chain.mine, **{field: getattr(desk.chain.mine, field) + 1})
    refused(desk, "TERMS_NOT_OURS")


def test_job_of_another_client_than_quoted_is_refused(desk: Desk) -> None:
    desk.chain.change(client=OTHER)
    refused(desk, "TERMS_NOT_OURS")


def test_job_with_a_short_reveal_window_is_refused(desk: Desk) -> None:
    desk.chain.change(reveal_window=29)
    refused(desk, "REVEAL_WINDOW_TOO_SHORT")


def test_job_with_too_little_time_left_is_refused(desk: Desk) -> None:
    desk.chain.time = NOW + 56
    refused(desk, "TOO_LITTLE_TIME")


def test_job_whose_bond_the_stake_does_not_cover_is_refused(desk: Desk) -> None:
    desk.chain.staked = 999
    refused(desk, "InsufficientStake")


def test_job_whose_bond_is_promised_to_another_in_the_making_is_refused(desk: Desk) -> None:
    """Quotes reserve nothing, so more jobs may come than the stake covers: no inference is spent on them."""
    other = keccak256(b"another job")
    desk.assign(job_id=other)
    desk.journal.advance(other, Stage.RUNNING, NOW)
    desk.chain.staked = 1_999
    refused(desk, "InsufficientStake")


def test_job_that_no_longer_pays_its_gas_is_refused(desk: Desk) -> None:
    desk.shop = samples.shop(gas=Gas(token_per_coin=10**18))
    desk.restart()
    desk.chain.gas_price = 10**9
    refused(desk, "UNPROFITABLE")


def test_job_the_engine_fails_on_is_refused(desk: Desk) -> None:
    desk.deliver()
    desk.run()
    desk.executor.outcomes[JOB] = Failure("PromptError", "too long")
    desk.run()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "ENGINE_FAILED")


def test_job_whose_commit_window_was_missed_is_refused(desk: Desk) -> None:
    desk.answered()
    desk.chain.time = NOW + 61
    desk.run()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "COMMIT_WINDOW_MISSED")


def test_stake_that_vanished_before_the_commit_refuses_the_job(desk: Desk) -> None:
    desk.answered()
    desk.chain.refuse_next = ContractError("too little", code="InsufficientStake")
    desk.run()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "InsufficientStake")


def test_commitment_that_the_journal_lost_is_not_guessed_at(desk: Desk) -> None:
    desk.chain.mine = replace(desk.chain.mine, state=ReplicaState.COMMITTED)
    desk.run()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "JOURNAL_LOST")


def test_job_that_vanished_from_the_chain_is_waited_for_then_dropped(desk: Desk) -> None:
    desk.chain.view = None
    assert desk.run() == Next(at=NOW + 1)
    desk.chain.time = NOW + 60 + 3_601
    desk.run()
    assert (desk.row().stage, desk.row().reason) == (Stage.REFUSED, "JOB_VANISHED")


def test_unknown_job_is_nothing_to_do(desk: Desk) -> None:
    assert desk.node.step(keccak256(b"other")) == Next()
