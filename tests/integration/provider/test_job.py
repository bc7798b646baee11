"""Whole jobs: contracts on anvil, the tiny model, HTTP, agents that are not told anything but events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from market.hashing import keccak256
from market.signing import sign, verify
from market.transactions import Transactions
from market.types import Mode, Output, Receipt, Request
from market.views import BondState, JobState, ReplicaState, SignedQuote
from provider.records import Stage
from tests.integration.provider.market import DISPUTE_WINDOW, STAKE, LocalAgent, Market, until


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


def test_three_replicas_agree_and_each_is_paid(market: Market, agents: list[LocalAgent]) -> None:
    request, ids = market.request("agreement")
    quotes = [market.quote(agent.url, request, Mode.QUORUM) for agent in agents]
    job = market.post(quotes, request, quorum=2)
    for agent in agents:
        assert market.deliver(agent.url, job, request, ids).status_code == 200
    until(lambda: market.settled(job))
    replicas = market.contracts.jobs.replicas(job)
    assert len({replica.digest for replica in replicas}) == 1
    assert all(replica.paid > 0 for replica in replicas)
    answers = [market.output(agent.url, job).json()["ids"] for agent in agents]
    assert answers[0] == answers[1] == answers[2]


def test_request_delivered_before_the_job_is_posted_is_enough(market: Market, agent: LocalAgent) -> None:
    request, ids = market.request("early")
    quote = market.quote(agent.url, request, Mode.NONE)
    nonce = market.contracts.jobs.client_nonce(market.client.address)
    expected = market.contracts.jobs.job_id_of(market.client.address, nonce)
    assert market.deliver(agent.url, expected, request, ids).status_code == 200
    assert market.post([quote], request) == expected
    until(lambda: market.settled(expected))


def test_inline_job_needs_no_delivery_and_anybody_reads_its_answer(market: Market, agent: LocalAgent) -> None:
    request, ids = market.request("in the open")
    job = market.post([market.quote(agent.url, request, Mode.NONE)], request, inline=ids)
    until(lambda: market.settled(job))
    url = f"{agent.url}/v1/outputs/0x{job.hex()}"
    answer = until(lambda: (r := httpx.get(url)).status_code == 200 and r)
    assert Output.from_json(answer.json()["output"]).output_hash == market.job(job).output_hash


def test_answer_is_kept_from_everybody_until_it_is_settled_and_then_from_strangers(
    market: Market, agents: list[LocalAgent]
) -> None:
    request, ids = market.request("a secret")
    quotes = [market.quote(agent.url, request, Mode.QUORUM) for agent in agents[:2]]
    job = market.post(quotes, request, quorum=2)
    first, second = agents[:2]
    assert market.deliver(first.url, job, request, ids).status_code == 200
    until(lambda: market.job(job).committed == 1)
    early = market.output(first.url, job)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "NOT_SETTLED")
    assert market.deliver(second.url, job, request, ids).status_code == 200
    until(lambda: market.settled(job))

    stranger = market.output(first.url, job, signer=market.anvil.accounts[9])
    unsigned = httpx.get(f"{first.url}/v1/outputs/0x{job.hex()}")
    assert [(a.status_code, a.json()["error"]["code"]) for a in (stranger, unsigned)] == [(401, "BadSignature")] * 2
    for ahead in (-1, 3_600):
        expired = market.output(first.url, job, ahead=ahead)
        assert (expired.status_code, expired.json()["error"]["code"]) == (401, "ACCESS_EXPIRED")
    assert market.output(first.url, job).status_code == 200


def test_job_of_a_stranger_for_somebodys_private_request_is_never_answered(market: Market, agent: LocalAgent) -> None:
    job, request = market.start_job(agent.url)
    until(lambda: market.settled(job))
    thief = Transactions(market.chain, market.anvil.accounts[8], ":memory:")
    try:
        market.guardian.send(market.contracts.token.mint(thief.address, STAKE))
        thief.send(market.contracts.token.approve(market.deployment.vault, STAKE))
        quote = market.quote(agent.url, request, Mode.NONE, client=thief.address)
        copy = market.post([quote], request, commit_window=30, sender=thief)
    finally:
        thief.close()
    until(lambda: agent.journal.job(copy))
    market.anvil.increase_time(40)
    row = until(lambda: (row := agent.journal.job(copy)) is not None and row.stage is Stage.REFUSED and row)
    assert (row.reason, row.output) == ("REQUEST_MISSING", None)
    assert market.contracts.jobs.replicas(copy)[0].state is ReplicaState.ASSIGNED
    assert market.output(agent.url, copy, signer=market.anvil.accounts[8]).status_code == 409
    assert market.output(agent.url, job).status_code == 200


def test_agent_that_wants_a_confirmation_reveals_a_block_after_the_last_commitment(
    market: Market, tmp_path: Path
) -> None:
    agent = LocalAgent(*market.provider(tmp_path, confirmations=1))
    try:
        job, _ = market.start_job(agent.url)
        market.anvil.mine()  # the job is believed now
        until(lambda: market.job(job).state is JobState.REVEALING)
        until(lambda: (row := agent.journal.job(job)) is not None and row.stage is Stage.COMMITTED)
        time.sleep(1.5)
        assert market.job(job).revealed == 0
        market.anvil.mine()
        until(lambda: market.job(job).revealed == 1)
        until(lambda: market.settled(job))
    finally:
        agent.stop()


def test_bond_is_released_once_its_dispute_window_is_over(market: Market, agent: LocalAgent) -> None:
    job, _ = market.start_job(agent.url)
    until(lambda: market.settled(job))
    assert market.contracts.jobs.replicas(job)[0].bond_state is BondState.LOCKED
    until(lambda: agent.journal.job(job).stage is Stage.FINAL)  # type: ignore[union-attr]
    market.anvil.increase_time(DISPUTE_WINDOW + 5)
    until(lambda: market.contracts.jobs.replicas(job)[0].bond_state is BondState.RELEASED)
    until(lambda: agent.journal.job(job).stage is Stage.CLOSED)  # type: ignore[union-attr]


def test_job_whose_prompt_never_comes_is_refused_at_its_deadline(market: Market, agent: LocalAgent) -> None:
    request, _ = market.request("never sent")
    job = market.post([market.quote(agent.url, request, Mode.NONE)], request, commit_window=30)
    until(lambda: agent.journal.job(job))
    market.anvil.increase_time(40)
    until(lambda: agent.journal.job(job).stage is Stage.REFUSED)  # type: ignore[union-attr]
    assert agent.journal.job(job).reason == "REQUEST_MISSING"  # type: ignore[union-attr]
    assert market.contracts.jobs.replicas(job)[0].state is ReplicaState.ASSIGNED


class Partner:
    """A second replica played by the test: signs a quote like the agent's and acts when told to."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.account = market.anvil.accounts[9]
        self.transactions = Transactions(market.chain, self.account, ":memory:")
        contracts = market.contracts
        market.guardian.send(contracts.token.mint(self.account.address, STAKE))
        for call in (
            contracts.token.approve(market.deployment.vault, STAKE),
            contracts.vault.deposit(market.deployment.token, self.account.address, STAKE),
            contracts.vault.stake(STAKE),
        ):
            self.transactions.send(call)

    def quote(self, like: SignedQuote, nonce: int) -> SignedQuote:
        quote = replace(like.quote, provider=self.account.address, nonce=nonce)
        return SignedQuote(quote, sign(self.market.contracts.jobs.domain, quote, self.account))

    def commit(self, job: bytes) -> None:
        self.transactions.send(self.market.contracts.jobs.commit(job, keccak256(b"something else")))


