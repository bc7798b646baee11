"""What adds up in the earnings report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import provider
from market.errors import ConfigError
from market.hashing import keccak256
from market.transaction_history import PastTransaction
from market.transaction_queue import State
from market.types import Finish, Output
from provider.earnings import DAY, By, Entry, Sums, entries, report, since_of, was_silent
from provider.journal import Journal
from provider.keys import JobKey, job_of
from provider.records import JobRow, Stage
from tests.unit.provider import samples

NOW = samples.NOW
PAID, SILENT, REFUSED, OPEN = (keccak256(name) for name in (b"paid", b"silent", b"refused", b"open"))
OTHER_MODEL = keccak256(b"another model")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite", samples.OWNER)
    for job, model in ((PAID, samples.MODEL_ID), (SILENT, OTHER_MODEL), (REFUSED, OTHER_MODEL), (OPEN, OTHER_MODEL)):
        journal.add_job(
            job,
            client=samples.CLIENT,
            model_id=model,
            request_hash=b"r" * 32,
            quote_digest=b"d" * 32,
            bond=1,
            commit_deadline=NOW,
            now=NOW,
        )
    for job in (PAID, SILENT):
        journal.record_answer(job, (1,), Output(b"o" * 32, 1, Finish.STOP), b"s" * 32, 1, NOW)
        journal.advance(job, Stage.COMMITTED, NOW)
    journal.advance(PAID, Stage.REVEALED, NOW)
    journal.advance(PAID, Stage.FINAL, NOW, outcome="SETTLED", paid=2**100 + 1, final_at=NOW)
    journal.advance(SILENT, Stage.FINAL, NOW, outcome="SETTLED", paid=0, final_at=NOW + DAY)
    journal.advance(REFUSED, Stage.REFUSED, NOW + DAY, reason="UNPROFITABLE")
    yield journal
    journal.close()


def sent(number: int, key: str | None, gas: int, wei: int, at: int = NOW) -> PastTransaction:
    return PastTransaction(number, key, "call", State.MINED, at, 7, "0x1", gas, wei)


SENT = [
    sent(1, f"commit:{PAID.hex()}:0", 100, 10**18),
    sent(2, f"reveal:{PAID.hex()}:0", 50, 10**17, NOW + DAY),
    sent(3, f"commit:{SILENT.hex()}:1", 100, 7),
    sent(4, "instruction:ab:Vault.withdraw", 10, 3),
    sent(5, None, 10, 2),
    sent(6, f"settle:{PAID.hex()}:0", 0, 0),  # in no block yet
]


def fee(journal: Journal, row: JobRow) -> int:
    return 500 if was_silent(journal, row) else 0


def found(journal: Journal) -> list[Entry]:
    return entries(journal.jobs(-1), SENT, lambda row: fee(journal, row))


def test_total_is_exact_and_the_same_however_it_is_split(journal: Journal) -> None:
    expected = Sums(2, 1, 1, 2**100 + 1, 500, 5, 270, 10**18 + 10**17 + 12)
    for by in By:
        made = report(found(journal), by)
        assert made.total == expected
        total = Sums()
        for _, sums in made.lines:
            total += sums
        assert total == expected
        assert made.refusals == {"UNPROFITABLE": 1}


def test_job_carries_its_own_gas_and_the_rest_stands_apart(journal: Journal) -> None:
    lines = dict(report(found(journal), By.JOB).lines)
    assert lines["0x" + PAID.hex()] == Sums(1, 1, 0, 2**100 + 1, 0, 2, 150, 10**18 + 10**17)
    assert lines["0x" + SILENT.hex()] == Sums(1, 0, 0, 0, 500, 1, 100, 7)
    assert lines["none"] == Sums(transactions=2, gas=20, gas_wei=5)
    assert "0x" + OPEN.hex() not in lines


def test_model_carries_the_gas_of_its_jobs(journal: Journal) -> None:
    lines = dict(report(found(journal), By.MODEL).lines)
    assert lines["0x" + samples.MODEL_ID.hex()].gas_wei == 10**18 + 10**17
    assert (lines["0x" + OTHER_MODEL.hex()].missed_fees, lines["0x" + OTHER_MODEL.hex()].refused_jobs) == (500, 1)


def test_days_are_of_utc_and_since_leaves_out_what_was_before(journal: Journal) -> None:
    lines = report(found(journal), By.DAY).lines
    assert [day for day, _ in lines] == ["2023-11-14", "2023-11-15"]
    later = report(found(journal), By.DAY, since=NOW + 1)
    assert (later.total.income, later.total.gas_wei, later.total.missed_fees) == (0, 10**17, 500)


def test_rows_for_csv_have_a_head_and_no_total(journal: Journal) -> None:
    rows = report(found(journal), By.DAY).to_rows()
    assert rows[0][:3] == ["day", "jobs", "paid_jobs"]
    assert len({len(row) for row in rows}) == 1
    assert sum(int(row[4]) for row in rows[1:]) == 2**100 + 1


def test_since_is_a_date_or_a_number_of_days() -> None:
    assert since_of(None, NOW) == 0
    assert since_of("2d", NOW) == NOW - 2 * DAY
    assert since_of("2023-11-14", NOW) == NOW // DAY * DAY
    for wrong in ("yesterday", "2023-13-01", "-1d", "1.5d", ""):
        with pytest.raises(ConfigError, match="neither"):
            since_of(wrong, NOW)


@pytest.mark.parametrize("kind", JobKey)
def test_gas_of_everything_sent_for_a_job_is_booked_to_it(journal: Journal, kind: JobKey) -> None:
    """`fixSeed` was booked to no job."""
    made = entries(journal.jobs(-1), [sent(1, kind.of(PAID, 17), 100, 7)], lambda row: 0)
    (entry,) = (entry for entry in made if entry.sums.transactions)
    assert (entry.job, entry.model) == ("0x" + PAID.hex(), "0x" + samples.MODEL_ID.hex())
    assert (entry.sums.gas, entry.sums.gas_wei) == (100, 7)


@pytest.mark.parametrize("key", [None, "", f"reply:{PAID.hex()}:ab", f"close:{PAID.hex()}", "instruction:ab:withdraw"])
def test_gas_of_the_rest_is_booked_to_no_job(key: str | None) -> None:
    assert job_of(key) is None


def test_no_key_of_a_job_is_made_by_hand() -> None:
    """What provider.keys does not know the report would book to no job."""
    of_no_job = {"reply", "expire", "close", "instruction", "prove"}
    found = {}
    for path in Path(provider.__file__).parent.glob("*.py"):
        for kind in re.findall(r'f"([a-z-]+?)[:-]\{[\w.]+(?:\.hex\(\)|\.id)\}', path.read_text(encoding="utf-8")):
            found[kind] = path.name
    assert set(found) == of_no_job, found
