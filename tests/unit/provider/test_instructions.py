"""Only the provider's own key instructions its money, once, and in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from market.errors import ConfigError, ContractError
from provider.drain import Drain
from provider.income import Action
from provider.instructions import (
    Attendant,
    DrainInstruction,
    Instruction,
    InstructionBook,
    InstructionFailed,
    give,
)
from provider.journal import Journal
from tests.unit.provider import samples

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
def book(tmp_path: Path) -> InstructionBook:
    return InstructionBook(tmp_path / "instructions.sqlite")


@pytest.fixture
def till() -> Till:
    return Till()


@pytest.fixture
def drain(tmp_path: Path) -> Iterator[Drain]:
    journal = Journal(tmp_path / "journal.sqlite", samples.OWNER)
    yield Drain(journal)
    journal.close()


@pytest.fixture
def attendant(book: InstructionBook, till: Till, drain: Drain) -> Attendant:
    return Attendant(book, OWNER.address, till, drain)


def instruction(unstake: int | None = 0, finish: bool = False) -> Instruction:
    return Instruction.new("0xabc", None, unstake, finish)


def test_instruction_of_the_owner_is_carried_out_once(book: InstructionBook, attendant: Attendant, till: Till) -> None:
    placed = instruction()
    book.place(placed, OWNER)
    for _ in range(2):
        attendant.serve()
    assert till.withdrawn == [("0xabc", None)]
    assert till.keys == [f"instruction:{placed.id}"]


@pytest.mark.parametrize(
    ("unstake", "finish", "done"),
    [
        (0, False, ["released", "withdrawn"]),
        (7, False, ["released", "unstaking", "withdrawn"]),
        (None, True, ["released", "unstaking", "unstaked", "withdrawn"]),
    ],
)
def test_instruction_says_what_is_done(till: Till, unstake: int | None, finish: bool, done: list[str]) -> None:
    income: Any = till
    assert [action.what for action in instruction(unstake, finish).carry_out(income)] == done


def test_instruction_of_a_stranger_is_refused(book: InstructionBook, attendant: Attendant, till: Till) -> None:
    placed = instruction()
    book.place(placed, STRANGER)
    attendant.serve()
    answer = book.answer_to(placed.id)
    assert answer is not None
    assert answer["error"]["code"] == "BadSignature"
    assert till.keys == []


def test_instruction_that_was_changed_is_refused(book: InstructionBook, attendant: Attendant, till: Till) -> None:
    placed = instruction()
    book.place(placed, OWNER)
    book._run("UPDATE instructions SET body = ?", replace(placed, to="0xdef").text())
    attendant.serve()
    assert till.keys == []


def test_instruction_copied_under_another_id_is_refused(
    book: InstructionBook, attendant: Attendant, till: Till
) -> None:
    placed = instruction()
    book.place(placed, OWNER)
    attendant.serve()
    book._run("INSERT INTO instructions SELECT 'copy', body, signature, NULL FROM instructions")
    attendant.serve()
    assert len(till.withdrawn) == 1
    answer = book.answer_to("copy")
    assert answer is not None
    assert answer["error"]["code"] == "BadSignature"


def test_instruction_that_lay_too_long_is_dropped(book: InstructionBook, attendant: Attendant, till: Till) -> None:
    placed = replace(instruction(), valid_until=1)
    book.place(placed, OWNER)
    attendant.serve()
    assert till.keys == []


def test_given_instruction_returns_what_the_agent_did(book: InstructionBook, attendant: Attendant) -> None:
    stop = threading.Event()

    def agent() -> None:
        while not stop.wait(0.01):
            attendant.serve()

    thread = threading.Thread(target=agent)
    thread.start()
    try:
        assert [action.what for action in give(book, instruction(), OWNER, 5)] == ["released", "withdrawn"]
    finally:
        stop.set()
        thread.join()


def test_given_instruction_that_fails_raises_the_agents_own_error(
    book: InstructionBook, attendant: Attendant, till: Till
) -> None:
    till.refuse = ContractError("no credit", code="InsufficientCredit", hint="earn some", has=1)
    placed = instruction()
    book.place(placed, OWNER)
    attendant.serve()
    answer = book.answer_to(placed.id)
    assert answer is not None
    error = InstructionFailed(answer)
    assert (error.code, error.exit_code, error.hint, error.details) == (
        "InsufficientCredit",
        3,
        "earn some",
        {"has": 1},
    )
    assert error.message == "no credit"


def test_given_instruction_without_an_agent_gives_up(book: InstructionBook) -> None:
    with pytest.raises(ConfigError, match="has not answered"):
        give(book, instruction(), OWNER, 0.1)


def test_agent_that_never_got_an_instruction_writes_no_file(
    book: InstructionBook, attendant: Attendant, tmp_path: Path
) -> None:
    attendant.serve()
    assert not list(tmp_path.glob("instructions*"))


def test_drain_of_the_owner_holds_and_outlasts_a_restart_until_it_is_taken_back(
    book: InstructionBook, attendant: Attendant, drain: Drain, tmp_path: Path
) -> None:
    for ordered, active, leaves in ((True, True, True), (False, False, False)):
        book.place(DrainInstruction.new(drain=ordered, leave=ordered), OWNER)
        attendant.serve()
        assert (drain.active, drain.leaves) == (active, leaves)
        journal = Journal(tmp_path / "journal.sqlite", samples.OWNER)
        again = Drain(journal)
        journal.close()
        assert (again.active, again.leaves) == (active, leaves)


def test_drain_of_a_stranger_changes_nothing(book: InstructionBook, attendant: Attendant, drain: Drain) -> None:
    placed = DrainInstruction.new(drain=True, leave=True)
    book.place(placed, STRANGER)
    attendant.serve()
    assert not drain.active
    answer = book.answer_to(placed.id)
    assert answer is not None
    assert answer["error"]["code"] == "BadSignature"
