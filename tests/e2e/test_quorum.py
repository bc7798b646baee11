"""Jobs over real processes: honest, lying, silent and crashing providers."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from market.deployment import Deployment
from market.errors import ConfigError
from market.settlement import Terms, price
from market.views import BondState, JobState, ReplicaState
from tests.adversaries import refuse_real_chains
from tests.e2e.conftest import Market

ADVERSARIES = str(Path(__file__).resolve().parent.parent / "adversaries.py")
LAST = 2
QUESTION = [{"role": "user", "content": "hello"}]


@pytest.fixture
def adversary(market: Market) -> Iterator[Market]:
    """The network, whose last provider is an agent again afterwards."""
    yield market
    market.replace(LAST, None)


def become(market: Market, *behaviour: str) -> str:
    """Replaces the last provider; returns its address."""
    market.replace(LAST, (sys.executable, ADVERSARIES, *behaviour))
    return market.info.providers[LAST].address


def test_job_with_honest_providers_pays_each_its_price_and_refunds_the_rest(market: Market) -> None:
    vault, token = market.contracts.vault, market.contracts.token.address
    before = {p.address: vault.credit(token, p.address) for p in market.info.providers}
    with market.client() as client:
        result = client.run(messages=QUESTION, max_output_tokens=8)
    assert result.settled
    assert {replica.role for replica in result.providers} == {"agreed"}
    for replica in market.contracts.jobs.replicas(result.job_id):
        assert replica.paid == vault.credit(token, replica.provider) - before[replica.provider] > 0
        assert replica.bond_state is BondState.LOCKED
    assert result.paid + result.refunded == result.escrow
    assert len(result.receipts) >= 1
    assert not (market.network.plan.directory / "chain.json").exists()  # it ends with this process: nobody reads that
    market.assert_vault_is_whole()


def test_job_with_a_liar_settles_without_paying_it_and_slashes_nobody(adversary: Market) -> None:
    liar = become(adversary, "liar")
    with adversary.client() as client:
        result = client.run(messages=QUESTION, max_output_tokens=8)
    assert result.settled
    roles = {replica.address: replica.role for replica in result.providers}
    assert roles.pop(liar) == "disagreed"
    assert set(roles.values()) == {"agreed"}
    by_provider = {replica.provider: replica for replica in adversary.contracts.jobs.replicas(result.job_id)}
    assert by_provider[liar].paid == 0
    assert by_provider[liar].bond_state is BondState.LOCKED  # a vote pays, only a proof slashes
    adversary.assert_vault_is_whole()


def test_job_with_a_silent_committer_settles_after_the_window_and_shares_its_miss_fee(adversary: Market) -> None:
    mute = become(adversary, "mute")
    contracts = adversary.contracts
    staked = contracts.vault.staked(mute)
    job = adversary.run_in_background(messages=QUESTION, max_output_tokens=8)
    job.wait_for_post()
    job.wait_until(lambda: contracts.jobs.job(job.job_id).revealed == 2)
    adversary.network.anvil.increase_time(contracts.jobs.job(job.job_id).reveal_window + 1)
    result = job.result()
    assert result.settled
    by_provider = {replica.provider: replica for replica in contracts.jobs.replicas(result.job_id)}
    silent = by_provider.pop(mute)
    assert silent.state is ReplicaState.MISSED
    assert silent.bond_state is BondState.RELEASED
    assert contracts.vault.staked(mute) == staked - silent.miss_fee  # the miss fee, never the whole bond
    assert all(replica.state is ReplicaState.REVEALED for replica in by_provider.values())
    adversary.assert_vault_is_whole()


def test_job_with_a_provider_that_never_commits_goes_on_without_it(adversary: Market) -> None:
    absent = become(adversary, "absent")
    contracts = adversary.contracts
    staked = contracts.vault.staked(absent)
    job = adversary.run_in_background(messages=QUESTION, max_output_tokens=8)
    job.wait_for_post()
    job.wait_until(lambda: contracts.jobs.job(job.job_id).committed == 2)
    adversary.network.anvil.increase_time(121)
    result = job.result()
    assert result.settled
    assert {replica.role for replica in result.providers if replica.address == absent} == {"absent"}
    assert contracts.vault.staked(absent) == staked
    adversary.assert_vault_is_whole()


def test_provider_killed_between_commit_and_reveal_reveals_after_its_restart(adversary: Market, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    become(adversary, "held", "--until", str(gate))
    contracts, victim = adversary.contracts, adversary.info.providers[0]
    job = adversary.run_in_background(messages=QUESTION, max_output_tokens=8)
    job.wait_for_post()
    job.wait_until(lambda: contracts.jobs.job(job.job_id).committed == 2)
    os.kill(victim.pid, signal.SIGKILL)
    adversary.network.processes()[0].wait()
    committed = {replica.provider: replica.digest for replica in contracts.jobs.replicas(job.job_id)}
    adversary.info = adversary.network.start_again(0)
    gate.touch()
    result = job.result()
    assert result.settled
    by_provider = {replica.provider: replica for replica in contracts.jobs.replicas(result.job_id)}
    assert by_provider[victim.address].state is ReplicaState.REVEALED
    assert committed[victim.address] != bytes(32)  # the commitment it opened was made before the crash
    assert by_provider[victim.address].paid > 0
    adversary.assert_vault_is_whole()


def test_bonds_after_the_dispute_window_are_stake_again_without_anybody_asking(market: Market) -> None:
    with market.client() as client:
        result = client.run(messages=QUESTION, max_output_tokens=8)
    market.network.anvil.increase_time(market.contracts.jobs.dispute_window() + 5)
    waiting = market.run_in_background(messages=QUESTION, max_output_tokens=8)
    waiting.wait_until(
        lambda: all(r.bond_state is BondState.RELEASED for r in market.contracts.jobs.replicas(result.job_id))
    )
    assert waiting.result().settled
    market.assert_vault_is_whole()


def test_job_settled_pays_what_the_pure_function_says(market: Market) -> None:
    with market.client() as client:
        result = client.run(messages=QUESTION, max_output_tokens=8)
    job = market.contracts.jobs.job(result.job_id)
    assert job.state is JobState.SETTLED
    for replica in market.contracts.jobs.replicas(result.job_id):
        terms = Terms(
            **{field.name: getattr(replica, field.name) for field in dataclasses.fields(Terms)},
        )
        assert replica.paid == price(terms, job.input_tokens, replica.output_tokens)


def test_adversary_on_a_chain_that_is_no_development_one_refuses_to_start(market: Market) -> None:
    deployment = dataclasses.replace(Deployment.load(Path(market.info.deployment)), chain_id=11155111)
    with pytest.raises(ConfigError, match="11155111"):
        refuse_real_chains(deployment)
