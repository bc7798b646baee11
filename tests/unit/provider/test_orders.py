"""Only the provider's own key orders its money, once, and in time."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from market.errors import ConfigError, ContractError
from provider.income import Action
from provider.orders import Clerk, Order, OrderBook, OrderFailed, give

OWNER = Account.from_key(b"\1" * 32)
STRANGER = Account.from_key(b"\2" * 32)


class Till:
    """An income that notes what it was asked for."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.withdrawn: list[tuple[str, int | None]] = []
        self.refuse: ContractError | None = None

    def __call__(self, key: str) -> Any:
        self.keys.append(key)
        return self

    def release(self) -> list[Action]:
        return [Action("released", 1, "0x1")]

    def begin_leaving(self, amount: int | None) -> list[Action]:
        return [Action("unstaking", amount or 0, "0x2")]

    def finish_leaving(self) -> list[Action]:
        return [Action("unstaked", 3, "0x3")]

    def withdraw(self, to: str, amount: int | None) -> list[Action]:
        if self.refuse is not None:
            raise self.refuse
        self.withdrawn.append((to, amount))
        return [Action("withdrawn", 4, "0x4", to)]


@pytest.fixture
def book(tmp_path: Path) -> OrderBook:
    return OrderBook(tmp_path / "orders.sqlite")


@pytest.fixture
def till() -> Till:
    return Till()


@pytest.fixture
def clerk(book: OrderBook, till: Till) -> Clerk:
    return Clerk(book, OWNER.address, till)


def order(unstake: int | None = 0, finish: bool = False) -> Order:
    return Order.new("0xabc", None, unstake, finish)


def test_order_of_the_owner_is_carried_out_once(book: OrderBook, clerk: Clerk, till: Till) -> None:
    placed = order()
    book.place(placed, OWNER)
    for _ in range(2):
        clerk.serve()
    assert till.withdrawn == [("0xabc", None)]
    assert till.keys == [f"order:{placed.id}"]


@pytest.mark.parametrize(
    ("unstake", "finish", "done"),
    [
        (0, False, ["released", "withdrawn"]),
        (7, False, ["released", "unstaking", "withdrawn"]),
        (None, True, ["released", "unstaking", "unstaked", "withdrawn"]),
    ],
)
def test_order_says_what_is_done(till: Till, unstake: int | None, finish: bool, done: list[str]) -> None:
    income: Any = till
    assert [action.what for action in order(unstake, finish).carry_out(income)] == done


def test_order_of_a_stranger_is_refused(book: OrderBook, clerk: Clerk, till: Till) -> None:
    placed = order()
    book.place(placed, STRANGER)
    clerk.serve()
    answer = book.answer_to(placed.id)
    assert answer is not None
    assert answer["error"]["code"] == "BadSignature"
    assert till.keys == []


def test_order_that_was_changed_is_refused(book: OrderBook, clerk: Clerk, till: Till) -> None:
    placed = order()
    book.place(placed, OWNER)
    book._run("UPDATE orders SET body = ?", replace(placed, to="0xdef").text())
    clerk.serve()
    assert till.keys == []


def test_order_copied_under_another_id_is_refused(book: OrderBook, clerk: Clerk, till: Till) -> None:
    placed = order()
    book.place(placed, OWNER)
    clerk.serve()
    book._run("INSERT INTO orders SELECT 'copy', body, signature, NULL FROM orders")
    clerk.serve()
    assert len(till.withdrawn) == 1
    answer = book.answer_to("copy")
    assert answer is not None
    assert answer["error"]["code"] == "BadSignature"


def test_order_that_lay_too_long_is_dropped(book: OrderBook, clerk: Clerk, till: Till) -> None:
    placed = replace(order(), valid_until=1)
    book.place(placed, OWNER)
    clerk.serve()
    assert till.keys == []


def test_given_order_returns_what_the_agent_did(book: OrderBook, clerk: Clerk) -> None:
    stop = threading.Event()

    def agent() -> None:
        while not stop.wait(0.01):
            clerk.serve()

    thread = threading.Thread(target=agent)
    thread.start()
    try:
        assert [action.what for action in give(book, order(), OWNER, 5)] == ["released", "withdrawn"]
    finally:
        stop.set()
        thread.join()


def test_given_order_that_fails_raises_the_agents_own_error(book: OrderBook, clerk: Clerk, till: Till) -> None:
    till.refuse = ContractError("no credit", code="InsufficientCredit", hint="earn some", has=1)
    placed = order()
    book.place(placed, OWNER)
    clerk.serve()
    answer = book.answer_to(placed.id)
    assert answer is not None
    error = OrderFailed(answer)
    assert (error.code, error.exit_code, error.hint, error.details) == (
        "InsufficientCredit",
        3,
        "earn some",
        {"has": 1},
    )
    assert error.message == "no credit"


def test_given_order_without_an_agent_gives_up(book: OrderBook) -> None:
    with pytest.raises(ConfigError, match="has not answered"):
        give(book, order(), OWNER, 0.1)


def test_agent_that_never_got_an_order_writes_no_file(book: OrderBook, clerk: Clerk, tmp_path: Path) -> None:
    clerk.serve()
    assert list(tmp_path.iterdir()) == []
