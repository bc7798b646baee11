"""An agent whose chain fails: endpoints die and come back, gas gets too dear. Jobs are refused or late, never lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from market.fees import GWEI
from market.types import Mode
from provider.records import Stage
from tests.integration.provider.market import LocalAgent, Market, until
from tests.rpc_proxy import Fault, FaultProxy, rate_limited


@pytest.fixture
def first(market: Market) -> Iterator[FaultProxy]:
    with FaultProxy(market.anvil.rpc_url) as running:
        yield running


@pytest.fixture
def second(market: Market) -> Iterator[FaultProxy]:
    with FaultProxy(market.anvil.rpc_url) as running:
        yield running


def test_job_goes_on_by_the_second_endpoint_when_the_first_dies(
    market: Market, first: FaultProxy, second: FaultProxy, tmp_path: Path
) -> None:
    urls = f"{first.rpc_url}, {second.rpc_url}"
    agent = LocalAgent(*market.provider(tmp_path, rpc_url=urls, ws_url=first.ws_url))
    try:
        request, ids = market.request("failover")
        job = market.post([market.quote(agent.url, request, Mode.NONE)], request)
        until(lambda: agent.journal.job(job) is not None)
        first.down()
        assert market.deliver(agent.url, job, request, ids).status_code == 200
        until(lambda: market.settled(job), 60)
        assert second.asked["eth_sendRawTransaction"] >= 2
    finally:
        agent.stop()


@pytest.mark.parametrize("how", ["dead", "half-open", "busy"])
def test_job_goes_on_when_the_only_endpoint_comes_back(
    market: Market, first: FaultProxy, tmp_path: Path, how: str
) -> None:
    agent = LocalAgent(*market.provider(tmp_path, rpc_url=first.rpc_url, ws_url=first.ws_url))
    try:
        request, ids = market.request(f"outage {how}")
        job = market.post([market.quote(agent.url, request, Mode.NONE)], request)
        until(lambda: agent.journal.job(job) is not None)
        if how == "dead":
            first.down()
        else:
            first.fault = lambda _: Fault(silent=True) if how == "half-open" else rate_limited(1)
        assert market.deliver(agent.url, job, request, ids).status_code == 200
        time.sleep(2)
        assert market.contracts.jobs.job(job).committed == 0
        first.heal()
        if how == "dead":
            first.up()
        until(lambda: market.settled(job), 60)
        assert len(market.events("Committed", job)) == 1
    finally:
        agent.stop()


def test_job_of_a_gas_spike_is_refused_and_the_next_one_taken(market: Market, tmp_path: Path) -> None:
    """The agent counts gas: a coin is worth enough that at 200 gwei no job of this market pays."""
    agent = LocalAgent(*market.provider(tmp_path, token_per_coin=1_000_000))
    try:
        _spike(market, 200 * GWEI)
        request, ids = market.request("spike")
        body = {"request": request.to_json(), "modelId": None, "client": market.client.address.lower(), "mode": 0}

        def code() -> str:
            return str(httpx.post(f"{agent.url}/v1/quotes", json=body).json().get("error", {}).get("code", ""))

        until(lambda: code() == "UNPROFITABLE")
        _spike(market, GWEI)
        until(lambda: code() == "")
        job = market.post([market.quote(agent.url, request, Mode.NONE)], request)
        assert market.deliver(agent.url, job, request, ids).status_code == 200
        until(lambda: market.settled(job))
    finally:
        _spike(market, GWEI)
        agent.stop()


def test_job_in_hand_waits_for_the_end_of_a_gas_spike(market: Market, agent: LocalAgent) -> None:
    """Above the sender's ceiling nothing is sent; the answer and its salt stay in the journal."""
    request, ids = market.request("in hand")
    job = market.post([market.quote(agent.url, request, Mode.NONE)], request, commit_window=600)
    until(lambda: agent.journal.job(job) is not None)
    _spike(market, 500 * GWEI)
    try:
        assert market.deliver(agent.url, job, request, ids).status_code == 200
        until(lambda: (row := agent.journal.job(job)) is not None and row.output is not None)
        time.sleep(1)
        assert market.contracts.jobs.job(job).committed == 0
    finally:
        _spike(market, GWEI)
    until(lambda: market.settled(job), 60)
    until(lambda: (row := agent.journal.job(job)) is not None and row.stage is Stage.FINAL)
    assert len(market.events("Committed", job)) == 1


def _spike(market: Market, wei: int) -> None:
    """A block of this base fee, and the next one of about the same."""
    market.anvil.set_next_base_fee(wei)
    market.anvil.mine()
