"""Many jobs at once on one network of the tiny model; used by a test and by `make bench NAME=adversity`."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from assay.network import CLIENT
from client import Client, JobResult
from client.rfq import RfqPolicy
from market.views import JobState
from provider.config import Terms
from tests.e2e.conftest import Market
from tests.nonces import holes

JOBS = 50
PROVIDERS = 5
QUOTE_SECONDS = 60.0
TERMS = Terms(bond=1_000_000, valid_seconds=1_800)
WINDOW = 1_800
"""Seconds; fifty jobs on two cores take their time, and this is no test of deadlines."""


@dataclass(frozen=True)
class Crowd:
    """What became of the jobs.

    Attributes:
        seconds: wall time from the first quote asked for to the last answer.
        holes: signs of a nonce that somebody left out (tests.nonces).
        provider_peak_bytes: largest resident set of each provider's process.
    """

    results: tuple[JobResult, ...]
    seconds: float
    holes: tuple[str, ...]
    settled_events: int
    provider_peak_bytes: tuple[int, ...]

    @property
    def settled_per_minute(self) -> float:
        return 60 * sum(result.settled for result in self.results) / self.seconds


def buy(directory: Path, pack: Path, jobs: int = JOBS) -> Crowd:
    """Buys `jobs` answers at once from five providers, three replicas each, and checks the vault's books."""
    market = Market.start(directory, pack, providers=PROVIDERS, queue=4 * jobs, terms=TERMS)
    try:
        with _client(market) as client, ThreadPoolExecutor(jobs) as pool:
            client.prepare("tiny")
            begin = time.monotonic()
            results = tuple(pool.map(lambda number: _one(client, number), range(jobs)))
            seconds = time.monotonic() - begin
        chain = market.contracts.jobs.chain
        accounts = [market.info.client, *(provider.address for provider in market.info.providers)]
        market.assert_vault_is_whole()
        assert all(market.contracts.jobs.job(r.job_id).state is JobState.SETTLED for r in results if r.settled)
        return Crowd(
            results=results,
            seconds=seconds,
            holes=tuple(holes(chain, accounts)),
            settled_events=len(market.events("Settled")),
            provider_peak_bytes=tuple(_peak(provider.pid) for provider in market.info.providers),
        )
    finally:
        market.network.stop()


def _client(market: Market) -> Client:
    """One that lets providers take their time: everybody asks them at once."""
    return Client.connect(
        rpc_url=market.info.rpc_url,
        ws_url=market.info.ws_url,
        deployment=Path(market.info.deployment),
        account=market.network.anvil.accounts[CLIENT],
        data_dir=market.network.plan.directory / "client" / "data",
        rfq=RfqPolicy(timeout=QUOTE_SECONDS, grace=0.5),
    )


def _one(client: Client, number: int) -> JobResult:
    question = [{"role": "user", "content": f"hello {number}"}]
    return client.run(
        messages=question, max_output_tokens=8, commit_window=WINDOW, reveal_window=WINDOW, replicas=3, quorum=2
    )


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE)
    assert found is not None
    return int(found.group(1)) * 1024
