"""Agents that the contract draws: they answer a public job nobody asked them about, and publish what is demanded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from market.hashing import ZERO32, pack_tokens, tokens_root, unpack_tokens
from market.types import ZERO_ADDRESS, Mode, Quote, Request
from market.views import JobParams, JobState, ReplicaState, SignedQuote
from provider.records import Stage
from tests.integration.provider.market import LocalAgent, Market, until

REPLICAS = 3
MAX_BOND = 200_000
PRICES = (1_000, 1_000_000, 2_000_000)
WINDOW = 600


@pytest.fixture(scope="module")
def agents(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalAgent]]:
    with ExitStack() as stack:
        started = []
        for _ in range(REPLICAS):
            config, account = market.provider(tmp_path_factory.mktemp("drawn"), max_bond=MAX_BOND)
            agent = LocalAgent(config, account)
            stack.callback(agent.stop)
            started.append(agent)
        yield started


def terms(market: Market, request: Request, **changes: int) -> Quote:
    base_fee, per_input, per_output = PRICES
    price = base_fee + request.input_tokens + 2 * request.max_output_tokens
    plain = Quote(
        provider=ZERO_ADDRESS,
        client=ZERO_ADDRESS,
        model_id=request.model_id,
        request_hash=ZERO32,
        mode=Mode.QUORUM,
        token=market.deployment.token,
        base_fee=base_fee,
        price_per_m_input=per_input,
        price_per_m_output=per_output,
        kill_fee=-(-price // 10),
        miss_fee=price,
        bond=MAX_BOND // 2,
        max_input_tokens=request.input_tokens,
        max_output_tokens=request.max_output_tokens,
        valid_until=market.chain.head().timestamp + WINDOW,
        nonce=1,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def post(market: Market, prompt: str) -> tuple[bytes, Request]:
    """A public job for whoever is drawn."""
    request, ids = market.request(prompt)
    jobs = market.contracts.jobs
    job = jobs.job_id_of(market.client.address, jobs.client_nonce(market.client.address))
    params = JobParams(
        mode=Mode.QUORUM,
        quorum=2,
        max_escrow=10**9,
        commit_window=WINDOW,
        reveal_window=WINDOW,
        request=request,
        quotes=(SignedQuote(terms(market, request), b""),),
        inline_input=pack_tokens(ids),
        draw=REPLICAS,
    )
    market.transactions.send(jobs.post(params))
    return job, request


def test_drawn_agents_answer_settle_and_publish_what_is_demanded(market: Market, agents: list[LocalAgent]) -> None:
    jobs = market.contracts.jobs
    job, _ = post(market, "who is there")
    assert jobs.job(job).state is JobState.DRAWING
    market.transactions.send(jobs.draw(job))
    until(lambda: market.settled(job), 60)
    replicas = jobs.replicas(job)
    assert {r.provider for r in replicas} == {agent.agent.address for agent in agents}
    assert {r.state for r in replicas} == {ReplicaState.REVEALED}
    assert all(r.paid > 0 for r in replicas)

    answer = httpx.get(f"{agents[0].url}/v1/outputs/0x{job.hex()}").json()  # public: no signature
    ids = answer["ids"]
    assert tokens_root(ids) == bytes.fromhex(answer["output"]["outputRoot"][2:])

    demanded = agents[1].agent.address
    credit = market.contracts.vault.credit(market.deployment.token, demanded)
    market.transactions.send(jobs.demand_reveal(job, demanded))
    (published,) = until(lambda: market.events("OutputPublished", job))
    assert published["provider"] == demanded
    assert list(unpack_tokens(published["ids"], len(ids))) == ids
    assert market.contracts.vault.credit(market.deployment.token, demanded) == credit + jobs.demand_fee()
    assert not next(r for r in jobs.replicas(job) if r.provider == demanded).is_demanded


def test_agent_started_after_the_draw_answers_the_job_it_was_drawn_for(
    market: Market, agents: list[LocalAgent], tmp_path: Path
) -> None:
    jobs = market.contracts.jobs
    config, account = market.provider(tmp_path, max_bond=MAX_BOND)
    late = LocalAgent(config, account)
    late.stop()  # it is on the list, and away while it is drawn
    market.anvil.mine()
    drawn: list[str] = []
    while account.address not in drawn:
        job, _ = post(market, "and who is late")
        market.transactions.send(jobs.draw(job))
        drawn = [replica.provider for replica in jobs.replicas(job)]
    again = LocalAgent(config, account)
    try:
        until(lambda: market.settled(job), 60)
        row = again.journal.job(job)
        assert row is not None
        assert row.public
        until(lambda: (found := again.journal.job(job)) is not None and found.stage is Stage.FINAL)
    finally:
        again.stop()
    assert next(r for r in jobs.replicas(job) if r.provider == account.address).paid > 0
