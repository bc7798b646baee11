from __future__ import annotations

import dataclasses
import json

import pytest

from client.errors import JobCancelled, NoAgreement, OutputUnavailable
from client.render import answer_text
from client.reporting import compose, sources_of
from client.results import Balance, TokenInfo, role_of
from client.steps import STEPS, StepClock
from market.views import JobState, ReplicaState
from tests.unit.client.examples import DOMAIN, TOKEN
from tests.unit.client.test_outputs import JOB, JOB_ID, OUTPUT, source

REPLICA = source(0).replica
OTHER = b"\x09" * 32
EXPIRED = dataclasses.replace(JOB, state=JobState.EXPIRED, output_hash=bytes(32))
CANCELLED = dataclasses.replace(EXPIRED, state=JobState.CANCELLED)
OPEN = dataclasses.replace(EXPIRED, state=JobState.OPEN, final_at=0)


@pytest.mark.parametrize(
    ("job", "state", "digest", "accepted", "role"),
    [
        (JOB, ReplicaState.REVEALED, OUTPUT.output_hash, True, "agreed"),
        (JOB, ReplicaState.REVEALED, OTHER, True, "disagreed"),
        (JOB, ReplicaState.LATE, OUTPUT.output_hash, True, "late"),
        (JOB, ReplicaState.MISSED, OTHER, True, "missed"),
        (JOB, ReplicaState.ASSIGNED, bytes(32), True, "absent"),
        (JOB, ReplicaState.ASSIGNED, bytes(32), None, "absent"),
        (JOB, ReplicaState.ASSIGNED, bytes(32), False, "refused"),
        (EXPIRED, ReplicaState.REVEALED, OTHER, True, "disagreed"),
        (EXPIRED, ReplicaState.COMMITTED, OTHER, True, "released"),
        (CANCELLED, ReplicaState.ASSIGNED, bytes(32), True, "released"),
        (OPEN, ReplicaState.ASSIGNED, bytes(32), True, "working"),
        (OPEN, ReplicaState.ASSIGNED, bytes(32), False, "refused"),
        (OPEN, ReplicaState.COMMITTED, OTHER, True, "working"),
    ],
)
def test_role_of_a_replica_follows_from_chain_and_delivery(job, state, digest, accepted, role) -> None:
    assert role_of(job, dataclasses.replace(REPLICA, state=state, digest=digest), accepted) == role


@pytest.mark.parametrize(
    ("job", "error", "code"),
    [(EXPIRED, NoAgreement, 5), (CANCELLED, JobCancelled, 5), (JOB, OutputUnavailable, 4), (OPEN, None, 0)],
)
def test_result_without_an_answer_raises_its_reason(job, error, code) -> None:
    result = compose(JOB_ID, job, [REPLICA], None, TokenInfo(TOKEN, "tUSD", 6), DOMAIN, {}, ["nobody was there"])
    assert result.exit_code == code
    assert json.loads(json.dumps(result.to_json()))["state"] == job.state.name.lower()
    if error is None:
        result.raise_for_state()
    else:
        with pytest.raises(error):
            result.raise_for_state()


def test_sources_are_the_replicas_paid_for_the_agreed_output_that_can_be_reached() -> None:
    late = dataclasses.replace(source(1).replica, state=ReplicaState.LATE)
    wrong = dataclasses.replace(source(2).replica, digest=OTHER)
    lost = source(3).replica
    endpoints = {source(n).replica.provider.lower(): f"http://p{n}" for n in range(3)}
    found = sources_of(JOB, [REPLICA, late, wrong, lost], endpoints)
    assert [(s.replica, s.endpoint) for s in found] == [(REPLICA, "http://p0")]


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_steps_leave_out_the_time_a_person_takes_to_decide() -> None:
    clock = Clock()
    steps = StepClock(clock)
    with steps.measure("discovery"):
        clock.time += 0.25
    steps.pause()
    clock.time += 60
    steps.resume()
    clock.time += 0.5
    steps.pause(clock.time - 0.125)
    assert steps.as_milliseconds() == dict.fromkeys(STEPS, 0) | {"discovery": 250, "total": 625}
    with pytest.raises(ValueError, match="no such step"):
        steps.note("lunch", 1)


def test_answer_for_a_terminal_has_no_control_characters() -> None:
    assert answer_text("a\x1b[2Jb\nc\td\x07") == "a�[2Jb\nc\td�"


def test_balance_in_json_keeps_every_digit_of_a_wei_amount() -> None:
    wei = 2**53 + 1  # the first integer that a double cannot hold
    balance = Balance(TOKEN, TokenInfo(TOKEN, "tUSD", 6), 1, 2, 3, 4, 5, 6, wei)
    shown = json.loads(json.dumps(balance.to_json()), parse_int=float)
    assert int(shown["gas_wei"]) == wei
