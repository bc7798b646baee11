"""Instructions to a running agent: a key has one writer, so whoever wants money out asks the process that holds it;
so does whoever wants it to take no new work.

An instruction lies in a small SQLite file beside the journal, signed with the provider's own key (EIP-191), so that
being able to write the file is not enough. It is carried out at most once: its id is part of each transaction's key.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import structlog
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount

from market.errors import AssayError, BadSignature, ConfigError
from provider.drain import Drain
from provider.income import Action, Income

log = structlog.get_logger(__name__)

VALID_SECONDS = 120
_SCHEMA = """
CREATE TABLE IF NOT EXISTS instructions (
    id TEXT PRIMARY KEY, body TEXT NOT NULL, signature TEXT NOT NULL, answer TEXT);
"""


@dataclass(frozen=True)
class Instruction:
    """What to take out. Amounts in base units.

    Attributes:
        to: where credit goes; amount: how much of it, None = all.
        unstake: stake that begins to leave, 0 = none, None = all; finish: turn a finished exit into credit.
        valid_until: unix seconds of this machine's clock.
    """

    id: str
    to: str
    amount: int | None
    unstake: int | None
    finish: bool
    valid_until: int

    @classmethod
    def new(cls, to: str, amount: int | None, unstake: int | None, finish: bool) -> Self:
        return cls(secrets.token_hex(16), to, amount, unstake, finish, int(time.time()) + VALID_SECONDS)

    def text(self) -> str:
        """What is signed and stored."""
        return json.dumps({"assay": "provider instruction"} | asdict(self), sort_keys=True)

    def carry_out(self, income: Income) -> list[Action]:
        """Bonds that are due, then stake, then credit. Raises what Income raises; what was done stays done."""
        actions = income.release()
        if self.unstake != 0:
            actions += income.begin_leaving(self.unstake)
        if self.finish:
            actions += income.finish_leaving()
        return actions + income.withdraw(self.to, self.amount)


@dataclass(frozen=True)
class DrainInstruction:
    """To take no new work (`drain`), and to end once nothing is left (`leave`); or to take it again.

    Attributes:
        valid_until: unix seconds of this machine's clock.
    """

    id: str
    drain: bool
    leave: bool
    valid_until: int

    @classmethod
    def new(cls, *, drain: bool, leave: bool) -> Self:
        return cls(secrets.token_hex(16), drain, leave, int(time.time()) + VALID_SECONDS)

    def text(self) -> str:
        """What is signed and stored."""
        return json.dumps({"assay": "provider drain"} | asdict(self), sort_keys=True)

    def carry_out(self, drain: Drain) -> list[Action]:
        if self.drain:
            drain.begin(leave=self.leave)
        else:
            drain.end()
        return []


AnyInstruction = Instruction | DrainInstruction


def read_instruction(text: str) -> AnyInstruction:
    """Raises ValueError, TypeError or KeyError where the text is none."""
    fields = json.loads(text)
    kinds: dict[str, type[AnyInstruction]] = {
        "provider instruction": Instruction,
        "provider drain": DrainInstruction,
    }
    return kinds[fields.pop("assay")](**fields)


class InstructionBook:
    """The file. Every method opens it anew: two processes use it, seldom.

    Raises (every method): ConfigError when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def place(self, instruction: AnyInstruction, account: LocalAccount) -> None:
        signature = account.sign_message(encode_defunct(text=instruction.text())).signature.hex()
        self._run("INSERT INTO instructions VALUES (?,?,?,NULL)", instruction.id, instruction.text(), signature)

    def waiting(self) -> list[tuple[str, str, str]]:
        """(id, text, signature) of instructions without an answer; none where nobody ever placed one."""
        if not self._path.exists():
            return []
        return self._run("SELECT id, body, signature FROM instructions WHERE answer IS NULL ORDER BY rowid")

    def answer(self, instruction_id: str, answer: dict[str, Any]) -> None:
        self._run("UPDATE instructions SET answer = ? WHERE id = ?", json.dumps(answer), instruction_id)

    def answer_to(self, instruction_id: str) -> dict[str, Any] | None:
        rows = self._run("SELECT answer FROM instructions WHERE id = ?", instruction_id)
        found: dict[str, Any] | None = json.loads(rows[0][0]) if rows and rows[0][0] else None
        return found

    def _run(self, statement: str, *values: object) -> list[Any]:
        try:
            self._path.touch(mode=0o600)
            with closing(sqlite3.connect(self._path, timeout=5.0, isolation_level=None)) as db:
                db.executescript(_SCHEMA)
                return db.execute(statement, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"The instructions {self._path} cannot be used: {error}.", path=str(self._path)) from None