@pytest.fixture(scope="module")
def partner(market: Market) -> Iterator[Partner]:
    partner = Partner(market)
    yield partner
    partner.transactions.close()


def pair(market: Market, agent: LocalAgent, partner: Partner, **windows: int) -> tuple[bytes, Request]:
    """A job of the agent and the partner, both of whom must agree."""
    request, ids = market.request("a pair")
    quote = market.quote(agent.url, request, Mode.QUORUM)
    job = market.post([quote, partner.quote(quote, quote.quote.nonce)], request, quorum=2, **windows)
    assert market.deliver(agent.url, job, request, ids).status_code == 200
    until(lambda: market.job(job).committed == 1)
    return job, request


def test_job_short_of_commits_is_settled_by_the_agent_that_is_owed(
    market: Market, agent: LocalAgent, partner: Partner
) -> None:
    job, _ = pair(market, agent, partner, commit_window=30)
    market.anvil.increase_time(40)
    until(lambda: market.job(job).state is JobState.EXPIRED)
    mine = market.contracts.jobs.replicas(job)[0]
    assert mine.paid == mine.kill_fee > 0
    until(lambda: agent.journal.job(job).stage is Stage.CLOSED)  # type: ignore[union-attr]
    assert agent.journal.job(job).paid == mine.kill_fee  # type: ignore[union-attr]


