"""The gate in front of the app: what is too much, too slow or broken never reaches a handler."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from provider.limits import Gate


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
