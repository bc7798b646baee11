"""What a queue says of its past, beside its writer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from market.chain import Call
from market.errors import ConfigError
from market.fees import Fees
from market.transaction_history import DEPTH, TransactionHistory
from market.transaction_queue import Attempt, State, TransactionQueue

ADDRESS = "0x" + "aa" * 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite"


@pytest.fixture
def queue(path: Path) -> Iterator[TransactionQueue]:
    queue = TransactionQueue(path, chain_id=1, address=ADDRESS)
    yield queue
    queue.close()


def attempt(name: str) -> Attempt:
    return Attempt(name, name.encode(), Fees(100, 1))


def add(queue: TransactionQueue, nonce: int, key: str | None = None) -> int:
    call = Call("0x" + "11" * 20, b"", "Jobs.commit")
    return queue.add(call, nonce=nonce, gas=1, key=key, attempt=attempt(f"0x{nonce}"), now=1_000 + nonce)


def mine(queue: TransactionQueue, row: int, block: int, price: int, state: State = State.MINED) -> None:
    receipt = {"blockNumber": hex(block), "blockHash": "0xb", "transactionHash": f"0xt{row}", "gasUsed": hex(100)}
    queue.finish(row, state, receipt | {"effectiveGasPrice": hex(price)})


def test_history_of_a_queue_that_is_not_there_is_empty(path: Path) -> None:
    history = TransactionHistory(path)
    assert history.transactions() == []
    assert history.totals().by_state == {}


def test_transactions_tell_what_they_cost(path: Path, queue: TransactionQueue) -> None:
    mine(queue, add(queue, 0, "commit:1"), 7, 10**30)
    add(queue, 1)
    first, second = TransactionHistory(path).transactions()
    assert (first.key, first.gas_used, first.fee_wei, first.hash) == ("commit:1", 100, 10**32, "0xt1")
    assert (second.state, second.gas_used, second.fee_wei, second.hash) == (State.PENDING, 0, 0, "")
    assert [row.id for row in TransactionHistory(path).transactions(since=1_001)] == [2]


def test_totals_count_states_replacements_and_gas(path: Path, queue: TransactionQueue) -> None:
    rows = [add(queue, nonce) for nonce in range(4)]
    queue.add_attempt(rows[0], attempt("0xdearer"), 5)
    mine(queue, rows[0], 7, 3)
    mine(queue, rows[1], 8, 5, State.REVERTED)
    queue.finish(rows[2], State.LOST)
    totals = TransactionHistory(path).totals()
    assert totals.by_state == {State.MINED: 1, State.REVERTED: 1, State.LOST: 1, State.PENDING: 1}
    assert (totals.replaced, totals.gas_used, totals.fee_wei) == (1, 200, 800)


def test_totals_stay_right_while_the_chain_grows_and_takes_back(path: Path, queue: TransactionQueue) -> None:
    history = TransactionHistory(path)
    rows = [add(queue, nonce) for nonce in range(3)]
    mine(queue, rows[0], 1, 2)
    mine(queue, rows[1], 1 + DEPTH, 3)  # now the first counts as firm
    assert history.totals().fee_wei == 500
    queue.reopen([rows[1]])  # a reorganisation
    assert history.totals().fee_wei == 200
    mine(queue, rows[1], 2 + DEPTH, 7)
    mine(queue, rows[2], 3 + DEPTH, 1)
    assert history.totals().fee_wei == TransactionHistory(path).totals().fee_wei == 1_000
    queue.forget_all()
    assert history.totals().fee_wei == 0
    mine(queue, add(queue, 0), 1, 4)
    assert history.totals().fee_wei == 400


def test_file_that_is_no_queue_is_refused_in_words(path: Path) -> None:
    path.write_text("this is no database at all, whatever its name may say of it")
    with pytest.raises(ConfigError, match="cannot be read"):
        TransactionHistory(path).transactions()
