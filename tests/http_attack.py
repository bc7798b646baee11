"""Attacks on an HTTP API of ours: inputs made from its own OpenAPI description, one value changed, broken bodies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

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
        # any text is right in a path or header of this description: only bodies can break it
        modes = list(GenerationMode) if list(operation.body) else [GenerationMode.POSITIVE]
        for mode in modes:

            @bounded(examples if list(operation.iter_parameters()) or list(operation.body) else 1)
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Case) -> None:
                answer = case.call(base_url=url, timeout=30)
                check(answer.status_code, answer.content)

            send()
    return met


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
