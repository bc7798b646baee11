"""Following a real chain: resumable, never blind to a reorg, never fooled by an endpoint."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.anvil import Anvil
from market.chain import Chain
from market.errors import ChainError
from market.events import (
    Event,
    Follower,
    HeadWaker,
    Mark,
    MemoryCursor,
    Rewind,
    decode_log,
    decode_logs,
    in_order,
)
from tests.integration.chain.world import DEPLOYER, World
from tests.rpc_proxy import Fault, FaultProxy, Question


def follow(world: World, store: MemoryCursor | None = None, chain: Chain | None = None, **options: Any) -> Follower:
    addresses = [world.token.address]
    start = world.deployment.block
    return Follower(chain or world.chain, addresses, store or MemoryCursor(), start_block=start, **options)


def mint(world: World, *amounts: int) -> None:
    receiver = world.account(9).address
    world.send(DEPLOYER, *(world.token.mint(receiver, amount) for amount in amounts))


def take(follower: Follower) -> list[Event | Rewind]:
    items = follower.poll()
    follower.commit()
    return items


def amounts(items: list[Event | Rewind]) -> list[int]:
    return [item.args["value"] for item in items if isinstance(item, Event) and item.name == "Transfer"]


def rewinds(items: list[Event | Rewind]) -> list[int]:
    return [item.to_block for item in items if isinstance(item, Rewind)]


class Ledger:
    """A consumer as it should be: undoes what a Rewind names."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def take(self, items: list[Event | Rewind]) -> None:
        for item in items:
            if isinstance(item, Rewind):
                self.events = [event for event in self.events if event.block_number <= item.to_block]
            else:
                self.events.append(item)


def test_follower_gives_each_event_once_in_order(world: World) -> None:
    follower = follow(world)
    mint(world, 1, 2, 3)
    assert amounts(take(follower)) == [1, 2, 3]
    assert take(follower) == []
    mint(world, 4)
    assert amounts(take(follower)) == [4]
    world.anvil.mine(5)
    assert take(follower) == []
    mint(world, 5)
    assert amounts(take(follower)) == [5]


def test_follower_that_did_not_commit_gives_the_same_again(world: World) -> None:
    store = MemoryCursor()
    follower = follow(world, store)
    mint(world, 1)
    assert amounts(follower.poll()) == [1]
    assert amounts(follower.poll()) == [1]
    assert amounts(follow(world, store).poll()) == [1]
    follower.poll()
    follower.commit()
    assert follow(world, store).poll() == []


def test_follower_resumes_where_another_committed(world: World) -> None:
    store = MemoryCursor()
    mint(world, 1)
    take(follow(world, store))
    mint(world, 2)
    assert amounts(take(follow(world, store))) == [2]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_follower_after_a_reorg_rewinds_and_equals_a_fresh_one(world: World, depth: int) -> None:
    follower, ledger = follow(world), Ledger()
    for amount in range(1, 7):
        mint(world, amount)
        ledger.take(take(follower))
    head = world.chain.head().number
    world.anvil.reorg(depth)
    items = take(follower)
    assert rewinds(items) == [head - depth]
    ledger.take(items)
    assert [event.args["value"] for event in ledger.events] == list(range(1, 7 - depth))
    mint(world, 100)
    ledger.take(take(follower))
    fresh = Ledger()
    fresh.take(take(follow(world)))
    assert ledger.events == fresh.events


def test_follower_after_a_reorg_that_mined_the_same_again_gives_the_new_blocks(world: World) -> None:
    follower, ledger = follow(world), Ledger()
    mint(world, 1, 2)
    ledger.take(take(follower))
    world.anvil.reorg(1)
    mint(world, 2)
    ledger.take(take(follower))
    fresh = Ledger()
    fresh.take(take(follow(world)))
    assert ledger.events == fresh.events


def test_follower_after_a_rollback_waits_until_the_chain_has_grown(world: World) -> None:
    follower, ledger = follow(world), Ledger()
    for amount in (1, 2, 3):
        mint(world, amount)
        ledger.take(take(follower))
    world.anvil.rollback(2)
    assert take(follower) == []  # a shorter chain may be an endpoint that lags
    world.anvil.mine(4)
    ledger.take(take(follower))
    assert [event.args["value"] for event in ledger.events] == [1]


