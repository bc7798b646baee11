"""What a watcher spends, whom it believes, and what becomes of a dispute that two of them look after."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from assay.watch import CanaryMissed, Watch, WatchRules, keyed_root
from assay.watch_store import WatchStore
from market.contracts import Registry
from market.dispute_evidence import Evidence
from market.disputes import DisputeState
from market.events import Follower
from market.verification.traces import Traces
from tests.adversaries import Liar, StubbornTraces
from tests.integration.provider.arena import Arena, judged_market
from tests.integration.provider.market import LocalAgent, Market, until

COIN = 10**18


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = judged_market(tmp_path_factory.mktemp("market"))
    yield market
    market.close()


@pytest.fixture
def arena(market: Market, tmp_path: Path) -> Iterator[Arena]:
    with Arena.of(market, tmp_path / "agent") as arena:
        yield arena


class Watcher:
    """One that looks at every answer from now on, and what it tells; `again` is another process with its record."""

    def __init__(self, arena: Arena, folder: Path, **rules: Any) -> None:
        self.arena, self.folder, self.lines = arena, folder, list[dict[str, Any]]()
        self._start = arena.market.chain.head().number
        self.again(**rules)

    def again(self, **rules: Any) -> None:
        market = self.arena.market
        self.store = WatchStore(self.folder / "watch.sqlite", "market")
        self._watch = Watch(
            market.chain,
            self.arena.jobs,
            Registry(market.chain, market.deployment.registry),
            self.arena.player,
            self.store,
            Follower(market.chain, [market.deployment.jobs], self.store, start_block=self._start),
            WatchRules(**{"rate": Fraction(1), "budget": COIN, **rules}),
            lambda *_: pytest.fail("nobody disagrees here: one provider answers each job"),
            self.lines.append,
            lambda: market.chain.head().timestamp,
        )

    def look(self) -> dict[str, Any]:
        """One look. Returns what was told last."""
        self._watch.tick()
        return self.lines[-1] if self.lines else {}

    def looks_until(self, state: str) -> None:
        def done() -> bool:
            self._watch.tick()
            return bool(self.store.audits(state))

        until(done, 60)


def published(arena: Arena, agent: LocalAgent) -> Evidence:
    """A public answer whose ids are on chain, too: its client demanded them."""
    evidence = arena.answer(agent)
    demand = arena.jobs.demand_reveal(evidence.subject_id, evidence.provider)
    arena.market.transactions.send(demand)
    until(lambda: arena.market.events("OutputPublished", evidence.subject_id))
    return evidence


def test_watcher_disputes_within_its_budget_and_where_it_pays_and_goes_on_after_a_restart(
    arena: Arena, tmp_path: Path
) -> None:
    watcher = Watcher(arena, tmp_path, budget=1)
    agent = arena.agent(executor_factory=functools.partial(Liar, flip=1), traces_factory=StubbornTraces)
    try:
        evidence = published(arena, agent)
        assert watcher.look()["not_disputed"].startswith("over budget")
        assert arena.player.look(evidence.dispute_id) is None
        watcher.store.close()
        watcher.again(token_per_coin=10**15)
        assert watcher.look()["not_disputed"].startswith("unprofitable")
        assert arena.player.look(evidence.dispute_id) is None
        watcher.store.close()
        watcher.again(token_per_coin=1_000_000)
        assert watcher.look()["state"] == "disputed"
        watcher.store.close()
        watcher.again()  # it died after it had opened the dispute
        watcher.looks_until("guilty")
        (audit,) = watcher.store.audits()
        trace = arena.player.traces.trace(evidence.claim(), evidence.input_ids, evidence.output_ids)
        assert audit.keyed_root == keyed_root(arena.player.address, trace.root())
        assert audit.reward > 0
        assert watcher.store.spent_since(0) == audit.wei > 0
        assert arena.dispute(evidence).state is DisputeState.GUILTY
        assert [line["found"] for line in watcher.lines if line["event"] == "canary"] == [True]
    finally:
        agent.stop()
        watcher.store.close()


def test_watcher_whose_machine_finds_wrong_answers_right_stops(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(arena, tmp_path)
    agent = arena.agent()
    try:
        evidence = published(arena, agent)
        with monkeypatch.context() as patch:
            patch.setattr(Traces, "_make", StubbornTraces._make)
            with pytest.raises(CanaryMissed):
                watcher.look()
        assert watcher.store.audits() == []  # the answer is looked at again, once the machine is in order
        arena.player.traces.forget()
        assert arena.player.look(evidence.dispute_id) is None
    finally:
        agent.stop()
        watcher.store.close()


def test_second_watcher_joins_the_dispute_of_the_first_and_loses_nothing(arena: Arena, tmp_path: Path) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(Arena.of(arena.market, tmp_path / "other", account=6))
        watchers = [Watcher(each, tmp_path / name) for each, name in ((arena, "one"), (other, "two"))]
        vault, token = arena.market.contracts.vault, arena.market.contracts.token

        def wealth() -> list[int]:
            owners = [each.player.address for each in (arena, other)]
            return [token.balance_of(owner) + vault.credit(token.address, owner) for owner in owners]

        before = wealth()
        agent = arena.agent(executor_factory=functools.partial(Liar, flip=1), traces_factory=StubbornTraces)
        stack.callback(agent.stop)
        for watcher in watchers:
            stack.callback(watcher.store.close)
        evidence = published(arena, agent)

        def both_guilty() -> bool:
            for watcher in watchers:
                watcher.look()
            return all(watcher.store.audits("guilty") for watcher in watchers)

        until(both_guilty, 60)
        rewards = [watcher.store.audits()[0].reward for watcher in watchers]
        assert [now - then for now, then in zip(wealth(), before, strict=True)] == rewards
        replica = arena.jobs.replicas(evidence.subject_id)[0]
        whole = min(replica.bond * arena.jobs.challenger_share_bps() // 10_000, (replica.bond - replica.paid) // 2)
        assert whole // 2 <= sum(rewards) <= whole
