"""What stands before every handler: rate per address, concurrency, body size, time to send the body.

Plain ASGI, no framework.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market.errors import AssayError, WireError
from provider.errors import Refusal

log = structlog.get_logger(__name__)

ALWAYS_ANSWERED = ("/healthz", "/readyz")
ADDRESSES = 10_000
"""Remote addresses remembered at once; beyond, the one that was silent for longest is forgotten."""


class Buckets:
    """A token bucket per remote address: `burst` requests at once, `per_second` in the long run.

    `total_burst` and `total_per_second` bound all addresses together; None: nothing does.

    IPv6 addresses count by their /64, which one subscriber has all of. Loopback is exempt: these are this machine's own
    programs, or a proxy, behind which addresses say nothing and which has to limit for itself.
    """

    def __init__(
        self,
        per_second: int,
        burst: int,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        total_per_second: int | None = None,
        total_burst: int = 1,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._total_per_second = total_per_second
        self._total_burst = total_burst
        self._total = (float(total_burst), monotonic())
        self._monotonic = monotonic
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def take(self, address: str) -> float:
        """Takes a token. Returns 0, or the seconds until there is one.

        An address that has none of its own left takes none of those that all share.
        """
        key, now = network_of(address), self._monotonic()
        if key:
            self._left[key], wait = _drawn(
                self._left.pop(key, (float(self._burst), now)), now, self._per_second, self._burst
            )
            if len(self._left) > ADDRESSES:
                self._left.popitem(last=False)
            if wait:
                return wait
        if self._total_per_second is None:
            return 0.0
        self._total, wait = _drawn(self._total, now, self._total_per_second, self._total_burst)
        return wait


def _drawn(bucket: tuple[float, float], now: float, per_second: int, burst: int) -> tuple[tuple[float, float], float]:
    """A bucket (tokens, when they were counted) after one was asked of it, and the seconds until there is one."""
    tokens, counted = bucket
    tokens = min(tokens + (now - counted) * per_second, float(burst))
    wait = max(0.0, (1 - tokens) / per_second)
    return (tokens if wait else tokens - 1, now), wait


def network_of(address: str) -> str:
    """Whom requests from an address count for; "" for nobody."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""  # no internet address: a Unix socket
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        if mapped is None:
            return "" if parsed.is_loopback else str(ipaddress.ip_network((parsed, 64), strict=False))
        parsed = mapped
    return "" if parsed.is_loopback else str(parsed)


class Gate:
    """Reads the whole body before the app sees the request, and turns away what is too much.

    Args:
        body_limit: bytes; body_seconds: within which the whole body has to arrive.
        concurrency: requests answered at the same time; /healthz and /readyz are not counted.
        bucket: how many may be sent; None: any number.
        refused, answered: told the code of each refusal, and the status of each answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_limit: int,
        concurrency: int,
        body_seconds: float = 10.0,
        bucket: Buckets | None = None,
        refused: Callable[[str], None] = lambda _: None,
        answered: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._body_limit = body_limit
        self._concurrency = concurrency
        self._body_seconds = body_seconds
        self._bucket = bucket
        self._refused = refused
        self._answered = answered
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no WebSockets, no lifespan
        counted = scope["path"] not in ALWAYS_ANSWERED
        peer = scope.get("client")
        wait = self._bucket.take(peer[0]) if counted and peer and self._bucket is not None else 0.0
        if wait:
            await self._refuse(send, _too_often(wait))
            return
        if counted and self._running >= self._concurrency:
            await self._refuse(send, _too_many(self._concurrency))
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
            if message["type"] == "http.response.start":
                started = True
                self._answered(message["status"])
            await send(message)

        try:
            body = await asyncio.wait_for(self._body(scope, receive), self._body_seconds)
            await self._app(scope, _replay(body, receive), watched)
        except AssayError as error:
            await self._refuse(send, error)
        except TimeoutError:
            await self._refuse(send, _too_slow(self._body_seconds))
        except Exception as error:  # noqa: BLE001 - the last border; its text may hold a prompt and is not logged
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error("request_crashed", error=type(error).__name__, file=where.filename, line=where.lineno)
            if not started:
                await self._refuse(send, _unexpected())

    async def _refuse(self, send: Send, error: AssayError) -> None:
        self._refused(error.code)
        self._answered(status_of(error))
        await refuse(send, error)

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


def _too_often(wait: float) -> Refusal:
    return Refusal(
        "RATE_LIMITED",
        "Too many requests come from this address, or from all together.",
        hint="Ask again in a moment.",
        status=429,
        retry_after=max(1, round(wait)),
    )


def _too_large(limit: int) -> Refusal:
    return Refusal("BODY_TOO_LARGE", f"A body has at most {limit} bytes.", status=413, limit=limit)


def _too_slow(seconds: float) -> Refusal:
    return Refusal("TOO_SLOW", f"The body did not come within {seconds:g} s.", status=408)


def _unexpected() -> Refusal:
    return Refusal("UNEXPECTED", "Something went wrong here; nothing was charged.", status=500)