def test_follower_of_a_chain_that_was_replaced_by_a_shorter_one_starts_again(world: World) -> None:
    store = MemoryCursor()
    mint(world, 1)
    world.anvil.mine(50)
    take(follow(world, store))
    time.sleep(1.1)  # another second, so other hashes
    with Anvil.start() as other:
        other.mine(10)
        items = take(follow(world, store, Chain(other.rpc_url)))
    assert rewinds(items) == [world.deployment.block - 1]


def test_follower_with_confirmations_waits_for_them(world: World) -> None:
    follower = follow(world, confirmations=3)
    take(follower)
    mint(world, 7)
    assert amounts(take(follower)) == []
    world.anvil.mine(2)
    assert amounts(take(follower)) == []
    world.anvil.mine(1)
    assert amounts(take(follower)) == [7]


def test_follower_with_confirmations_never_sees_a_shallow_reorg(world: World) -> None:
    follower = follow(world, confirmations=3)
    mint(world, 1)
    world.anvil.mine(3)
    assert amounts(take(follower)) == [1]
    mint(world, 2)
    world.anvil.reorg(1)
    world.anvil.mine(5)
    items = take(follower)
    assert (rewinds(items), amounts(items)) == ([], [])


def test_follower_keeps_few_marks_and_the_oldest(world: World) -> None:
    store = MemoryCursor()
    follower = follow(world, store)
    take(follower)
    first = store.load()[0]
    for _ in range(140):
        world.anvil.mine()
        take(follower)
    marks = store.load()
    assert len(marks) <= 128
    assert marks[0] == first
    assert marks[-1] == Mark(world.chain.head().number, world.chain.head().hash)


def test_follower_far_behind_catches_up_in_parts(world: World) -> None:
    mint(world, 1)
    far = world.chain.head().number - world.deployment.block + 1  # as many as there are up to the first one
    world.anvil.mine(far)
    mint(world, 2)
    follower = follow(world, blocks_per_poll=far)
    assert amounts(take(follower)) == [1]
    assert not follower.is_abreast
    assert amounts(take(follower)) == []
    assert amounts(take(follower)) == [2]
    assert follower.is_abreast
    assert take(follower) == []


# ------------------------------------------------------------------------------------------------- lying endpoints


def _lie(**changes: Any) -> Any:
    def rewrite(answer: dict[str, Any]) -> dict[str, Any]:
        answer["result"] = [{**log, **changes} for log in answer["result"]]
        return answer

    return rewrite


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "0x" + "99" * 20},
        {"blockNumber": "0xffff"},
        {"blockNumber": "0x0"},
        {"blockHash": "0x" + "99" * 32},
        {"data": "0x01"},
    ],
    ids=["address", "later", "earlier", "hash", "data"],
)
def test_follower_refuses_logs_that_were_not_asked_for(
    world: World, proxy: FaultProxy, changes: dict[str, str]
) -> None:
    store = MemoryCursor()
    follower = follow(world, store, Chain(proxy.rpc_url))
    take(follower)
    marks = store.load()
    mint(world, 1)
    proxy.fail_times(1, Fault(rewrite=_lie(**changes)), "eth_getLogs")
    with pytest.raises(ChainError) as refused:
        follower.poll()
    follower.commit()
    assert refused.value.code == "BadLog"
    assert store.load() == marks
    assert amounts(take(follower)) == [1]


def test_follower_given_duplicates_out_of_order_gives_each_once(world: World, proxy: FaultProxy) -> None:
    def shuffle(answer: dict[str, Any]) -> dict[str, Any]:
        answer["result"] = [*reversed(answer["result"]), *answer["result"]]
        return answer

    mint(world, 1, 2, 3)
    proxy.fault = lambda question: Fault(rewrite=shuffle) if question["method"] == "eth_getLogs" else None
    assert amounts(take(follow(world, chain=Chain(proxy.rpc_url)))) == [1, 2, 3]


def test_follower_reads_again_when_the_chain_changes_under_it(world: World, proxy: FaultProxy) -> None:
    """A reorg between the question for the head and the one for the logs."""
    mint(world, 1, 2, 3)
    done: list[bool] = []

    def reorg_first(question: Question) -> Fault | None:
        if question["method"] == "eth_getLogs" and not done:
            done.append(True)
            world.anvil.reorg(2)
        return None

    proxy.fault = reorg_first
    assert amounts(take(follow(world, chain=Chain(proxy.rpc_url)))) == [1]


