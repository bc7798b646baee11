"""No transaction is lost, doubled or left in doubt."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from eth_account import Account

from market import transaction_queue
from market.anvil import Anvil
from market.chain import Call, Chain
from market.contracts import Registry
from market.errors import ChainError, ChainUnreachable, ConfigError, ContractError
from market.fees import GWEI, FeeAboveCap, FeePolicy
from market.transaction_watch import Timing
from market.transactions import NonceTaken, TransactionPending, TransactionRefused, Transactions
from tests.integration.chain.world import DEPLOYER, MODEL, World
from tests.rpc_proxy import Fault, FaultProxy

QUICK = Timing(poll_max=0.02, rebroadcast_after=0.2, watch_interval=0.05)
RAISING = Timing(poll_max=0.02, rebroadcast_after=0.2, replace_after=0.3)
SENDER = 5


def transfer(amount: int = 1, to: str = "0x" + "77" * 20) -> Call:
    return Call(to, b"", "transfer", value=amount)


def sender(chain: Chain, folder: Path, index: int = SENDER, **options: object) -> Transactions:
    from market.anvil import development_accounts

    account = development_accounts()[index]
    options = {"timing": QUICK, "lock_timeout": 0.0, **options}
    return Transactions(chain, account, folder / f"queue-{index}.sqlite", **options)  # type: ignore[arg-type]


def received(chain: Chain) -> int:
    return chain.balance("0x" + "77" * 20)


def until(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_send_returns_the_receipt(chain: Chain, tmp_path: Path) -> None:
    with sender(chain, tmp_path) as transactions:
        sent = transactions.send(transfer())
        assert (sent.label, sent.gas_used, sent.block_number, sent.contract_address) == ("transfer", 21_000, 1, None)
        assert sent.effective_gas_price > 0
        assert chain.is_known(sent.hash)
        assert transactions.pending() == 0


def test_fifty_sends_at_once_leave_no_gap_and_lose_none(chain: Chain, tmp_path: Path) -> None:
    with sender(chain, tmp_path) as transactions, ThreadPoolExecutor(50) as pool:
        sent = list(pool.map(lambda _: transactions.send(transfer()), range(50)))
    assert len({one.hash for one in sent}) == 50
    assert received(chain) == 50
    assert chain.transaction_count(transactions.address) == 50


def test_fifty_sends_at_once_with_slow_blocks_leave_no_gap(tmp_path: Path) -> None:
    with Anvil.start(block_time=0.5) as anvil:
        chain = Chain(anvil.rpc_url)
        with sender(chain, tmp_path) as transactions, ThreadPoolExecutor(50) as pool:
            list(pool.map(lambda _: transactions.send(transfer()), range(50)))
        assert received(chain) == 50
        assert chain.transaction_count(transactions.address) == 50


# ----------------------------------------------------------------------------------------------------- idempotency


def test_key_sent_twice_happens_once(chain: Chain, tmp_path: Path) -> None:
    with sender(chain, tmp_path) as transactions:
        first = transactions.send(transfer(), key="once")
        assert transactions.send(transfer(), key="once") == first
        assert transactions.send(transfer(), key="again") != first
    with sender(chain, tmp_path) as transactions:
        assert transactions.send(transfer(), key="once") == first
    assert received(chain) == 2


def test_key_sent_by_many_threads_happens_once(chain: Chain, tmp_path: Path) -> None:
    with sender(chain, tmp_path) as transactions, ThreadPoolExecutor(10) as pool:
        sent = list(pool.map(lambda _: transactions.send(transfer(), key="once"), range(10)))
    assert len({one.hash for one in sent}) == 1
    assert received(chain) == 1


# --------------------------------------------------------------------------------------------------------- reverts


def test_send_that_would_revert_sends_nothing(world: World, tmp_path: Path) -> None:
    with sender(world.chain, tmp_path) as transactions:
        with pytest.raises(ContractError) as refused:
            transactions.send(world.vault.stake(5))
        assert refused.value.code == "InsufficientCredit"
        assert refused.value.details["needs"] == 5
        assert world.chain.transaction_count(transactions.address, "pending") == 0


def test_send_that_reverts_in_a_block_says_why_and_what_it_cost(world: World, tmp_path: Path) -> None:
    """Two publish the same model; the later one offers more gas and wins."""
    registry = Registry(world.chain, world.deployment.registry)
    publish = registry.publish_model(MODEL, "toy")
    world.anvil.set_automine(False)
    failures: list[ChainError] = []

    def lose(transactions: Transactions) -> None:
        try:
            transactions.send(publish, key="publish")
        except ChainError as error:
            failures.append(error)

    with sender(world.chain, tmp_path, timing=Timing()) as slow:
        thread = threading.Thread(target=lose, args=(slow,))
        thread.start()
        until(lambda: world.chain.transaction_count(slow.address, "pending") == 1)
        winner = world.account(6)
        fields = {"chainId": 31337, "nonce": 0, "to": publish.to, "data": publish.data, "gas": 10**6, "value": 0}
        signed = winner.sign_transaction(
            {**fields, "type": 2, "maxFeePerGas": 90 * GWEI, "maxPriorityFeePerGas": 50 * GWEI}
        )
        world.chain.broadcast(bytes(signed.raw_transaction))
        world.anvil.mine()
        thread.join(10)
        assert failures
        assert failures[0].code == "ModelAlreadyPublished"
        assert "cost" in failures[0].message
        world.anvil.set_automine(True)
        with pytest.raises(ContractError):  # the key is free again: simulated anew, refused before it is sent
            slow.send(publish, key="publish")
        assert world.chain.transaction_count(slow.address) == 1


def test_send_without_coin_for_gas_sends_nothing_and_goes_on_later(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    poor = Account.create()
    with Transactions(chain, poor, tmp_path / "poor.sqlite", timing=QUICK) as transactions:
        with pytest.raises(TransactionRefused) as refused:
            transactions.send(transfer(0))
        assert refused.value.code == "InsufficientFunds"
        assert refused.value.details["needs"] > 0
        assert transactions.pending() == 0
        anvil.rpc("anvil_setBalance", poor.address, hex(10**18))
        transactions.send(transfer(0))
    assert chain.transaction_count(poor.address) == 1


def test_send_during_a_gas_spike_is_refused_and_nothing_is_lost(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    with sender(chain, tmp_path, fees=FeePolicy(ceiling=50 * GWEI)) as transactions:
        anvil.set_next_base_fee(60 * GWEI)
        anvil.mine()
        anvil.set_next_base_fee(60 * GWEI)
        with pytest.raises(FeeAboveCap, match="Nothing was sent"):
            transactions.send(transfer())
        assert transactions.pending() == 0
        anvil.set_next_base_fee(GWEI)
        anvil.mine()
        transactions.send(transfer())
    assert received(chain) == 1


# --------------------------------------------------------------------------------------------- stuck, dropped, lost


def test_stuck_transaction_is_replaced_by_a_dearer_one(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    anvil.set_automine(False)
    with sender(chain, tmp_path, timing=RAISING) as transactions, ThreadPoolExecutor(1) as pool:
        future = pool.submit(transactions.send, transfer(), timeout=60.0)
        until(lambda: len(_offers(anvil)) == 1)
        first = _offers(anvil)[0]
        until(lambda: _offers(anvil)[0][0] > first[0])
        second = _offers(anvil)[0]
        assert second[0] * 8 >= first[0] * 9
        assert second[1] * 8 >= first[1] * 9
        anvil.mine()
        sent = future.result(10)
    assert chain.receipt(sent.hash) is not None
    assert received(chain) == 1
    assert chain.transaction_count(transactions.address) == 1


def _offers(anvil: Anvil) -> list[tuple[int, int]]:
    """(max fee, priority fee) of everything in the pool."""
    pending = anvil.rpc("txpool_content")["pending"]
    return [
        (int(entry["maxFeePerGas"], 16), int(entry["maxPriorityFeePerGas"], 16))
        for by_nonce in pending.values()
        for entry in by_nonce.values()
    ]


def test_stuck_transaction_at_the_fee_ceiling_waits_without_a_dearer_one(
    anvil: Anvil, chain: Chain, tmp_path: Path
) -> None:
    anvil.set_automine(False)
    ceiling = FeePolicy(ceiling=1_200_000_000, min_priority_fee=10**8)
    with sender(chain, tmp_path, fees=ceiling, timing=RAISING) as transactions:
        with pytest.raises(TransactionPending):
            transactions.send(transfer(), timeout=1.0, key="stuck")
        assert all(max_fee <= 1_200_000_000 for max_fee, _ in _offers(anvil))
        anvil.mine()
        transactions.send(transfer(), key="stuck")
    assert received(chain) == 1


def test_stuck_transaction_of_some_urgency_is_replaced_beyond_the_usual_ceiling(
    anvil: Anvil, chain: Chain, tmp_path: Path
) -> None:
    anvil.set_automine(False)
    usual = FeePolicy(ceiling=1_200_000_000, min_priority_fee=10**8)
    with sender(chain, tmp_path, fees=usual, timing=RAISING) as transactions, ThreadPoolExecutor(1) as pool:
        with pytest.raises(TransactionPending):
            transactions.send(transfer(), timeout=1.0, key="stuck")
        assert all(max_fee <= usual.ceiling for max_fee, _ in _offers(anvil))
        future = pool.submit(transactions.send, transfer(), timeout=20.0, key="stuck", ceiling=20 * GWEI)
        until(lambda: _offers(anvil)[0][0] > usual.ceiling)
        anvil.mine()
        future.result(10)
    assert received(chain) == 1


def test_what_holds_up_a_transaction_may_cost_as_much_as_that_one(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    anvil.set_automine(False)
    usual = FeePolicy(ceiling=1_200_000_000, min_priority_fee=10**8)
    with sender(chain, tmp_path, fees=usual, timing=RAISING) as transactions:
        first = transactions.enqueue(transfer())
        until(lambda: len(_offers(anvil)) == 1)
        time.sleep(1)
        assert all(max_fee <= usual.ceiling for max_fee, _ in _offers(anvil))
        urgent = transactions.enqueue(transfer(), ceiling=20 * GWEI)
        until(lambda: _offers(anvil)[0][0] > usual.ceiling)
        anvil.mine()
        assert first.wait().block_number == urgent.wait().block_number
    assert received(chain) == 2


def test_several_are_enqueued_and_mined_in_one_block_and_one_that_reverts_stops_no_other(
    world: World, tmp_path: Path
) -> None:
    """The second is taken by somebody who pays more for its place in the block."""
    publish = Registry(world.chain, world.deployment.registry).publish_model(MODEL, "toy")
    dearer = FeePolicy(min_priority_fee=5 * GWEI)
    with (
        sender(world.chain, tmp_path) as transactions,
        sender(world.chain, tmp_path, 6, fees=dearer) as other,
    ):
        world.anvil.set_automine(False)
        queued = [
            transactions.enqueue(transfer(), key="first"),
            transactions.enqueue(publish),
            transactions.enqueue(transfer(2)),
        ]
        with pytest.raises(ContractError):
            other.enqueue(publish)  # as if what waits in the pool had happened
        faster = other.enqueue(publish, block="latest")
        assert not any(each.is_over for each in queued)
        assert transactions.pending() == 3
        world.anvil.mine()
        sent = [queued[0].wait(), faster.wait(), queued[2].wait()]
        with pytest.raises(ContractError) as refused:
            queued[1].wait()
        assert refused.value.code == "ModelAlreadyPublished"
        assert len({each.block_number for each in sent}) == 1
        assert all(each.is_over for each in queued)
        assert transactions.enqueue(transfer(), key="first").wait().hash == sent[0].hash
    assert received(world.chain) == 3
    assert world.chain.transaction_count(transactions.address) == 3


def test_stuck_transaction_is_adopted_by_the_next_sender(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    anvil.set_automine(False)
    with sender(chain, tmp_path) as transactions:
        with pytest.raises(TransactionPending, match="stays queued") as pending:
            transactions.send(transfer(), timeout=0.1, key="stuck")
        assert pending.value.details["nonce"] == 0
    with sender(chain, tmp_path) as transactions:
        assert transactions.pending() == 1
        anvil.set_automine(True)
        anvil.mine()
        transactions.send(transfer(), key="stuck")
        transactions.send(transfer())
    assert received(chain) == 2
    assert chain.transaction_count(transactions.address) == 2


def test_transaction_dropped_from_the_pool_is_broadcast_again(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    anvil.set_automine(False)
    with sender(chain, tmp_path) as transactions, ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(transactions.send, transfer(), timeout=60.0) for _ in range(3)]
        until(lambda: len(_offers(anvil)) == 3)
        for by_nonce in anvil.rpc("txpool_content")["pending"].values():
            anvil.drop_transaction(by_nonce["1"]["hash"])
        until(lambda: len(_offers(anvil)) == 3)
        anvil.mine()
        for future in futures:
            future.result(10)
    assert received(chain) == 3


@pytest.mark.parametrize("how", ["reorg", "rollback"])
def test_transaction_dropped_by_a_reorg_happens_again(anvil: Anvil, chain: Chain, tmp_path: Path, how: str) -> None:
    with sender(chain, tmp_path) as transactions:
        for _ in range(4):
            transactions.send(transfer())
        time.sleep(0.1)  # the watcher has seen the four blocks at rest
        getattr(anvil, how)(3)
        until(lambda: received(chain) == 4)
        until(lambda: transactions.pending() == 0)
        transactions.send(transfer())
    assert chain.transaction_count(transactions.address) == 5
    assert received(chain) == 5


def test_transaction_dropped_while_nobody_watched_happens_again(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    with sender(chain, tmp_path) as transactions:
        first = transactions.send(transfer(), key="one")
        transactions.send(transfer(), key="two")
    anvil.reorg(2)
    assert received(chain) == 0
    with sender(chain, tmp_path) as transactions:
        assert transactions.send(transfer(), key="one").hash == first.hash
        until(lambda: received(chain) == 2)


def test_nonce_taken_by_another_program_is_told(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    anvil.set_automine(False)
    timing = Timing(poll_max=0.02, rebroadcast_after=60, replace_after=60, lost_after=0.2)
    with sender(chain, tmp_path, timing=timing) as transactions, ThreadPoolExecutor(1) as pool:
        future = pool.submit(transactions.send, transfer(), timeout=60.0, key="mine")
        until(lambda: len(_offers(anvil)) == 1)
        fields = {"chainId": 31337, "nonce": 0, "to": "0x" + "88" * 20, "value": 1, "gas": 21_000, "type": 2}
        foreign = anvil.accounts[SENDER].sign_transaction(
            {**fields, "maxFeePerGas": 90 * GWEI, "maxPriorityFeePerGas": 50 * GWEI}
        )
        chain.broadcast(bytes(foreign.raw_transaction))
        anvil.mine()
        with pytest.raises(NonceTaken, match="cost nothing"):
            future.result(10)
        assert received(chain) == 0
        anvil.set_automine(True)
        transactions.send(transfer(), key="mine")
    assert received(chain) == 1


def test_nonce_that_a_reorg_gave_back_is_filled_and_those_behind_it_go_on(
    anvil: Anvil, chain: Chain, tmp_path: Path
) -> None:
    """Another program took nonce 0, a reorg took that back: nobody sends nonce 0 any more, and 1 waits for it."""
    anvil.set_automine(False)
    timing = Timing(poll_max=0.02, rebroadcast_after=0.2, lost_after=0.2, gap_after=0.3, watch_interval=0.05)
    with sender(chain, tmp_path, timing=timing) as transactions, ThreadPoolExecutor(1) as pool:
        future = pool.submit(transactions.send, transfer(), timeout=60.0, key="mine")
        until(lambda: len(_offers(anvil)) == 1)
        [(own_max, own_priority)] = _offers(anvil)
        fields = {"chainId": 31337, "nonce": 0, "to": "0x" + "88" * 20, "value": 1, "gas": 21_000, "type": 2}
        foreign = anvil.accounts[SENDER].sign_transaction(
            {**fields, "maxFeePerGas": 90 * GWEI, "maxPriorityFeePerGas": 50 * GWEI}
        )
        chain.broadcast(bytes(foreign.raw_transaction))
        anvil.mine()
        with pytest.raises(NonceTaken):
            future.result(10)
        anvil.set_automine(True)
        transactions.send(transfer())
        time.sleep(0.2)  # the watcher has seen the block at rest
        anvil.reorg(2)
        until(lambda: chain.transaction_count(transactions.address) == 2)
        until(lambda: transactions.pending() == 0)
        blocks = [anvil.rpc("eth_getBlockByNumber", hex(n), True) for n in range(chain.head().number + 1)]
        [filler] = [entry for block in blocks for entry in block["transactions"] if int(entry["nonce"], 16) == 0]
        assert filler["from"].lower() == filler["to"].lower() == transactions.address.lower()
        assert int(filler["value"], 16) == 0
        # it outbids what was given up as lost: that stays lost
        assert int(filler["maxFeePerGas"], 16) * 8 >= own_max * 9
        assert int(filler["maxPriorityFeePerGas"], 16) * 8 >= own_priority * 9
    assert received(chain) == 1


def test_nonce_that_waits_in_the_endpoints_pool_is_no_gap(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    anvil.set_automine(False)
    fields = {"chainId": 31337, "nonce": 0, "to": "0x" + "88" * 20, "value": 1, "gas": 21_000, "type": 2}
    other = anvil.accounts[SENDER].sign_transaction({**fields, "maxFeePerGas": 90 * GWEI, "maxPriorityFeePerGas": GWEI})
    chain.broadcast(bytes(other.raw_transaction))
    timing = Timing(poll_max=0.02, gap_after=0.05)
    with sender(chain, tmp_path, timing=timing) as transactions:
        with pytest.raises(TransactionPending):
            transactions.send(transfer(), timeout=0.5)
        assert transactions.pending() == 1
        anvil.mine()
        until(lambda: transactions.pending() == 0)
    assert chain.balance("0x" + "88" * 20) == 1


def test_nonce_used_between_two_sends_is_stepped_over(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    with sender(chain, tmp_path) as transactions:
        transactions.send(transfer())
        with Transactions(chain, anvil.accounts[SENDER], ":memory:") as other:
            other.send(transfer())
        transactions.send(transfer())
    assert received(chain) == 3


# ------------------------------------------------------------------------------------------------- a bad connection


def test_broadcast_whose_answer_was_lost_happens_once(chain: Chain, proxy: FaultProxy, tmp_path: Path) -> None:
    with sender(Chain(proxy.rpc_url), tmp_path) as transactions:
        proxy.fail_times(1, Fault(lose_answer=True), "eth_sendRawTransaction")
        transactions.send(transfer())
    assert received(chain) == 1
    assert chain.transaction_count(transactions.address) == 1


def test_broadcast_that_never_arrived_is_repeated_by_the_watcher(
    chain: Chain, proxy: FaultProxy, tmp_path: Path
) -> None:
    with sender(Chain(proxy.rpc_url, attempts=1), tmp_path) as transactions:
        proxy.fail_times(1, Fault(status=503), "eth_sendRawTransaction")
        transactions.send(transfer())
    assert received(chain) == 1


def test_send_to_a_dead_endpoint_says_so_and_sends_nothing(anvil: Anvil, tmp_path: Path) -> None:
    chain = Chain(anvil.rpc_url, attempts=1)
    with sender(chain, tmp_path) as transactions:
        anvil.stop()
        with pytest.raises(ChainUnreachable, match="No answer"):
            transactions.send(transfer())
        assert transactions.pending() == 0


def test_receipt_during_an_outage_is_found_after_it(chain: Chain, proxy: FaultProxy, tmp_path: Path) -> None:
    with sender(Chain(proxy.rpc_url, attempts=1), tmp_path) as transactions:
        proxy.fail_times(5, Fault(status=503), "eth_getTransactionReceipt")
        assert transactions.send(transfer()).gas_used == 21_000


# -------------------------------------------------------------------------------------------------- whose queue it is


def test_queue_in_use_is_refused_to_a_second_writer(chain: Chain, tmp_path: Path) -> None:
    with sender(chain, tmp_path):
        with pytest.raises(ConfigError) as refused:
            sender(chain, tmp_path)
        assert refused.value.code == "Locked"
    sender(chain, tmp_path).close()


def test_queue_of_another_key_is_refused_and_left_free(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    Transactions(chain, anvil.accounts[1], path).close()
    with pytest.raises(ConfigError, match="belongs to"):
        Transactions(chain, anvil.accounts[2], path)
    Transactions(chain, anvil.accounts[1], path).close()


def test_queue_of_a_development_chain_started_anew_begins_anew(tmp_path: Path) -> None:
    with Anvil.start() as old, sender(Chain(old.rpc_url), tmp_path) as transactions:
        for _ in range(3):
            transactions.send(transfer(), key="one")
    time.sleep(1.1)  # another genesis time, so another first block
    with Anvil.start() as new:
        chain = Chain(new.rpc_url)
        with sender(chain, tmp_path) as transactions:
            assert transactions.pending() == 0
            transactions.send(transfer(), key="one")
        assert received(chain) == 1


def test_queue_of_a_real_chain_with_another_first_block_is_refused(tmp_path: Path) -> None:
    with Anvil.start(chain_id=7777) as old:
        sender(Chain(old.rpc_url), tmp_path).close()
    time.sleep(1.1)
    with Anvil.start(chain_id=7777) as new, pytest.raises(ConfigError, match="first block"):
        sender(Chain(new.rpc_url), tmp_path)


def test_closed_queue_tells_its_waiters(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    anvil.set_automine(False)
    transactions = sender(chain, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(transactions.send, transfer(), timeout=60.0)
        until(lambda: transactions.pending() == 1)
        transactions.close()
        with pytest.raises(ChainError) as closed:
            future.result(5)
        assert closed.value.code == "Closed"
    with pytest.raises(ChainError) as closed:
        transactions.send(transfer())
    assert closed.value.code == "Closed"
    transactions.close()


def test_queue_in_memory_needs_no_file(anvil: Anvil, chain: Chain) -> None:
    with Transactions(chain, anvil.accounts[DEPLOYER], ":memory:") as transactions:
        transactions.send(transfer())
    assert received(chain) == 1


FULL_DISK = """
import resource, sys
from pathlib import Path
from market.anvil import development_accounts
from market.chain import Call, Chain
from market.errors import ConfigError
from market.transactions import Transactions
chain, queue = Chain(sys.argv[1]), Path(sys.argv[2])
account = development_accounts()[5]
call = Call("0x" + "77" * 20, b"", "transfer", value=1)
with Transactions(chain, account, queue) as transactions:
    transactions.send(call)
    written = max(path.stat().st_size for path in queue.parent.iterdir())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, hard))
    try:
        transactions.send(call)
    except ConfigError as error:
        print(error.message)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
with Transactions(chain, account, queue) as transactions:
    assert transactions.pending() == 0
    transactions.send(call)
"""


def test_queue_on_a_full_disk_sends_nothing(anvil: Anvil, chain: Chain, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, anvil.rpc_url, str(tmp_path / "queue.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nothing new was sent" in done.stdout
    assert received(chain) == 2  # before the disk was full, and after
    assert chain.transaction_count(anvil.accounts[SENDER].address) == 2


def test_locked_queue_sends_nothing_and_goes_on_later(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction_queue, "LOCK_SECONDS", 0.3)
    with sender(chain, tmp_path) as transactions:
        holder = sqlite3.connect(tmp_path / f"queue-{SENDER}.sqlite", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigError, match="Nothing new was sent") as locked:
            transactions.send(transfer())
        assert locked.value.code == "QueueLocked"
        assert chain.transaction_count(transactions.address, "pending") == 0
        holder.execute("ROLLBACK")
        holder.close()
        transactions.send(transfer())
    assert received(chain) == 1
