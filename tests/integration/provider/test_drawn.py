"""Agents that the contract draws: they answer a public job nobody asked them about, and publish what is demanded."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest
from eth_account.signers.local import LocalAccount

from market.events import decode_logs
from market.hashing import ZERO32, pack_tokens, tokens_root, unpack_tokens
from market.transactions import Transactions
from market.types import ZERO_ADDRESS, Mode, Quote, Request
from market.views import WEIGHTS, JobParams, JobState, ReplicaState, SignedQuote
from provider.drain import Drain
from provider.instructions import DrainInstruction, InstructionBook, give
from provider.journal import Journal
from provider.records import Stage
from tests.integration.provider.crashing import DRAW_POINTS
from tests.integration.provider.market import DISPUTE_WINDOW, STAKE, LocalAgent, Market, Program, until

REPLICAS = 3
MAX_BOND = 200_000
FULL_STAKE = 1_600 * 10**6  # with which an entry that is picked is drawn
PRICES = (1_000, 1_000_000, 2_000_000)
WINDOW = 600


@pytest.fixture(scope="module")
def agents(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalAgent]]:
    with ExitStack() as stack:
        started = []
        for _ in range(REPLICAS):
            config, account = market.provider(tmp_path_factory.mktemp("drawn"), max_bond=MAX_BOND, draw_grace=1)
            hasten(config)
            agent = LocalAgent(config, account)
            stack.callback(agent.stop)
            started.append(agent)
        yield started


def hasten(config: Path) -> None:
    """All its turns to make a draw come within seconds."""
    text = config.read_text(encoding="utf-8")
    assert "# draw_stagger = 4" in text
    config.write_text(text.replace("# draw_stagger = 4", "draw_stagger = 1"), encoding="utf-8")


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


def post(market: Market, prompt: str, *, alone: bool = False, **changes: int) -> tuple[bytes, Request]:
    """A public job for whoever is drawn; `alone`: for one provider. `changes` are of its terms."""
    request, ids = market.request(prompt)
    jobs = market.contracts.jobs
    job = jobs.job_id_of(market.client.address, jobs.client_nonce(market.client.address))
    params = JobParams(
        mode=Mode.NONE if alone else Mode.QUORUM,
        quorum=1 if alone else 2,
        max_escrow=10**9,
        commit_window=WINDOW,
        reveal_window=WINDOW,
        request=request,
        quotes=(SignedQuote(terms(market, request, mode=Mode.NONE if alone else Mode.QUORUM, **changes), b""),),
        inline_input=pack_tokens(ids),
        draw=1 if alone else REPLICAS,
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


def drawn_by(market: Market, job: bytes) -> list[str]:
    """Who made the draw of a job."""
    chain = market.chain
    logs = chain.logs([market.deployment.jobs], 0, chain.head().number)
    hashes = [e.transaction_hash for e in decode_logs(logs) if e.name == "Drawn" and e.args["jobId"] == job]
    return [chain.rpc("eth_getTransactionByHash", found)["from"] for found in hashes]


def test_draw_of_a_client_that_vanished_is_made_by_one_of_the_agents(market: Market, agents: list[LocalAgent]) -> None:
    """Whoever posted knows who will be drawn: waiting for a better draw must not be its choice."""
    addresses = [agent.agent.address for agent in agents]
    before = {address: market.chain.transaction_count(address) for address in addresses}
    job, _ = post(market, "nobody comes back")
    until(lambda: market.settled(job), 60)
    (maker,) = drawn_by(market, job)
    assert maker in [address.lower() for address in addresses]
    sent = {address: market.chain.transaction_count(address) - before[address] for address in addresses}
    due = 3 * 2 + 2  # commits and reveals, one draw, one settlement
    assert due <= sum(sent.values()) <= due + 2  # who saw the draw, or settlement, a moment late, wasted one
    assert [agent.agent.draws.open() for agent in agents] == [[], [], []]


@pytest.mark.parametrize("point", ["before-draw", pytest.param("after-draw", marks=pytest.mark.slow)])
def test_agent_killed_around_the_draw_makes_it_once_and_does_its_job(
    market: Market, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    """Its terms are for this agent alone: nobody else locks so much."""
    record_property("crash_point", f"agent {point}")
    bond = 10 * MAX_BOND * (1 + DRAW_POINTS.index(point))
    config, account = market.provider(tmp_path, max_bond=bond, stake=FULL_STAKE, draw_grace=1)
    hasten(config)
    doomed = Program(market, config, sys.executable, "-m", "tests.integration.provider.crashing", point)
    try:
        doomed.ready()
        job, _ = post(market, "killed while drawing", alone=True, bond=bond)
        assert doomed.process.wait(60) == -signal.SIGKILL
    finally:
        doomed.close()
    state = market.job(job).state
    assert state is (JobState.DRAWING if point == "before-draw" else JobState.OPEN)
    again = LocalAgent(config, account)
    try:
        until(lambda: market.settled(job), 60)
        assert drawn_by(market, job) == [account.address.lower()]
        until(lambda: again.agent.draws.open() == [])
        assert next(r for r in market.contracts.jobs.replicas(job)).paid > 0
        market.assert_books(job, account.address, FULL_STAKE)
    finally:
        again.stop()
        withdraw_offer(market, account)


def withdraw_offer(market: Market, account: LocalAccount) -> None:
    """So that no later test draws an agent that is gone."""
    with Transactions(market.chain, account, ":memory:") as transactions:
        transactions.send(market.contracts.registry.remove_offer(market.pack.model_id))


def test_draining_agent_is_not_drawn_until_it_resumes(market: Market, tmp_path: Path) -> None:
    """It stayed on the list, was drawn on and on, and so never ended."""
    registry, bond = market.contracts.registry, 40 * MAX_BOND
    config, account = market.provider(tmp_path, max_bond=bond, stake=FULL_STAKE, draw_grace=600)
    offered = partial(registry.offer, account.address, market.pack.model_id)
    agent = LocalAgent(config, account)

    def tell(*, drain: bool, leave: bool = False) -> None:
        book = InstructionBook(agent.config.instructions_path)
        give(book, DrainInstruction.new(drain=drain, leave=leave), account, 20)

    try:
        assert offered().max_bond == bond
        tell(drain=True)
        until(lambda: offered().max_bond == 0)
        job, _ = post(market, "while it drains", alone=True, bond=bond)
        market.transactions.send(market.contracts.jobs.draw(job))
        assert market.job(job).draw_failed
        assert httpx.get(f"{agent.url}/readyz").json()["reasons"] == ["DRAINING"]

        tell(drain=False)
        until(lambda: offered().max_bond == bond)
        market.transactions.send(market.contracts.jobs.draw(job))
        until(lambda: market.settled(job), 60)
        assert market.contracts.jobs.replicas(job)[0].provider == account.address

        tell(drain=True, leave=True)
        until(lambda: offered().max_bond == 0)
        market.anvil.increase_time(DISPUTE_WINDOW + 120)
        market.anvil.mine()
        until(lambda: agent.ended)
        assert market.contracts.vault.staked(account.address) == FULL_STAKE
    finally:
        agent.stop()


@pytest.mark.slow
def test_agent_whose_place_was_pruned_while_it_drained_comes_back_once_the_list_takes_it(
    market: Market, tmp_path: Path
) -> None:
    registry, model_id = market.contracts.registry, market.pack.model_id
    config, account = market.provider(tmp_path, max_bond=MAX_BOND)
    agent = LocalAgent(config, account)
    book = InstructionBook(agent.config.instructions_path)

    def listed() -> bool:
        return account.address in [entry.provider for entry in registry.drawable(model_id)]

    try:
        assert listed()
        market.anvil.mine(300)  # so that its place has rested
        give(book, DrainInstruction.new(drain=True, leave=False), account, 20)
        until(lambda: registry.offer(account.address, model_id).max_bond == 0)
        market.transactions.send(registry.prune(model_id, account.address))
        give(book, DrainInstruction.new(drain=False, leave=False), account, 20)
        until(lambda: agent.agent.offers_again() is not None)
        assert not listed()
        assert httpx.get(f"{agent.url}/readyz").status_code == 200  # it works for its quotes meanwhile
        market.anvil.mine(300)
        until(listed, 40)
        assert registry.offer(account.address, model_id).max_bond == MAX_BOND
        until(lambda: agent.agent.offers_again() is None)
    finally:
        agent.stop()
        withdraw_offer(market, account)


def test_agent_started_while_it_drains_leaves_the_draws(market: Market, tmp_path: Path) -> None:
    """It was drained while it did not run: nobody could take its offer back then."""
    config, account = market.provider(tmp_path, max_bond=MAX_BOND)
    first = LocalAgent(config, account)
    first.stop()
    journal = Journal(first.config.journal_path, account)
    Drain(journal).begin(leave=False)  # as `assay provider drain` does where no agent runs
    journal.close()
    registry, model_id = market.contracts.registry, market.pack.model_id
    assert registry.offer(account.address, model_id).max_bond == MAX_BOND
    again = LocalAgent(config, account)
    try:
        assert registry.offer(account.address, model_id).max_bond == 0
        before = market.chain.transaction_count(account.address)
    finally:
        again.stop()
    LocalAgent(config, account).stop()
    assert market.chain.transaction_count(account.address) == before


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


def test_agent_that_starts_with_more_stake_raises_its_weight_and_only_once(market: Market, tmp_path: Path) -> None:
    """Not while its place rests: then it would pay for a transaction that changes nothing."""
    registry, vault = market.contracts.registry, market.contracts.vault

    def start(stake: int) -> tuple[int, int]:
        """Weight of its entry, and the transactions it sent besides announcing its new port."""
        sent = market.chain.transaction_count(account.address)
        config.write_text(re.sub(r"(?m)^stake = .*", f"stake = {stake}", config.read_text()))
        LocalAgent(config, account).stop()
        (entry,) = (e for e in registry.drawable(market.pack.model_id) if e.provider == account.address)
        return entry.weight, market.chain.transaction_count(account.address) - sent - 1

    config, account = market.provider(tmp_path, max_bond=MAX_BOND)
    cap = registry.draw_stake_cap()
    poor = STAKE * WEIGHTS // cap
    assert start(STAKE)[0] == poor < WEIGHTS
    assert vault.stake_of(account.address).free == STAKE
    assert start(cap) == (poor, 3)  # approve, deposit, stake
    market.anvil.mine(registry.list_rest())
    assert start(cap) == (WEIGHTS, 1)
    assert start(cap) == (WEIGHTS, 0)
    assert vault.stake_of(account.address).free == cap
