"""What goes wrong while a provider is in a dispute: kill -9, a dead endpoint, a reorganisation, dear gas, no verdict.

Whatever it is, every reply is given, once, and the bond comes back.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from market.dispute_evidence import Evidence
from market.disputes import DisputeState
from market.errors import ContractError
from market.events import Event, decode_logs
from market.fees import GWEI, FeePolicy
from market.verification.challenger import Agrees
from market.verification.geometry import Node
from market.views import BondState
from tests.adversaries import NoTraces
from tests.integration.provider.arena import REPLY_WINDOW, Arena, judged_market
from tests.integration.provider.crashing import DISPUTE_POINTS
from tests.integration.provider.market import LocalAgent, Market, Program, until
from tests.rpc_proxy import FaultProxy

WEEK = 7 * 86_400
BESIDE = tuple(Node(2, index) for index in range(3))  # nodes that a challenger may ask for once it has the root


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = judged_market(tmp_path_factory.mktemp("market"))
    yield market
    market.close()


@pytest.fixture
def arena(market: Market, tmp_path: Path) -> Iterator[Arena]:
    with Arena.of(market, tmp_path / "agent") as arena:
        yield arena


def events(arena: Arena, evidence: Evidence, name: str) -> list[Event]:
    chain, contract = arena.market.chain, arena.market.deployment.disputes
    found = decode_logs(chain.logs([contract], 0, chain.head().number))
    return [event for event in found if event.args.get("disputeId") == evidence.dispute_id and event.name == name]


def asked_while_it_was_away(arena: Arena) -> tuple[LocalAgent, Evidence]:
    """An agent that gave its root and was stopped, and was then asked for three nodes."""
    agent = arena.agent()
    try:
        evidence = arena.answer(agent)
        arena.player.open(evidence)
        arena.wait_for_replies(evidence)
    finally:
        agent.stop()
    arena.ask(evidence, *BESIDE)
    return agent, evidence


def started_again(arena: Arena, agent: LocalAgent) -> LocalAgent:
    return LocalAgent(arena.folder / "provider.toml", agent.account)


def close(arena: Arena, evidence: Evidence) -> None:
    """The provider closes the dispute once its time is over, and has its bond back."""
    arena.warp_to(arena.dispute(evidence).end_at + 3)
    until(lambda: arena.bond(evidence) is BondState.RELEASED, 30)
    assert arena.dispute(evidence).state is DisputeState.NOT_GUILTY


DEFAULT = ("broadcast-reply", "persisted-close")  # the others take the same paths, and seconds each


@pytest.mark.parametrize(
    "point", [point if point in DEFAULT else pytest.param(point, marks=pytest.mark.slow) for point in DISPUTE_POINTS]
)
def test_agent_killed_in_a_dispute_gives_every_reply_once_and_closes_it(
    arena: Arena, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"agent {point}")
    agent, evidence = asked_while_it_was_away(arena)
    config = arena.folder / "provider.toml"
    doomed = Program(arena.market, config, sys.executable, "-m", "tests.integration.provider.crashing", point)
    try:
        if point.endswith("close"):
            arena.wait_for_replies(evidence)
            arena.warp_to(arena.dispute(evidence).end_at + 3)
        assert doomed.process.wait(20) == -signal.SIGKILL
    finally:
        doomed.close()
    again = started_again(arena, agent)
    try:
        arena.wait_for_replies(evidence)
        if not point.endswith("close"):
            assert isinstance(arena.player.next(arena.dispute(evidence)), Agrees)
        close(arena, evidence)
    finally:
        again.stop()
    assert len(events(arena, evidence, "HashesGiven")) == len(BESIDE)
    assert len(events(arena, evidence, "RootGiven")) == len(events(arena, evidence, "RepliesPaid")) == 1
    arena.market.assert_books(evidence.subject_id, evidence.provider)


def test_replies_are_given_after_ten_seconds_without_an_endpoint(arena: Arena) -> None:
    with FaultProxy(arena.market.anvil.rpc_url) as proxy:
        agent = arena.agent(rpc_url=proxy.rpc_url, ws_url=proxy.ws_url)
        try:
            evidence = arena.answer(agent)
            arena.player.open(evidence)
            arena.wait_for_replies(evidence)
            proxy.down()
            arena.ask(evidence, *BESIDE)
            time.sleep(10)
            assert len(arena.dispute(evidence).unanswered) == len(BESIDE)
            proxy.up()
            until(lambda: not arena.dispute(evidence).unanswered, 10)
        finally:
            agent.stop()


def test_replies_that_a_reorganisation_took_back_are_given_again(arena: Arena) -> None:
    """Three blocks: the root, the request of a node, and its reply; each side sends its own again."""
    agent = arena.agent()
    try:
        evidence = arena.answer(agent)
        arena.player.open(evidence)
        opened = arena.dispute(evidence).block
        arena.wait_for_replies(evidence)
        arena.ask(evidence, BESIDE[0])
        arena.wait_for_replies(evidence)
        assert arena.market.chain.head().number == opened + 3
        arena.market.anvil.reorg(3)
        assert arena.dispute(evidence).root is None  # the opening alone is left

        def repeated() -> bool:
            dispute = arena.dispute(evidence)
            if dispute.root is not None and BESIDE[0] not in dispute.asked:  # repeated before the root, and so in vain
                with suppress(ContractError):
                    arena.ask(evidence, BESIDE[0])
            return BESIDE[0] in dispute.asked and not dispute.unanswered

        until(repeated, 60)
        close(arena, evidence)
        assert len(events(arena, evidence, "RootGiven")) == len(events(arena, evidence, "HashesGiven")) == 1
    finally:
        agent.stop()


def test_two_disputes_about_two_jobs_are_answered_side_by_side(arena: Arena) -> None:
    agent = arena.agent()
    try:
        both = arena.answer(agent), arena.answer(agent)
        for evidence in both:
            arena.player.open(evidence)
        for evidence in both:
            arena.wait_for_replies(evidence)
        for node in BESIDE:
            for evidence in both:
                arena.ask(evidence, node)
        for evidence in both:
            arena.wait_for_replies(evidence)
            assert isinstance(arena.player.next(arena.dispute(evidence)), Agrees)
        for evidence in both:
            close(arena, evidence)
    finally:
        agent.stop()


def test_request_of_the_last_second_is_answered_and_the_dispute_closed(arena: Arena) -> None:
    agent = arena.agent()
    try:
        evidence = arena.answer(agent)
        arena.player.open(evidence)
        arena.wait_for_replies(evidence)
        last = arena.dispute(evidence).end_at - 2 * REPLY_WINDOW
        arena.warp_to(last - 1)
        arena.ask(evidence, BESIDE[0])
        arena.wait_for_replies(evidence)
        arena.warp_to(last + 1)
        with pytest.raises(ContractError) as refused:
            arena.ask(evidence, BESIDE[1])
        assert refused.value.code == "PastDeadline"
        close(arena, evidence)
    finally:
        agent.stop()


@contextmanager
def dear_gas(market: Market, wei: int) -> Iterator[None]:
    """Every block has this base fee."""
    stop = threading.Event()

    def mine() -> None:
        while not stop.wait(0.1):
            market.anvil.set_next_base_fee(wei)
            market.anvil.mine()

    market.anvil.set_next_base_fee(wei)
    market.anvil.mine()
    thread = threading.Thread(target=mine)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        market.anvil.set_next_base_fee(GWEI)
        market.anvil.mine()


def test_gas_that_is_too_dear_is_waited_out_for_half_of_the_reply_window_and_then_paid(arena: Arena) -> None:
    """Nor does it need to be ready for that: at such a price it cannot announce itself."""
    _, evidence = asked_while_it_was_away(arena)
    due = arena.dispute(evidence).unanswered[0].deadline
    again = Program(arena.market, arena.folder / "provider.toml")  # on another port, which it has to announce
    try:
        with dear_gas(arena.market, FeePolicy().ceiling + 100 * GWEI):
            until(lambda: "announcement_waits" in again.text())
            assert len(arena.dispute(evidence).unanswered) == len(BESIDE)
            arena.warp_to(due - REPLY_WINDOW // 2 + 1)
            arena.wait_for_replies(evidence)
        again.ready()
    finally:
        again.close()
    (reply, *_) = events(arena, evidence, "HashesGiven")
    receipt = arena.market.chain.receipt(reply.transaction_hash)
    assert receipt is not None
    assert int(receipt["effectiveGasPrice"], 16) > FeePolicy().ceiling


def test_bond_of_a_dispute_that_nobody_ended_comes_back_by_itself(arena: Arena) -> None:
    """The provider was silent and nobody said so. Once no verdict is taken any more its bond is released; the dispute
    expires a week after its end, and its prepayments go back."""
    agent = arena.agent(traces_factory=NoTraces)
    try:
        evidence = arena.answer(agent)
        arena.player.open(evidence)
        end = arena.dispute(evidence).end_at
        job, replica = arena.jobs.job(evidence.subject_id), arena.jobs.replicas(evidence.subject_id)[0]
        free_at = replica.bond_free_at(job, arena.jobs.dispute_window(), arena.jobs.dispute_deadline())
        arena.warp_to(free_at - 10)
        time.sleep(1)
        assert arena.bond(evidence) is BondState.DISPUTED
        arena.warp_to(free_at + 3)
        until(lambda: arena.bond(evidence) is BondState.RELEASED)
        assert arena.dispute(evidence).is_open
        arena.warp_to(end + WEEK + 3)
        until(lambda: not arena.dispute(evidence).is_open)
        assert arena.dispute(evidence).state is DisputeState.EXPIRED
        assert arena.player.refund(evidence.dispute_id) is not None
    finally:
        agent.stop()


def test_dispute_whose_provider_came_too_late_to_close_it_expires(arena: Arena) -> None:
    agent = arena.agent()
    try:
        evidence = arena.answer(agent)
        arena.player.open(evidence)
        arena.wait_for_replies(evidence)
    finally:
        agent.stop()
    end = arena.dispute(evidence).end_at
    arena.warp_to(end + WEEK - 30)  # the jobs contract takes no verdict any more
    again = started_again(arena, agent)
    try:
        until(lambda: arena.bond(evidence) is BondState.RELEASED)
        assert arena.dispute(evidence).is_open
        arena.warp_to(end + WEEK + 3)
        until(lambda: not arena.dispute(evidence).is_open)
        assert arena.dispute(evidence).state is DisputeState.EXPIRED
    finally:
        again.stop()