def test_follower_of_an_endpoint_that_lags_gives_nothing_twice(world: World, proxy: FaultProxy) -> None:
    follower = follow(world, chain=Chain(proxy.rpc_url))
    mint(world, 1)
    old = world.anvil.rpc("eth_getBlockByNumber", "latest", False)
    mint(world, 2)
    take(follower)

    def lag(question: Question) -> Fault | None:
        if question["method"] == "eth_getBlockByNumber" and question["params"][0] == "latest":
            return Fault(rewrite=lambda answer: {**answer, "result": old})
        return None

    proxy.fault = lag
    assert take(follower) == []
    proxy.fault = lambda _: None
    assert take(follower) == []
    mint(world, 3)
    assert amounts(take(follower)) == [3]


# --------------------------------------------------------------------------------------------------------- decoding


def test_logs_of_foreign_events_are_left_out(calm_world: World) -> None:
    log = calm_world.chain.logs([calm_world.token.address], 0, calm_world.chain.head().number)[0]
    assert decode_log(log) is not None
    assert decode_log({**log, "topics": ["0x" + "12" * 32]}) is None
    assert decode_log({**log, "topics": []}) is None
    assert decode_log({**log, "topics": log["topics"][:2]}) is None
    assert decode_logs([log, {**log, "topics": []}]) == [decode_log(log)]


LOGS = st.lists(
    st.fixed_dictionaries(
        {
            "blockNumber": st.integers(0, 5).map(hex),
            "blockHash": st.sampled_from(["0xaa", "0xBB"]),
            "logIndex": st.integers(0, 4).map(hex),
            "removed": st.booleans(),
        }
    )
)


@given(LOGS, st.randoms(use_true_random=False))
def test_logs_in_any_order_and_repeated_come_out_once_in_the_chains_order(
    logs: list[dict[str, Any]], random: Any
) -> None:
    # one block hash has one number
    for log in logs:
        log["blockNumber"] = hex({"0xaa": 1, "0xBB": 2}[log["blockHash"]])
    shuffled = [*logs, *logs]
    random.shuffle(shuffled)
    ordered = in_order(shuffled)
    keys = [(int(log["blockNumber"], 16), int(log["logIndex"], 16)) for log in ordered]
    assert keys == sorted(set(keys))
    assert set(keys) == {(int(log["blockNumber"], 16), int(log["logIndex"], 16)) for log in logs if not log["removed"]}


# ------------------------------------------------------------------------------------------------------------ waking


async def test_waker_wakes_at_a_new_block(anvil: Anvil) -> None:
    async with HeadWaker(anvil.ws_url) as waker:
        assert await waker.wait(30)  # connected
        assert not await waker.wait(0.1)
        asyncio.get_running_loop().call_later(0.1, anvil.mine)
        assert await waker.wait(60)  # True is a block, never the time-out
        assert waker.connected


async def test_waker_that_was_woken_before_the_wait_returns_at_once(anvil: Anvil) -> None:
    async with HeadWaker(anvil.ws_url) as waker:
        assert await waker.wait(30)
        anvil.mine(3)
        await asyncio.sleep(0.2)
        assert await waker.wait(0.01)
        assert not await waker.wait(0.05)


async def test_waker_survives_the_chain_being_restarted(anvil: Anvil) -> None:
    async with HeadWaker(anvil.ws_url) as waker:
        assert await waker.wait(30)
        await asyncio.to_thread(anvil.stop)
        assert not await waker.wait(0.3)
        assert not waker.connected
        again = await asyncio.to_thread(Anvil.start, anvil.port)
        try:
            assert await waker.wait(30)  # a new connection counts: blocks may have been missed
            again.mine()
            assert await waker.wait(30)
        finally:
            again.stop()


async def test_waker_without_a_url_only_waits() -> None:
    async with HeadWaker(None) as waker:
        started = time.monotonic()
        assert not await waker.wait(0.05)
        assert time.monotonic() - started >= 0.05


async def test_waker_of_a_dead_endpoint_only_waits() -> None:
    async with HeadWaker("ws://127.0.0.1:9") as waker:
        assert not await waker.wait(0.3)
        assert not waker.connected
