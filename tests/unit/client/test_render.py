"""Tables in terminals of any width: every value whole, nothing cut."""

from __future__ import annotations

import io

from rich.console import Console

from client.matching import LeftOut
from client.render import show_jobs, show_quote
from client.results import JobSummary, QuoteReport, TokenInfo
from client.sampling import SamplingChoice
from market.hashing import keccak256
from market.types import Mode
from tests.unit.client import examples

TOKEN = TokenInfo(examples.TOKEN, "TEST", 6)
REASON = "its price of 4,500,000 base units is above the cap of 10"


def console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, soft_wrap=True, highlight=False)


def printed(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def report() -> QuoteReport:
    return QuoteReport(
        model_id=examples.MODEL_ID,
        model_name="tiny",
        mode=Mode.QUORUM,
        replicas=3,
        quorum=2,
        input_tokens=3,
        max_output_tokens=16,
        token=TOKEN,
        chosen=tuple(examples.verified(number, price=4_500_000) for number in (1, 2, 3)),
        alternatives=(),
        left_out=(LeftOut(examples.account(4).address, "", "matching", "max_price", REASON),),
        selection_seed=bytes(32),
        steps_ms={},
        sampling=SamplingChoice.of("0.7", None, None, None, bytes(31) + b"\1"),
    )


def test_quote_in_a_narrow_terminal_keeps_every_value_whole_on_one_line() -> None:
    narrow = console(80)
    show_quote(narrow, report(), explain=True)
    lines = printed(narrow).splitlines()
    for number in (1, 2, 3, 4):
        assert examples.account(number).address.lower() in lines
    assert sum("4.5 TEST" in line for line in lines) == 3
    assert any(line.split("because", 1)[-1].strip() == REASON for line in lines)
    assert lines[1] == f"sampled with temperature 0.7  seed 0x{31 * '00'}01"
    table = lines[3:]  # after the sentences
    assert all(len(line) <= 80 for line in table)


def test_quote_in_a_wide_terminal_is_a_table() -> None:
    wide = console(150)
    show_quote(wide, report(), explain=False)
    lines = printed(wide).splitlines()
    assert [line.split()[0] for line in lines[4:]] == [examples.account(n).address.lower() for n in (1, 2, 3)]


def test_jobs_in_a_narrow_terminal_show_prompt_and_answer_whole() -> None:
    job = JobSummary(
        job_id=keccak256(b"job"),
        created_at=examples.NOW,
        state="settled",
        model_id=examples.MODEL_ID,
        mode=Mode.QUORUM,
        replicas=3,
        quorum=2,
        escrow=1,
        prompt="What is the capital of France?",
        answer="The capital of France is Paris.",
    )
    narrow = console(80)
    show_jobs(narrow, [job], TOKEN)
    assert "What is the capital of France?" in printed(narrow)
    assert "The capital of France is Paris." in printed(narrow)
    assert all(len(line) <= 80 for line in printed(narrow).splitlines())
