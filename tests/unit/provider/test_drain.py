"""What keeps a draining provider, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provider.drain import LATE_SECONDS, Drain, Left
from provider.errors import Refusal
from provider.journal import Journal
from provider.records import Stage
from tests.unit.provider import samples
from tests.unit.provider.desk import DIGEST, JOB, Desk


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "empty.sqlite", samples.OWNER)
    yield journal
    journal.close()


def test_provider_that_does_not_drain_admits_everybody(journal: Journal) -> None:
    drain = Drain(journal)
    drain.check()
    assert not drain.active


def test_draining_provider_refuses_with_a_time_to_ask_again(journal: Journal) -> None:
    drain = Drain(journal)
    drain.begin(leave=False)
    with pytest.raises(Refusal) as refused:
        drain.check()
    assert (refused.value.code, refused.value.status) == ("DRAINING", 503)
    assert (refused.value.retry_after or 0) > 0
    drain.end()
    drain.check()


def test_agent_that_ended_drains_on_at_its_next_start_and_stays(journal: Journal) -> None:
    drain = Drain(journal)
    drain.begin(leave=True)
    drain.gone()
    again = Drain(journal)
    assert (again.active, again.leaves) == (True, False)


def test_job_keeps_a_draining_provider_until_it_is_closed(desk: Desk) -> None:
    drain = Drain(desk.journal)
    far = samples.NOW + 10**6
    assert drain.left(far) == Left(jobs=1, quotes=0)  # its quote was used
    desk.journal.advance(JOB, Stage.FINAL, samples.NOW, outcome="SETTLED", final_at=samples.NOW)
    assert not drain.left(far).nothing  # the bond is locked
    desk.journal.advance(JOB, Stage.CLOSED, samples.NOW)
    assert drain.left(far).nothing


def test_quote_keeps_a_draining_provider_until_no_block_can_hold_its_job(desk: Desk) -> None:
    used = desk.journal.quote(DIGEST)
    assert used is not None
    desk.journal.advance(JOB, Stage.CLOSED, samples.NOW)
    quote = replace(used.quote, nonce=99)
    desk.journal.add_quote(b"q" * 32, quote, b"s" * 65, samples.NOW)
    drain = Drain(desk.journal)
    assert drain.left(quote.valid_until + LATE_SECONDS) == Left(jobs=0, quotes=1)
    assert drain.left(quote.valid_until + LATE_SECONDS + 1).nothing
