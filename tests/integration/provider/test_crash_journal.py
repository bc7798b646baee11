"""kill -9 once the journal has something on disk and before anybody was told: the restarted agent stands by it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from eth_account.signers.local import LocalAccount

from market.types import Mode
from market.views import SignedQuote
from provider.journal import Journal
from provider.records import Stage
from tests.integration.provider.crashing import JOURNAL_POINTS
from tests.integration.provider.market import LocalAgent, Market, Program, until
from tests.integration.provider.test_crash_afterwards import free_the_bond, stage

T = TypeVar("T")
WINDOW = 600
UNANSWERED = ("stored-quote", "stored-request", "stored-acceptance")
"""Points at which the agent dies in the middle of an HTTP request."""
DEFAULT = ("stored-acceptance", "stored-closed")  # the others take the same paths, and seconds each


def unanswered(ask: Callable[[], T]) -> T | None:
    """What was answered; None where the agent died instead."""
    try:
        return ask()
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(
    "point", [point if point in DEFAULT else pytest.param(point, marks=pytest.mark.slow) for point in JOURNAL_POINTS]
)
def test_agent_killed_after_it_wrote_something_down_stands_by_it_and_settles_once(
    market: Market, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"agent {point}")
    config, account = market.provider(tmp_path)
    request, ids = market.request()

    def buy(url: str) -> tuple[bytes | None, httpx.Response | None]:
        """Quote, job and delivery, as far as the agent lives."""
        quote: SignedQuote | None = unanswered(lambda: market.quote(url, request, Mode.NONE))
        if quote is None:
            return None, None
        job = market.post([quote], request, commit_window=WINDOW, reveal_window=WINDOW)
        return job, unanswered(lambda: market.deliver(url, job, request, ids))

    doomed = Program(market, config, sys.executable, "-m", "tests.integration.provider.crashing", point)
    try:
        doomed.ready()
        job, answer = buy(doomed.url)
        if point == "stored-closed":
            assert job is not None
            until(lambda: market.settled(job))
            free_the_bond(market, job)
        assert doomed.process.wait(60) == -signal.SIGKILL, doomed.text()
    finally:
        doomed.close()
    assert (answer is None) or point not in UNANSWERED
    accepted = _what_is_stored(doomed.config.journal_path, account, point, job, request.request_hash)

    again = LocalAgent(config, account)
    try:
        if job is None:
            job, answer = buy(again.url)
            assert job is not None
        elif answer is None:
            answer = market.deliver(again.url, job, request, ids)
        assert answer is not None
        assert answer.status_code == 200, answer.text
        if accepted is not None:
            assert answer.json()["signature"] == "0x" + accepted.hex()
        until(lambda: market.settled(job))
        if point != "stored-closed":
            until(lambda: stage(again, job) is Stage.FINAL)
            free_the_bond(market, job)
        until(lambda: stage(again, job) is Stage.CLOSED)
    finally:
        again.stop()
    for name in ("Committed", "Revealed", "BondReleased"):
        assert len(market.events(name, job)) == 1, name
    market.assert_books(job, account.address)
    (replica,) = market.contracts.jobs.replicas(job)
    vault = market.contracts.vault
    assert vault.stake_of(account.address).bonded == 0
    assert vault.credit(market.deployment.token, account.address) == replica.paid > 0


def _what_is_stored(
    path: Path, account: LocalAccount, point: str, job: bytes | None, request_hash: bytes
) -> bytes | None:
    """Checks that the journal has what it was killed after, and not what comes next. Returns the acceptance's
    signature, where one is there."""
    on_disk = Journal.read_only(path, account)
    try:
        if job is None:
            assert point == "stored-quote"
            assert on_disk.quotes_outstanding(0) == 1
            return None
        accepted = on_disk.acceptance(job, request_hash)
        if point in ("stored-request", "stored-acceptance"):
            assert on_disk.request(request_hash) is not None
            assert (accepted is None) == (point == "stored-request")
        else:
            row = on_disk.job(job)
            assert row is not None
            assert row.stage == point.removeprefix("stored-").upper()
    finally:
        on_disk.close()
    return None if accepted is None else accepted[1]