class Attendant:
    """Carries out the instructions of a running agent's owner.

    Args:
        income: makes an Income whose transactions carry the given key.
        drain: what a DrainInstruction changes.
    """

    def __init__(self, book: InstructionBook, address: str, income: Callable[[str], Income], drain: Drain) -> None:
        self._book = book
        self._address = address
        self._income = income
        self._drain = drain

    def serve(self) -> None:
        """Answers every waiting instruction.

        Raises:
            ConfigError: the file cannot be used.
        """
        for instruction_id, text, signature in self._book.waiting():
            try:
                instruction = self._checked(instruction_id, text, signature)
                actions = self._carry_out(instruction)
                answer: dict[str, Any] = {"actions": [asdict(action) for action in actions]}
            except AssayError as error:
                told = {"code": error.code, "message": error.message, "details": error.details}
                answer = {"error": told, "hint": error.hint, "exit_code": error.exit_code}
            self._book.answer(instruction_id, answer)
            log.info("instruction_answered", instruction=instruction_id, done=len(answer.get("actions", [])))

    def _carry_out(self, instruction: AnyInstruction) -> list[Action]:
        if isinstance(instruction, DrainInstruction):
            return instruction.carry_out(self._drain)
        return instruction.carry_out(self._income(f"instruction:{instruction.id}"))

    def _checked(self, instruction_id: str, text: str, signature: str) -> AnyInstruction:
        try:
            signer = Account.recover_message(encode_defunct(text=text), signature=bytes.fromhex(signature))
            instruction = read_instruction(text)
        except Exception:  # noqa: BLE001 - eth_account raises many kinds; whatever it is, it is no instruction
            raise BadSignature("The instruction is malformed; nothing was sent.") from None
        if signer.lower() != self._address.lower() or instruction.id != instruction_id:
            raise BadSignature("The instruction is not signed by this provider's key; nothing was sent.")
        if time.time() > instruction.valid_until:
            raise ConfigError("The instruction came too late and was dropped; nothing was sent.", hint="Give it again.")
        return instruction


class InstructionFailed(AssayError):
    """The agent carried the instruction out in part or not at all; the message is its own."""

    def __init__(self, answer: dict[str, Any]) -> None:
        error = answer["error"]
        super().__init__(error["message"], hint=answer["hint"], code=error["code"], **error["details"])
        self.exit_code = answer["exit_code"]  # type: ignore[misc]


def give(book: InstructionBook, instruction: AnyInstruction, account: LocalAccount, seconds: float) -> list[Action]:
    """Places an instruction and waits for the agent.

    Raises:
        InstructionFailed: the agent says why.
        ConfigError: no answer in time; an instruction not begun within VALID_SECONDS is dropped.
    """
    book.place(instruction, account)
    deadline = time.monotonic() + seconds
    while (answer := book.answer_to(instruction.id)) is None:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"The running agent has not answered within {seconds:g} s.",
                hint="Its log says what it is doing; `assay provider status` shows what was taken out.",
                code="NO_ANSWER",
            )
        time.sleep(0.05)
    if "error" in answer:
        raise InstructionFailed(answer)
    return [Action(**fields) for fields in answer["actions"]]
