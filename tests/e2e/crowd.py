"""Many jobs at once on one network of the tiny model; used by a test and by `make bench NAME=adversity`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from assay.network import CLIENT
from client import Client, JobResult
from client.rfq import RfqPolicy
from market.contracts import BlockTag
from market.views import JobState, ReplicaState, ReplicaView
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
        answers: answers that each provider revealed.
    """

    results: tuple[JobResult, ...]
    seconds: float
    holes: tuple[str, ...]
    settled_events: int
    provider_peak_bytes: tuple[int, ...]
    answers: tuple[int, ...]

    @property
    def settled_per_minute(self) -> float:
        return 60 * sum(result.settled for result in self.results) / self.seconds


def buy(directory: Path, pack: Path, jobs: int = JOBS) -> Crowd:
    """Buys `jobs` answers at once from five providers, three replicas each, and checks everybody's books."""
    market = Market.start(directory, pack, providers=PROVIDERS, queue=4 * jobs, terms=TERMS)
    try:
        providers = [provider.address for provider in market.info.providers]
        before = {account: _books(market, account, "latest") for account in (market.info.client, *providers)}
        with _client(market) as client, ThreadPoolExecutor(jobs) as pool:
            client.prepare("tiny")
            begin = time.monotonic()
            results = tuple(pool.map(lambda number: _one(client, number), range(jobs)))
            seconds = time.monotonic() - begin
        chain = market.contracts.jobs.chain
        market.assert_vault_is_whole()
        replicas = _assert_books_balance(market, before, results)
        assert all(market.contracts.jobs.job(r.job_id).state is JobState.SETTLED for r in results if r.settled)
        return Crowd(
            results=results,
            seconds=seconds,
            holes=tuple(holes(chain, list(before))),
            settled_events=len(market.events("Settled")),
            provider_peak_bytes=tuple(_peak(provider.pid) for provider in market.info.providers),
            answers=tuple(
                sum(r.provider == address and r.state is ReplicaState.REVEALED for r in replicas)
                for address in providers
            ),
        )
    finally:
        market.network.stop()


@dataclass(frozen=True)
class _Books:
    """What an account has; base units."""

    wallet: int
    credit: int
    staked: int  # free and bonded
    bonded: int


def _books(market: Market, account: str, block: BlockTag) -> _Books:
    vault, token = market.contracts.vault, market.contracts.token
    stake = vault.stake_of(account, block)
    credit = vault.credit(token.address, account, block)
    return _Books(token.balance_of(account, block), credit, stake.free + stake.bonded, stake.bonded)


def _assert_books_balance(
    market: Market, before: Mapping[str, _Books], results: Sequence[JobResult]
) -> list[ReplicaView]:
    """Nobody has a base unit more or less than the jobs say, and the vault owes nothing else. Returns all replicas."""
    contracts, client = market.contracts, market.info.client
    block, token = contracts.jobs.chain.head().number, contracts.token.address
    after = {account: _books(market, account, block) for account in before}
    replicas = [replica for result in results for replica in contracts.jobs.replicas(result.job_id, block)]
    assert all(replica.state is not ReplicaState.MISSED for replica in replicas)
    for account in set(before) - {client}:
        own = [replica for replica in replicas if replica.provider == account]
        assert after[account].staked == before[account].staked
        assert after[account].bonded == sum(replica.bond for replica in own if replica.is_held)
        assert after[account].credit - before[account].credit == sum(replica.paid for replica in own)
        assert after[account].wallet == before[account].wallet
    had, has = before[client], after[client]
    paid = sum(replica.paid for replica in replicas)
    assert had.wallet + had.credit - has.wallet - has.credit == paid == sum(result.paid for result in results)
    vault, bonds = contracts.vault, sum(books.bonded for books in after.values())
    assert vault.held(contracts.jobs.address, token, block) == bonds  # no escrow is left
    assert vault.total(token, block) == sum(books.credit + books.staked for books in after.values())
    return replicas


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
