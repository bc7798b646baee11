"""What goes wrong on a network of strangers, over real processes: nobody loses money for it, and the job has an end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from market.views import BondState, JobState, ReplicaState
from tests.e2e.conftest import WAIT_SECONDS, Market
from tests.e2e.test_quorum import ADVERSARIES, QUESTION

GRACE = 1
"""Seconds after which agents settle what nobody settled."""
OUTAGE_SECONDS = 10
LINGER_SECONDS = 2
REORG_DEPTH = 3


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Path) -> Iterator[Market]:
    running = Market.start(tmp_path_factory.mktemp("network"), tiny_pack, settle_grace=GRACE)
    yield running
    running.network.stop()


@pytest.fixture
def cast(market: Market) -> Iterator[Callable[..., str]]:
    """Gives a provider's part to an adversary until the test is over; returns the provider's address."""
    replaced: list[int] = []

    def play(index: int, *behaviour: str) -> str:
        replaced.append(index)
        market.replace(index, (sys.executable, ADVERSARIES, *behaviour))
        return market.info.providers[index].address

    yield play
    for index in replaced:
        market.replace(index, None)
    market.assert_vault_is_whole()


@pytest.fixture(scope="module")
def holding(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Path) -> Iterator[tuple[Market, Path]]:
    """A second network, whose three providers answer only while the file exists."""
    folder = tmp_path_factory.mktemp("held")
    gate = folder / "gate"
    program = (sys.executable, ADVERSARIES, "held", "--until", str(gate))
    running = Market.start(
        folder / "network", tiny_pack, settle_grace=GRACE, substitutes=dict.fromkeys(range(3), program)
    )
    yield running, gate
    running.network.stop()


@pytest.fixture
def held(holding: tuple[Market, Path]) -> Iterator[tuple[Market, Path]]:
    yield holding
    holding[1].unlink(missing_ok=True)
    holding[0].assert_vault_is_whole()


def wait_until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_copycat_cannot_open_what_it_copied_and_pays_its_miss_fee(market: Market, cast: Callable[..., str]) -> None:
    copycat = cast(2, "copycat")
    jobs, vault = market.contracts.jobs, market.contracts.vault
    staked = vault.staked(copycat)
    job = market.run_in_background(messages=QUESTION, max_output_tokens=8)
    job.wait_for_post()
    job.wait_until(lambda: jobs.job(job.job_id).revealed == 2)
    committed = {replica.provider: replica for replica in jobs.replicas(job.job_id)}
    assert committed[copycat].state is ReplicaState.COMMITTED  # the copy itself was possible
    market.network.anvil.increase_time(jobs.job(job.job_id).reveal_window + 1)
    assert job.result().settled
    after = {replica.provider: replica for replica in jobs.replicas(job.job_id)}
    assert after[copycat].state is ReplicaState.MISSED
    assert vault.staked(copycat) == staked - after[copycat].miss_fee
    assert all(r.paid > 0 for provider, r in after.items() if provider != copycat)


def test_three_different_answers_settle_nothing_and_cost_nobody(market: Market, cast: Callable[..., str]) -> None:
    liars = [cast(1, "liar"), cast(2, "liar", "--flip", "2")]
    contracts, token = market.contracts, market.contracts.token.address
    credit = contracts.vault.credit(token, market.info.client)
    with market.client() as client:
        result = client.run(messages=QUESTION, max_output_tokens=8)
    assert (result.state, result.paid, result.refunded) == (JobState.EXPIRED, 0, result.escrow)
    assert result.answer is None
    replicas = contracts.jobs.replicas(result.job_id)
    assert {replica.provider for replica in replicas} > set(liars)
    assert {replica.state for replica in replicas} == {ReplicaState.REVEALED}
    assert {replica.bond_state for replica in replicas} == {BondState.LOCKED}  # until their windows are over
    assert contracts.vault.credit(token, market.info.client) >= credit  # the escrow, less what came from credit
    market.network.anvil.increase_time(contracts.jobs.dispute_window() + 5)
    market.network.anvil.mine()
    wait_until(lambda: all(r.bond_state is BondState.RELEASED for r in contracts.jobs.replicas(result.job_id)))


def test_client_that_vanishes_after_posting_is_settled_without_it_and_finds_its_answer(market: Market) -> None:
    with market.client() as client:
        posted = client.post(messages=QUESTION, max_output_tokens=8)
    jobs = market.contracts.jobs
    wait_until(lambda: jobs.job(posted.job_id).state is JobState.SETTLED)
    assert all(replica.paid > 0 for replica in jobs.replicas(posted.job_id))
    with market.client() as client:  # days later, it comes back
        found = client.watch(posted.job_id)
    assert found.settled
    assert found.answer is not None
    market.assert_vault_is_whole()


def test_provider_without_room_refuses_with_the_numbers_and_the_job_goes_elsewhere(
    market: Market, cast: Callable[..., str]
) -> None:
    full = cast(2, "full")
    with market.client() as client:
        report = client.quote(messages=QUESTION, max_output_tokens=8, replicas=2, quorum=2)
        result = client.run(messages=QUESTION, max_output_tokens=8, replicas=2, quorum=2)
    (left_out,) = [item for item in report.left_out if item.provider == full]
    assert left_out.constraint == "OVERLOADED"
    assert "1000 jobs" in left_out.message
    assert result.settled
    assert full not in {replica.address for replica in result.providers}


def test_late_reveal_of_the_agreed_answer_earns_the_kill_fee(
    market: Market, cast: Callable[..., str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    late = cast(2, "late", "--until", str(gate))
    jobs, vault, token = market.contracts.jobs, market.contracts.vault, market.contracts.token.address
    staked, credit = vault.staked(late), vault.credit(token, late)
    with market.client() as client:
        posted = client.post(messages=QUESTION, max_output_tokens=8)
    wait_until(lambda: jobs.job(posted.job_id).revealed == 2)
    for provider in (0, 1):  # nobody settles before the late one has revealed
        os.kill(market.info.providers[provider].pid, signal.SIGSTOP)
    try:
        gate.touch()
        market.network.anvil.increase_time(jobs.job(posted.job_id).reveal_window + 1)
        market.network.anvil.mine()
        wait_until(
            lambda: {r.provider: r.state for r in jobs.replicas(posted.job_id)}[late] is not ReplicaState.COMMITTED
        )
    finally:
        for provider in (0, 1):
            os.kill(market.info.providers[provider].pid, signal.SIGCONT)
    wait_until(lambda: jobs.job(posted.job_id).state is JobState.SETTLED)
    mine = {replica.provider: replica for replica in jobs.replicas(posted.job_id)}[late]
    assert mine.state is ReplicaState.LATE
    assert mine.paid == mine.kill_fee > 0
    assert vault.credit(token, late) == credit + mine.kill_fee
    assert vault.staked(late) == staked - mine.bond  # locked through the dispute window, nothing lost


def test_chain_endpoint_that_is_away_for_ten_seconds_delays_a_job_and_loses_nothing(held: tuple[Market, Path]) -> None:
    market, gate = held
    jobs = market.contracts.jobs
    job = market.run_in_background(messages=QUESTION, max_output_tokens=8)
    job.wait_for_post()
    anvil = market.network.anvil.pid
    os.kill(anvil, signal.SIGSTOP)
    try:
        gate.touch()  # the answers are ready while nobody can be told
        time.sleep(OUTAGE_SECONDS)
    finally:
        os.kill(anvil, signal.SIGCONT)
    assert job.result().settled
    assert {replica.state for replica in jobs.replicas(job.job_id)} == {ReplicaState.REVEALED}
    assert all(replica.paid > 0 for replica in jobs.replicas(job.job_id))


def test_post_that_a_reorg_of_three_blocks_takes_away_is_posted_again_under_the_same_id(
    held: tuple[Market, Path],
) -> None:
    market, gate = held
    anvil, jobs, client = market.network.anvil, market.contracts.jobs, market.info.client
    wallet = market.contracts.token.balance_of(client)
    nonce = jobs.client_nonce(client)
    job = market.run_in_background(messages=QUESTION, max_output_tokens=8)
    job.wait_for_post()
    time.sleep(LINGER_SECONDS + 1)  # the client is done sending: nothing of it watches its transactions any more
    posted_in = next(e.block_number for e in market.events("JobPosted") if e.args["jobId"] == job.job_id)
    head = market.contracts.jobs.chain.head().number
    anvil.mine(posted_in + REORG_DEPTH - 1 - head)  # so that the post is the deepest of the three
    anvil.reorg(REORG_DEPTH)
    assert jobs.client_nonce(client) == nonce  # the job was never posted
    gate.touch()
    result = job.result()
    assert result.settled
    assert result.job_id == job.job_id
    assert jobs.client_nonce(client) == nonce + 1  # once, not twice
    assert market.contracts.token.balance_of(client) >= wallet - result.escrow
    market.assert_vault_is_whole()
