"""What stands before every handler: concurrency, body size, time to send the body. Plain ASGI, no framework."""

from __future__ import annotations

import asyncio
import json
import traceback
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market.errors import AssayError, WireError
from provider.errors import Refusal

log = structlog.get_logger(__name__)

BODY_SECONDS = 10.0
"""Default time for a request's whole body to arrive."""
ALWAYS_ANSWERED = ("/healthz", "/readyz")


class Gate:
    """Reads the whole body before the app sees the request, and turns away what is too much.

    Args:
        body_limit: bytes; body_seconds: within which the whole body has to arrive.
        concurrency: requests answered at the same time; /healthz and /readyz are not counted.
    """

    def __init__(self, app: ASGIApp, *, body_limit: int, concurrency: int, body_seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._body_limit = body_limit
        self._concurrency = concurrency
        self._body_seconds = body_seconds
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no WebSockets, no lifespan
        counted = scope["path"] not in ALWAYS_ANSWERED
        if counted and self._running >= self._concurrency:
            await refuse(send, _too_many(self._concurrency))
            return
        self._running += counted
        try:
            await self._pass(scope, receive, send)
        finally:
            self._running -= counted

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            body = await asyncio.wait_for(self._body(scope, receive), self._body_seconds)
            await self._app(scope, _replay(body, receive), watched)
        except AssayError as error:
            await refuse(send, error)
        except TimeoutError:
            await refuse(send, _too_slow(self._body_seconds))
        except Exception as error:  # noqa: BLE001 - the last border; its text may hold a prompt and is not logged
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error("request_crashed", error=type(error).__name__, file=where.filename, line=where.lineno)
            if not started:
                await refuse(send, _unexpected())

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self._body_limit:
            raise _too_large(self._body_limit)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise WireError("The connection broke before the whole request came.", code="INCOMPLETE")
            body += message.get("body", b"")
            if len(body) > self._body_limit:
                raise _too_large(self._body_limit)
            if not message.get("more_body", False):
                return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def status_of(error: AssayError) -> int:
    """HTTP status that carries an error."""
    if isinstance(error, Refusal):
        return error.status
    if error.code == "BadSignature":
        return 401
    if isinstance(error, WireError):
        return 400
    return 503


def headers_of(error: AssayError) -> dict[str, str]:
    after = error.retry_after if isinstance(error, Refusal) else None
    return {} if after is None else {"Retry-After": str(after)}


async def refuse(send: Send, error: AssayError) -> None:
    """Answers with the error's JSON and closes the connection: an unread body would follow."""
    body = json.dumps(error.as_json()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    headers |= headers_of(error)
    start: dict[str, Any] = {
        "type": "http.response.start",
        "status": status_of(error),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _too_many(limit: int) -> Refusal:
    return Refusal(
        "OVERLOADED",
        f"This provider answers {limit} requests at a time.",
        hint="Ask again in a moment.",
        status=429,
        retry_after=1,
        limit=limit,
    )


def _too_large(limit: int) -> Refusal:
    return Refusal("BODY_TOO_LARGE", f"A body has at most {limit} bytes.", status=413, limit=limit)


def _too_slow(seconds: float) -> Refusal:
    return Refusal("TOO_SLOW", f"The body did not come within {seconds:g} s.", status=408)


def _unexpected() -> Refusal:
    return Refusal("UNEXPECTED", "Something went wrong here; nothing was charged.", status=500)
