"""Kills clients at named points, and looks at the books of those who bought from whom afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from client import Client, JobResult
from client.store import FINAL
from market.events import Event, decode_logs
from market.hashing import job_id as job_id_of
from tests.integration.client.conftest import Town
from tests.nonces import holes

PROMPT = "the cat sat"
CRASHING = (sys.executable, "-m", "tests.integration.client.crashing")


def kill_at(
    town: Town, point: str, data_dir: Path, what: str = PROMPT, *, action: str = "run", providers: Sequence[str] = ()
) -> None:
    """Runs a client that does `action` until it is killed at `point`."""
    command = [*CRASHING, action, point, town.info.rpc_url, town.info.ws_url, str(town.info.deployment), str(data_dir)]
    done = subprocess.run([*command, what, *providers], timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, (point, done.stderr)


def events(client: Client, name: str) -> list[Event]:
    place = client.marketplace
    logs = place.chain.logs([place.jobs.address, place.vault.address], 0, place.chain.head().number)
    return [event for event in decode_logs(logs) if event.name == name]


def count(client: Client, name: str, job: bytes) -> int:
    return sum(event.args["jobId"] == job for event in events(client, name))


def sent_by(client: Client) -> int:
    return client.marketplace.chain.transaction_count(client.address)


def holdings(client: Client) -> int:
    balance = client.balance()
    return balance.wallet + balance.credit


@dataclass(frozen=True)
class Books:
    """Before a job is bought. Base units.

    Attributes:
        number: of the client's next job, and job: its id; sent: transactions of the client so far.
        stakes: free and bonded together, of each provider; earned: credit of all of them.
    """

    providers: tuple[str, ...]
    number: int
    job: bytes
    sent: int
    holdings: int
    stakes: tuple[int, ...]
    earned: int

    @classmethod
    def of(cls, client: Client, providers: Sequence[str]) -> Self:
        jobs = client.marketplace.jobs
        number = jobs.client_nonce(client.address)
        return cls(
            providers=tuple(providers),
            number=number,
            job=job_id_of(jobs.chain.chain_id, jobs.address, client.address, number),
            sent=sent_by(client),
            holdings=holdings(client),
            stakes=_stakes(client, providers),
            earned=_earned(client, providers),
        )

    @property
    def job_text(self) -> str:
        return "0x" + self.job.hex()

    def assert_untouched(self, client: Client) -> None:
        """Nothing was posted, and no money moved."""
        assert client.marketplace.jobs.client_nonce(client.address) == self.number
        assert holdings(client) == self.holdings

    def assert_bought_once(self, client: Client, result: JobResult) -> None:
        """One job, one settlement, every unit accounted for, the answer here, no nonce left out, no prompt lost."""
        place = client.marketplace
        assert result.job_id == self.job
        assert result.settled
        assert result.answer
        assert place.jobs.client_nonce(client.address) == self.number + 1
        assert count(client, "JobPosted", self.job) == count(client, "Settled", self.job) == 1

        assert result.escrow == result.paid + result.refunded
        assert result.burnt == 0
        assert self.holdings - holdings(client) == result.paid > 0
        assert _earned(client, self.providers) - self.earned == result.paid
        assert _stakes(client, self.providers) == self.stakes
        assert place.token.balance_of(place.vault.address) == place.vault.total(place.token.address)

        (record,) = client.store.all()
        assert (record.job_id, record.state) == (self.job, FINAL)
        assert record.messages == ({"role": "user", "content": PROMPT},)
        assert record.result["answer"] == result.answer

        assert client.wallet is not None
        client.wallet.send_again_what_is_gone()  # of what an agent did before us, ours is still to fail
        assert holes(place.chain, [client.address, *self.providers]) == []


def _stakes(client: Client, providers: Sequence[str]) -> tuple[int, ...]:
    found = (client.marketplace.vault.stake_of(provider) for provider in providers)
    return tuple(stake.free + stake.bonded for stake in found)


def _earned(client: Client, providers: Sequence[str]) -> int:
    place = client.marketplace
    return sum(place.vault.credit(place.token.address, provider) for provider in providers)