def test_job_whose_other_replica_is_silent_frees_the_agents_bond(
    market: Market, agent: LocalAgent, partner: Partner
) -> None:
    job, _ = pair(market, agent, partner, reveal_window=30)
    partner.commit(job)
    until(lambda: market.job(job).revealed == 1)
    market.anvil.increase_time(40)
    until(lambda: market.job(job).state is JobState.EXPIRED)
    mine, silent = market.contracts.jobs.replicas(job)
    assert (mine.state, silent.state) == (ReplicaState.REVEALED, ReplicaState.MISSED)


def test_commit_dropped_by_a_reorganisation_is_made_again(market: Market, agent: LocalAgent, partner: Partner) -> None:
    job, _ = pair(market, agent, partner)
    before = agent.journal.job(job)
    market.anvil.reorg(1)
    until(lambda: market.job(job).committed == 1)
    partner.commit(job)
    until(lambda: market.job(job).revealed == 1)
    after = agent.journal.job(job)
    assert before is not None
    assert after is not None
    assert (before.salt, before.output) == (after.salt, after.output)
    assert agent.agent.address in [event["provider"] for event in market.events("Revealed", job)]


def test_reveal_dropped_by_a_reorganisation_is_made_again(market: Market, agent: LocalAgent, partner: Partner) -> None:
    job, _ = pair(market, agent, partner)
    partner.commit(job)
    until(lambda: market.job(job).revealed == 1)
    before = agent.journal.job(job)
    (first,) = market.events("Revealed", job)
    market.anvil.reorg(1)
    assert market.events("Revealed", job) == []
    (again,) = until(lambda: market.events("Revealed", job))
    after = agent.journal.job(job)
    assert before is not None
    assert after is not None
    assert (before.salt, before.output, first) == (after.salt, after.output, again)
    mine = next(r for r in market.contracts.jobs.replicas(job) if r.provider == agent.agent.address)
    assert mine.state is ReplicaState.REVEALED


def test_settlement_dropped_by_a_reorganisation_is_made_again(market: Market, agent: LocalAgent) -> None:
    job, _ = market.start_job(agent.url)
    until(lambda: market.settled(job))
    until(lambda: (row := agent.journal.job(job)) is not None and row.stage is Stage.FINAL)
    before = agent.journal.job(job)
    market.anvil.reorg(1)
    assert market.job(job).state is JobState.REVEALING
    assert market.events("Settled", job) == []
    until(lambda: market.settled(job))
    until(lambda: (row := agent.journal.job(job)) is not None and row.stage is Stage.FINAL)
    after = agent.journal.job(job)
    assert before is not None
    assert after is not None
    assert (before.paid, before.outcome) == (after.paid, after.outcome)
    (replica,) = market.contracts.jobs.replicas(job)
    assert replica.paid == after.paid > 0
    market.assert_books(job, agent.agent.address)


def test_agent_without_a_websocket_works_by_looking(market: Market, tmp_path: Path) -> None:
    agent = LocalAgent(*market.provider(tmp_path, ws_url=None))
    try:
        job, _ = market.start_job(agent.url)
        until(lambda: market.settled(job))
    finally:
        agent.stop()


def test_answer_that_was_forgotten_is_not_made_up(market: Market, agent: LocalAgent) -> None:
    job, _ = market.start_job(agent.url)
    until(lambda: (row := agent.journal.job(job)) is not None and row.stage is Stage.FINAL)
    assert market.output(agent.url, job).status_code == 200
    market.anvil.increase_time(DISPUTE_WINDOW + 5)
    until(lambda: (row := agent.journal.job(job)) is not None and row.stage is Stage.CLOSED)
    agent.journal.forget(0, outputs_before=2**40)
    answer = market.output(agent.url, job)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NO_OUTPUT")
