"""The HTTP API of a running agent against inputs made from its own OpenAPI description, and against broken ones."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode

from market.types import Mode
from tests.depth import DEPTH
from tests.integration.provider.market import LocalAgent, Market

QUICK, DEEP = 12, 150 * DEPTH  # inputs for each operation and mode
OPERATIONS = {
    ("POST", "/v1/quotes"),
    ("PUT", "/v1/requests/{request_hash}"),
    ("GET", "/v1/outputs/{subject_id}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id}/tokenizer.json"),
    ("GET", "/v1/models/{model_id}/template.jinja"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
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


def test_no_input_made_from_the_description_makes_the_agent_fail(agent: LocalAgent) -> None:
    assert attack(agent.url, QUICK) == OPERATIONS


@pytest.mark.slow
def test_no_input_made_from_the_description_makes_the_agent_fail_in_the_long_run(agent: LocalAgent) -> None:
    assert attack(agent.url, DEEP) == OPERATIONS


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


def mutate(market: Market, agent: LocalAgent, examples: int) -> None:
    """Right quotes and deliveries with one value changed: those reach the desk, the journal and the hashes."""
    request, ids = market.request("a request that is changed")
    market.quote(agent.url, request, Mode.NONE)
    ask = {"request": request.to_json(), "modelId": None, "client": market.client.address.lower(), "mode": 0}
    delivery = {"subjectId": "0x" + "12" * 32, "request": request.to_json(), "ids": ids, "messages": None}
    turns = delivery | {"messages": [{"role": "user", "content": "hello"}]}
    path = f"/v1/requests/0x{request.request_hash.hex()}"

    with httpx.Client(base_url=agent.url, timeout=30) as http:

        @bounded(examples)
        @given(data=st.data(), odd=ODD)
        def send(data: st.DataObject, odd: Any) -> None:
            method, target, body = data.draw(
                st.sampled_from([("POST", "/v1/quotes", ask), ("PUT", path, delivery), ("PUT", path, turns)])
            )
            changed = json.loads(json.dumps(body))
            container, key = data.draw(st.sampled_from(range(len(spots(changed)))).map(lambda i: spots(changed)[i]))
            container[key] = odd
            answer = http.request(method, target, json=changed)
            check(answer.status_code, answer.content)

        send()


def test_no_changed_value_makes_the_agent_fail(market: Market, agent: LocalAgent) -> None:
    mutate(market, agent, 60)


@pytest.mark.slow
def test_no_changed_value_makes_the_agent_fail_in_the_long_run(market: Market, agent: LocalAgent) -> None:
    mutate(market, agent, 1_500 * DEPTH)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"mode": ' + b"9" * 5_000 + b"}",
        b'{"mode": NaN}',
        b'{"client": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
    ],
    ids=["deep list", "deep object", "long number", "NaN", "half a surrogate", "byte order mark", "UTF-16"],
)
def test_body_that_breaks_parsers_is_refused(agent: LocalAgent, content: bytes) -> None:
    for path in ("/v1/quotes", "/v1/requests/0x" + "00" * 32):
        method = "POST" if path == "/v1/quotes" else "PUT"
        headers = {"content-type": "application/json"}
        answer = httpx.request(method, agent.url + path, content=content, headers=headers)
        assert answer.status_code == 400
        check(answer.status_code, answer.content)
        assert len(answer.content) < 400


def test_agent_is_well_after_all_that(agent: LocalAgent) -> None:
    assert httpx.get(f"{agent.url}/readyz").status_code == 200
