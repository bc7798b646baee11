"""Connections of a real server on the loopback address: silent ones, endless heads, answers nobody reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from provider.config import Limits
from provider.connections import guarded
from provider.server import Server, listen

ANSWER = b"x" * (8 << 20)  # more than all buffers between two sockets of this machine hold


async def app(scope: Any, receive: Any, send: Any) -> None:
    body = ANSWER if scope["path"] == "/large" else b"ok"
    await receive()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, len(body), 1 << 16):
        await send({"type": "http.response.body", "body": body[start : start + (1 << 16)], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def serving(**limits: int) -> AsyncIterator[Connect]:
    """A server that counts the loopback address like any other."""
    listener = listen("127.0.0.1", 0)
    allowed = Limits(**limits)
    server = Server(app, allowed, guarded(allowed, network_of=lambda address: address))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*listener.getsockname(), limit=1 << 16)
        writers.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in writers:
            writer.close()
        server.should_exit = True
        await task
        listener.close()


async def ended(reader: asyncio.StreamReader, seconds: float = 10) -> bool:
    """Whether the other side ends the connection in time; what it still sends is read."""
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), seconds)
    return True


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str = "/") -> bytes:
    writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    return await asyncio.wait_for(reader.readuntil(b"ok"), 10)


async def test_connection_that_says_nothing_is_closed() -> None:
    async with serving(head_seconds=1) as connect:
        reader, _ = await connect()
        assert await ended(reader)


async def test_head_that_never_ends_is_closed_though_bytes_keep_coming() -> None:
    """Slow loris: a line now and then kept a connection for ever."""
    async with serving(head_seconds=1) as connect:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\n")
        closed = asyncio.create_task(ended(reader))
        started = time.monotonic()
        with suppress(ConnectionError):
            while not closed.done() and time.monotonic() < started + 10:
                writer.write(b"x: y\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        assert closed.done()


async def test_second_head_on_a_connection_must_end_too() -> None:
    async with serving(head_seconds=1) as connect:
        reader, writer = await connect()
        assert b"200" in await ask(reader, writer)
        writer.write(b"GET / HTT")
        assert await ended(reader)


async def test_connection_between_two_requests_is_kept_for_its_time_and_then_closed() -> None:
    async with serving(head_seconds=1, keep_alive_seconds=2) as connect:
        reader, writer = await connect()
        await ask(reader, writer)
        await asyncio.sleep(1.3)  # longer than a head may take
        assert b"200" in await ask(reader, writer)
        assert await ended(reader)


async def test_client_that_does_not_read_its_answer_is_cut_off() -> None:
    async with serving(answer_seconds=1) as connect:
        reader, writer = await connect()
        writer.write(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(3)
        received = 0
        with suppress(ConnectionError):
            while chunk := await asyncio.wait_for(reader.read(1 << 16), 5):
                received += len(chunk)
        assert received < len(ANSWER)


async def test_large_answer_reaches_a_client_that_reads() -> None:
    async with serving(answer_seconds=1) as connect:
        reader, writer = await connect()
        writer.write(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200" in head
        body = await asyncio.wait_for(reader.readexactly(len(ANSWER)), 10)
        assert body == ANSWER


async def test_connections_of_one_address_are_bounded_and_counted_down() -> None:
    async with serving(connections_per_address=2) as connect:
        first, second, third = await connect(), await connect(), await connect()
        assert await ended(third[0])
        assert b"200" in await ask(*first)
        assert b"200" in await ask(*second)
        first[1].close()
        await first[1].wait_closed()
        for _ in range(50):  # the server hears of it a moment later
            again = await connect()
            try:
                assert b"200" in await ask(*again)
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                await asyncio.sleep(0.05)
        else:
            raise AssertionError("a closed connection still counts")
