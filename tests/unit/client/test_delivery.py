from __future__ import annotations

import json

import anyio
import httpx
import pytest

from client.delivery import Courier, Parcel
from client.signatures import SignatureChecker
from market.api import AcceptanceBody
from market.hashing import keccak256
from market.signing import sign
from market.types import Acceptance
from tests.unit.client.examples import DOMAIN, NOW, NoContracts, account, request
from tests.unit.client.market_of_one import Answer, Street

JOB_ID = keccak256(b"job")
PARCEL = Parcel(JOB_ID, request(), (1, 2, 3), ({"role": "user", "content": "the cat"},))


def accepting(number: int, *, job_id: bytes = JOB_ID, signer: int | None = None) -> Answer:
    def answer(asked: httpx.Request) -> httpx.Response:
        assert asked.method == "PUT"
        assert asked.url.path == f"/v1/requests/0x{PARCEL.request.request_hash.hex()}"
        body = json.loads(asked.content)
        assert (body["ids"], body["subjectId"]) == ([1, 2, 3], "0x" + JOB_ID.hex())
        acceptance = Acceptance(job_id, PARCEL.request.request_hash, NOW)
        signature = sign(DOMAIN, acceptance, account(number if signer is None else signer))
        return httpx.Response(200, json=AcceptanceBody(acceptance=acceptance, signature=signature).to_json())

    return answer


def refusing(code: str, status: int) -> Answer:
    return lambda asked: httpx.Response(status, json={"error": {"code": code, "message": "no", "details": {}}})


async def deliver(street: Street, count: int, seconds: float = 2.0) -> Courier:
    courier = Courier(street.http, SignatureChecker(DOMAIN, NoContracts()), PARCEL, on_change=lambda who, what: None)
    with anyio.move_on_after(seconds):
        await courier.deliver([(account(n).address, f"http://127.0.0.1:{9000 + n}") for n in range(count)])
    return courier


async def test_delivery_to_all_keeps_every_signed_acceptance() -> None:
    courier = await deliver(Street({n: accepting(n) for n in range(3)}), 3)
    assert set(courier.state.accepted) == {account(n).address.lower() for n in range(3)}
    assert not courier.state.refused
    await courier.first_round()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (refusing("NOT_QUOTED", 404), "NOT_QUOTED"),
        (refusing("TEMPLATE_MISMATCH", 409), "TEMPLATE_MISMATCH"),
        (accepting(0, signer=1), "signed by"),
    ],
)
async def test_delivery_that_is_finally_refused_is_not_repeated(bad: Answer, words: str) -> None:
    street = Street({0: bad})
    courier = await deliver(street, 1)
    assert len(street.asked) == 1
    assert words in courier.state.refused[account(0).address.lower()]


@pytest.mark.parametrize(
    "bad", [refusing("OVERLOADED", 429), refusing("HTTP", 503), accepting(0, job_id=keccak256(b"x"))]
)
async def test_delivery_is_repeated_until_it_is_accepted(bad: Answer) -> None:
    answers = [bad, bad, accepting(0)]
    courier = await deliver(Street({0: lambda asked: answers.pop(0)(asked)}), 1)
    assert account(0).address.lower() in courier.state.accepted
    assert not courier.state.refused


async def test_delivery_stops_when_told_and_names_who_is_missing() -> None:
    street = Street({0: accepting(0)})
    courier = Courier(street.http, SignatureChecker(DOMAIN, NoContracts()), PARCEL, on_change=lambda who, what: None)
    targets = [(account(n).address, f"http://127.0.0.1:{9000 + n}") for n in range(2)]
    with anyio.fail_after(2):
        async with anyio.create_task_group() as group:
            group.start_soon(courier.deliver, targets)
            await courier.first_round()
            courier.stop()
    assert list(courier.state.accepted) == [account(0).address.lower()]
    assert "cannot be reached" in courier.state.refused[account(1).address.lower()]
