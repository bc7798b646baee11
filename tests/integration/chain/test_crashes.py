"""kill -9 at every named checkpoint of a send: afterwards the transaction has happened exactly once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from market.transactions import Transactions
from tests.integration.chain.crash import KEY, SENDER
from tests.integration.chain.world import World


def _die(world: World, queue: Path, point: str) -> None:
    command = [sys.executable, "-m", "tests.integration.chain.crash"]
    arguments = [world.anvil.rpc_url, str(queue), world.token.address, point]
    result = subprocess.run([*command, *arguments], timeout=30, check=False)
    assert result.returncode == -signal.SIGKILL


@pytest.mark.parametrize("point", ["persisted", "broadcast", "mined"])
def test_send_killed_at_a_checkpoint_happens_exactly_once(world: World, tmp_path: Path, point: str) -> None:
    queue = tmp_path / "crash.sqlite"
    account = world.account(SENDER)
    _die(world, queue, point)
    # whatever died, its lock is free and its transaction is on disk
    with Transactions(world.chain, account, queue) as transactions:
        sent = transactions.send(world.token.mint(account.address, 1), key=KEY)
        assert sent.label == "TestToken.mint"
        assert transactions.pending() == 0
    assert world.token.balance_of(account.address) == 1
    assert world.chain.transaction_count(account.address) == 1


def test_send_killed_before_the_broadcast_happens_even_if_nobody_asks_again(world: World, tmp_path: Path) -> None:
    queue = tmp_path / "crash.sqlite"
    account = world.account(SENDER)
    _die(world, queue, "persisted")
    assert world.chain.transaction_count(account.address) == 0
    with Transactions(world.chain, account, queue) as transactions:
        deadline = time.monotonic() + 5
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
