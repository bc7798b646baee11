"""Several RPC endpoints of one chain: failover, the way back, and no answer that takes back an earlier one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from market.anvil import Anvil
from market.chain import Chain
from market.errors import ChainError, ChainUnreachable, WrongChain
from market.events import Event, Follower, MemoryCursor
from market.rpc_endpoints import EndpointLost
from tests.integration.chain.test_transactions import received, sender, transfer, until
from tests.integration.chain.world import DEPLOYER, World
from tests.rpc_proxy import Fault, FaultProxy, answers, only, rate_limited, stuck_at

TIMEOUT = 2.0
"""Seconds that an endpoint may be silent: more than a question waits for the processor on a machine of any load."""


@pytest.fixture
def second(anvil: Anvil) -> Iterator[FaultProxy]:
    with FaultProxy(anvil.rpc_url) as running:
        yield running


def both(first: FaultProxy, second: FaultProxy, **options: object) -> Chain:
    options = {"attempts": 2, "timeout": TIMEOUT, "scout_every": 0.2, "rest_first": 0.1, **options}
    return Chain([first.rpc_url, second.rpc_url], **options)  # type: ignore[arg-type]


def total(proxy: FaultProxy) -> int:
    return sum(proxy.asked.values())


def test_second_endpoint_is_not_asked_while_the_first_works(proxy: FaultProxy, second: FaultProxy) -> None:
    chain = both(proxy, second, scout_every=60)
    for _ in range(20):
        chain.head()
    assert total(second) == 0


@pytest.mark.parametrize(
    "fault",
    [
        Fault(drop=True),
        Fault(silent=True),
        Fault(truncate=0.5),
        Fault(status=503),
        Fault(status=401),
        rate_limited(),
        rate_limited(30),
        Fault(body="<html>busy</html>"),
        Fault(body='{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"rate limit exceeded"}}'),
    ],
    ids=["drop", "half-open", "truncated", "503", "401", "429", "429-told", "html", "rate-in-body"],
)
def test_first_endpoint_that_fails_is_left_for_the_second(
    anvil: Anvil, proxy: FaultProxy, second: FaultProxy, fault: Fault
) -> None:
    chain = both(proxy, second)
    anvil.mine(3)
    proxy.fault = lambda _: fault
    started = time.monotonic()
    assert chain.head().number == 3
    assert time.monotonic() - started < 10
    assert second.asked["eth_getBlockByNumber"] == 1


def test_first_endpoint_that_recovers_is_asked_again(anvil: Anvil, proxy: FaultProxy, second: FaultProxy) -> None:
    chain = both(proxy, second)
    proxy.down()
    assert chain.head().number == 0
    anvil.mine(2)
    assert chain.head().number == 2
    proxy.up()
    before = proxy.asked.get("eth_getBlockByNumber", 0)

    def is_back() -> bool:
        chain.head()
        return proxy.asked.get("eth_getBlockByNumber", 0) > before

    until(is_back)
    settled = second.asked["eth_getBlockByNumber"]
    for _ in range(5):
        assert chain.head().number == 2
    assert second.asked["eth_getBlockByNumber"] == settled


def test_question_never_waits_for_an_endpoint_that_is_only_tried_again(
    anvil: Anvil, proxy: FaultProxy, second: FaultProxy
) -> None:
    """A half-open first endpoint costs one time-out, not one at each attempt to return to it."""
    chain = both(proxy, second)
    proxy.fault = lambda _: Fault(silent=True)
    chain.head()
    slowest, questions = 0.0, 0
    while questions < 60 or proxy.asked["eth_chainId"] <= 2:  # until it was looked at meanwhile
        started = time.monotonic()
        chain.head()
        slowest = max(slowest, time.monotonic() - started)
        questions += 1
        assert questions < 2_000, "nobody tries it again"
        time.sleep(0.02)
    assert slowest < 0.9 * TIMEOUT


def test_endpoint_of_another_chain_is_never_asked_anything_else(proxy: FaultProxy) -> None:
    with Anvil.start(chain_id=7777) as other, FaultProxy(other.rpc_url) as wrong:
        chain = Chain([wrong.rpc_url, proxy.rpc_url], expected_chain_id=31337)
        assert chain.chain_id == 31337
        chain.head()
        assert set(wrong.asked) == {"eth_chainId"}


def test_failover_to_an_endpoint_of_another_chain_is_refused(anvil: Anvil, proxy: FaultProxy) -> None:
    with Anvil.start(chain_id=7777) as other, FaultProxy(other.rpc_url) as wrong:
        chain = both(proxy, wrong)
        proxy.down()
        with pytest.raises(ChainUnreachable, match="serves chain 7777"):
            chain.head()
        assert set(wrong.asked) == {"eth_chainId"}
        proxy.up()
        assert chain.head().number == 0
    with pytest.raises(WrongChain) as refused:
        Chain([anvil.rpc_url, anvil.rpc_url.replace("127.0.0.1", "localhost")], expected_chain_id=1)
    assert refused.value.details == {"expected": 1, "got": 31337}


def test_endpoint_that_becomes_another_chain_is_left(proxy: FaultProxy, second: FaultProxy) -> None:
    """A node restarted with another configuration, behind the same URL."""
    chain = both(proxy, second)
    proxy.down()
    chain.head()
    proxy.fault = only("eth_chainId", answers("0x1"))
    proxy.up()
    until(lambda: chain.head() is not None and proxy.asked.get("eth_chainId", 0) > 1)
    asked = proxy.asked.get("eth_getBlockByNumber", 0)
    for _ in range(20):
        chain.head()
    assert proxy.asked.get("eth_getBlockByNumber", 0) == asked


def test_all_endpoints_dead_are_all_named(proxy: FaultProxy, second: FaultProxy) -> None:
    chain = both(proxy, second)
    proxy.down()
    second.fault = lambda _: Fault(status=503)
    with pytest.raises(ChainUnreachable, match="asked 2 times") as dead:
        chain.head()
    assert proxy.rpc_url in dead.value.message
    assert f"{second.rpc_url} (HTTP status 503)" in dead.value.message
    second.heal()
    assert chain.head().number == 0


def test_only_endpoint_that_limits_the_rate_is_asked_when_it_said(proxy: FaultProxy) -> None:
    chain = Chain(proxy.rpc_url)
    proxy.fail_times(1, rate_limited(1))
    started = time.monotonic()
    assert chain.head().number == 0
    assert 1.0 <= time.monotonic() - started < 4
    assert proxy.asked["eth_getBlockByNumber"] == 2


def test_endpoint_that_lags_is_noticed_and_left_until_it_caught_up(
    anvil: Anvil, proxy: FaultProxy, second: FaultProxy
) -> None:
    chain = both(proxy, second, lag_blocks=2)
    assert chain.head().number == 0
    proxy.fault = stuck_at(0)
    anvil.mine(10)
    until(lambda: chain.head().number == 10)
    asked = proxy.asked["eth_getBlockByNumber"]
    assert all(chain.head().number == 10 for _ in range(10))
    assert proxy.asked["eth_getBlockByNumber"] == asked
    proxy.heal()

    def is_back() -> bool:
        chain.head()
        return proxy.asked["eth_getBlockByNumber"] > asked

    until(is_back)


def test_endpoint_without_the_blocks_that_were_seen_does_not_take_over(
    anvil: Anvil, proxy: FaultProxy, second: FaultProxy
) -> None:
    chain = both(proxy, second, lag_blocks=100)
    second.fault = stuck_at(4)
    anvil.mine(5)
    assert chain.head().number == 5
    proxy.down()
    with pytest.raises(ChainUnreachable, match="knows block 4, block 5 was seen before"):
        chain.head()
    # it catches up while somebody waits
    timer = threading.Timer(0.3, second.heal)
    timer.start()
    assert chain.head().number == 5
    timer.join()


def test_read_after_a_write_sees_it_through_a_failover(
    chain: Chain, anvil: Anvil, proxy: FaultProxy, second: FaultProxy, tmp_path: Path
) -> None:
    two = both(proxy, second, lag_blocks=100, timeout=5.0)
    with sender(two, tmp_path) as transactions:
        for number in range(1, 4):
            sent = transactions.send(transfer())
            second.fault = stuck_at(sent.block_number - 1)
            proxy.down()
            timer = threading.Timer(0.2, second.heal)
            timer.start()
            assert received(two) == number  # waits for the one that lags, never answers from the past
            timer.join()
            proxy.up()
            asked = proxy.asked.get("eth_getBalance", 0)
            until(lambda asked=asked: received(two) and proxy.asked.get("eth_getBalance", 0) > asked)  # type: ignore[misc]
    assert chain.transaction_count(transactions.address) == 3


def test_fifty_sends_while_endpoints_come_and_go_happen_once_each(
    chain: Chain, proxy: FaultProxy, second: FaultProxy, tmp_path: Path
) -> None:
    two = both(proxy, second, attempts=6)
    stop = threading.Event()

    def weather() -> None:
        turn = 0
        while not stop.wait(0.15):
            bad, good = (proxy, second) if turn % 2 else (second, proxy)
            good.heal()
            good.up()
            bad.fault = lambda _: Fault(lose_answer=True)
            if turn % 3 == 0:
                bad.down()
            turn += 1

    storm = threading.Thread(target=weather)
    storm.start()
    try:
        with sender(two, tmp_path) as transactions, ThreadPoolExecutor(10) as pool:

            def persist(number: int) -> None:
                def happened() -> bool:
                    try:
                        return transactions.send(transfer(), key=str(number), timeout=5).block_number > 0
                    except ChainError:
                        return False

                until(happened, 60)

            list(pool.map(persist, range(50)))
    finally:
        stop.set()
        storm.join()
    assert received(chain) == 50
    assert chain.transaction_count(transactions.address) == 50


def test_pinned_questions_go_to_one_endpoint_or_fail_together(proxy: FaultProxy, second: FaultProxy) -> None:
    chain = both(proxy, second)
    with chain.pinned():
        chain.head()
        proxy.down()
        with pytest.raises(EndpointLost):
            chain.head()
    with chain.pinned():
        assert chain.head().number == 0
        proxy.up()
        time.sleep(0.3)
        asked = total(proxy)
        for _ in range(5):
            chain.block(0)
        assert proxy.asked.get("eth_getBlockByNumber", 0) <= asked
    assert second.asked["eth_getBlockByNumber"] == 6


def test_follower_whose_endpoint_dies_between_head_and_logs_misses_nothing(
    world: World, proxy: FaultProxy, second: FaultProxy
) -> None:
    """The second lags: asked for the logs of a head it does not know, it would answer without the newest."""
    chain = both(proxy, second, timeout=5.0, lag_blocks=100)
    address = world.token.address
    follower = Follower(chain, [address], MemoryCursor(), start_block=world.deployment.block)
    for amount in (1, 2, 3):
        world.send(DEPLOYER, world.token.mint(world.account(9).address, amount))
    second.fault = stuck_at(world.chain.head().number - 2)

    proxy.fail_times(1, Fault(drop=True), "eth_getLogs")
    timer = threading.Timer(0.3, second.heal)
    timer.start()
    items = follower.poll()
    timer.join()
    follower.commit()
    assert [item.args["value"] for item in items if isinstance(item, Event)] == [1, 2, 3]


def test_unreachable_first_port_does_not_hinder_the_start(anvil: Anvil) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
        assert Chain(f"{dead}, {anvil.rpc_url}", expected_chain_id=31337).head().number == 0


URLS: list[Callable[[str, str], object]] = [
    lambda a, b: f"{a},{b}",
    lambda a, b: f" {a} , {b},",
    lambda a, b: [a, b],
    lambda a, b: (a, f"{b},{a}"),
]


@pytest.mark.parametrize("written", URLS, ids=["commas", "blanks", "list", "mixed"])
def test_several_urls_are_read_as_a_list_or_with_commas(anvil: Anvil, written: Callable[[str, str], object]) -> None:
    other = anvil.rpc_url.replace("127.0.0.1", "localhost")
    chain = Chain(written(anvil.rpc_url, other))  # type: ignore[arg-type]
    assert chain.origin == f"{anvil.rpc_url}, {other}"
