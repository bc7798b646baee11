"""The watcher survives a chain that cannot be read, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from market.errors import ChainUnreachable
from market.events import Event, HeadWaker, Mark
from market.hashing import keccak256
from provider.config import Timing
from provider.draws import Draws
from provider.journal import Journal
from provider.watcher import JournalCursor, Watcher
from tests.unit.provider import samples


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


def watching(follower: Any, side: Any, journal: Journal, kick: Callable[[bytes], None] = lambda _: None) -> Watcher:
    draws = Draws(side, journal, samples.shop(), Timing(), lambda _: True)
    return Watcher(follower, side, journal, draws, kick, keep_requests=1, keep_outputs=1, poll_seconds=0.01)


class Script(Follower):
    """Gives each list of events in one look."""

    def __init__(self, *looks: list[Event]) -> None:
        super().__init__(failures=0)
        self.looks = list(looks)

    def poll(self) -> list[Any]:
        super().poll()
        return self.looks.pop(0) if self.looks else []


def event(name: str, job_id: bytes, block: int, **arguments: Any) -> Event:
    return Event(name, {"jobId": job_id, **arguments}, "0x", block, "0x", "0x", 0)


def posted(job: bytes, block: int, model_id: bytes = samples.MODEL_ID) -> Event:
    return event("JobPosted", job, block, job={"drawBlock": block, "modelId": model_id})


@pytest.mark.parametrize("end", ["Drawn", "DrawLapsed"])
@pytest.mark.parametrize("in_one_look", [True, False])
def test_drawn_job_is_remembered_until_its_draw_is_over(tmp_path: Path, end: str, in_one_look: bool) -> None:
    """Every drawn job of the network was remembered, and for ever."""
    first, second, foreign = keccak256(b"1"), keccak256(b"2"), keccak256(b"3")
    posts = [posted(first, 7), posted(second, 8), posted(foreign, 9, keccak256(b"another model"))]
    ends = [event(end, first, 10)]
    journal = Journal(tmp_path / "journal.sqlite", samples.OWNER)
    kicked: list[bytes] = []
    side: Any = Side()
    follower: Any = Script(posts + ends) if in_one_look else Script(posts, ends)
    watcher = watching(follower, side, journal, kicked.append)
    draws = Draws(side, journal, samples.shop(), Timing(), lambda _: True)
    watcher.poll()
    assert set(draws.open()) == ({second} if in_one_look else {first, second})
    assert set(kicked) == set(draws.open())
    watcher.poll()
    assert draws.open() == [second]
    found = draws.pending(second)
    assert found is not None
    assert found.posted_in == 8
    journal.close()


async def test_watcher_tells_of_an_unreadable_chain_until_it_is_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", samples.OWNER)
    follower: Any = Follower(failures=3)
    side: Any = Side()
    watcher = watching(follower, side, journal)
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
    journal = Journal(tmp_path / "journal.sqlite", samples.OWNER)
    cursor = JournalCursor(journal)
    assert list(cursor.load()) == []
    marks = [Mark(1, "0x01"), Mark(2, "0x02")]
    cursor.save(marks)
    assert list(JournalCursor(journal).load()) == marks
    journal.close()
