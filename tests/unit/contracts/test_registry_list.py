"""Registry: the drawable list: setOffer with a maximum bond, prune, and what a place keeps."""

from __future__ import annotations

import pytest
from eth_abi import encode

from market.types import ZERO_ADDRESS, Request
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.draws import (
    LEAST_STAKE,
    LIST_REST,
    MODEL_ID,
    WEIGHTS,
    enlist,
    mine,
    number,
    offer,
    publish,
    set_stake,
)
from tests.unit.contracts.world import REPLICAS, REVEAL_WINDOW, STAKE_CAP, STRANGER, World, answer

ONE, TWO, THREE = REPLICAS[:3]
P, Q, R = (p.address for p in REPLICAS[:3])


@pytest.fixture(autouse=True)
def published(world: World) -> None:
    publish(world)
    mine(world, 1_000)


def places(world: World) -> list[str]:
    registry = world.registry
    return [registry.drawableAt(MODEL_ID, i)[0] for i in range(registry.drawableLength(MODEL_ID))]


def prune(world: World, provider: str) -> None:
    world.registry.prune(MODEL_ID, provider, sender=STRANGER.address)


def leave(world: World, provider: str) -> None:
    world.registry.removeOffer(MODEL_ID, sender=provider)


def test_registry_states_what_it_was_deployed_with(world: World) -> None:
    registry = world.registry
    assert (registry.vault(), registry.drawStakeCap()) == (world.vault.address, STAKE_CAP)
    assert (registry.DRAW_TRIES(), registry.LIST_REST()) == (64, LIST_REST)


@pytest.mark.parametrize("cap", [0, 15])
def test_registry_with_a_cap_that_makes_the_minimum_nothing_reverts(world: World, cap: int) -> None:
    with reverts("StakeCapTooSmall", cap=cap, minimum=16):
        world.deploy("Registry", world.vault.address, cap)
    world.deploy("Registry", world.vault.address, 16)


def test_set_offer_with_a_maximum_bond_enters_the_list(world: World) -> None:
    enlist(world, ONE)
    (event,) = world.logs("OfferListed")
    assert event.values == {"provider": P, "modelId": MODEL_ID, "weight": WEIGHTS}
    assert world.registry.drawableAt(MODEL_ID, 0) == (P, number(world) - 1, WEIGHTS)
    assert world.registry.isDrawable(P, MODEL_ID)
    enlist(world, TWO, THREE)
    assert places(world) == [P, Q, R]


def test_set_offer_without_a_maximum_bond_enters_no_list(world: World) -> None:
    enlist(world, ONE, maxBond=0)
    assert places(world) == []
    assert not world.registry.isDrawable(P, MODEL_ID)


def test_set_offer_takes_a_sixteenth_of_the_cap_as_stake(world: World) -> None:
    set_stake(world, ONE, LEAST_STAKE - 1)
    with reverts("StakeTooSmall", provider=P, staked=LEAST_STAKE - 1, minimum=LEAST_STAKE):
        enlist(world, ONE)
    world.registry.setOffer(MODEL_ID, offer(world, maxBond=0), sender=P)
    world.vault.deposit(world.token.address, P, 1, sender=P)
    world.vault.stake(1, sender=P)
    enlist(world, ONE)
    assert world.registry.drawableAt(MODEL_ID, 0)[2] == WEIGHTS // 16


