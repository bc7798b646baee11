"""More requests than a transaction or a block answers, and somebody who is faster than the provider.

An honest provider answers all of them in a few blocks: whoever asks fills more of them than the replies do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_abi.abi import decode

from market.chain import Call, Chain, same_address
from market.contracts import Jobs, Vault
from market.dispute_contracts import Disputes
from market.dispute_evidence import Evidence
from market.disputes import Dispute, DisputeBook, dispute_id_of
from market.errors import ContractError
from market.events import Event, decode_logs
from market.fees import GWEI, FeePolicy
from market.transactions import Queued, Sent, TransactionPending, Transactions
from market.verification.challenger import Agrees
from market.verification.geometry import Node
from market.verification.structs import Claim
from provider.chainside import ChainSide
from provider.disputes import Responder
from provider.flights import Enqueue
from provider.node import AGAIN
from tests.integration.provider.arena import Arena, judged_market
from tests.integration.provider.market import TOKENS, LocalAgent, Market, until

ASKED_TOGETHER = 16  # requests in one transaction of whoever floods
WINDOW = 600  # seconds of the machine's clock, which the blocks follow: more than a busy one needs
OTHER = 6  # number of anvil's account that is neither side's
DELAY = 6  # blocks: transactions of 16, 8, 4, 2 replies are spoilt, a round's last ones, too
REPLIES = ("HashesGiven", "PayloadGiven")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = judged_market(tmp_path_factory.mktemp("market"), reply_window=WINDOW)
    yield market
    market.close()


@pytest.fixture
def arena(market: Market, tmp_path: Path) -> Iterator[Arena]:
    with Arena.of(market, tmp_path / "agent") as arena:
        yield arena


def shown(arena: Arena, evidence: Evidence) -> list[Node]:
    """What the replies so far let anyone ask for."""
    dispute = arena.dispute(evidence)
    geometry = arena.player.traces.trace(evidence.claim(), evidence.input_ids, evidence.output_ids).geometry
    lowest = [
        asked.node.child(asked.levels, index)
        for asked in dispute.asked.values()
        if asked.levels and asked.hashes
        for index in range(1 << asked.levels)
    ]
    return [node for node in lowest if node not in dispute.asked and geometry.node_at(node).inside]


def flood(arena: Arena, evidence: Evidence, nodes: Sequence[Node]) -> list[Queued]:
    """Asks for all of them at once, without waiting for a block."""
    dispute, contract = arena.dispute(evidence), Disputes(arena.market.chain, arena.market.deployment.disputes)
    requests = [_request(contract, dispute, node) for node in nodes]
    return [
        arena.transactions.enqueue(contract.multicall(requests[start : start + ASKED_TOGETHER]))
        for start in range(0, len(requests), ASKED_TOGETHER)
    ]


def _request(contract: Disputes, dispute: Dispute, node: Node) -> Call:
    path = dispute.path_to_answered(node)
    assert path is not None
    return contract.request(dispute.claim, node, dispute.known[node], path)


class Ear:
    """Hears of each reply before it is sent, and of a provider that waits for a block."""

    def __init__(self, heard: Callable[[Call], None] = lambda _: None) -> None:
        self.heard = heard
        self.waits = 0  # how often it began to wait
        self.waiting = False

    def side(self, chain: Chain, jobs: Jobs, vault: Vault, transactions: Transactions, timeout: float) -> ChainSide:
        made = HeardSide(chain, jobs, vault, transactions, timeout=timeout)
        made.ear = self
        return made


class HeardSide(ChainSide):
    ear: Ear

    def enqueue(self, call: Call, key: str, waits: int | None = None) -> Queued:
        if key.startswith("reply:"):
            self.ear.heard(call)
        queued = super().enqueue(call, key, waits)
        wait = queued.wait

        def heard_wait() -> Sent:
            self.ear.waits += not queued.is_over
            self.ear.waiting = not queued.is_over
            try:
                return wait()
            finally:
                self.ear.waiting = False

        queued.wait = heard_wait  # type: ignore[method-assign]
        return queued


@dataclass
class FrontRunner:
    """Pays more for its place in the block, and takes one reply out of each transaction that has several."""

    transactions: Transactions
    active: bool = False
    spoilt: int = 0

    def __call__(self, call: Call) -> None:
        if not (self.active and call.label.startswith("Disputes.multicall")):
            return
        (replies,) = decode(["bytes[]"], call.data[4:])
        with suppress(ContractError):  # a block came in between, and the provider was faster
            self.transactions.enqueue(Call(call.to, replies[-1], "front-runner"), block="latest")
            self.spoilt += 1


@contextmanager
def front_runner(market: Market) -> Iterator[FrontRunner]:
    account, dearer = market.anvil.accounts[OTHER], FeePolicy(min_priority_fee=9 * GWEI)
    with Transactions(market.chain, account, ":memory:", fees=dearer) as transactions:
        yield FrontRunner(transactions)


def events(arena: Arena, evidence: Evidence, since: int, *names: str) -> list[Event]:
    chain, contract = arena.market.chain, arena.market.deployment.disputes
    found = decode_logs(chain.logs([contract], since, chain.head().number))
    return [event for event in found if event.args.get("disputeId") == evidence.dispute_id and event.name in names]


def opened(arena: Arena, agent: LocalAgent) -> Evidence:
    """A dispute in which anybody may ask for the leaves."""
    evidence = arena.answer(agent)
    token, vault = arena.market.contracts.token, arena.market.deployment.vault
    arena.transactions.send(token.approve(vault, TOKENS))
    arena.player.open(evidence)
    for _ in range(3):
        arena.wait_for_replies(evidence)
        if len(nodes := shown(arena, evidence)) > 200:
            break
        for queued in flood(arena, evidence, nodes):
            queued.wait()
    return evidence


def blocks_of(found: Sequence[Event]) -> set[int]:
    return {event.block_number for event in found}


def answered_in_time(
    arena: Arena, ear: Ear, evidence: Evidence, nodes: Sequence[Node]
) -> tuple[list[Event], list[Event]]:
    """Asks for all of them and returns requests and replies. A block comes as soon as the provider waits for one: so it
    has as many as on a chain whose blocks take their time, however slow this machine is."""
    market = arena.market
    first, waits, end = market.chain.head().number + 1, 0, time.monotonic() + WINDOW / 2
    market.anvil.set_automine(False)
    try:
        underway = flood(arena, evidence, nodes)
        while (asked := bool(arena.dispute(evidence).unanswered)) or not all(queued.is_over for queued in underway):
            assert time.monotonic() < end, "it never happened"
            if _pool(market) and (not asked or (ear.waiting and ear.waits != waits)):
                waits = ear.waits
                market.anvil.mine()
            time.sleep(0.02)
    finally:
        market.anvil.set_automine(True)
        market.anvil.mine()
    requests = events(arena, evidence, first, "NodeRequested")
    replies = events(arena, evidence, first, *REPLIES)
    assert len(requests) == len(replies) == len(nodes)
    assert isinstance(arena.player.next(arena.dispute(evidence)), Agrees)
    return requests, replies


def _pool(market: Market) -> int:
    return int(market.anvil.rpc("txpool_status")["pending"], 16)


def test_flood_of_requests_is_answered_in_the_blocks_behind_it(arena: Arena) -> None:
    ear = Ear()
    agent = arena.agent(side_factory=ear.side)
    try:
        evidence = opened(arena, agent)
        requests, replies = answered_in_time(arena, ear, evidence, shown(arena, evidence)[:300])
        assert len(blocks_of(replies)) <= len(blocks_of(requests)) + 2
        assert max(blocks_of(replies)) <= max(blocks_of(requests)) + 3
        gas = [_gas(arena, found) for found in (requests, replies)]
        assert 3 * gas[1] < gas[0]  # so whoever answers needs less room than whoever asks
    finally:
        agent.stop()


def _gas(arena: Arena, found: Sequence[Event]) -> int:
    receipts = [arena.market.chain.receipt(each) for each in {event.transaction_hash for event in found}]
    return sum(int(receipt["gasUsed"], 16) for receipt in receipts if receipt is not None)


@pytest.mark.parametrize("count", [64, pytest.param(400, marks=pytest.mark.slow)])
def test_one_who_spoils_every_transaction_of_the_provider_delays_it_by_a_few_blocks(arena: Arena, count: int) -> None:
    """Each time it has to answer as many nodes itself, and then there are twice as many transactions to spoil."""
    with front_runner(arena.market) as other:
        ear = Ear(other)
        agent = arena.agent(side_factory=ear.side)
        try:
            evidence = opened(arena, agent)
            nodes = shown(arena, evidence)
            other.active = True
            requests, replies = answered_in_time(arena, ear, evidence, nodes[:count])
            assert other.spoilt >= 5
            assert max(blocks_of(replies)) <= max(blocks_of(requests)) + DELAY
            other.active = False
            _, replies = answered_in_time(arena, ear, evidence, nodes[count : count + 32])
            assert len({event.transaction_hash for event in replies}) <= 32 // 2  # several in each again
        finally:
            agent.stop()


def test_reply_of_somebody_else_that_only_waits_in_a_pool_stops_nobody(arena: Arena) -> None:
    """Whoever sent it takes it back at the last moment, and the provider would have been silent."""
    anvil, account = arena.market.anvil, arena.market.anvil.accounts[OTHER]
    copied: list[Call] = []

    def copy(call: Call) -> None:
        if active and not copied:
            copied.append(call)
            with Transactions(arena.market.chain, account, ":memory:") as other:
                other.enqueue(call)

    active = False
    agent = arena.agent(side_factory=Ear(copy).side)
    try:
        evidence = opened(arena, agent)
        (node, *_), active = shown(arena, evidence), True
        since = arena.market.chain.head().number + 1
        anvil.set_automine(False)
        try:
            flood(arena, evidence, [node])
            anvil.mine()
            until(lambda: _pool(arena.market) == 2)
            anvil.rpc("anvil_removePoolTransactions", account.address)
        finally:
            anvil.set_automine(True)
        anvil.mine()
        arena.wait_for_replies(evidence)
        (reply,) = events(arena, evidence, since, *REPLIES)
        sent = arena.market.chain.rpc("eth_getTransactionByHash", reply.transaction_hash)
        assert same_address(sent["from"], agent.agent.address)
    finally:
        agent.stop()


def test_most_urgent_replies_of_all_disputes_are_sent_first(arena: Arena) -> None:
    sent: list[Call] = []
    agent = arena.agent()
    account = agent.account
    try:
        older, newer = opened(arena, agent), opened(arena, agent)
        nodes = {each.dispute_id: shown(arena, each) for each in (older, newer)}
    finally:
        agent.stop()
    for evidence in (newer, older):  # so the younger dispute's replies are due earlier
        for queued in flood(arena, evidence, nodes[evidence.dispute_id][:20]):
            queued.wait()
        arena.market.anvil.increase_time(5)
    again = LocalAgent(arena.folder / "provider.toml", account, side_factory=Ear(sent.append).side)
    try:
        for evidence in (older, newer):
            arena.wait_for_replies(evidence)
    finally:
        again.stop()
    order = [evidence for call in sent for evidence in (older, newer) if evidence.dispute_id in call.data]
    assert order == [newer, newer, older, older]


def responder(arena: Arena, enqueue: Enqueue, *only: Evidence) -> Responder:
    market, wanted = arena.market, {evidence.dispute_id for evidence in only}

    def keep(claim: Claim) -> bool:
        return dispute_id_of(claim.subject, claim.subject_id, claim.provider) in wanted

    return Responder(
        DisputeBook(market.chain, market.deployment.disputes, keep=keep),
        Disputes(market.chain, market.deployment.disputes),
        arena.player.traces,
        enqueue,
        now=lambda: market.chain.head().timestamp,
        seen=lambda: market.chain.head().timestamp,
    )


def test_replies_that_could_wait_for_cheaper_gas_hold_up_none_that_cannot(arena: Arena) -> None:
    """Nonces follow each other: a transaction that waits keeps those behind it waiting."""
    agent = arena.agent()
    try:
        urgent, other = opened(arena, agent), opened(arena, agent)
        nodes = [shown(arena, urgent)[0], shown(arena, other)[0]]
    finally:
        agent.stop()
    waits: list[int | None] = []
    with Transactions(arena.market.chain, agent.account, ":memory:") as transactions:

        def enqueue(call: Call, key: str, patience: int | None) -> Queued:
            waits.append(patience)
            return transactions.enqueue(call, key=key)

        for evidence, node, seconds in ((urgent, nodes[0], WINDOW // 2 - 30), (other, nodes[1], 40)):
            flood(arena, evidence, [node])[0].wait()
            arena.market.anvil.increase_time(seconds)
        answers = responder(arena, enqueue, urgent, other)
        while answers.step() == AGAIN:
            pass
    assert waits == [0, 0]
    assert not any(arena.dispute(each).unanswered for each in (urgent, other))


def test_provider_that_starts_again_sends_nothing_twice_that_is_on_its_way(arena: Arena) -> None:
    """What it sent has keys that follow from what is asked: the one that forgot everything makes the same."""
    market = arena.market
    agent = arena.agent()
    try:
        evidence = opened(arena, agent)
        nodes = shown(arena, evidence)[:40]
    finally:
        agent.stop()
    for queued in flood(arena, evidence, nodes):
        queued.wait()

    with Transactions(market.chain, agent.account, ":memory:") as transactions:
        before = market.chain.transaction_count(transactions.address)
        market.anvil.set_automine(False)
        try:

            def enqueue(call: Call, key: str, _: int | None) -> Queued:
                return transactions.enqueue(call, key=key, timeout=0.1, block="latest")

            again = responder(arena, enqueue, evidence)
            for looks in (responder(arena, enqueue, evidence), again, again):
                with pytest.raises(TransactionPending):
                    looks.step()
                assert transactions.pending() == 3  # 16, 16 and 8
        finally:
            market.anvil.set_automine(True)
            market.anvil.mine()
        until(lambda: not transactions.pending())
        assert again.step() != AGAIN
        assert market.chain.transaction_count(transactions.address) == before + 3
    assert not arena.dispute(evidence).unanswered
