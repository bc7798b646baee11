"""What a paid replica serves is held against the chain; the next one is asked when it does not fit."""

from __future__ import annotations

import dataclasses

import httpx
import pytest
from eth_account.signers.local import LocalAccount

from client.outputs import OutputReader, Patience, Source
from client.signatures import SignatureChecker
from market.api import LogProbabilitiesBody, OutputBody
from market.hashing import keccak256, tokens_root
from market.signing import sign, verify
from market.types import Finish, Mode, Output, OutputAccess, Receipt
from market.views import BondState, JobState, JobView, ReplicaState, ReplicaView
from tests.unit.client.examples import CLIENT, DOMAIN, MODEL_ID, NOW, NoContracts, account, request
from tests.unit.client.market_of_one import Answer, Street

JOB_ID = keccak256(b"job")
IDS = (7, 8, 2)
OUTPUT = Output(tokens_root(IDS), 3, Finish.STOP)
PAID = 21
ME: LocalAccount = account(50)
JOB = JobView(
    client=CLIENT,
    state=JobState.SETTLED,
    mode=Mode.QUORUM,
    quorum=2,
    replicas=3,
    committed=3,
    revealed=3,
    input_tokens=3,
    max_output_tokens=16,
    reveal_window=60,
    commit_deadline=NOW,
    reveal_deadline=NOW,
    final_at=NOW,
    escrow=135,
    model_id=MODEL_ID,
    request_hash=request().request_hash,
    output_hash=OUTPUT.output_hash,
)


def source(number: int) -> Source:
    replica = ReplicaView(
        provider=account(number).address,
        state=ReplicaState.REVEALED,
        bond_state=BondState.LOCKED,
        finish=1,
        output_tokens=3,
        base_fee=0,
        price_per_m_input=0,
        price_per_m_output=0,
        kill_fee=0,
        miss_fee=0,
        bond=0,
        paid=PAID,
        digest=OUTPUT.output_hash,
    )
    return Source(replica, f"http://127.0.0.1:{9000 + number}")


def receipt(**changes) -> Receipt:  # type: ignore[no-untyped-def]
    base = Receipt(JOB_ID, 0, JOB.request_hash, OUTPUT.output_root, 3, Finish.STOP, PAID, NOW)
    return dataclasses.replace(base, **changes)


def serving(number: int, *, ids=IDS, output=OUTPUT, statement=None, signer: int | None = None) -> Answer:  # type: ignore[no-untyped-def]
    def answer(asked: httpx.Request) -> httpx.Response:
        access = OutputAccess(JOB_ID, ME.address, int(asked.headers["x-assay-valid-until"]))
        verify(DOMAIN, access, bytes.fromhex(asked.headers["x-assay-signature"][2:]), ME.address)
        signed = statement or receipt()
        signature = sign(DOMAIN, signed, account(number if signer is None else signer))
        body = OutputBody(output=output, ids=list(ids), receipt=signed, signature=signature, inference_ms=5)
        return httpx.Response(200, json=body.to_json())

    return answer


def refusing(code: str, status: int) -> Answer:
    body = {"error": {"code": code, "message": "no", "details": {}}}
    return lambda asked: httpx.Response(status, json=body)


async def fetch(street: Street, count: int = 1, job=JOB):  # type: ignore[no-untyped-def]
    reader = OutputReader(street.http, SignatureChecker(DOMAIN, NoContracts()), ME, Patience(whole=0.4, rest=0.1))
    return await reader.fetch(JOB_ID, job, [source(number) for number in range(count)], NOW)


