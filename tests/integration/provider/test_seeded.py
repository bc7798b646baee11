"""Jobs whose seed the chain gives, on a real chain: agents agree, liars are convicted, a reorganisation changes the
answer before anybody committed to it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.dispute_contracts import Disputes
from market.dispute_evidence import Evidence, answers_of, evidence_of
from market.dispute_play import Player
from market.disputes import ROOT, Dispute, DisputeBook
from market.errors import ContractError
from market.hashing import ZERO32, keccak256, tokens_root, unpack_stop_tokens
from market.inference import reference, reference_sampling
from market.inference.batch import BatchEngine
from market.inference.sampling import Sampling
from market.judging import acceptances
from market.models.pack import load_pack
from market.transactions import Transactions
from market.types import Mode, Request, Sampler
from market.verification.accusation import Accuser, accuse_token
from market.verification.challenger import Agrees, ProveOutput, RequestNode, Wait
from market.verification.descent import Descent
from market.verification.model_trees import ModelTrees
from market.verification.traces import Traces
from market.views import BondState, JobState
from provider.config import Terms
from provider.executor import Answer, EngineExecutor, Failure, Work
from provider.records import Stage
from tests.adversaries import Liar
from tests.integration.provider.market import TOKENS, LocalAgent, Market, until

BOND = 300_000
HOT = 3 << 16
"""A temperature at which the tiny model's answers differ from seed to seed."""
SAMPLED = {"sampler": Sampler.SEEDED_BY_CHAIN, "temperature_q16": HOT, "top_p_q16": 1 << 16}


class Held(EngineExecutor):
    """Answers nothing before it is let go; remembers the seeds that it was to compute with."""

    def __init__(
        self, engines: Mapping[bytes, BatchEngine], limit: int, on_done: Callable[[bytes], None], *, go: threading.Event
    ) -> None:
        self.seeds: list[bytes] = []
        self._go = go
        super().__init__(engines, limit, lambda job_id: (go.wait(60), on_done(job_id))[1])

    def submit(self, work: Work) -> bool:
        assert isinstance(work.sampling, Sampling)
        if not self.holds(work.job_id):
            self.seeds.append(work.sampling.seed)
        return super().submit(work)

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        return super().outcome(job_id) if self._go.is_set() else None


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = Market(tmp_path_factory.mktemp("market"), reply_window=60)
    for call in acceptances(market.chain, market.deployment.judge, market.pack):
        market.guardian.send(call)
    yield market
    market.close()


@pytest.fixture
def start(market: Market, tmp_path: Path) -> Iterator[Callable[..., LocalAgent]]:
    """Starts an agent; all are stopped."""
    with ExitStack() as stack:

        def one(**wiring: Any) -> LocalAgent:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            modes = ("quorum", "none", "optimistic")
            agent = LocalAgent(*market.provider(folder, terms=Terms(bond=BOND), modes=modes), **wiring)
            stack.callback(agent.stop)
            return agent

        yield one


@pytest.fixture
def player(market: Market) -> Iterator[Player]:
    account, contracts = market.anvil.accounts[5], market.contracts
    with_account = Transactions(market.chain, account, ":memory:")
    market.guardian.send(contracts.token.mint(account.address, TOKENS))
    yield Player(
        market.chain,
        contracts.jobs,
        contracts.vault,
        contracts.token,
        Disputes(market.chain, market.deployment.disputes),
        DisputeBook(market.chain, market.deployment.disputes),
        Traces([market.pack]),
        account,
        lambda call, key: with_account.send(call, key=key),
        lambda: market.chain.head().timestamp,
    )
    with_account.close()


def sampled(market: Market, prompt: str = "the end") -> tuple[Request, list[int]]:
    request, ids = market.request(prompt)
    return replace(request, **SAMPLED), ids


