"""The gate in front of the app: what is too much, too slow or broken never reaches a handler."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from provider import limits
from provider.limits import Buckets, Gate


class App:
    """Answers with the body's length, when the door is open."""

    def __init__(self) -> None:
        self.door = asyncio.Event()
        self.door.set()
        self.inside = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.inside += 1
        await self.door.wait()
        if body == b"crash":
            raise ValueError("the prompt stands here")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def client(app: App) -> Any:
    gate = Gate(app, body_limit=100, concurrency=2)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://provider") as client:
        yield client


async def test_body_at_the_limit_passes(client: httpx.AsyncClient) -> None:
    assert (await client.post("/", content=b"x" * 100)).text == "100"


async def test_body_beyond_the_limit_is_refused_whether_declared_or_streamed(client: httpx.AsyncClient) -> None:
    async def stream() -> Any:
        for _ in range(11):
            yield b"x" * 10

    for content in (b"x" * 101, stream()):
        answer = await client.post("/", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "BODY_TOO_LARGE")
        assert answer.headers["connection"] == "close"


async def test_requests_beyond_the_concurrency_wait_outside_but_health_does_not(
    app: App, client: httpx.AsyncClient
) -> None:
    app.door.clear()
    inside = [asyncio.create_task(client.post("/", content=b"x")) for _ in range(2)]
    while app.inside < 2:
        await asyncio.sleep(0)
    outside = await client.post("/", content=b"x")
    assert (outside.status_code, outside.json()["error"]["code"]) == (429, "OVERLOADED")
    assert outside.headers["retry-after"] == "1"
    health = asyncio.create_task(client.get("/healthz"))
    while app.inside < 3:
        await asyncio.sleep(0)
    app.door.set()
    assert [answer.status_code for answer in await asyncio.gather(*inside, health)] == [200] * 3
    assert (await client.post("/", content=b"x")).status_code == 200


async def test_crash_answers_without_its_text(client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]) -> None:
    answer = await client.post("/", content=b"crash")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "UNEXPECTED")
    captured = capsys.readouterr()
    assert "prompt" not in answer.text + captured.out + captured.err
    assert "ValueError" in captured.out + captured.err


async def test_body_that_never_ends_is_given_up(app: App) -> None:
    gate = Gate(app, body_limit=100, concurrency=2, body_seconds=0.05)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(3600)

    async def send(message: Any) -> None:
        sent.append(message)

    await gate({"type": "http", "path": "/", "headers": []}, receive, send)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "TOO_SLOW"
    assert app.inside == 0


async def test_connection_that_breaks_off_is_no_request(app: App) -> None:
    gate = Gate(app, body_limit=100, concurrency=2)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gate({"type": "http", "path": "/", "headers": []}, receive, send)
    assert app.inside == 0


class Seconds:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def burst(buckets: Buckets, address: str, count: int) -> int:
    """How many of `count` requests at once pass."""
    return sum(buckets.take(address) == 0 for _ in range(count))


def test_address_may_send_a_burst_and_then_its_rate(seconds: Seconds) -> None:
    buckets = Buckets(20, 60, seconds)
    assert burst(buckets, "203.0.113.7", 100) == 60
    assert buckets.take("203.0.113.7") == pytest.approx(0.05)
    seconds.now += 1
    assert burst(buckets, "203.0.113.7", 100) == 20
    seconds.now += 3_600
    assert burst(buckets, "203.0.113.7", 100) == 60


@pytest.mark.parametrize(
    ("other", "passes"),
    [
        ("203.0.113.8", 1),
        ("2001:db8:0:1::1", 1),
        ("2001:db8::ffff", 0),  # the same /64
        ("2001:db8::1%eth0", 0),
        ("::ffff:203.0.113.7", 0),  # the same address, seen through an IPv6 socket
    ],
)
def test_address_that_asks_too_often_shuts_out_its_own_network_alone(seconds: Seconds, other: str, passes: int) -> None:
    buckets = Buckets(1, 2, seconds)
    for greedy in ("203.0.113.7", "2001:db8::1"):
        burst(buckets, greedy, 9)
    assert burst(buckets, other, 1) == passes


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "", "/run/socket"])
def test_programs_of_this_machine_are_not_counted(seconds: Seconds, address: str) -> None:
    assert burst(Buckets(1, 2, seconds), address, 100) == 100


def test_addresses_that_are_remembered_are_bounded(seconds: Seconds) -> None:
    buckets = Buckets(1, 1, seconds)
    for number in range(limits.ADDRESSES + 5):
        buckets.take(f"198.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(buckets._left) == limits.ADDRESSES


async def test_requests_beyond_the_rate_are_refused_but_health_is_not(app: App, seconds: Seconds) -> None:
    gate = Gate(app, body_limit=100, concurrency=2, bucket=Buckets(1, 2, seconds))
    transport = httpx.ASGITransport(gate, client=("203.0.113.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://provider") as client:
        answers = [await client.post("/", content=b"x") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert (answers[2].json()["error"]["code"], answers[2].headers["retry-after"]) == ("RATE_LIMITED", "1")
        assert (await client.get("/healthz")).status_code == 200


def test_all_addresses_together_are_bounded_and_this_machines_programs_too(seconds: Seconds) -> None:
    buckets = Buckets(100, 100, seconds, total_per_second=2, total_burst=3)
    addresses = ["203.0.113.7", "198.51.100.1", "127.0.0.1", "2001:db8::1", "127.0.0.1"]
    assert [buckets.take(address) == 0 for address in addresses] == [True, True, True, False, False]
    assert buckets.take("127.0.0.1") == pytest.approx(0.5)
    seconds.now += 1
    assert [buckets.take("127.0.0.1") == 0 for _ in range(3)] == [True, True, False]


def test_address_beyond_its_own_rate_takes_nothing_from_the_others(seconds: Seconds) -> None:
    buckets = Buckets(1, 1, seconds, total_per_second=1, total_burst=3)
    assert burst(buckets, "203.0.113.7", 50) == 1
    assert burst(buckets, "198.51.100.1", 1) == burst(buckets, "198.51.100.2", 1) == 1


async def test_refusals_and_answers_are_told(app: App, seconds: Seconds) -> None:
    codes: list[str] = []
    statuses: list[int] = []
    gate = Gate(
        app,
        body_limit=100,
        concurrency=2,
        bucket=Buckets(1, 3, seconds),
        refused=codes.append,
        answered=statuses.append,
    )
    transport = httpx.ASGITransport(gate, client=("203.0.113.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://provider") as client:
        for content in (b"x", b"x" * 101, b"crash", b"x"):
            await client.post("/", content=content)
    assert codes == ["BODY_TOO_LARGE", "UNEXPECTED", "RATE_LIMITED"]
    assert statuses == [200, 413, 500, 429]
