"""Disputes on a real chain: agents that answer by themselves, and challengers that are right or wrong."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from market.chain import Call
from market.dispute_contracts import Disputes
from market.dispute_evidence import Evidence
from market.dispute_play import rewarded
from market.disputes import ROOT, DisputeBook, DisputeState, Fault
from market.events import decode_logs
from market.transactions import Sent, Transactions
from market.verification.challenger import Agrees, Prove, ProveOutput, SayMissed, Wait
from market.verification.geometry import Node
from market.views import BondState
from tests.adversaries import Liar, NoTraces, StubbornTraces
from tests.integration.provider.arena import Arena, judged_market
from tests.integration.provider.market import LocalAgent, Market, until

BOND = 10_000_000


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = judged_market(tmp_path_factory.mktemp("market"))
    yield market
    market.close()


@pytest.fixture
def arena(market: Market, tmp_path: Path) -> Iterator[Arena]:
    with Arena.of(market, tmp_path / "agent") as arena:
        yield arena


def test_honest_provider_answers_whatever_is_asked_and_is_paid_for_it(arena: Arena) -> None:
    agent = arena.agent()
    try:
        evidence = arena.answer(agent)
        assert arena.player.judged(evidence) is None
        arena.player.open(evidence)
        arena.wait_for_replies(evidence)
        dispute = arena.dispute(evidence)
        assert isinstance(arena.player.next(dispute), Agrees)
        arena.ask(evidence, Node(2, 1), Node(2, 3))
        arena.wait_for_replies(evidence)
        dispute = arena.dispute(evidence)
        leaf = next(node for node in dispute.known if node.depth > 2 and dispute.known[node] != bytes(32))
        assert len(dispute.asked) == 3
        assert leaf.depth <= 7
        vault, token = arena.market.contracts.vault, arena.market.deployment.token
        credit = vault.credit(token, agent.agent.address)
        arena.market.anvil.increase_time(dispute.end_at - arena.market.chain.head().timestamp + 3)
        until(lambda: not arena.dispute(evidence).is_open, 30)
        verdict = arena.dispute(evidence).verdict
        assert verdict is not None
        assert verdict.state is DisputeState.NOT_GUILTY
        prepaid = arena.player.rules.root_fee + 2 * arena.player.rules.request_fee
        assert verdict.paid == prepaid * 9 // 10
        assert verdict.paid + verdict.burnt == prepaid
        assert vault.credit(token, agent.agent.address) == credit + verdict.paid
        # the dispute has let go of it; its time is over, too, so the agent may have fetched it by now
        assert arena.bond(evidence) in (BondState.LOCKED, BondState.RELEASED)
    finally:
        agent.stop()


def test_liar_that_shows_an_honest_trace_is_convicted_by_its_own_logits(arena: Arena) -> None:
    agent = arena.agent(executor_factory=functools.partial(Liar, flip=1))
    try:
        evidence = arena.answer(agent)
        wrong = arena.player.judged(evidence)
        assert wrong is not None
        assert wrong[0] == 0
        arena.player.open(evidence)
        arena.wait_for_replies(evidence)
        moves, sent = arena.win(evidence)
        assert [type(move) for move in moves] == [ProveOutput]
        assert_convicted(arena, evidence, Fault.OUTPUT, sent)
    finally:
        agent.stop()


def test_liar_that_shows_a_trace_in_which_it_is_right_is_convicted_by_one_number(arena: Arena) -> None:
    agent = arena.agent(executor_factory=functools.partial(Liar, flip=1), traces_factory=StubbornTraces)
    try:
        evidence = arena.answer(agent)
        arena.player.open(evidence)
        moves, sent = arena.win(evidence)
        assert isinstance(moves[-1], Prove)
        assert 2 * len(moves) + 1 <= 14
        assert_convicted(arena, evidence, Fault.ELEMENT, sent)
    finally:
        agent.stop()


def assert_convicted(arena: Arena, evidence: Evidence, fault: Fault, sent: Sent) -> None:
    verdict = arena.dispute(evidence).verdict
    assert verdict is not None
    assert (verdict.state, verdict.fault) == (DisputeState.GUILTY, fault)
    assert arena.bond(evidence) is BondState.SLASHED
    replica = arena.jobs.replicas(evidence.subject_id)[0]
    share = arena.jobs.challenger_share_bps()
    assert rewarded(sent, arena.player.address) == min(
        replica.bond * share // 10_000, (replica.bond - replica.paid) // 2
    )
    prepaid = arena.player.rules.root_fee
    vault, token = arena.market.contracts.vault, arena.market.deployment.token
    before = vault.credit(token, arena.player.address)
    assert arena.player.refund(evidence.dispute_id) is not None
    assert vault.credit(token, arena.player.address) >= before + prepaid
    assert arena.player.refund(evidence.dispute_id) is None


def test_provider_that_stays_silent_in_a_dispute_is_convicted_when_its_time_is_over(arena: Arena) -> None:
    agent = arena.agent(executor_factory=functools.partial(Liar, flip=1), traces_factory=NoTraces)
    try:
        evidence = arena.answer(agent)
        arena.player.open(evidence)
        assert isinstance(arena.player.next(arena.dispute(evidence)), Wait)
        arena.market.anvil.increase_time(arena.player.rules.reply_window + 1)
        moves, sent = arena.win(evidence)
        assert [type(move) for move in moves] == [SayMissed]
        assert_convicted(arena, evidence, Fault.MISSED, sent)
    finally:
        agent.stop()


def test_agent_that_was_not_running_answers_after_its_start(arena: Arena) -> None:
    agent = arena.agent()
    config, account = agent.config, agent.account
    try:
        evidence = arena.answer(agent)
    finally:
        agent.stop()
    arena.player.open(evidence)
    assert arena.dispute(evidence).unanswered[0].node == ROOT
    again = LocalAgent(arena.folder / "provider.toml", account)
    try:
        assert again.config.data_dir == config.data_dir
        arena.wait_for_replies(evidence)
        assert isinstance(arena.player.next(arena.dispute(evidence)), Agrees)
    finally:
        again.stop()


def test_two_requests_are_answered_in_one_transaction(arena: Arena) -> None:
    agent = arena.agent()
    account = agent.account
    try:
        evidence = arena.answer(agent)
        arena.player.open(evidence)
        arena.wait_for_replies(evidence)
    finally:
        agent.stop()
    arena.ask(evidence, *(Node(2, index) for index in range(4)))
    again = LocalAgent(arena.folder / "provider.toml", account)
    try:
        arena.wait_for_replies(evidence)
        chain, contract = arena.market.chain, arena.market.deployment.disputes
        logs = decode_logs(chain.logs([contract], arena.dispute(evidence).block, chain.head().number))
        assert len({event.transaction_hash for event in logs if event.name == "HashesGiven"}) == 1
    finally:
        again.stop()


def test_reply_that_somebody_gave_before_holds_up_no_other(arena: Arena) -> None:
    """Anyone may answer: whoever front-runs one reply of each batch must not keep the provider from the rest."""
    agent = arena.agent()
    account = agent.account
    try:
        evidence = arena.answer(agent)
        arena.player.open(evidence)
        arena.wait_for_replies(evidence)
    finally:
        agent.stop()
    arena.ask(evidence, *(Node(2, index) for index in range(3)))
    sent: list[Call] = []
    trace = arena.player.traces.trace(evidence.claim(), evidence.input_ids, evidence.output_ids)
    contract = Disputes(arena.market.chain, arena.market.deployment.disputes)

    def front_runner(side: Any, call: Call, key: str, waits: int | None) -> Any:
        if call.label.startswith("Disputes.multicall"):
            node = Node(2, 0)
            arena.transactions.send(contract.answer_hashes(evidence.dispute_id, node, trace.reveal(node)))
        sent.append(call)
        return original(side, call, key, waits)

    from provider.chainside import ChainSide

    original = ChainSide.enqueue
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChainSide, "enqueue", front_runner)
        again = LocalAgent(arena.folder / "provider.toml", account)
        try:
            arena.wait_for_replies(evidence)
        finally:
            again.stop()
    assert [call.label.startswith("Disputes.multicall") for call in sent] == [True, False, False]


def test_book_says_what_the_chain_says_after_a_reorganisation(arena: Arena) -> None:
    agent = arena.agent()
    market, book = arena.market, arena.player.book
    try:
        evidence = arena.answer(agent)
    finally:
        agent.stop()
    arena.player.open(evidence)
    contract = Disputes(market.chain, market.deployment.disputes)
    trace = arena.player.traces.trace(evidence.claim(), evidence.input_ids, evidence.output_ids)
    before = arena.dispute(evidence)
    assert before.root is None
    snapshot = market.anvil.snapshot()
    with Transactions(market.chain, agent.account, ":memory:") as provider:
        provider.send(contract.answer_root(evidence.claim(), trace.reveal(ROOT)))
        assert arena.dispute(evidence).root == trace.root()
    market.anvil.revert(snapshot)
    market.anvil.mine(3)  # other blocks in the place of those that are gone
    assert arena.dispute(evidence) == before
    fresh = DisputeBook(market.chain, market.deployment.disputes)
    fresh.poll()
    assert fresh.dispute(evidence.dispute_id) == book.dispute(evidence.dispute_id)


def test_look_at_a_new_block_asks_two_questions(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what an agent does beside its inference every second while nobody disputes anything."""
    market, asked = arena.market, list[str]()
    book = DisputeBook(market.chain, market.deployment.disputes, start_block=market.deployment.block)
    book.poll()
    rpc = market.chain.rpc

    def counted(method: str, *parameters: Any) -> Any:
        asked.append(method)
        return rpc(method, *parameters)

    monkeypatch.setattr(market.chain, "rpc", counted)
    for _ in range(5):  # on a busy machine a former test's transaction may make a block in between
        asked.clear()
        market.anvil.mine(1)
        book.poll()
        if len(asked) == 2:
            break
    assert asked == ["eth_getBlockByNumber", "eth_getLogs"]
    book.poll()
    assert asked[2:] == ["eth_getBlockByNumber"]
