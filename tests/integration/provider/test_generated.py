"""The HTTP API of a running agent against inputs made from its own OpenAPI description, and against broken ones."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from market.types import Mode
from tests.depth import DEPTH
from tests.http_attack import (
    BROKEN_BODIES,
    DEEP,
    HOSTILE_HEADS,
    QUICK,
    attack,
    bare,
    break_parsers,
    hostile_head,
    mutate,
)
from tests.integration.provider.market import LocalAgent, Market

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


def test_no_input_made_from_the_description_makes_the_agent_fail(agent: LocalAgent) -> None:
    assert attack(agent.url, QUICK) == OPERATIONS


@pytest.mark.slow
def test_no_input_made_from_the_description_makes_the_agent_fail_in_the_long_run(agent: LocalAgent) -> None:
    assert attack(agent.url, DEEP * DEPTH) == OPERATIONS


def change_values(market: Market, agent: LocalAgent, examples: int) -> None:
    """Right quotes and deliveries with one value changed: those reach the desk, the journal and the hashes."""
    request, ids = market.request("a request that is changed")
    market.quote(agent.url, request, Mode.NONE)
    ask = {"request": request.to_json(), "modelId": None, "client": market.client.address.lower(), "mode": 0}
    delivery = {"subjectId": "0x" + "12" * 32, "request": request.to_json(), "ids": ids, "messages": None}
    turns = delivery | {"messages": [{"role": "user", "content": "hello"}]}
    path = f"/v1/requests/0x{request.request_hash.hex()}"
    mutate(agent.url, [("POST", "/v1/quotes", ask), ("PUT", path, delivery), ("PUT", path, turns)], examples)


def test_no_changed_value_makes_the_agent_fail(market: Market, agent: LocalAgent) -> None:
    change_values(market, agent, 60)


@pytest.mark.slow
def test_no_changed_value_makes_the_agent_fail_in_the_long_run(market: Market, agent: LocalAgent) -> None:
    change_values(market, agent, 1_500 * DEPTH)


def test_nothing_that_the_description_does_not_ask_for_makes_the_agent_fail(agent: LocalAgent) -> None:
    bare(agent.url, OPERATIONS, 60)


@pytest.mark.parametrize("head", HOSTILE_HEADS)
def test_head_that_no_library_sends_is_answered_or_refused_at_once(agent: LocalAgent, head: str) -> None:
    status = hostile_head(f"{agent.url}/healthz", HOSTILE_HEADS[head])
    assert status is None or status < 500


@pytest.fixture(scope="module")
def measured(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an agent's metrics, a server of its own."""
    running = LocalAgent(*market.provider(tmp_path_factory.mktemp("measured"), metrics_port=0))
    assert running.agent.metrics_url is not None
    yield running.agent.metrics_url
    running.stop()


def test_no_request_makes_the_metrics_fail(measured: str) -> None:
    bare(measured.removesuffix("/metrics"), [("GET", "/metrics"), ("GET", "/{}")], 60, shaped=False)
    assert "assay_provider_ready 1.0" in httpx.get(measured).text


@pytest.mark.parametrize("head", HOSTILE_HEADS)
def test_head_that_no_library_sends_does_not_hold_up_the_metrics(measured: str, head: str) -> None:
    status = hostile_head(measured, HOSTILE_HEADS[head])
    assert status is None or status < 500
    assert httpx.get(measured).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_metrics_can_only_be_read(measured: str, method: str) -> None:
    assert httpx.request(method, measured, content=b"x" * 2_000_000).status_code in (405, 413)


@pytest.mark.parametrize("body", BROKEN_BODIES)
def test_body_that_breaks_parsers_is_refused(agent: LocalAgent, body: str) -> None:
    break_parsers(agent.url, BROKEN_BODIES[body])


def test_agent_is_well_after_all_that(agent: LocalAgent) -> None:
    assert httpx.get(f"{agent.url}/readyz").status_code == 200
