"""Drawn replicas and demanded outputs through the typed clients on anvil, and what the local index knows of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from market.errors import ContractError
from market.events import decode_logs, struct_of
from market.hashing import pack_tokens
from market.index import Index
from market.types import ZERO_ADDRESS, Mode, Output, Quote
from market.views import BondState, JobParams, JobState, Offer, ReplicaState, SignedQuote
from tests.integration.chain.test_index import assert_fresh, index
from tests.integration.chain.world import ANSWER, BOND, CLIENT, DEPLOYER, MODEL, PRICE, PROVIDERS, STAKE, World

ONE, TWO, THREE = PROVIDERS[:3]
LIST_REST = 256


@pytest.fixture
def market(world: World) -> World:
    """A client with money and three providers that can be drawn."""
    world.publish()
    world.deposit(CLIENT)
    for provider in PROVIDERS:
        world.open_provider(provider)
        world.send(provider, world.registry.set_offer(MODEL.model_id, drawable(world)))
    return world


def drawable(world: World, max_bond: int = BOND) -> Offer:
    return dataclasses.replace(world.offer(), max_bond=max_bond)


def post_drawn(world: World, draw: int = 3, **changes: object) -> bytes:
    request = world.request()
    client = world.account(CLIENT).address
    job_id = world.jobs.job_id_of(client, world.jobs.client_nonce(client))
    offered: dict[str, Any] = {"provider": ZERO_ADDRESS, "kill_fee": -(-PRICE // 10), **changes}
    quote = dataclasses.replace(world.quote(CLIENT, request).quote, **offered)
    params: JobParams = dataclasses.replace(world.params(request, [SignedQuote(quote, b"")]), draw=draw)
    world.send(CLIENT, world.jobs.post(params))
    return job_id


def events(world: World, block: int, name: str) -> list[dict[str, object]]:
    raw = world.chain.logs([world.jobs.address], block, block)
    return [event.args for event in decode_logs(raw) if event.name == name]


def settled(world: World) -> bytes:
    job_id = post_drawn(world)
    world.send(CLIENT, world.jobs.draw(job_id))
    for provider in PROVIDERS:
        world.commit(provider, job_id, bytes([provider]) * 32)
    for provider in PROVIDERS:
        world.send(provider, world.jobs.reveal(job_id, world.output(), bytes([provider]) * 32))
    world.send(CLIENT, world.jobs.settle(job_id))
    return job_id


def test_job_is_drawn_in_the_block_after_it_was_posted_and_paid(market: World) -> None:
    job_id = post_drawn(market)
    posted = market.chain.head().number
    view = market.jobs.job(job_id)
    assert (view.state, view.draw_block, view.is_drawn, view.replicas) == (JobState.DRAWING, posted, True, 3)
    (opened,) = events(market, posted, "DrawOpened")
    assert struct_of(Quote, opened["terms"]).bond == BOND  # type: ignore[arg-type]
    sent = market.send(DEPLOYER, market.jobs.draw(job_id))
    assert sent.block_number == posted + 1
    drawn = [args["provider"] for args in events(market, sent.block_number, "ReplicaDrawn")]
    assert sorted(map(str, drawn)) == sorted(market.account(p).address for p in PROVIDERS)
    replicas = market.jobs.replicas(job_id)
    assert [(r.provider, r.state) for r in replicas] == [(p, ReplicaState.ASSIGNED) for p in drawn]


def test_draw_that_nobody_takes_is_armed_anew_until_its_deadline(market: World) -> None:
    job_id = post_drawn(market, base_fee=PRICE - 1)
    market.send(CLIENT, market.jobs.draw(job_id))
    view = market.jobs.job(job_id)
    assert (view.state, view.draw_failed) == (JobState.DRAWING, True)
    market.anvil.increase_time(61)
    with pytest.raises(ContractError, match="every amount leaves"):
        market.send(CLIENT, market.jobs.draw(job_id))


def test_registry_lists_and_prunes_through_the_typed_client(market: World) -> None:
    entries = market.registry.drawable(MODEL.model_id)
    assert [entry.provider for entry in entries] == [market.account(p).address for p in PROVIDERS]
    weight = min(STAKE, market.registry.draw_stake_cap()) * 65_536 // market.registry.draw_stake_cap()
    assert {entry.weight for entry in entries} == {weight}
    assert market.registry.vault() == market.vault.address
    who = market.account(ONE).address
    assert market.registry.is_drawable(who, MODEL.model_id)
    with pytest.raises(ContractError) as refused:
        market.send(CLIENT, market.registry.prune(MODEL.model_id, who))
    assert refused.value.code == "StillDrawable"


def test_demand_is_answered_or_slashed(market: World) -> None:
    job_id = settled(market)
    one, two = (market.account(p).address for p in (ONE, TWO))
    fee, token = market.jobs.demand_fee(), market.token.address
    for provider in (one, two):
        market.send(CLIENT, market.jobs.demand_reveal(job_id, provider))
    view = {replica.provider: replica for replica in market.jobs.replicas(job_id)}[one]
    assert (view.is_demanded, view.demander) == (True, market.account(CLIENT).address)
    job = market.jobs.job(job_id)
    assert view.dispute_end(job, 10) == view.demand_deadline + 10
    credit = market.vault.credit(token, one)
    with pytest.raises(ContractError) as refused:
        market.send(ONE, market.jobs.publish_output(job_id, [1, 2]))
    assert refused.value.code == "OutputMismatch"
    sent = market.send(ONE, market.jobs.publish_output(job_id, ANSWER))
    assert market.vault.credit(token, one) == credit + fee
    (published,) = events(market, sent.block_number, "OutputPublished")
    assert published["ids"] == pack_tokens(ANSWER)
    assert struct_of(Output, published["output"]) == market.output()  # type: ignore[arg-type]
    market.anvil.increase_time(market.jobs.demand_window() + 1)
    market.send(DEPLOYER, market.jobs.slash_withheld(job_id, two))
    states = {replica.provider: replica.bond_state for replica in market.jobs.replicas(job_id)}
    assert (states[one], states[two]) == (BondState.LOCKED, BondState.SLASHED)


def found_offer(found: Index, world: World, provider: int) -> tuple[int, int, bool]:
    who = world.account(provider).address
    (offer,) = (o for o in found.offers(MODEL.model_id) if o.provider == who)
    return offer.weight, offer.offer.max_bond, offer.is_drawable


def test_index_knows_who_can_be_drawn_through_pruning_and_reorgs(market: World) -> None:
    with index(market) as found:
        found.sync()
        weight, bond, is_drawable = found_offer(found, market, ONE)
        assert (weight, bond, is_drawable) == (market.registry.drawable(MODEL.model_id)[0].weight, BOND, True)
        market.send(ONE, market.registry.set_offer(MODEL.model_id, market.offer()))
        found.sync()
        assert found_offer(found, market, ONE) == (weight, 0, False)
        market.anvil.mine(LIST_REST)
        market.send(DEPLOYER, market.registry.prune(MODEL.model_id, market.account(ONE).address))
        found.sync()
        assert found_offer(found, market, ONE) == (0, 0, False)
        assert_fresh(market, found)
        market.anvil.reorg(1)
        found.sync()
        assert_fresh(market, found)


def test_mode_none_is_drawn_alone(market: World) -> None:
    request = market.request()
    client = market.account(CLIENT).address
    job_id = market.jobs.job_id_of(client, market.jobs.client_nonce(client))
    changes: dict[str, Any] = {"provider": ZERO_ADDRESS, "kill_fee": PRICE, "mode": int(Mode.NONE)}
    quote = dataclasses.replace(market.quote(CLIENT, request).quote, **changes)
    params = dataclasses.replace(
        market.params(request, [SignedQuote(quote, b"")]), mode=Mode.NONE, quorum=1, draw=1, inline_input=b""
    )
    market.send(CLIENT, market.jobs.post(params))
    market.send(CLIENT, market.jobs.draw(job_id))
    (replica,) = market.jobs.replicas(job_id)
    assert (replica.state, market.jobs.job(job_id).inline_input) == (ReplicaState.ASSIGNED, False)
