"""The HTTP API of a provider of proofs against inputs made from its own description, and against broken ones."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from market.proofs.api import PrivateInputBody
from market.proofs.artefact import ProofArtefact
from market.types import ZERO_ADDRESS, Mode
from provider.proofs_cli import ProvingAgent, proving
from tests.depth import DEPTH
from tests.http_attack import BROKEN_BODIES, DEEP, QUICK, attack, bare, break_parsers, check, mutate
from tests.integration.proofs.shopping import VALUES, Shopping

OPERATIONS = {
    ("POST", "/v1/quotes"),
    ("PUT", "/v1/requests/{request_hash}"),
    ("GET", "/v1/models"),
    ("GET", "/healthz"),
}


@pytest.fixture(scope="module")
def agent(shopping: Shopping, tiny: ProofArtefact, private: ProofArtefact) -> Iterator[ProvingAgent]:
    with proving(shopping.settings(tiny, private)) as running:
        yield running


def test_no_input_made_from_the_description_makes_the_agent_fail(agent: ProvingAgent) -> None:
    assert attack(agent.url, QUICK) == OPERATIONS


@pytest.mark.slow
def test_no_input_made_from_the_description_makes_the_agent_fail_in_the_long_run(agent: ProvingAgent) -> None:
    assert attack(agent.url, DEEP * DEPTH) == OPERATIONS


def change_values(shopping: Shopping, agent: ProvingAgent, private: ProofArtefact, examples: int) -> None:
    """Right asks and private inputs with one value changed: those reach the desk, the store and the hashes."""
    offered = shopping.client.negotiate(private, VALUES, agent.url)
    request = offered.request
    ask = {"request": request.to_json(), "modelId": None, "client": ZERO_ADDRESS, "mode": int(Mode.PROOF)}
    given = PrivateInputBody(request=request, ids=list(offered.ids), blinding=offered.blinding.to_bytes(32)).to_json()
    path = f"/v1/requests/0x{request.request_hash.hex()}"
    for method, target, body in (("POST", "/v1/quotes", ask), ("PUT", path, given)):
        answer = httpx.request(method, agent.url + target, json=body)
        assert answer.status_code == 200, answer.text
    mutate(agent.url, [("POST", "/v1/quotes", ask), ("PUT", path, given)], examples)


def test_no_changed_value_makes_the_agent_fail(shopping: Shopping, agent: ProvingAgent, private: ProofArtefact) -> None:
    change_values(shopping, agent, private, 60)


@pytest.mark.slow
def test_no_changed_value_makes_the_agent_fail_in_the_long_run(
    shopping: Shopping, agent: ProvingAgent, private: ProofArtefact
) -> None:
    change_values(shopping, agent, private, 1_500 * DEPTH)


def test_nothing_that_the_description_does_not_ask_for_makes_the_agent_fail(agent: ProvingAgent) -> None:
    bare(agent.url, OPERATIONS, 30)


@pytest.mark.parametrize("body", BROKEN_BODIES)
def test_body_that_breaks_parsers_is_refused(agent: ProvingAgent, body: str) -> None:
    break_parsers(agent.url, BROKEN_BODIES[body])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "NOT_FOUND"),
        ("DELETE", "/v1/quotes", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1/requests/0x00", 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_paths_and_methods_that_are_not_there_answer_in_the_one_shape(
    agent: ProvingAgent, method: str, path: str, status: int, code: str
) -> None:
    answer = httpx.request(method, agent.url + path)
    assert answer.status_code == status
    check(answer.status_code, answer.content)
    assert json.loads(answer.content)["error"]["code"] == code


def test_agent_is_well_after_all_that(shopping: Shopping, agent: ProvingAgent, tiny: ProofArtefact) -> None:
    assert httpx.get(f"{agent.url}/healthz").status_code == 200
    assert shopping.client.classify(shopping.client.negotiate(tiny, VALUES, agent.url)).ids
