"""The typed clients against the contracts themselves: one job whole, and every view."""

from __future__ import annotations

import pytest

from market.chain import Call
from market.contracts import Jobs, Token, Vault
from market.errors import ChainError, ContractError
from market.events import decode_logs, struct_of
from market.hashing import ZERO32, job_id, pack_tokens
from market.types import ZERO_ADDRESS, Commitment, Mode, Quote, Request
from market.views import BondState, Exit, JobState, ReplicaState
from tests.integration.chain.world import (
    BOND,
    CLIENT,
    DEPLOYER,
    MODEL,
    MONEY,
    PRICE,
    PROMPT,
    PROVIDERS,
    STAKE,
    World,
)


def test_job_through_the_typed_clients_is_paid(calm_world: World) -> None:
    world = calm_world
    client = world.account(CLIENT).address
    before = [world.vault.credit(world.token.address, world.account(index).address) for index in PROVIDERS]
    known = world.jobs.client_nonce(client)

    job = world.post()
    assert job == job_id(world.chain.chain_id, world.jobs.address, client, known)
    assert world.jobs.client_nonce(client) == known + 1
    view = world.jobs.job(job)
    assert (view.client, view.state, view.mode, view.quorum, view.replicas) == (
        client, JobState.OPEN, Mode.QUORUM, 2, 3,
    )  # fmt: skip
    assert (view.escrow, view.model_id, view.output_hash) == (3 * PRICE, MODEL.model_id, ZERO32)
    assert not view.is_agreed
    assert view.reveal_deadline == view.final_at == 0

    stake = world.vault.staked(world.account(PROVIDERS[0]).address)
    for index in PROVIDERS:
        world.commit(index, job, bytes([index]) * 32)
    assert world.vault.staked(world.account(PROVIDERS[0]).address) == stake - BOND
    assert world.jobs.job(job).state is JobState.REVEALING

    for index in PROVIDERS:
        world.send(index, world.jobs.reveal(job, world.output(), bytes([index]) * 32))
    world.send(DEPLOYER, world.jobs.settle(job))

    view = world.jobs.job(job)
    assert (view.state, view.output_hash, view.committed, view.revealed) == (
        JobState.SETTLED, world.output().output_hash, 3, 3,
    )  # fmt: skip
    assert view.is_agreed
    replicas = world.jobs.replicas(job)
    assert [replica.provider for replica in replicas] == [world.account(index).address for index in PROVIDERS]
    assert {replica.state for replica in replicas} == {ReplicaState.REVEALED}
    assert {replica.bond_state for replica in replicas} == {BondState.LOCKED}
    assert {(replica.paid, replica.bond, replica.output_tokens) for replica in replicas} == {(PRICE, BOND, 2)}
    after = [world.vault.credit(world.token.address, world.account(index).address) for index in PROVIDERS]
    assert [now - then for now, then in zip(after, before, strict=True)] == [PRICE] * 3


def test_digests_in_python_are_the_contracts(calm_world: World) -> None:
    world, jobs = calm_world, calm_world.jobs
    request, provider = world.request(), world.account(PROVIDERS[0]).address
    signed = world.quote(PROVIDERS[0], request)
    commitment = Commitment(b"\1" * 32, provider, world.output().output_hash, b"\2" * 32)
    entry = jobs.artefact.function

    def ask(name: str, *arguments: object) -> bytes:
        data = entry(name).encode_input(arguments)
        (value,) = entry(name).decode_output(world.chain.call(Call(jobs.address, data, name)))
        return bytes(value)

    assert ask("hashRequest", request.values()) == request.request_hash
    assert ask("hashOutput", world.output().values()) == world.output().output_hash
    assert ask("hashQuote", signed.quote.values()) == jobs.domain.digest(signed.quote)
    assert ask("hashCommitment", *commitment.values()) == jobs.domain.digest(commitment)


