"""A journal belongs to one chain, one set of contracts and one provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from market.chain import Block
from provider.agent import open_journal
from provider.errors import JournalError
from tests.unit.provider import samples
from tests.unit.provider.journals import in_the_clear


class Genesis:
    """A chain known by its id and its first block."""

    def __init__(self, chain_id: int, first: str) -> None:
        self.chain_id = chain_id
        self._first = first

    def block(self, number: int) -> Block:
        assert number == 0
        return Block(0, self._first, "0x0", 0)


def reopen(
    path: Path, chain_id: int, first: str, jobs: str = "0xAA", account: LocalAccount = samples.OWNER
) -> str | None:
    """Opens the journal, says what note lies in it, and leaves one."""
    chain: Any = Genesis(chain_id, first)
    journal = open_journal(path, chain, jobs, account)
    note = journal.mark("note")
    journal.set_mark("note", "kept")
    journal.close()
    return note


def test_journal_is_taken_up_again_on_its_own_chain(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    assert reopen(path, 1, "0x1") is None
    assert reopen(path, 1, "0x1", jobs="0xaa") == "kept"


def test_journal_of_a_development_chain_that_is_gone_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    reopen(path, 31337, "0x1")
    assert reopen(path, 31337, "0x2") is None
    assert len(list(tmp_path.glob("journal-*.sqlite"))) == 1
    assert reopen(path, 31337, "0x2") == "kept"


@pytest.mark.parametrize(("first", "jobs"), [("0x2", "0xaa"), ("0x1", "0xbb")])
def test_journal_of_another_market_is_refused_where_money_is_real(tmp_path: Path, first: str, jobs: str) -> None:
    path = tmp_path / "journal.sqlite"
    reopen(path, 1, "0x1")
    with pytest.raises(JournalError, match="belongs to other contracts"):
        reopen(path, 1, first, jobs)
    assert reopen(path, 1, "0x1") == "kept"


def test_older_journal_of_another_market_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    old = in_the_clear(path)
    old.execute("INSERT INTO marks VALUES ('chain', '1:0x1:0xbb')")
    old.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="belongs to other contracts"):
        reopen(path, 1, "0x1")
    assert path.read_bytes() == before
    assert reopen(path, 1, "0x1", jobs="0xbb") is None


def test_journal_that_could_not_be_looked_at_before_is_not_taken_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.sqlite"
    reopen(path, 1, "0x1")
    monkeypatch.setattr("provider.agent.peek", lambda *_: None)  # another program held the file
    with pytest.raises(JournalError, match="belongs to other contracts"):
        reopen(path, 1, "0x2")
    assert reopen(path, 1, "0x1") == "kept"


@pytest.mark.parametrize("chain_id", [1, 31337])
def test_journal_of_another_provider_is_refused_and_left_as_it_is(tmp_path: Path, chain_id: int) -> None:
    """Its prompts and answers are encrypted: an agent with another key could neither deliver nor defend them."""
    path = tmp_path / "journal.sqlite"
    reopen(path, chain_id, "0x1")
    with pytest.raises(JournalError, match=f"belongs to the provider {samples.OWNER.address.lower()}") as refused:
        reopen(path, chain_id, "0x1", account=Account.from_key(b"\2" * 32))
    assert "data_dir" in str(refused.value)
    assert reopen(path, chain_id, "0x1") == "kept"