@pytest.mark.parametrize(("stake", "weight"), [(STAKE_CAP // 2, WEIGHTS // 2), (STAKE_CAP + 1, WEIGHTS)])
def test_weight_is_the_stake_up_to_the_cap(world: World, stake: int, weight: int) -> None:
    set_stake(world, ONE, stake)
    enlist(world, ONE)
    assert world.registry.drawableAt(MODEL_ID, 0)[2] == weight


def test_contract_enters_the_list_by_itself(world: World) -> None:
    """Whoever signed the transaction has no part in it."""
    puppet, vault, registry = world.deploy("Puppet"), world.vault, world.registry
    vault.deposit(world.token.address, puppet.address, STAKE_CAP, sender=P)
    for target, move, arguments in (
        (vault, "stake", (STAKE_CAP,)),
        (registry, "setProvider", ("http://x", bytes(32))),
        (registry, "setOffer", (MODEL_ID, offer(world))),
    ):
        puppet.run(target.address, target.encode(move, *arguments), sender=P)
    (event,) = world.logs("OfferListed")
    assert event.values["provider"] == puppet.address


def test_weight_rises_with_a_later_offer_and_only_after_the_places_rest(world: World) -> None:
    set_stake(world, ONE, LEAST_STAKE)
    enlist(world, ONE)
    listed = number(world) - 1
    world.vault.deposit(world.token.address, P, STAKE_CAP, sender=P)
    world.vault.stake(STAKE_CAP, sender=P)
    mine(world, LIST_REST - 1)
    assert number(world) == listed + LIST_REST
    enlist(world, ONE)
    assert world.logs("OfferListed") == []
    assert world.registry.drawableAt(MODEL_ID, 0) == (P, listed, WEIGHTS // 16)
    enlist(world, ONE)
    assert world.registry.drawableAt(MODEL_ID, 0) == (P, listed + LIST_REST + 1, WEIGHTS)


def test_weight_never_falls_by_an_offer(world: World) -> None:
    enlist(world, ONE)
    set_stake(world, ONE, LEAST_STAKE)
    mine(world, LIST_REST)
    enlist(world, ONE)
    assert world.registry.drawableAt(MODEL_ID, 0)[2] == WEIGHTS


@pytest.mark.parametrize("how", ["offer removed", "provider removed", "no bond", "stake gone"])
def test_prune_of_what_can_no_longer_be_drawn_by_anybody(world: World, how: str) -> None:
    enlist(world, ONE, TWO, THREE)
    mine(world, LIST_REST)
    with reverts("StillDrawable", provider=P, modelId=MODEL_ID):
        prune(world, P)
    if how == "offer removed":
        leave(world, P)
    if how == "provider removed":
        world.registry.removeProvider(sender=P)
    if how == "no bond":
        world.registry.setOffer(MODEL_ID, offer(world, maxBond=0), sender=P)
    if how == "stake gone":
        set_stake(world, ONE, LEAST_STAKE - 1)
    assert not world.registry.isDrawable(P, MODEL_ID)
    assert places(world) == [P, Q, R]
    prune(world, P)
    assert [event.values for event in world.logs("OfferPruned")] == [{"provider": P, "modelId": MODEL_ID}]
    assert places(world) == [R, Q]
    assert world.registry.drawableAt(MODEL_ID, 2)[0] == ZERO_ADDRESS


def test_provider_whose_stake_is_locked_in_jobs_is_not_pruned(world: World) -> None:
    """It is busy, not gone: whoever could prune it would send it to the end of the list for the price of a call."""
    set_stake(world, ONE, LEAST_STAKE)
    enlist(world, ONE, TWO)
    job = world.post(2, terms={"bond": LEAST_STAKE})
    world.commit(job, (ONE, answer()))
    mine(world, LIST_REST)
    assert world.staked(ONE) == 0
    assert world.registry.isDrawable(P, MODEL_ID)
    with reverts("StillDrawable", provider=P, modelId=MODEL_ID):
        prune(world, P)
    world.registry.setOffer(MODEL_ID, offer(world), sender=P)


def test_provider_whose_bond_is_lost_is_pruned(world: World) -> None:
    """A miss fee and a slashed bond are stake no more, while they are still being divided or already paid."""
    for provider in (ONE, TWO):
        set_stake(world, provider, LEAST_STAKE)
    enlist(world, ONE, TWO, THREE)
    job = world.post(2, terms={"bond": LEAST_STAKE})
    world.commit(job, (ONE, answer()), (TWO, answer()))
    world.reveal(job, (ONE, answer()))
    world.warp(REVEAL_WINDOW + 1)
    mine(world, LIST_REST + 1)
    assert world.registry.isDrawable(Q, MODEL_ID)
    world.settle(job)
    assert world.vault.stakeOf(Q)[:2] == (LEAST_STAKE - 3_000, 0)
    assert not world.registry.isDrawable(Q, MODEL_ID)
    prune(world, Q)
    evidence = encode([kind for _, _, kind in Request.members()], list(job.request.values()))
    world.arbiter.dispute(world.jobs.address, job.id, P, evidence, sender=STRANGER.address)
    world.arbiter.decide(world.jobs.address, job.id, P, True, STRANGER.address, sender=STRANGER.address)
    assert world.vault.stakeOf(P)[:2] == (0, 0)
    mine(world, LIST_REST + 1)
    prune(world, P)
    assert places(world) == [R]


def test_prune_of_the_last_entry_leaves_the_others_where_they_are(world: World) -> None:
    enlist(world, ONE, TWO)
    leave(world, Q)
    mine(world, LIST_REST)
    prune(world, Q)
    assert places(world) == [P]
    with reverts("NotListed", provider=Q, modelId=MODEL_ID):
        prune(world, Q)


def test_prune_of_whoever_is_not_listed_reverts(world: World) -> None:
    enlist(world, ONE)
    with reverts("NotListed", provider=R, modelId=MODEL_ID):
        prune(world, R)


def test_place_that_changed_rests_until_no_block_hash_reaches_back_to_it(world: World) -> None:
    enlist(world, ONE, TWO)
    listed = number(world) - 1
    leave(world, Q)
    mine(world, LIST_REST - 1)
    with reverts("ListBusy", modelId=MODEL_ID, readyBlock=listed + LIST_REST + 1):
        prune(world, Q)
    mine(world)
    prune(world, Q)
    pruned = number(world)
    mine(world, LIST_REST)
    with reverts("ListBusy", modelId=MODEL_ID, readyBlock=pruned + LIST_REST + 1):
        enlist(world, THREE)
    mine(world)
    enlist(world, THREE)
    assert places(world) == [P, R]


def test_provider_that_left_and_came_back_before_anybody_pruned_is_listed_once(world: World) -> None:
    enlist(world, ONE)
    world.registry.removeProvider(sender=P)
    enlist(world, ONE)
    assert places(world) == [P]
    assert world.registry.isDrawable(P, MODEL_ID)
    mine(world, LIST_REST)
    leave(world, P)
    prune(world, P)
    mine(world, LIST_REST + 1)
    enlist(world, ONE)
    assert places(world) == [P]