def test_quote_is_used_once_posted(calm_world: World) -> None:
    world, client = calm_world, calm_world.account(CLIENT).address
    request = world.request()
    quotes = [world.quote(index, request) for index in PROVIDERS]
    digest = world.jobs.domain.digest(quotes[0].quote)
    assert not world.jobs.quote_used(digest, client)
    world.send(CLIENT, world.jobs.post(world.params(request, quotes)))
    assert world.jobs.quote_used(digest, client)
    with pytest.raises(ContractError) as used:
        world.send(CLIENT, world.jobs.post(world.params(request, quotes)))
    assert used.value.code == "QuoteUsed"


def test_job_events_carry_what_was_posted(calm_world: World) -> None:
    world = calm_world
    request = world.request()
    quotes = [world.quote(index, request) for index in PROVIDERS]
    sent = world.send(CLIENT, world.jobs.post(world.params(request, quotes)))
    events = decode_logs(sent.logs)
    assigned = [event for event in events if event.name == "ReplicaAssigned"]
    assert [struct_of(Quote, event.args["terms"]) for event in assigned] == [signed.quote for signed in quotes]
    posted = next(event for event in events if event.name == "JobPosted")
    assert posted.args["client"] == world.account(CLIENT).address
    assert posted.args["job"]["requestHash"] == request.request_hash
    assert world.jobs.job(posted.args["jobId"]).request_hash == request.request_hash


def test_job_paid_by_permit_needs_no_deposit(world: World) -> None:
    world.publish()
    for index in PROVIDERS:
        world.open_provider(index)
    owner = world.account(CLIENT)
    world.send(DEPLOYER, world.token.mint(owner.address, 3 * PRICE))
    request = world.request()
    quotes = [world.quote(index, request) for index in PROVIDERS]
    permit = world.token.permit(owner, world.vault.address, 3 * PRICE, world.chain.head().timestamp + 600)
    world.send(CLIENT, world.jobs.post(world.params(request, quotes, permit)))
    assert world.token.balance_of(owner.address) == 0
    assert world.vault.held(world.jobs.address, world.token.address) == 3 * PRICE
    assert world.token.allowance(owner.address, world.vault.address) == 0


def test_inline_input_is_published_with_the_job(calm_world: World) -> None:
    world = calm_world
    request = world.request()
    params = world.params(request, [world.quote(index, request) for index in PROVIDERS])
    inline = type(params)(**{**vars(params), "inline_input": pack_tokens(PROMPT)})
    events = decode_logs(world.send(CLIENT, world.jobs.post(inline)).logs)
    published = next(event for event in events if event.name == "RequestPublished")
    assert struct_of(Request, published.args["request"]) == request
    assert published.args["ids"] == pack_tokens(PROMPT)


def test_job_cancelled_by_its_client_is_refunded(calm_world: World) -> None:
    world, client = calm_world, calm_world.account(CLIENT).address
    job = world.post()
    before = world.vault.credit(world.token.address, client)
    world.send(CLIENT, world.jobs.cancel(job))
    assert world.jobs.job(job).state is JobState.CANCELLED
    assert world.vault.credit(world.token.address, client) == before + 3 * PRICE - 3 * 100


def test_bond_is_released_after_the_dispute_window(world: World) -> None:
    world.publish()
    world.deposit(CLIENT)
    for index in PROVIDERS:
        world.open_provider(index)
    job, provider = world.play(), world.account(PROVIDERS[0]).address
    with pytest.raises(ContractError) as early:
        world.send(CLIENT, world.jobs.release_bond(job, provider))
    assert early.value.code == "TooEarly"
    world.anvil.increase_time(world.jobs.dispute_window() + 1)
    world.send(CLIENT, world.jobs.release_bond(job, provider))
    assert world.jobs.replicas(job)[0].bond_state is BondState.RELEASED
    assert world.vault.staked(provider) == STAKE


