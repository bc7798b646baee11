"""Whole jobs: contracts on anvil, the tiny model, HTTP, agents that are not told anything but events."""

from __future__ import annotations

from market.signing import verify
from market.types import Output, Receipt
from tests.integration.provider.market import LocalAgent, Market, until


def test_job_of_one_replica_is_answered_paid_and_served(market: Market, agent: LocalAgent) -> None:
    job, request = market.start_job(agent.url)
    until(lambda: market.settled(job))
    answer = until(lambda: (r := market.output(agent.url, job)).status_code == 200 and r)
    body = answer.json()
    output = Output.from_json(body["output"])
    assert output.output_hash == market.job(job).output_hash
    assert len(body["ids"]) == output.output_tokens
    receipt = Receipt.from_json(body["receipt"])
    verify(market.contracts.jobs.domain, receipt, bytes.fromhex(body["signature"][2:]), agent.agent.address)
    (replica,) = market.contracts.jobs.replicas(job)
    assert receipt.charged == replica.paid > 0
    assert (receipt.request_hash, receipt.output_root) == (request.request_hash, output.output_root)
    assert body["inferenceMs"] >= 0
