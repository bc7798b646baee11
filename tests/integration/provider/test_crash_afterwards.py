"""kill -9 before and after what an agent sends beside a job's course: release, publication, its seed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account.signers.local import LocalAccount

from market.hashing import unpack_tokens
from market.types import Mode, Sampler
from market.views import BondState
from provider import seeds
from provider.journal import Journal
from provider.records import Stage
from tests.integration.provider.crashing import PUBLISH_POINTS, RELEASE_POINTS, SEED_POINTS
from tests.integration.provider.market import DISPUTE_WINDOW, LocalAgent, Market, Program, until

DEFAULT = ("after-release", "after-publish", "before-seed")  # the others take the same paths, and seconds each
HOT = 3 << 16


def some_slow(points: tuple[str, ...]) -> list[Any]:
    return [point if point in DEFAULT else pytest.param(point, marks=pytest.mark.slow) for point in points]


def killed(
    market: Market, folder: Path, point: str, work: Callable[[Program], bytes], **choices: Any
) -> tuple[bytes, Path, LocalAccount]:
    """An agent that died at the point during `work`, which returns the job."""
    config, account = market.provider(folder, **choices)
    doomed = Program(market, config, sys.executable, "-m", "tests.integration.provider.crashing", point)
    try:
        doomed.ready()
        job = work(doomed)
        assert doomed.process.wait(60) == -signal.SIGKILL, doomed.text()
    finally:
        doomed.close()
    return job, config, account


def stage(agent: LocalAgent, job: bytes) -> Stage:
    journal = Journal.read_only(agent.config.journal_path)
    try:
        row = journal.job(job)
    finally:
        journal.close()
    assert row is not None
    return row.stage


def free_the_bond(market: Market, job: bytes) -> None:
    """Moves the clock until anybody may release it; a publication makes that later."""
    jobs = market.contracts.jobs
    (replica,) = jobs.replicas(job)
    free_at = replica.bond_free_at(jobs.job(job), DISPUTE_WINDOW, jobs.dispute_deadline())
    market.anvil.increase_time(free_at - market.chain.head().timestamp + 10)


def settled(market: Market, doomed: Program) -> bytes:
    job, _ = market.start_job(doomed.url)
    until(lambda: market.settled(job))
    return job


@pytest.mark.parametrize("point", some_slow(RELEASE_POINTS))
def test_agent_killed_around_the_release_has_its_bond_back_once(
    market: Market, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"agent {point}")

    def work(doomed: Program) -> bytes:
        job = settled(market, doomed)
        free_the_bond(market, job)
        return job

    job, config, account = killed(market, tmp_path, point, work)
    (replica,) = market.contracts.jobs.replicas(job)
    assert replica.bond_state is (BondState.LOCKED if point == "before-release" else BondState.RELEASED)
    again = LocalAgent(config, account)
    try:
        until(lambda: stage(again, job) is Stage.CLOSED)
    finally:
        again.stop()
    (released,) = market.events("BondReleased", job)
    assert (released["provider"], released["amount"]) == (account.address, replica.bond)
    market.assert_books(job, account.address)
    assert market.contracts.vault.stake_of(account.address).bonded == 0


@pytest.mark.parametrize("point", some_slow(PUBLISH_POINTS))
def test_agent_killed_around_a_publication_publishes_once_and_keeps_its_bond(
    market: Market, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"agent {point}")
    jobs, vault = market.contracts.jobs, market.contracts.vault

    def work(doomed: Program) -> bytes:
        job = settled(market, doomed)
        (replica,) = jobs.replicas(job)
        market.transactions.send(jobs.demand_reveal(job, replica.provider))
        return job

    job, config, account = killed(market, tmp_path, point, work)
    paid = jobs.replicas(job)[0].paid
    again = LocalAgent(config, account)
    try:
        (published,) = until(lambda: market.events("OutputPublished", job))
        served = until(lambda: (answer := market.output(again.url, job)).status_code == 200 and answer.json()["ids"])
        assert list(unpack_tokens(published["ids"], len(served))) == served
        until(lambda: not jobs.replicas(job)[0].is_demanded)
        free_the_bond(market, job)
        until(lambda: stage(again, job) is Stage.CLOSED)
    finally:
        again.stop()
    assert len(market.events("OutputPublished", job)) == len(market.events("BondReleased", job)) == 1
    assert vault.credit(market.deployment.token, account.address) == paid + jobs.demand_fee()
    market.assert_books(job, account.address)


@pytest.mark.parametrize("point", some_slow(SEED_POINTS))
def test_agent_killed_around_storing_the_seed_answers_with_that_seed(
    market: Market, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"agent {point}")
    jobs = market.contracts.jobs

    def work(doomed: Program) -> bytes:
        request, ids = market.request("the seed")
        request = replace(request, sampler=Sampler.SEEDED_BY_CHAIN, temperature_q16=HOT, top_p_q16=1 << 16)
        quote = market.quote(doomed.url, request, Mode.NONE)
        job = market.post([quote], request, inline=ids, commit_window=600, reveal_window=600)
        market.anvil.mine()
        until(lambda: jobs.seed_of(job).is_known)
        market.anvil.mine(seeds.FIX_AFTER + 2)
        return job

    job, config, account = killed(market, tmp_path, point, work)
    assert jobs.seed_of(job).is_fixed == (point == "after-seed")
    seed = jobs.seed_of(job).seed
    again = LocalAgent(config, account)
    try:
        until(lambda: market.settled(job))
        until(lambda: stage(again, job) is Stage.FINAL)
    finally:
        again.stop()
    (fixed,) = market.events("SeedFixed", job)
    assert fixed["seed"] == seed
    assert len(market.events("Committed", job)) == len(market.events("Revealed", job)) == 1
    market.assert_books(job, account.address)
