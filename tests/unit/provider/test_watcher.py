"""The watcher survives a chain that cannot be read, and says so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from market.errors import ChainUnreachable
from market.events import HeadWaker, Mark
from provider.journal import Journal
from provider.watcher import JournalCursor, Watcher


class Follower:
    """Unreachable as often as it is told to be, then silent."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.polls = 0

    def poll(self) -> list[Any]:
        self.polls += 1
        if self.polls <= self.failures:
            raise ChainUnreachable("nobody answers")
        return []

    def commit(self) -> None:
        assert self.polls > self.failures


class Side:
    address = "0x" + "11" * 20
    looks = 0

    def look(self) -> None:
        self.looks += 1

    def now(self) -> int:
        return 100


async def test_watcher_tells_of_an_unreadable_chain_until_it_is_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    follower: Any = Follower(failures=3)
    side: Any = Side()
    watcher = Watcher(follower, side, journal, lambda _: None, keep_requests=1, keep_outputs=1, poll_seconds=0.01)
    told: list[str] = []
    task = asyncio.create_task(watcher.run(HeadWaker(None)))
    while side.looks < 2:
        if watcher.failure is not None and not told:
            told.append(watcher.failure.code)
        await asyncio.sleep(0.001)
    task.cancel()
    assert told == ["ChainUnreachable"]
    assert watcher.failure is None
    journal.close()


def test_cursor_is_read_back_from_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    cursor = JournalCursor(journal)
    assert list(cursor.load()) == []
    marks = [Mark(1, "0x01"), Mark(2, "0x02")]
    cursor.save(marks)
    assert list(JournalCursor(journal).load()) == marks
    journal.close()
