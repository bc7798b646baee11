"""The HTTP API of a running agent: what it gives, what it refuses and how it says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from market.hashing import ZERO32, keccak256, tokens_root
from market.models.text import load_text
from market.signing import verify
from market.types import Acceptance, Mode, Quote, Request
from provider.config import Terms
from tests.integration.provider.market import STAKE, LocalAgent, Market, until

HEX = "0x" + "ab" * 32


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and error code; checks the shape on the way."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["error"]["message"]
    return answer.status_code, body["error"]["code"]


def ask(market: Market, url: str, **fields: Any) -> httpx.Response:
    request, _ = market.request()
    body = {"request": request.to_json(), "modelId": None, "client": market.client.address.lower(), "mode": 1}
    return httpx.post(f"{url}/v1/quotes", json=body | fields)


def test_quote_is_signed_for_the_jobs_contract_and_recorded(market: Market, agent: LocalAgent) -> None:
    request, _ = market.request()
    signed = market.quote(agent.url, request, Mode.QUORUM)
    domain = market.contracts.jobs.domain
    verify(domain, signed.quote, signed.signature, agent.agent.address)
    assert signed.quote.request_hash == request.request_hash
    row = agent.journal.quote(domain.digest(signed.quote))
    assert row is not None
    assert row.quote.to_json() == signed.quote.to_json()


def test_quotes_never_share_a_nonce(market: Market, agent: LocalAgent) -> None:
    request, _ = market.request()
    assert len({market.quote(agent.url, request, Mode.QUORUM).quote.nonce for _ in range(4)}) == 4


def test_quote_for_a_model_names_no_request(market: Market, agent: LocalAgent) -> None:
    answer = ask(market, agent.url, request=None, modelId="0x" + market.pack.model_id.hex())
    quote = Quote.from_json(answer.json()["quote"])
    assert (answer.status_code, quote.request_hash) == (200, ZERO32)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"request": None, "modelId": HEX}, (409, "UnknownModel")),
        ({"mode": 3}, (409, "MODE_NOT_OFFERED")),
        ({"mode": 9}, (400, "MALFORMED")),
        ({"mode": "1"}, (400, "MALFORMED")),
        ({"modelId": HEX}, (400, "MALFORMED")),
        ({"client": "0x12"}, (400, "MALFORMED")),
        ({"extra": 1}, (400, "MALFORMED")),
    ],
)
def test_quote_that_cannot_be_given_is_refused(
    market: Market, agent: LocalAgent, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert code(ask(market, agent.url, **fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_output_tokens": 100_000}, "OUTPUT_TOO_LONG"),
        ({"input_tokens": 100_000}, "INPUT_TOO_LONG"),
        ({"sampler": 3}, "SAMPLER_NOT_OFFERED"),
        ({"sampler": 2}, "BAD_SAMPLING"),
        ({"sampler": 1}, "BAD_SAMPLING"),
        ({"temperature_q16": 1}, "BadSampler"),
        ({"model_id": keccak256(b"other")}, "UnknownModel"),
    ],
)
def test_request_that_cannot_run_is_refused_with_numbers(
    market: Market, agent: LocalAgent, fields: dict[str, Any], expected: str
) -> None:
    request = replace(market.request()[0], **fields)
    answer = ask(market, agent.url, request=request.to_json())
    assert code(answer) == (409, expected)
    assert answer.json()["error"]["details"]


def test_body_of_more_than_a_mebibyte_is_refused(agent: LocalAgent) -> None:
    answer = httpx.post(f"{agent.url}/v1/quotes", content=b" " * (2**20 + 1))
    assert code(answer) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"9" * 5_000])
def test_body_that_is_no_json_is_refused_without_repeating_it(agent: LocalAgent, content: bytes) -> None:
    answer = httpx.post(f"{agent.url}/v1/quotes", content=content, headers={"content-type": "application/json"})
    assert code(answer) == (400, "MALFORMED")
    assert len(answer.content) < 400


def test_unknown_paths_and_methods_answer_in_the_same_shape(agent: LocalAgent) -> None:
    assert code(httpx.get(f"{agent.url}/nothing")) == (404, "NOT_FOUND")
    assert code(httpx.get(f"{agent.url}/v1/quotes")) == (405, "METHOD_NOT_ALLOWED")


def test_delivery_is_accepted_with_a_signature_and_repeats_equal(market: Market, agent: LocalAgent) -> None:
    request, ids = market.request()
    market.quote(agent.url, request, Mode.QUORUM)
    first, second = (market.deliver(agent.url, keccak256(b"subject"), request, ids) for _ in range(2))
    assert (first.status_code, first.content) == (200, second.content)
    body = first.json()
    acceptance = Acceptance.from_json(body["acceptance"])
    assert (acceptance.subject_id, acceptance.request_hash) == (keccak256(b"subject"), request.request_hash)
    verify(market.contracts.jobs.domain, acceptance, bytes.fromhex(body["signature"][2:]), agent.agent.address)


def test_delivery_of_a_request_nobody_quoted_is_refused(market: Market, agents: list[LocalAgent]) -> None:
    request, ids = market.request()  # no test asks the second agent for a quote of the whole model
    assert code(market.deliver(agents[1].url, keccak256(b"s"), request, ids)) == (404, "NOT_QUOTED")


def test_delivery_under_a_quote_for_the_model_is_accepted(market: Market, agents: list[LocalAgent]) -> None:
    url = agents[2].url
    assert ask(market, url, request=None, modelId="0x" + market.pack.model_id.hex()).status_code == 200
    request, ids = market.request("any request of that model")
    assert market.deliver(url, keccak256(b"s"), request, ids).status_code == 200


def test_delivery_that_hashes_to_something_else_is_refused(market: Market, agent: LocalAgent) -> None:
    request, ids = market.request()
    market.quote(agent.url, request, Mode.QUORUM)
    changed = [*ids[:-1], ids[-1] + 1]
    assert code(market.deliver(agent.url, keccak256(b"s"), request, changed)) == (409, "HashMismatch")
    assert code(market.deliver(agent.url, keccak256(b"s"), request, ids[:-1])) == (409, "HashMismatch")
    body = {"subjectId": HEX, "request": request.to_json(), "ids": ids, "messages": None}
    assert code(httpx.put(f"{agent.url}/v1/requests/{HEX}", json=body)) == (409, "HashMismatch")


def test_delivery_of_another_request_than_the_jobs_is_refused(market: Market, agent: LocalAgent) -> None:
    request, _ = market.request()
    job = market.post([market.quote(agent.url, request, Mode.NONE)], request)
    other, ids = market.request("another")
    market.quote(agent.url, other, Mode.NONE)
    until(lambda: agent.journal.job(job))
    assert code(market.deliver(agent.url, job, other, ids)) == (409, "HashMismatch")


def test_delivery_with_messages_is_checked_against_the_template(market: Market, agent: LocalAgent) -> None:
    messages = [{"role": "user", "content": "hello"}]
    ids = load_text(market.pack).encode_chat(messages)
    request: Request = replace(market.request()[0], input_root=tokens_root(ids), input_tokens=len(ids))
    market.quote(agent.url, request, Mode.QUORUM)
    other = [{"role": "user", "content": "hallo"}]
    assert code(market.deliver(agent.url, keccak256(b"s"), request, ids, other)) == (409, "TEMPLATE_MISMATCH")
    assert market.deliver(agent.url, keccak256(b"s"), request, ids, messages).status_code == 200


def test_delivery_of_ids_outside_the_vocabulary_is_refused(market: Market, agent: LocalAgent) -> None:
    ids = [market.pack.limits.vocabulary]
    request = replace(market.request()[0], input_root=tokens_root(ids), input_tokens=1)
    market.quote(agent.url, request, Mode.QUORUM)
    assert code(market.deliver(agent.url, keccak256(b"s"), request, ids)) == (409, "UNKNOWN_TOKEN")


def test_output_of_an_unknown_job_is_refused(market: Market, agent: LocalAgent) -> None:
    assert code(market.output(agent.url, keccak256(b"nothing"))) == (404, "UnknownJob")
    assert code(httpx.get(f"{agent.url}/v1/outputs/0x12")) == (400, "WireError")


def test_models_name_roots_limits_and_prices(market: Market, agent: LocalAgent) -> None:
    (model,) = httpx.get(f"{agent.url}/v1/models").json()["models"]
    assert model["modelId"] == "0x" + market.pack.model_id.hex()
    assert model["roots"] == market.pack.roots.to_json()
    assert (model["context"], model["vocabulary"]) == (market.pack.limits.context, market.pack.limits.vocabulary)
    assert (model["offer"]["baseFee"], model["modes"]) == ("1000", [0, 1])


def test_tokenizer_and_template_hash_to_the_models_roots(market: Market, agent: LocalAgent) -> None:
    base = f"{agent.url}/v1/models/0x{market.pack.model_id.hex()}"
    assert keccak256(httpx.get(f"{base}/tokenizer.json").content) == market.pack.roots.tokenizer_hash
    assert keccak256(httpx.get(f"{base}/template.jinja").content) == market.pack.roots.template_hash
    assert code(httpx.get(f"{agent.url}/v1/models/{HEX}/tokenizer.json")) == (404, "UnknownModel")


def test_healthy_and_ready_agent_says_so(agent: LocalAgent) -> None:
    assert httpx.get(f"{agent.url}/healthz").json() == {"status": "ok", "reasons": []}
    assert (httpx.get(f"{agent.url}/readyz").status_code) == 200


def test_openapi_describes_every_path(agent: LocalAgent) -> None:
    paths = httpx.get(f"{agent.url}/openapi.json").json()["paths"]
    assert {"/v1/quotes", "/v1/requests/{request_hash}", "/v1/outputs/{subject_id}", "/v1/models"} <= set(paths)


@pytest.fixture(scope="module")
def poor(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAgent]:
    """An agent whose stake carries two bonds, and which stores one prompt, for one job."""
    folder: Path = tmp_path_factory.mktemp("poor")
    config, account = market.provider(folder, stake=20_000, terms=Terms(bond=10_000))
    text = config.read_text(encoding="utf-8")
    for line in ("stored_requests = 1024", "acceptances_per_request = 8"):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line.split(" = ")[0] + " = 1")
    config.write_text(text, encoding="utf-8")
    agent = LocalAgent(config, account)
    yield agent
    agent.stop()


def test_quotes_reserve_no_stake_and_jobs_do(market: Market, poor: LocalAgent) -> None:
    """Whoever asked for free quotes shut a provider: now only jobs that are paid for use its stake up."""
    assert "staked 20000" in poor.reports
    for _ in range(300):  # more than were ever allowed at once, and many times the stake
        assert ask(market, poor.url).status_code == 200
    wanted = [market.request(f"{number}")[0] for number in range(3)]
    quotes = [market.quote(poor.url, request, Mode.NONE) for request in wanted]
    jobs = [market.post([quote], request) for quote, request in zip(quotes[:2], wanted[:2], strict=True)]
    until(lambda: all(poor.journal.job(job) for job in jobs))
    answer = ask(market, poor.url)
    assert code(answer) == (409, "InsufficientStake")
    assert answer.json()["error"]["details"] == {"bond": "10000", "free": "0", "stake": "20000"}
    for job in jobs:
        market.transactions.send(market.contracts.jobs.cancel(job))
    until(lambda: ask(market, poor.url).status_code == 200)


def test_prompts_for_jobs_on_chain_find_room_that_strangers_cannot_fill(market: Market, poor: LocalAgent) -> None:
    first, ids = market.request("one")
    second, other_ids = market.request("two")
    market.quote(poor.url, first, Mode.QUORUM)
    quote = market.quote(poor.url, second, Mode.NONE)

    assert market.deliver(poor.url, keccak256(b"1"), first, ids).status_code == 200
    again = market.deliver(poor.url, keccak256(b"2"), first, ids)
    full = market.deliver(poor.url, keccak256(b"1"), second, other_ids)
    assert [code(answer) for answer in (again, full)] == [(429, "OVERLOADED")] * 2
    assert int(full.headers["retry-after"]) > 0
    job = market.post([quote], second)
    until(lambda: poor.journal.job(job))
    assert market.deliver(poor.url, job, second, other_ids).status_code == 200
    until(lambda: market.settled(job))


def test_agent_without_enough_stake_is_healthy_but_not_ready(market: Market, tmp_path: Path) -> None:
    agent = LocalAgent(*market.provider(tmp_path, stake=0))
    try:
        assert httpx.get(f"{agent.url}/healthz").status_code == 200
        answer = httpx.get(f"{agent.url}/readyz")
        assert answer.status_code == 503
        assert answer.json()["reasons"][0].startswith("InsufficientStake")
    finally:
        agent.stop()


def test_stake_of_the_honest_agents_reached_its_target(market: Market, agents: list[LocalAgent]) -> None:
    for agent in agents:
        locked = sum(row.bond for row in agent.journal.open_jobs())
        assert market.contracts.vault.staked(agent.agent.address) + locked >= STAKE - 100_000
        assert market.contracts.registry.provider(agent.agent.address).endpoint == agent.url
