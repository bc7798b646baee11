"""Attacks on an HTTP API of ours: inputs made from its own OpenAPI description, one value changed, broken bodies."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode

QUICK, DEEP = 12, 150  # inputs for each operation and mode
Sending = tuple[str, str, Any]
"""Method, path and JSON body."""

BROKEN_BODIES = {
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 50_000,
    "long number": b'{"mode": ' + b"9" * 5_000 + b"}",
    "NaN": b'{"mode": NaN}',
    "half a surrogate": b'{"client": "\\ud800"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "not UTF-8": b'{"client": "\xff"}',
}


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # a failure is shown as it was found: shrinking it costs minutes
        suppress_health_check=list(HealthCheck),
    )


def check(status: int, content: bytes) -> None:
    """No input is this machine's fault, and every refusal has the API's one shape."""
    assert status < 500, content[:500]
    if status >= 400:
        error = json.loads(content)["error"]
        assert set(error) == {"code", "message", "details"}
        assert error["code"] != "UNEXPECTED"


def attack(url: str, examples: int) -> set[tuple[str, str]]:
    """Sends generated requests to every operation; returns the operations."""
    schema = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").json())
    met: set[tuple[str, str]] = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        met.add((operation.method.upper(), operation.path))
        # any text is right in a path or header of this description: only bodies can break it, and `bare` does the rest
        modes = list(GenerationMode) if list(operation.body) else [GenerationMode.POSITIVE]
        for mode in modes:

            @bounded(examples if list(operation.iter_parameters()) or list(operation.body) else 1)
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Case) -> None:
                answer = case.call(base_url=url, timeout=30)
                check(answer.status_code, answer.content)

            send()
    return met


def bare(url: str, operations: Iterable[tuple[str, str]], examples: int, *, shaped: bool = True) -> None:
    """Sends what no description asks for to operations that take no body: any path, query, headers and method, a body.

    Args:
        operations: method and path, with `{…}` where any text may stand.
        shaped: whether refusals have the API's one shape.
    """
    targets = sorted(path for method, path in operations if method == "GET")
    with httpx.Client(base_url=url, timeout=30) as http:

        @bounded(examples)
        @given(data=st.data(), path=st.sampled_from(targets), odd=st.lists(TEXT, min_size=4, max_size=4))
        def send(data: st.DataObject, path: str, odd: list[str]) -> None:
            place, tail, key, value = odd
            target = re.sub(r"\{[^}]*\}", lambda _: quote(place, safe=""), path) + quote(tail, safe="/")
            headers = data.draw(st.dictionaries(st.sampled_from(HEADERS), st.text(PRINTABLE, max_size=40), max_size=3))
            method = data.draw(st.sampled_from(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")))
            body = data.draw(st.binary(max_size=200))
            answer = http.request(method, target, params={key: value}, headers=headers, content=body)
            assert answer.status_code < 500, answer.text[:500]
            if shaped and method != "HEAD":
                check(answer.status_code, answer.content)

        send()


HEADERS = (
    *("X-Assay-Client", "X-Assay-Valid-Until", "X-Assay-Signature", "Accept", "Accept-Encoding", "Cookie", "Range"),
    *("Content-Type", "Expect", "Forwarded", "X-Forwarded-For", "If-None-Match", "Authorization", "Origin"),
)
PRINTABLE = st.characters(min_codepoint=33, max_codepoint=126)
TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(("", "..", "../..", "%", "%00", "\0", "//", "a" * 5_000, "0x" + "ff" * 32, "\ud7ff", "\n", "{}")),
)
_CLOSE = b"Host: a\r\nConnection: close\r\n"
HOSTILE_HEADS = {
    "method nobody knows": b"BREW %s HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    "no host": b"GET %s HTTP/1.1\r\nConnection: close\r\n\r\n",
    "length below nothing": b"GET %s HTTP/1.1\r\n" + _CLOSE + b"Content-Length: -1\r\n\r\n",
    "two lengths": b"POST %s HTTP/1.1\r\n" + _CLOSE + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST %s HTTP/1.1\r\n"
    + _CLOSE
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks that are none": b"POST %s HTTP/1.1\r\n" + _CLOSE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "long path": b"GET %s/" + b"a" * 100_000 + b" HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    "long header": b"GET %s HTTP/1.1\r\n" + _CLOSE + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "many headers": b"GET %s HTTP/1.1\r\n" + _CLOSE + b"X: a\r\n" * 20_000 + b"\r\n",
    "header without a colon": b"GET %s HTTP/1.1\r\n" + _CLOSE + b"nothing\r\n\r\n",
    "zero byte in a header": b"GET %s HTTP/1.1\r\n" + _CLOSE + b"X: \0\r\n\r\n",
    "path that is no ASCII": b"GET %s/\xff\xfe HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    "path out of the root": b"GET /../../..%s HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    "address of another machine": b"GET http://example.org%s HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    "version that is not there": b"GET %s HTTP/9.9\r\n" + _CLOSE + b"\r\n",
    "upgrade": b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(154) + b"\r\n\r\n",
}
"""Whole heads of requests that no HTTP library sends; `%s` is the path."""
HEAD_SECONDS = 8
"""Less than the agent gives a head that does not end: what these wait for is an answer."""


def hostile_head(url: str, head: bytes) -> int | None:
    """Sends bytes for a request to a URL. Returns the status; None where the connection was closed without one.

    Raises:
        TimeoutError: neither came.
    """
    place = httpx.URL(url)
    with socket.create_connection((place.host, place.port or 80), timeout=HEAD_SECONDS) as connection:
        answer = b""
        try:
            connection.sendall(head.replace(b"%s", place.raw_path))
            while b"\r\n\r\n" not in answer and (more := connection.recv(65_536)):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass  # it was refused before it was sent to its end
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    assert found is not None or not answer, answer[:200]
    return None if found is None else int(found[1])


def spots(document: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON document, as (container, key)."""
    found: list[tuple[Any, Any]] = []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items):
        found.append((document, key))
        if isinstance(value, dict | list):
            found += spots(value)
    return found


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**300), max_value=2**300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "0x", "0x" + "g" * 64, "0x" + "ff" * 31, "0x" + "FF" * 32, "-1", "1e9", "9" * 80, "٣", "\0"]),
    st.text(max_size=20),
    st.lists(st.integers(-1, 2**33), max_size=3),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)


def mutate(url: str, sendings: Sequence[Sending], examples: int) -> None:
    """Sends right bodies with one value changed: those get further than a parser."""
    with httpx.Client(base_url=url, timeout=30) as http:

        @bounded(examples)
        @given(data=st.data(), odd=ODD)
        def send(data: st.DataObject, odd: Any) -> None:
            method, target, body = data.draw(st.sampled_from(sendings))
            changed = json.loads(json.dumps(body))
            container, key = data.draw(st.sampled_from(range(len(spots(changed)))).map(lambda i: spots(changed)[i]))
            container[key] = odd
            answer = http.request(method, target, json=changed)
            check(answer.status_code, answer.content)

        send()


def break_parsers(url: str, content: bytes) -> None:
    """A body that no parser takes is refused, in the one shape, without being repeated."""
    for method, path in (("POST", "/v1/quotes"), ("PUT", "/v1/requests/0x" + "00" * 32)):
        headers = {"content-type": "application/json"}
        answer = httpx.request(method, url + path, content=content, headers=headers)
        assert answer.status_code == 400
        check(answer.status_code, answer.content)
        assert len(answer.content) < 400
