"""The queue on disk: what is promised is there after a crash, and belongs to one key and chain."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from market import transaction_queue
from market.chain import Call
from market.errors import ConfigError
from market.fees import Fees
from market.transaction_queue import Attempt, State, TransactionQueue

ADDRESS = "0x" + "Aa" * 20
CALL = Call("0x" + "11" * 20, b"\x01\x02", "Jobs.commit", value=1 << 200)


def receipt(number: int, block_hash: str = "0xb1") -> dict[str, Any]:
    return {"blockNumber": hex(number), "blockHash": block_hash, "status": "0x1"}


def attempt(name: str, max_fee: int = 100) -> Attempt:
    return Attempt(name, name.encode(), Fees(max_fee, 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite"


@pytest.fixture
def queue(path: Path) -> Iterator[TransactionQueue]:
    opened = TransactionQueue(path, chain_id=1, address=ADDRESS)
    yield opened
    opened.close()


def add(queue: TransactionQueue, nonce: int, key: str | None = None, name: str = "") -> int:
    return queue.add(CALL, nonce=nonce, gas=21_000, key=key, attempt=attempt(name or f"0x{nonce}"), now=5)


def test_row_is_there_whole_after_reopening(path: Path, queue: TransactionQueue) -> None:
    row_id = add(queue, 3, "key")
    queue.add_attempt(row_id, attempt("0xbb", max_fee=1 << 130), 6)
    other = TransactionQueue(path, chain_id=1, address=ADDRESS.lower())
    row = other.get(row_id)
    other.close()
    assert (row.nonce, row.key, row.call, row.gas, row.state) == (3, "key", CALL, 21_000, State.PENDING)
    assert row.attempts == (attempt("0x3"), attempt("0xbb", max_fee=1 << 130))


def test_row_is_durable_before_add_returns(path: Path, queue: TransactionQueue) -> None:
    add(queue, 3)
    reader = sqlite3.connect(path)
    assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert reader.execute("SELECT count(*) FROM attempts").fetchone() == (1,)
    reader.close()


def test_nonce_is_used_once_except_by_a_lost_row(queue: TransactionQueue) -> None:
    row_id = add(queue, 3)
    with pytest.raises(ConfigError):
        add(queue, 3, name="0xcc")
    assert len(queue.pending()) == 1
    queue.finish(row_id, State.LOST)
    assert not queue.has_nonce(3)
    add(queue, 3, name="0xcc")
    assert queue.has_nonce(3)


def test_key_finds_pending_and_mined_rows_only(queue: TransactionQueue) -> None:
    row_id = add(queue, 3, "key")
    for state, found in [
        (State.PENDING, True),
        (State.MINED, True),
        (State.REVERTED, False),
        (State.LOST, False),
    ]:
        if state is not State.PENDING:
            queue.finish(row_id, state, receipt(7))
        assert (queue.by_key("key") is not None) is found
    assert queue.by_key("other") is None


def test_forgotten_row_is_gone_with_its_attempts(path: Path, queue: TransactionQueue) -> None:
    queue.forget(add(queue, 3, "key"))
    assert queue.pending() == []
    add(queue, 3, "key")


def test_reopened_row_is_pending_without_a_block(queue: TransactionQueue) -> None:
    row_id = add(queue, 3)
    queue.finish(row_id, State.MINED, receipt(7))
    assert queue.get(row_id).block_number == 7
    assert [row.id for row in queue.ended_after(6)] == [row_id]
    assert queue.ended_after(7) == []
    assert [row.id for row in queue.ended_from_nonce(3)] == [row_id]
    queue.reopen([row_id])
    row = queue.get(row_id)
    assert (row.state, row.block_number, row.block_hash, row.receipt) == (State.PENDING, None, None, None)


def test_reopened_row_whose_key_was_sent_anew_goes_on_without_it(queue: TransactionQueue) -> None:
    reverted = add(queue, 3, "key")
    queue.finish(reverted, State.REVERTED, receipt(7), {"code": "X"})
    again = add(queue, 4, "key")
    queue.reopen([reverted])
    assert [row.id for row in queue.pending()] == [reverted, again]
    found = queue.by_key("key")
    assert found is not None
    assert found.id == again


@pytest.mark.parametrize(("chain_id", "address"), [(2, ADDRESS), (1, "0x" + "22" * 20)])
def test_queue_of_another_key_or_chain_is_refused(
    path: Path, queue: TransactionQueue, chain_id: int, address: str
) -> None:
    with pytest.raises(ConfigError, match="belongs to"):
        TransactionQueue(path, chain_id=chain_id, address=address)


def test_queue_of_another_version_is_refused(path: Path, queue: TransactionQueue) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(ConfigError, match="version 99"):
        TransactionQueue(path, chain_id=1, address=ADDRESS)


def test_queue_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("not a database at all, but long enough to look like one" * 20, encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be used"):
        TransactionQueue(path, chain_id=1, address=ADDRESS)


def test_locked_queue_says_so_and_promises_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_queue, "LOCK_SECONDS", 0.2)
    queue = TransactionQueue(path, chain_id=1, address=ADDRESS)
    first = add(queue, 0)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for change in (lambda: add(queue, 1, "key"), lambda: queue.add_attempt(first, attempt("0xbb", 200), 6)):
        with pytest.raises(ConfigError, match=r"locked.*Nothing new was sent") as refused:
            change()
        assert refused.value.code == "QueueLocked"
    holder.execute("ROLLBACK")
    holder.close()
    assert queue.by_key("key") is None
    assert queue.get(first).attempts == (attempt("0x0"),)
    assert queue.get(add(queue, 1, "key")).nonce == 1
    queue.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from market.errors import ConfigError
from market.transaction_queue import TransactionQueue
from tests.unit.market.test_transaction_queue import ADDRESS, add
path = Path(sys.argv[1])
queue = TransactionQueue(path, chain_id=1, address=ADDRESS)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
written = max(file.stat().st_size for file in path.parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (written, hard))
try:
    for nonce in range(10_000):
        add(queue, nonce, f"key {nonce}")
except ConfigError as error:
    print(error.message)
assert queue.by_key(f"key {nonce}") is None
assert not queue.has_nonce(nonce)
assert len(queue.pending()) == nonce
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert queue.get(add(queue, nonce, f"key {nonce}")).nonce == nonce
queue.close()
"""


def test_queue_on_a_full_disk_says_so_and_promises_nothing(path: Path) -> None:
    """A file-size limit stands for the full disk: the same failed write, without a file system of its own."""
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nothing new was sent" in done.stdout
