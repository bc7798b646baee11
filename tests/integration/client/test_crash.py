"""kill -9 of a client that buys: afterwards either nothing is on chain, or `watch` has the answer; never two jobs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client import Client
from client.errors import JobNotKnown
from client.store import POSTED, PREPARED
from market.events import decode_logs
from market.hashing import job_id as job_id_of
from tests.integration.client.conftest import Connect, Town
from tests.integration.client.crashing import POINTS

PROMPT = "the cat sat"


def kill_at(town: Town, point: str, data_dir: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.client.crashing", point, town.info.rpc_url, town.info.ws_url]
    command += [str(town.info.deployment), str(data_dir), PROMPT, *town.honest]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def count(client: Client, name: str, job: bytes) -> int:
    place = client.marketplace
    logs = place.chain.logs([place.jobs.address], 0, place.chain.head().number)
    return sum(e.name == name and e.args["jobId"] == job for e in decode_logs(logs))


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
