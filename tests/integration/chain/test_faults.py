"""The index and the sender behind an endpoint that fails or lies: fail closed, go on, equal a fresh one."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from market.chain import Chain
from market.errors import ChainError, ChainUnreachable
from market.events import HeadWaker
from market.index import Index
from tests.integration.chain.test_index import assert_fresh, index, rows
from tests.integration.chain.test_transactions import received, sender, transfer
from tests.integration.chain.world import DEPLOYER, MODEL, PROVIDERS, World
from tests.rpc_proxy import Fault, FaultProxy, answers, lying_logs, only, rate_limited, shuffled_logs


@pytest.fixture
def busy(world: World) -> World:
    world.publish()
    world.open_provider(PROVIDERS[0])
    return world


def behind(proxy: FaultProxy, world: World, **options: Any) -> Index:
    options = {"attempts": 2, "timeout": 2.0, **options}
    return Index("sqlite://", Chain(proxy.rpc_url, **options), world.deployment)


def test_index_while_the_endpoint_is_dead_keeps_what_it_had_and_goes_on_after(busy: World, proxy: FaultProxy) -> None:
    found = behind(proxy, busy)
    found.sync()
    before = rows(found)
    proxy.down()
    busy.send(PROVIDERS[0], busy.vault.stake(5))
    with pytest.raises(ChainUnreachable):
        found.sync()
    assert rows(found) == before
    proxy.up()
    assert found.sync() == 1
    assert_fresh(busy, found)
    found.close()


@pytest.mark.parametrize(
    "fault",
    [Fault(truncate=0.5), Fault(drop=True), rate_limited(1), Fault(delay=0.5), shuffled_logs()],
    ids=["truncated", "dropped", "429", "slow", "shuffled"],
)
def test_index_behind_a_passing_fault_equals_a_fresh_one(busy: World, proxy: FaultProxy, fault: Fault) -> None:
    found = behind(proxy, busy)
    proxy.fail_times(1, fault, "eth_getLogs")
    assert found.sync() > 5
    assert_fresh(busy, found)
    found.close()


LIES = {
    "another address": lying_logs(address="0x" + "99" * 20),
    "another block": lying_logs(blockNumber="0xfffff"),
    "no number": lying_logs(blockNumber="twelve"),
    "no topics": lying_logs(topics=None),
    "data too short": lying_logs(data="0x01"),
    "data no hex": lying_logs(data="0xzz"),
    "no logs": Fault(rewrite=lambda answer: {**answer, "result": [None]}),
    "a text": Fault(rewrite=lambda answer: {**answer, "result": ["log"]}),
    "no list": Fault(rewrite=lambda answer: {**answer, "result": None}),
}


@pytest.mark.parametrize("lie", LIES)
def test_index_takes_nothing_over_from_logs_that_cannot_be(busy: World, proxy: FaultProxy, lie: str) -> None:
    found = behind(proxy, busy)
    proxy.fault = only("eth_getLogs", LIES[lie])
    with pytest.raises(ChainError) as refused:
        found.sync()
    assert refused.value.code == "BadLog"
    assert not any(rows(found)[name] for name in ("logs", "models", "accounts", "offers"))
    proxy.heal()
    found.sync()
    assert_fresh(busy, found)
    found.close()


def test_index_does_not_notice_logs_that_an_endpoint_leaves_out(busy: World, proxy: FaultProxy) -> None:
    """The limit of it all (docs/chain-access.md, "An endpoint that lies"): what is not there contradicts nothing.
    Another endpoint beside the liar is not asked about logs, and the gap stays until the index is read anew."""
    found = Index("sqlite://", Chain([proxy.rpc_url, busy.anvil.rpc_url]), busy.deployment)
    found.sync()
    before = found.offers(MODEL.model_id)
    proxy.fault = only("eth_getLogs", answers([]))
    busy.open_provider(PROVIDERS[1])
    assert found.sync() == 0
    proxy.heal()
    busy.open_provider(PROVIDERS[2])
    assert found.sync() > 0
    seen = {offer.provider for offer in found.offers(MODEL.model_id)}
    assert seen == {offer.provider for offer in before} | {busy.account(PROVIDERS[2]).address}
    with index(busy) as anew:
        anew.sync()
        assert len(anew.offers(MODEL.model_id)) == len(seen) + 1
    # no contract asked it: the one that was hidden is as drawable, and can be as little misled, as ever
    assert busy.registry.offer(busy.account(PROVIDERS[1]).address, MODEL.model_id) == busy.offer()
    found.close()


def test_transaction_that_a_proxy_sends_twice_happens_once(chain: Chain, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fault = only("eth_sendRawTransaction", Fault(twice=True))
    with sender(Chain(proxy.rpc_url), tmp_path) as transactions:
        for number in range(1, 4):
            transactions.send(transfer())
            assert received(chain) == number
    assert chain.transaction_count(transactions.address) == 3


def test_send_during_an_outage_happens_once_after_it(chain: Chain, proxy: FaultProxy, tmp_path: Path) -> None:
    """The endpoint dies after it took the transaction and comes back: the sender finds its own receipt."""
    with sender(Chain(proxy.rpc_url, attempts=1, timeout=1.0), tmp_path) as transactions:
        taken = threading.Event()

        def die_after_taking(question: dict[str, Any]) -> Fault | None:
            if question["method"] == "eth_sendRawTransaction":
                taken.set()
                return Fault(lose_answer=True)
            return Fault(drop=True) if taken.is_set() else None

        proxy.fault = die_after_taking
        outage = threading.Thread(target=_out, args=(proxy, taken, 1.0))
        outage.start()
        assert transactions.send(transfer(), timeout=30).gas_used == 21_000
        outage.join()
    assert received(chain) == 1
    assert chain.transaction_count(transactions.address) == 1


def _out(proxy: FaultProxy, taken: threading.Event, seconds: float) -> None:
    assert taken.wait(30)
    time.sleep(0.2)
    proxy.down()
    time.sleep(seconds)
    proxy.heal()
    proxy.up()


async def test_waker_whose_endpoint_was_out_wakes_again(world: World, proxy: FaultProxy) -> None:
    async with HeadWaker(proxy.ws_url) as waker:
        assert await waker.wait(30)
        proxy.down()
        assert not await waker.wait(0.3)
        proxy.up()
        assert await waker.wait(30)  # the new connection counts
        world.send(DEPLOYER, world.token.mint(world.account(9).address, 1))
        assert await waker.wait(30)
