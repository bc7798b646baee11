"""The HTTP API of a running agent against inputs made from its own OpenAPI description, and against broken ones."""

from __future__ import annotations

import httpx
import pytest

from market.types import Mode
from tests.depth import DEPTH
from tests.http_attack import BROKEN_BODIES, DEEP, QUICK, attack, break_parsers, mutate
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


@pytest.mark.parametrize("body", BROKEN_BODIES)
def test_body_that_breaks_parsers_is_refused(agent: LocalAgent, body: str) -> None:
    break_parsers(agent.url, BROKEN_BODIES[body])


def test_agent_is_well_after_all_that(agent: LocalAgent) -> None:
    assert httpx.get(f"{agent.url}/readyz").status_code == 200
