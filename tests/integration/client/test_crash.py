"""kill -9 of a client that buys: afterwards either nothing is on chain, or `watch` has the answer; never two jobs. One
that is killed while it cancels, demands or withdraws does that once, too."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from client import Client
from client.errors import InsufficientFunds, JobNotKnown
from client.job_options import JobOptions
from client.store import POSTED, PREPARED
from market.events import Event, decode_logs
from market.hashing import job_id as job_id_of
from market.types import Mode
from market.views import JobState
from tests.integration.client.conftest import Connect, Town
from tests.integration.client.crashing import POINTS

PROMPT = "the cat sat"
CREDIT = 1_000


def kill_at(town: Town, point: str, data_dir: Path, what: str = PROMPT) -> None:
    command = [sys.executable, "-m", "tests.integration.client.crashing", point, town.info.rpc_url, town.info.ws_url]
    command += [str(town.info.deployment), str(data_dir), what, *town.honest]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def count(client: Client, name: str, job: bytes) -> int:
    return sum(event.args["jobId"] == job for event in events(client, name))


def events(client: Client, name: str) -> list[Event]:
    place = client.marketplace
    logs = place.chain.logs([place.jobs.address, place.vault.address], 0, place.chain.head().number)
    return [event for event in decode_logs(logs) if event.name == name]


def stakes(client: Client, town: Town) -> list[int]:
    """Free and bonded together, of the honest."""
    found = (client.marketplace.vault.stake_of(provider) for provider in town.honest)
    return [stake.free + stake.bonded for stake in found]


def holdings(client: Client) -> int:
    balance = client.balance()
    return balance.wallet + balance.credit


DEFAULT = ("persisted",)  # the others take the same paths, and seconds each


@pytest.mark.parametrize(
    "point", [point if point in DEFAULT else pytest.param(point, marks=pytest.mark.slow) for point in POINTS]
)
def test_client_killed_while_it_buys_loses_nothing_and_buys_once(
    town: Town, connect: Connect, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"client {point}")
    looking = connect(tmp_path / "looking")
    jobs, vault = looking.marketplace.jobs, looking.marketplace.vault
    number, before, staked = jobs.client_nonce(town.account.address), holdings(looking), stakes(looking, town)
    job = job_id_of(jobs.chain.chain_id, jobs.address, town.account.address, number)
    kill_at(town, point, tmp_path / "client")

    client = connect(tmp_path / "client")
    record = client.store.get(job)
    assert record is not None
    assert record.state == (POSTED if point == "posted" else PREPARED)
    if point in ("stored", "persisted"):
        assert jobs.client_nonce(town.account.address) == number
    if point == "stored":
        with pytest.raises(JobNotKnown):
            client.watch(job)
        assert holdings(client) == before
        result = client.run(PROMPT, allow=frozenset(town.honest), max_output_tokens=6)
    else:
        result = client.watch(job)
    assert result.job_id == job
    assert result.settled
    assert result.answer
    assert jobs.client_nonce(town.account.address) == number + 1
    assert count(client, "JobPosted", job) == count(client, "Settled", job) == 1
    assert before - holdings(client) == result.paid
    assert stakes(client, town) == staked
    token = client.marketplace.token
    assert token.balance_of(vault.address) == vault.total(token.address)
    assert [entry.job_id for entry in client.store.all()] == [job]


def sent_by(client: Client) -> int:
    return client.marketplace.chain.transaction_count(client.address)


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
        kill_at(town, "cancel-persisted", tmp_path / "client", "0x" + job.hex())
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
    record_property("crash_point", "client demand-persisted")
    with town.connect(tmp_path / "client") as buyer:
        job = buyer.run(PROMPT, allow=frozenset(town.honest), max_output_tokens=6).job_id
    looking = connect(tmp_path / "looking")
    before, sent = holdings(looking), sent_by(looking)
    with town.frozen(0):
        kill_at(town, "demand-persisted", tmp_path / "client", "0x" + job.hex())
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
    kill_at(town, "withdraw-persisted", tmp_path / "client")
    assert (looking.balance(), sent_by(looking)) == (before, sent)
    client = connect(tmp_path / "client")
    with pytest.raises(InsufficientFunds, match="nothing to withdraw"):  # what was on disk has happened by now
        client.withdraw()
    after = client.balance()
    assert (after.credit, after.wallet) == (0, before.wallet + before.credit)
    assert sent_by(client) == sent + 1
    assert len(events(client, "Withdrawn")) == withdrawn + 1