def test_stake_leaves_through_unbonding(world: World) -> None:
    world.deposit(CLIENT)
    owner = world.account(CLIENT).address
    world.send(CLIENT, world.vault.stake(STAKE), world.vault.request_unstake(STAKE))
    leaving = world.vault.exit_of(owner)
    assert leaving.amount == STAKE
    assert leaving.ready_at == world.chain.head().timestamp + world.vault.unbonding_window()
    with pytest.raises(ContractError) as early:
        world.send(CLIENT, world.vault.finish_unstake(owner))
    assert early.value.code == "ExitNotReady"
    world.anvil.increase_time(world.vault.unbonding_window() + 1)
    world.send(CLIENT, world.vault.finish_unstake(owner), world.vault.withdraw(world.token.address, owner, MONEY))
    assert world.vault.exit_of(owner) == Exit(0, 0)
    assert world.token.balance_of(owner) == MONEY
    assert world.vault.credit(world.token.address, owner) == 0


def test_registry_views_show_what_was_announced(world: World) -> None:
    provider = world.account(PROVIDERS[0]).address
    with pytest.raises(ContractError) as unknown:
        world.registry.model(MODEL.model_id)
    assert unknown.value.code == "UnknownModel"
    world.publish()
    world.open_provider(PROVIDERS[0], endpoint="https://p.example")
    assert world.registry.model(MODEL.model_id) == MODEL
    assert world.registry.provider(provider).endpoint == "https://p.example"
    assert world.registry.offer(provider, MODEL.model_id) == world.offer()
    world.send(PROVIDERS[0], world.registry.remove_offer(MODEL.model_id))
    assert world.registry.offer(provider, MODEL.model_id).modes == 0
    world.send(PROVIDERS[0], world.registry.remove_provider())
    assert world.registry.provider(provider).endpoint == ""


def test_constants_of_a_deployment_are_read(calm_world: World) -> None:
    world = calm_world
    assert world.jobs.vault() == world.vault.address
    assert world.jobs.stake_token() == world.vault.stake_token() == world.token.address
    assert world.jobs.arbiter() == world.deployment.disputes
    assert 0 < world.jobs.min_window() < world.jobs.max_window()
    assert world.jobs.max_replicas() >= 3
    assert 0 < world.jobs.challenger_share_bps() <= 10_000
    assert world.vault.guardian() == world.account(DEPLOYER).address
    assert world.vault.tokens() == [world.token.address]
    assert world.vault.cap(world.token.address) >= world.vault.total(world.token.address) > 0
    assert world.vault.is_sealed()
    assert not world.vault.is_deprecated()
    assert world.vault.modules() == [world.jobs.address, world.deployment.disputes, world.deployment.proofs]
    assert (world.token.symbol(), world.token.decimals()) == ("tUSD", 6)


def test_vault_of_a_guardian_is_deprecated_once_and_left(world: World) -> None:
    world.send(DEPLOYER, world.vault.deprecate(), world.vault.renounce_guardian())
    assert world.vault.is_deprecated()
    assert world.vault.guardian() == ZERO_ADDRESS
    with pytest.raises(ContractError) as refused:
        world.deposit(CLIENT)
    assert refused.value.code == "VaultDeprecated"


def test_address_without_a_contract_is_told(calm_world: World) -> None:
    nowhere = "0x" + "99" * 20
    for view in (Vault(calm_world.chain, nowhere).is_sealed, Token(calm_world.chain, nowhere).decimals):
        with pytest.raises(ChainError) as missing:
            view()
        assert missing.value.code == "NotAContract"


def test_view_at_an_older_block_shows_the_past(world: World) -> None:
    before = world.chain.head().number
    world.send(DEPLOYER, world.token.mint(world.account(CLIENT).address, 7))
    assert world.token.balance_of(world.account(CLIENT).address) == 7
    assert world.token.balance_of(world.account(CLIENT).address, block=before) == 0


def test_writes_only_describe_what_would_be_sent(calm_world: World) -> None:
    jobs: Jobs = calm_world.jobs
    before = calm_world.chain.head()
    call = jobs.settle(b"\1" * 32)
    assert (call.to, call.label, call.value) == (jobs.address, "Jobs.settle", 0)
    assert calm_world.chain.head() == before
