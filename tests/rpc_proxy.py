"""A proxy in front of an RPC endpoint that fails on demand: the faults of real endpoints, over real sockets (asyncio).

with FaultProxy(anvil.rpc_url) as proxy:
    proxy.fault = lambda question: Fault(status=503) if question["method"] == "eth_call" else None
    proxy.fail_times(2, rate_limited(1), "eth_getLogs")
    proxy.down()  # connections are refused and those there are broken; up() listens on the same port again

WebSockets pass through as bytes (`ws_url`) and break with `down()`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

Question = dict[str, Any]
Rewrite = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Fault:
    """What to do with one request.

    Attributes:
        delay: seconds to wait first.
        silent: half-open: take the question, never answer, keep the connection.
        drop: break the connection without asking the chain.
        status: answer with this HTTP status (and `headers`), without asking the chain.
        body: answer with this text instead of the chain's answer.
        twice: ask the chain twice, as a proxy that retries does.
        lose_answer: ask the chain, then break the connection.
        ask: change the question.
        rewrite: change the chain's answer.
        truncate: announce the whole answer, send this share of it (0 … 1), break the connection.
    """

    delay: float = 0.0
    silent: bool = False
    drop: bool = False
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    twice: bool = False
    lose_answer: bool = False
    ask: Callable[[Question], Question] | None = None
    rewrite: Rewrite | None = None
    truncate: float | None = None


def rate_limited(retry_after: float | str | None = None) -> Fault:
    """429, with a Retry-After where one is given."""
    return Fault(status=429, headers={} if retry_after is None else {"retry-after": str(retry_after)})


def answers(result: Any) -> Fault:
    """Another result than the chain's."""
    return Fault(rewrite=lambda answer: {**answer, "result": result})


def lying_logs(**changes: Any) -> Fault:
    """Every log with other values in these fields."""

    def rewrite(answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "result": [{**log, **changes} for log in answer["result"]]}

    return Fault(rewrite=rewrite)


def shuffled_logs() -> Fault:
    """Every log twice, the newest first."""

    def rewrite(answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "result": [*reversed(answer["result"]), *answer["result"]]}

    return Fault(rewrite=rewrite)


def only(method: str, fault: Fault) -> Callable[[Question], Fault | None]:
    """For `FaultProxy.fault`: questions of this method meet the fault, all others pass."""
    return lambda question: fault if question["method"] == method else None


def stuck_at(number: int) -> Callable[[Question], Fault | None]:
    """For `FaultProxy.fault`: an endpoint that never heard of a block above this one, nor of what waits for one."""

    def ask(question: Question) -> Question:
        tags = {"latest": hex(number), "pending": hex(number)}
        parameters = [tags.get(value, value) if isinstance(value, str) else value for value in question["params"]]
        return {**question, "params": parameters}

    def rewrite(answer: dict[str, Any]) -> dict[str, Any]:
        result = answer.get("result")
        place = result.get("number") or result.get("blockNumber") if isinstance(result, dict) else None
        known = place is None or int(place, 16) <= number
        return answer if known else {**answer, "result": None}

    def decide(question: Question) -> Fault | None:
        if question["method"] == "eth_blockNumber":
            return answers(hex(number))
        return Fault(ask=ask, rewrite=rewrite)

    return decide


class _Broken(Exception):
    """The connection ends here."""


class FaultProxy:
    """`fault(question)` decides for each JSON-RPC question; None passes it on. `asked` counts questions by method.

    Of a batch, the first question decides. Its event loop has a thread of its own.
    """

    def __init__(self, upstream: str) -> None:
        self.fault: Callable[[Question], Fault | None] = lambda _: None
        self.asked: dict[str, int] = {}
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self._http: httpx.AsyncClient | None = None
        self.port = 0

    @property
    def rpc_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def fail_times(self, times: int, fault: Fault, method: str | None = None) -> None:
        """The next `times` questions (of `method`) meet the fault."""
        left = [times]

        def decide(question: Question) -> Fault | None:
            if left[0] == 0 or (method is not None and question["method"] != method):
                return None
            left[0] -= 1
            return fault

        self.fault = decide

    def heal(self) -> None:
        """No fault from now on."""
        self.fault = lambda _: None

    def down(self) -> None:
        """Refuses connections and breaks those there are. Safe to repeat."""
        self._run(self._close())

    def up(self) -> None:
        """Listens (again), on the same port. Safe to repeat."""
        self._run(self._listen())

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        if self._http is not None:
            self._run(self._http.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(15)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port, limit=1 << 24)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            # asyncio loses a connection that it accepts while the server closes: stop accepting, let those settle first
            self._loop.remove_reader(self._server.sockets[0].fileno())
            for _ in range(10):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        while self._connections:
            tasks = dict(self._connections)
            for task, writer in tasks.items():
                task.cancel()
                writer.transport.abort()  # a task cancelled before its first step would not
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in tasks:
                self._connections.pop(task, None)
        await asyncio.sleep(0.01)  # aborted transports let go of their sockets

    # -------------------------------------------------------------------------------------------- one connection

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connected(reader, writer))
        self._connections[task] = writer

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (_Broken, OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._connections.pop(task, None)
            writer.transport.abort()  # a reset, not a polite end: an answer cut short shows as one

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Returns whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        headers = _headers(head)
        if headers.get("upgrade", "").lower() == "websocket":
            await self._tunnel(head, reader, writer)
            return False
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        status, extra, answer, sent = await self._answer(body)
        lines = [f"HTTP/1.1 {status} Status", "content-type: application/json", f"content-length: {len(answer)}"]
        lines += [f"{name}: {value}" for name, value in extra.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + answer[:sent])
        await writer.drain()
        if sent < len(answer):
            await asyncio.sleep(0.05)  # what was sent arrives before the reset
        return sent == len(answer)

    async def _answer(self, raw: bytes) -> tuple[int, dict[str, str], bytes, int]:
        """(HTTP status, headers, body, how many of its bytes are sent)."""
        asked = json.loads(raw)
        questions = asked if isinstance(asked, list) else [asked]
        for question in questions:
            self.asked[question["method"]] = self.asked.get(question["method"], 0) + 1
        fault = self.fault(questions[0]) or Fault()
        await asyncio.sleep(fault.delay)
        if fault.silent:
            await asyncio.Event().wait()
        if fault.drop:
            raise _Broken
        if fault.status is not None:
            text = (fault.body or "no").encode()
            return fault.status, fault.headers, text, len(text)
        if fault.body is not None:
            return 200, fault.headers, fault.body.encode(), len(fault.body.encode())
        if fault.ask is not None:
            raw = json.dumps(fault.ask(asked)).encode()
        status, answer = await self._ask(raw)
        if fault.twice:
            status, answer = await self._ask(raw)
        if fault.lose_answer:
            raise _Broken
        if fault.rewrite is not None:
            answer = json.dumps(fault.rewrite(json.loads(answer))).encode()
        sent = len(answer) if fault.truncate is None else int(len(answer) * fault.truncate)
        return status, fault.headers, answer, sent

    async def _ask(self, raw: bytes) -> tuple[int, bytes]:
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=30, trust_env=False)
        try:
            answer = await self._http.post(self._upstream, content=raw, headers={"content-type": "application/json"})
        except httpx.HTTPError:
            raise _Broken from None  # the chain itself is gone
        return answer.status_code, answer.content

    async def _tunnel(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        where = urlsplit(self._upstream)
        there, back = await asyncio.open_connection(where.hostname, where.port)
        back.write(head)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()

        ways = [asyncio.ensure_future(pump(reader, back)), asyncio.ensure_future(pump(there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            back.transport.abort()


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
