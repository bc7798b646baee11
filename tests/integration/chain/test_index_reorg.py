"""Whatever reorganisations do to events (gone, moved to other blocks, back again), the index equals a fresh one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from market.anvil import Anvil
from market.chain import Call
from market.errors import ChainError
from market.types import Model
from tests.integration.chain.test_index import assert_fresh, index
from tests.integration.chain.world import MODEL, PROVIDERS, World, build

SOMEBODY = st.sampled_from(PROVIDERS)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["offer", "unoffer", "announce", "leave", "stake", "unstake", "publish"]), SOMEBODY),
    st.tuples(st.just("sync"), st.just(0)),
    st.tuples(st.just("reorg"), st.integers(1, 7)),  # empty blocks instead: all events are gone
    st.tuples(st.just("move"), st.integers(2, 7)),  # the same transactions in other blocks, the last of each gone
)


@pytest.fixture(scope="module")
def staked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Anvil.start() as running:
        world = build(running, tmp_path_factory.mktemp("reorg"))
        world.publish()
        for provider in PROVIDERS:
            world.open_provider(provider)
        yield world


class Story:
    """Steps on one chain; what a contract refuses does not happen."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._number = 0

    def act(self, what: str, who: int) -> None:
        self._number += 1
        registry, vault = self._world.registry, self._world.vault
        roots = [self._number.to_bytes(32)] * 5
        calls: dict[str, Call] = {
            "offer": registry.set_offer(MODEL.model_id, self._world.offer(base_fee=self._number)),
            "unoffer": registry.remove_offer(MODEL.model_id),
            "announce": registry.set_provider(f"http://{self._number}.example"),
            "leave": registry.remove_provider(),
            "stake": vault.stake(self._number),
            "unstake": vault.request_unstake(self._number),
            "publish": registry.publish_model(Model(*roots), f"model {self._number}"),
        }
        call, sender = calls[what], self._world.account(who).address
        question = {"from": sender, "to": call.to, "data": "0x" + call.data.hex(), "gas": hex(1_000_000)}
        try:
            self._world.anvil.rpc("eth_sendTransaction", question)
        except ChainError:
            return

    def reorg(self, depth: int, *, move: bool) -> None:
        head = self._world.chain.head().number
        depth = min(depth, head - self._world.deployment.block)
        if depth > 0:
            again = self._moved(head, depth) if move else []
            self._world.anvil.rpc("anvil_reorg", depth, again)

    def _moved(self, head: int, depth: int) -> list[list[Any]]:
        """All but each sender's last transaction of the newest blocks, packed into the last of as many new blocks."""
        by_sender: dict[str, list[str]] = defaultdict(list)
        for number in range(head - depth + 1, head + 1):
            for entry in self._world.anvil.rpc("eth_getBlockByNumber", hex(number), True)["transactions"]:
                by_sender[entry["from"]].append(self._world.anvil.rpc("debug_getRawTransaction", entry["hash"]))
        kept = [raw for sent in by_sender.values() for raw in sent[:-1]]
        return [[raw, depth - 1] for raw in kept]


@settings(
    max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(steps=st.lists(STEPS, min_size=5, max_size=25))
def test_index_equals_a_fresh_one_after_any_story(staked: World, steps: Sequence[tuple[str, int]]) -> None:
    _play(staked, steps, "sqlite://")  # on the chain as the story before left it: anvil has no snapshots after a reorg


def _play(world: World, steps: Sequence[tuple[str, int]], url: str) -> None:
    story = Story(world)
    with index(world, url) as found:
        found.sync()
        for what, value in steps:
            if what == "sync":
                found.sync()
            elif what in ("reorg", "move"):
                found.sync()
                story.reorg(value, move=what == "move")
                found.sync()
                assert_fresh(world, found)
            else:
                story.act(what, value)
        world.anvil.mine()
        found.sync()
        assert_fresh(world, found)


@pytest.mark.parametrize("depth", [2, 4, 9])
def test_events_that_move_to_other_blocks_are_counted_once(world: World, database: str, depth: int) -> None:
    world.publish()
    for provider in PROVIDERS:
        world.open_provider(provider)
    steps = [(what, who) for who in PROVIDERS for what in ("stake", "offer", "stake", "unstake")]
    _play(world, [*steps, ("move", depth), *steps[:5], ("reorg", depth - 1), ("move", depth)], database)
    story = Story(world)
    with index(world, database) as found:  # the same again, by an index that was closed meanwhile
        for what, who in steps:
            story.act(what, who)
        found.sync()
    moved = world.chain.logs([world.vault.address], 0, world.chain.head().number)
    story.reorg(depth, move=True)
    assert world.chain.logs([world.vault.address], 0, world.chain.head().number) != moved  # it did move something
    with index(world, database) as found:
        found.sync()
        assert_fresh(world, found)


def test_rewind_adds_up_again_only_those_whose_events_fell(world: World, tmp_path: Path) -> None:
    world.publish()
    world.open_provider(PROVIDERS[0])
    world.deposit(PROVIDERS[1])
    with index(world, f"sqlite:///{tmp_path / 'index.sqlite'}") as found:
        found.sync()
        with found._database.writing() as connection:  # a value that no event explains, to see who is touched
            connection.exec_driver_sql("UPDATE accounts SET jobs_paid = 7")
        world.send(PROVIDERS[1], world.vault.stake(5))
        found.sync()
        world.anvil.reorg(1)
        found.sync()
        with found._database.reader.connect() as connection:
            paid = dict(connection.exec_driver_sql("SELECT address, jobs_paid FROM accounts").all())
        assert paid == {world.account(PROVIDERS[0]).address: 7}