def ask(market: Market, agents: list[LocalAgent], mode: Mode = Mode.QUORUM) -> tuple[bytes, Request, list[int]]:
    """A public job for all of these agents."""
    request, ids = sampled(market)
    quotes = [market.quote(agent.url, request, mode) for agent in agents]
    return market.post(quotes, request, quorum=len(agents) // 2 + 1, inline=ids), request, ids


def expected(market: Market, request: Request, ids: list[int], seed: bytes) -> list[int]:
    """By the reference, not by what the agents run."""
    model = load_pack(market.pack.path).model
    sampling = Sampling(request.temperature_q16, request.top_k, request.top_p_q16, seed)
    return reference.generate(
        model,
        ids,
        request.max_output_tokens,
        unpack_stop_tokens(request.stop_tokens),
        lambda logits, position: reference_sampling.pick(logits, position, sampling, model.tables),
    )


def output(market: Market, agent: LocalAgent, job: bytes) -> list[int]:
    def served() -> Any:
        response = market.output(agent.url, job)
        return response.json()["ids"] if response.status_code == 200 else None

    return list(until(served))


def of_block(market: Market, job: bytes, number: int) -> bytes:
    return keccak256(job + bytes.fromhex(market.chain.block(number).hash[2:]))


def evidence(market: Market, agent: LocalAgent, job: bytes) -> Evidence:
    contracts = market.contracts
    answers = answers_of(market.chain, contracts.jobs, job, 0)
    ids = tuple(output(market, agent, job))
    return evidence_of(answers, contracts.jobs, contracts.registry, job, agent.agent.address, output_ids=ids)


# --- agreement


def test_quorum_agrees_on_the_answer_to_the_chains_seed_and_two_jobs_get_two_answers(
    market: Market, start: Callable[..., LocalAgent]
) -> None:
    agents = [start() for _ in range(3)]
    found = []
    for _ in range(2):
        job, request, ids = ask(market, agents)
        until(lambda: market.settled(job), 60)  # noqa: B023 - called at once
        seed = market.contracts.jobs.seed_of(job)
        assert seed.is_fixed
        assert seed.seed == of_block(market, job, seed.block)
        assert market.events("JobPosted", job)
        assert [event["seed"] for event in market.events("SeedFixed", job)] == [seed.seed]
        answer = output(market, agents[0], job)
        assert answer == expected(market, request, ids, seed.seed)
        assert tokens_root(answer) == tokens_root(output(market, agents[1], job))
        found.append((seed.seed, answer))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


# --- disputes


def test_liar_about_a_token_that_the_chain_seeded_is_convicted(
    market: Market, start: Callable[..., LocalAgent], player: Player
) -> None:
    agent = start(executor_factory=functools.partial(Liar, flip=1))
    job, _, _ = ask(market, [agent], Mode.NONE)
    until(lambda: market.settled(job), 60)
    found = evidence(market, agent, job)
    assert found.claim().seed == market.contracts.jobs.seed_of(job).seed != ZERO32
    wrong = player.judged(found)
    assert wrong is not None
    assert wrong[0] == 0
    player.open(found)
    while True:
        dispute = player.look(found.dispute_id)
        assert isinstance(dispute, Dispute)
        move = player.next(dispute)
        if not isinstance(move, Wait):
            player.play(dispute, move)
        if not isinstance(move, Wait | RequestNode):
            break
    assert isinstance(move, ProveOutput)
    assert market.contracts.jobs.replicas(job)[0].bond_state is BondState.SLASHED


def test_honest_answer_to_the_chains_seed_is_not_wrong_whatever_is_accused(
    market: Market, start: Callable[..., LocalAgent], player: Player
) -> None:
    """Neither greedily, nor by the seed field of the request, which is 0."""
    agent = start()
    job, request, ids = ask(market, [agent], Mode.NONE)
    until(lambda: market.settled(job), 60)
    found = evidence(market, agent, job)
    assert player.judged(found) is None
    by_request = replace(found, chain_seed=ZERO32)
    assert expected(market, request, ids, ZERO32) != list(found.output_ids)
    assert player.judged(by_request) is not None  # what a challenger would find that has the seed wrong
    player.open(found)
    dispute = until(lambda: (d := player.look(found.dispute_id)) and isinstance(d, Dispute) and d.root and d)
    assert isinstance(player.next(dispute), Agrees)
    trace = player.traces.trace(found.claim(), found.input_ids, found.output_ids)
    descent = Descent(trace, trace.root())
    trees = ModelTrees(market.pack.model, trace.geometry.shape)
    wrongly = Traces([market.pack]).challenger(by_request.claim(), found.input_ids, found.output_ids).wrong_output()
    assert wrongly is not None
    for rival in {wrongly[2], int(trace.logits()[wrongly[0]].argmax())} - {wrongly[1]}:
        accusation = accuse_token(Accuser(descent, trees), wrongly[0], wrongly[1], rival)
        with pytest.raises(ContractError) as caught:
            player.play(dispute, ProveOutput("", accusation))
        assert caught.value.code == "NothingWrong"
    assert market.contracts.jobs.replicas(job)[0].bond_state is BondState.DISPUTED
    assert dispute.root is not None
    assert ROOT in dispute.asked


def test_optimistic_answer_to_the_chains_seed_is_sold_and_published(
    market: Market, start: Callable[..., LocalAgent], player: Player
) -> None:
    agent = start()
    request, ids = sampled(market, "who pays")
    quote = market.quote(agent.url, request, Mode.OPTIMISTIC)
    job = market.post([quote], request, inline=ids, mode=Mode.OPTIMISTIC)
    (published,) = until(lambda: market.events("OutputPublished", job), 60)
    assert published["provider"] == agent.agent.address
    assert market.job(job).state is JobState.REVEALING
    assert player.fault(evidence(market, agent, job)) is None


# --- the posting block


def test_reorganisation_of_the_posting_block_has_the_answer_computed_again(
    market: Market, start: Callable[..., LocalAgent]
) -> None:
    go, made = threading.Event(), []

    def held(*arguments: Any) -> Held:
        made.append(Held(*arguments, go=go))
        return made[-1]

    agent = start(executor_factory=held)
    request, ids = sampled(market)
    job = market.post([market.quote(agent.url, request, Mode.NONE)], request, inline=ids)
    posted = market.chain.head().number
    until(lambda: made[0].seeds)
    assert made[0].seeds == [of_block(market, job, posted)]
    in_block = market.chain.rpc("eth_getBlockByNumber", hex(posted), False)["transactions"]
    raw = [market.chain.rpc("debug_getRawTransaction", found) for found in in_block]
    market.anvil.rpc("anvil_reorg", 1, [[transaction, 0] for transaction in raw])
    market.anvil.mine()
    until(lambda: len(made[0].seeds) == 2)
    seed = market.contracts.jobs.seed_of(job).seed
    assert made[0].seeds[1] == seed != made[0].seeds[0]
    go.set()
    until(lambda: market.settled(job), 60)
    assert output(market, agent, job) == expected(market, request, ids, seed)
    assert len(market.events("Committed", job)) == 1


def test_agent_that_computes_for_long_has_the_seed_stored(market: Market, start: Callable[..., LocalAgent]) -> None:
    go = threading.Event()
    agent = start(executor_factory=functools.partial(Held, go=go))
    request, ids = sampled(market)
    job = market.post([market.quote(agent.url, request, Mode.NONE)], request, inline=ids, commit_window=600)
    until(lambda: (row := agent.journal.job(job)) is not None and row.stage is Stage.RUNNING)
    jobs = market.contracts.jobs
    assert not jobs.seed_of(job).is_fixed
    market.anvil.mine(65)
    until(lambda: jobs.seed_of(job).is_fixed, 30)
    assert market.job(job).committed == 0
    market.anvil.mine(300)  # no contract can read the posting block's hash any more
    go.set()
    agent.agent.worklist.kick(job)
    until(lambda: market.settled(job), 60)
    assert output(market, agent, job) == expected(market, request, ids, jobs.seed_of(job).seed)


def test_job_whose_seed_nobody_fixed_is_refused_and_its_escrow_comes_back(market: Market, tmp_path: Path) -> None:
    config, account = market.provider(tmp_path)
    before = LocalAgent(config, account)
    request, ids = sampled(market)
    quote = market.quote(before.url, request, Mode.NONE)
    before.stop()
    job = market.post([quote], request, inline=ids, commit_window=600)
    market.anvil.mine(300)
    jobs = market.contracts.jobs
    assert not jobs.seed_of(job).is_known
    agent = LocalAgent(config, account)
    try:
        until(lambda: (row := agent.journal.job(job)) is not None and row.reason == "SeedOutOfReach")
    finally:
        agent.stop()
    with pytest.raises(ContractError) as caught:
        market.transactions.send(jobs.fix_seed(job))
    assert caught.value.code == "SeedOutOfReach"
    market.transactions.send(jobs.cancel(job))
    assert market.job(job).state is JobState.CANCELLED