async def test_output_that_matches_the_chain_is_the_answer_with_every_receipt() -> None:
    found = await fetch(Street({number: serving(number) for number in range(3)}), 3)
    assert (found.ids, found.finish, found.problems) == (IDS, Finish.STOP, [])
    assert {signed.provider for signed in found.receipts} == {account(n).address for n in range(3)}
    assert found.inference_ms == [5, 5, 5]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (serving(0, output=Output(tokens_root((7, 8, 3)), 3, 1), ids=(7, 8, 3)), "not the one agreed on chain"),
        (serving(0, ids=(7, 8, 3)), "do not match the output agreed"),
        (serving(0, ids=(7, 8)), "do not match the output agreed"),
        (serving(0, statement=receipt(charged=PAID + 1)), "receipt is not for this job"),
        (serving(0, statement=receipt(subject_id=MODEL_ID)), "receipt is not for this job"),
        (serving(0, statement=receipt(index=1)), "receipt is not for this job"),
        (serving(0, signer=1), "signed by"),
        (refusing("NO_OUTPUT", 404), "NO_OUTPUT"),
        (refusing("BadSignature", 401), "BadSignature"),
    ],
)
async def test_output_that_does_not_fit_is_refused_and_the_next_replica_s_taken(bad: Answer, words: str) -> None:
    alone = await fetch(Street({0: bad}))
    assert alone.ids is None
    assert words in alone.problems[0]
    found = await fetch(Street({0: bad, 1: serving(1)}), 2)
    assert found.ids == IDS
    assert [signed.provider for signed in found.receipts] == [account(1).address]


TOLD = LogProbabilitiesBody(chosen=[-5, -1, 0], top_ids=[[4, 7], [8, 9], [2]], top=[[-2, -5], [-1, -9], [0]])


def telling(number: int, told: LogProbabilitiesBody | None) -> Answer:
    def answer(asked: httpx.Request) -> httpx.Response:
        body = serving(number)(asked).json() | {"logProbabilities": None if told is None else told.to_json()}
        return httpx.Response(200, json=body)

    return answer


async def test_log_probabilities_come_with_the_output_from_whoever_tells_them() -> None:
    found = await fetch(Street({0: telling(0, None), 1: telling(1, TOLD), 2: telling(2, TOLD)}), 3)
    assert found.problems == []
    assert [(each.chosen.id, each.chosen.ln_q16) for each in found.log_probabilities] == [(7, -5), (8, -1), (2, 0)]
    assert [(each.id, each.ln_q16) for each in found.log_probabilities[0].top] == [(4, -2), (7, -5)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chosen": [-5, -1]}, "told of 2 tokens, the answer has 3"),
        ({"top_ids": [[4, 7], [8, 9], []]}, "not in their order"),
        ({"top": [[-5, -2], [-1, -9], [0]]}, "not in their order"),
    ],
)
async def test_log_probabilities_that_do_not_fit_are_left_out_and_the_answer_stands(
    changes: dict[str, list[object]], words: str
) -> None:
    found = await fetch(Street({0: telling(0, TOLD.model_copy(update=changes))}))
    assert (found.ids, found.log_probabilities, len(found.receipts)) == (IDS, (), 1)
    assert words in found.problems[0]


async def test_providers_that_tell_other_log_probabilities_are_noted() -> None:
    other = TOLD.model_copy(update={"chosen": [-5, -1, -1]})
    found = await fetch(Street({0: telling(0, TOLD), 1: telling(1, other)}), 2)
    assert found.ids == IDS
    assert "one of both is wrong" in found.problems[0]


async def test_output_that_is_not_ready_yet_is_asked_for_again() -> None:
    answers = [refusing("NOT_SETTLED", 409), refusing("UnknownJob", 404), serving(0)]
    found = await fetch(Street({0: lambda asked: answers.pop(0)(asked)}))
    assert found.ids == IDS
    assert not answers


@pytest.mark.parametrize("state", [JobState.EXPIRED, JobState.CANCELLED])
async def test_output_of_a_job_that_paid_nobody_is_asked_for_once(state: JobState) -> None:
    """Whoever waits for each liar of a job without agreement is late with its dispute."""
    answers = [refusing("NOT_SETTLED", 409), serving(0)]
    found = await fetch(Street({0: lambda asked: answers.pop(0)(asked)}), job=dataclasses.replace(JOB, state=state))
    assert (found.ids, len(answers)) == (None, 1)
    assert "NOT_SETTLED" in found.problems[0]


async def test_output_of_a_dead_replica_does_not_keep_the_others_answer_waiting() -> None:
    found = await fetch(Street({1: serving(1)}), 2)
    assert found.ids == IDS
    assert found.answered_at is not None
