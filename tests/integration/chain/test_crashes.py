"""kill -9 at every named checkpoint of a send: afterwards the transaction has happened exactly once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from market.chain import Call
from market.transactions import CHECKPOINTS, TransactionPending, Transactions
from tests.integration.chain.crash import KEY, SENDER, TIMING
from tests.integration.chain.world import World


def _start(world: World, queue: Path, point: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.chain.crash"]
    arguments = [world.anvil.rpc_url, str(queue), world.token.address, point]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)


def _die(world: World, queue: Path, point: str, after_sent: Callable[[], None] | None = None) -> None:
    with _start(world, queue, point) as child:
        assert child.stdout is not None
        if after_sent is not None:
            assert child.stdout.readline() == "sent\n"
            after_sent()
        assert child.wait(90) == -signal.SIGKILL


def _lose_the_nonce_before(world: World, queue: Path) -> None:
    """The mint waits with nonce 1; the transaction with nonce 0 is known to nobody any more."""
    account = world.account(SENDER)
    with Transactions(world.chain, account, queue) as transactions:
        for call, key in ((Call(account.address, b"", "lost"), "lost"), (world.token.mint(account.address, 1), KEY)):
            with pytest.raises(TransactionPending):
                transactions.send(call, key=key, timeout=0.05)
    world.anvil.rpc("anvil_dropAllTransactions")
    with sqlite3.connect(queue) as database:
        database.execute("PRAGMA foreign_keys=ON")
        database.execute("DELETE FROM transactions WHERE nonce = 0")
    database.close()


@pytest.mark.parametrize("point", CHECKPOINTS)
def test_send_killed_at_a_checkpoint_happens_exactly_once(
    world: World, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"queue {point}")
    queue = tmp_path / "crash.sqlite"
    account = world.account(SENDER)
    nonces = 1
    if point in ("replaced", "filled"):
        world.anvil.set_automine(False)
    if point == "filled":
        _lose_the_nonce_before(world, queue)
        nonces = 2
    _die(world, queue, point, (lambda: world.anvil.reorg(1)) if point == "reopened" else None)
    world.anvil.set_automine(True)
    # whatever died, its lock is free and its transaction is on disk
    with Transactions(world.chain, account, queue, timing=TIMING) as transactions:
        sent = transactions.send(world.token.mint(account.address, 1), key=KEY)
        assert sent.label == "TestToken.mint"
        deadline = time.monotonic() + 60
        while transactions.pending():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert world.token.balance_of(account.address) == 1
    assert world.chain.transaction_count(account.address) == nonces


def test_send_killed_again_and_again_happens_exactly_once(world: World, tmp_path: Path) -> None:
    queue = tmp_path / "crash.sqlite"
    for point in ("persisted", "mined", "mined"):
        _die(world, queue, point)
    with Transactions(world.chain, world.account(SENDER), queue) as transactions:
        transactions.send(world.token.mint(world.account(SENDER).address, 1), key=KEY)
    assert world.token.balance_of(world.account(SENDER).address) == 1
    assert world.chain.transaction_count(world.account(SENDER).address) == 1


def test_send_killed_before_the_broadcast_happens_even_if_nobody_asks_again(world: World, tmp_path: Path) -> None:
    queue = tmp_path / "crash.sqlite"
    account = world.account(SENDER)
    _die(world, queue, "persisted")
    assert world.chain.transaction_count(account.address) == 0
    with Transactions(world.chain, account, queue) as transactions:
        deadline = time.monotonic() + 60
        while transactions.pending() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert world.token.balance_of(account.address) == 1


def test_send_killed_while_the_chain_was_killed_too_happens_once(world: World, tmp_path: Path) -> None:
    queue = tmp_path / "crash.sqlite"
    account = world.account(SENDER)
    world.anvil.set_automine(False)
    _die(world, queue, "broadcast")
    world.anvil.rpc("anvil_dropAllTransactions")
    world.anvil.set_automine(True)
    with Transactions(world.chain, account, queue) as transactions:
        transactions.send(world.token.mint(account.address, 1), key=KEY)
    assert world.token.balance_of(account.address) == 1
