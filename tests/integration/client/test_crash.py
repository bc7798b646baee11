"""kill -9 of a client that buys: afterwards either nothing is on chain, or `watch` has the answer; never two jobs. One
that is killed while it cancels, demands or withdraws does that once, too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from client.errors import InsufficientFunds, JobNotKnown
from client.job_options import JobOptions
from client.store import POSTED, PREPARED
from market.types import Mode
from market.views import JobState
from tests.integration.client.conftest import Connect, Town
from tests.integration.client.crashing import APPROVAL_POINTS, POINTS, TOKENS
from tests.integration.client.killed import PROMPT, Books, count, events, holdings, kill_at, sent_by

CREDIT = 1_000
DEFAULT = ("post-persisted",)  # the others take the same paths, and seconds each


@pytest.mark.parametrize(
    "point", [point if point in DEFAULT else pytest.param(point, marks=pytest.mark.slow) for point in POINTS]
)
def test_client_killed_while_it_buys_loses_nothing_and_buys_once(
    town: Town, connect: Connect, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"client {point}")
    looking = connect(tmp_path / "looking")
    before = Books.of(looking, town.honest)
    kill_at(town, point, tmp_path / "client", providers=town.honest)

    client = connect(tmp_path / "client")
    record = client.store.get(before.job)
    if point == "unstored":
        assert record is None
    else:
        assert record is not None
        assert record.state == (PREPARED if point in POINTS[: POINTS.index("posted")] else POSTED)
    if point in ("unstored", "stored", "post-persisted"):
        before.assert_untouched(looking)
    if point in ("unstored", "stored"):
        with pytest.raises(JobNotKnown):
            client.watch(before.job)
        result = client.run(PROMPT, allow=frozenset(town.honest), max_output_tokens=TOKENS)
    else:
        result = client.watch(before.job)
    before.assert_bought_once(client, result)


@pytest.mark.slow
@pytest.mark.parametrize("point", APPROVAL_POINTS)
def test_client_killed_while_it_approves_approves_once_and_buys_once(
    town: Town, connect: Connect, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"client {point}")
    looking = connect(tmp_path / "looking")
    if looking.balance().credit:
        looking.withdraw()  # else the job is paid out of it
        assert looking.wallet is not None
        looking.wallet.close()
    before = Books.of(looking, town.honest)
    kill_at(town, point, tmp_path / "client", providers=town.honest)
    before.assert_untouched(looking)

    client = connect(tmp_path / "client")
    with pytest.raises(JobNotKnown):
        client.watch(before.job)
    result = client.run(PROMPT, allow=frozenset(town.honest), max_output_tokens=TOKENS)
    before.assert_bought_once(client, result)
    place = client.marketplace
    assert place.token.allowance(client.address, place.vault.address) == 0
    approvals = 1
    assert sent_by(client) - before.sent in (approvals + 1, approvals + 2)  # a provider may have settled first


@pytest.mark.slow
def test_client_killed_while_it_cancels_has_cancelled_once(
    town: Town, connect: Connect, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", "client cancel-persisted")
    looking = connect(tmp_path / "looking")
    before = holdings(looking)
    with ExitStack() as frost:
        with town.connect(tmp_path / "client") as buyer:
            alone = JobOptions(allow=frozenset(town.honest), replicas=1, quorum=1, mode=Mode.NONE, max_output_tokens=6)
            offered = buyer.negotiate(PROMPT, options=alone)
            frost.enter_context(town.frozen(0, 1, 2))
            job = buyer.post(offered=offered).job_id
        sent = sent_by(looking)
        kill_at(town, "cancel-persisted", tmp_path / "client", "0x" + job.hex(), action="cancel")
        assert (sent_by(looking), looking.show(job).state) == (sent, JobState.OPEN)
        client = connect(tmp_path / "client")
        result = client.cancel(job)
    assert result.state is JobState.CANCELLED
    assert sent_by(client) == sent + 1
    assert count(client, "Cancelled", job) == 1
    assert before - holdings(client) == result.paid == offered.report.chosen[0].quote.kill_fee


@pytest.mark.slow
def test_client_killed_while_it_demands_pays_the_fee_once(
    town: Town, connect: Connect, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", "client demandReveal-persisted")
    with town.connect(tmp_path / "client") as buyer:
        job = buyer.run(PROMPT, allow=frozenset(town.honest), max_output_tokens=6).job_id
    looking = connect(tmp_path / "looking")
    before, sent = holdings(looking), sent_by(looking)
    with town.frozen(0):
        what = "0x" + job.hex()
        kill_at(town, "demandReveal-persisted", tmp_path / "client", what, action="demand", providers=town.honest)
        assert (sent_by(looking), count(looking, "RevealDemanded", job)) == (sent, 0)
        client = connect(tmp_path / "client")
        demand = client.demand(job, town.honest[0])
    assert demand.state in ("demanded", "waiting")
    assert sent_by(client) == sent + 1
    assert count(client, "RevealDemanded", job) == 1
    assert before - holdings(client) == demand.fee > 0


def test_client_killed_while_it_withdraws_has_its_credit_once(
    town: Town, connect: Connect, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", "client withdraw-persisted")
    with town.connect(tmp_path / "client") as buyer:
        assert buyer.wallet is not None
        vault, token = buyer.marketplace.vault, buyer.marketplace.token
        buyer.wallet.send(token.approve(vault.address, CREDIT))
        buyer.wallet.send(vault.deposit(token.address, buyer.address, CREDIT))
    looking = connect(tmp_path / "looking")
    before, sent, withdrawn = looking.balance(), sent_by(looking), len(events(looking, "Withdrawn"))
    assert before.credit >= CREDIT
    kill_at(town, "withdraw-persisted", tmp_path / "client", action="withdraw")
    assert (looking.balance(), sent_by(looking)) == (before, sent)
    client = connect(tmp_path / "client")
    with pytest.raises(InsufficientFunds, match="nothing to withdraw"):  # what was on disk has happened by now
        client.withdraw()
    after = client.balance()
    assert (after.credit, after.wallet) == (0, before.wallet + before.credit)
    assert sent_by(client) == sent + 1
    assert len(events(client, "Withdrawn")) == withdrawn + 1
