"""Attacks on the draw of replicas: who can bend it, and when."""

from __future__ import annotations

import pytest

from market.types import ZERO_ADDRESS
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.draws import (
    LEAST_STAKE,
    LIST_REST,
    MODEL_ID,
    draw,
    enlist,
    mine,
    offer,
    post_drawn,
    publish,
    set_stake,
)
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CLIENT, DISPUTE_WINDOW, REPLICAS, STAKE_CAP, STRANGER, World, answer

HONEST, SNEAKY, THIRD = REPLICAS[:3]
ROUNDS = 60


@pytest.fixture(autouse=True)
def published(world: World) -> None:
    publish(world)
    mine(world, 1_000)


def top_up(world: World) -> None:
    """The sneaky provider's money, which it keeps elsewhere, becomes its stake."""
    world.vault.deposit(world.token.address, SNEAKY.address, STAKE_CAP, sender=SNEAKY.address)
    world.vault.stake(STAKE_CAP - LEAST_STAKE, sender=SNEAKY.address)


def times_drawn(world: World, *, before_the_block: bool, after_it: bool) -> int:
    """How many of ROUNDS jobs the sneaky provider gets, one replica each, if it stakes the rest then."""
    assert isinstance(world.chain, RevmChain)
    found = 0
    for _ in range(ROUNDS):
        mine(world)
        with world.chain.undone():
            if before_the_block:
                top_up(world)
                mine(world)
            job = post_drawn(world, 1)
            mine(world)
            if after_it:
                top_up(world)
            found += draw(world, job) == [SNEAKY.address]
    return found


def two_on_the_list(world: World) -> None:
    """One stakes the cap all along; the other did so when it entered, and has let fifteen sixteenths of it go."""
    for provider in (HONEST, SNEAKY):
        set_stake(world, provider, STAKE_CAP)
    enlist(world, HONEST, SNEAKY)
    set_stake(world, SNEAKY, LEAST_STAKE)
    mine(world, 1_000)


def test_stake_that_comes_after_the_hash_is_known_wins_no_draw(world: World) -> None:
    """Sixteen accounts with a sixteenth each, once rich, would share one purse and draw like sixteen rich ones."""
    two_on_the_list(world)
    poor = times_drawn(world, before_the_block=False, after_it=False)
    late = times_drawn(world, before_the_block=False, after_it=True)
    assert late == 0 < poor  # it would have done better to leave its money where it was


def test_bond_that_returns_once_the_hash_is_known_moves_no_draw(world: World) -> None:
    """It counted while it was away. Were it new stake, anybody could give it to its owner, or take its owner out."""
    assert isinstance(world.chain, RevmChain)
    for provider in (HONEST, SNEAKY):
        set_stake(world, provider, STAKE_CAP)
    enlist(world, HONEST, SNEAKY)
    job = world.post(2, terms={"bond": STAKE_CAP - LEAST_STAKE}, quorum=2)
    world.commit(job, (HONEST, answer()), (SNEAKY, answer()))
    world.reveal(job, (HONEST, answer()), (SNEAKY, answer()))
    world.settle(job)
    world.warp(DISPUTE_WINDOW + 1)
    found = 0
    for _ in range(ROUNDS):
        mine(world)
        with world.chain.undone():
            waiting = post_drawn(world, 1)
            mine(world)
            with world.chain.undone():
                drawn = draw(world, waiting)
            world.jobs.releaseBond(job.id, SNEAKY.address, sender=STRANGER.address)
            assert draw(world, waiting) == drawn
            found += drawn == [SNEAKY.address]
    assert ROUNDS // 3 < found < 2 * ROUNDS // 3


def test_nobody_else_makes_a_stake_younger(world: World) -> None:
    """Whoever could would take any provider out of any draw, for the price of a unit."""
    enlist(world, HONEST, SNEAKY)
    job = post_drawn(world, 2)
    since = world.vault.stakeOf(HONEST.address)
    mine(world)
    world.vault.deposit(world.token.address, HONEST.address, 1, sender=STRANGER.address)
    with reverts("InsufficientCredit", token=world.token.address, owner=STRANGER.address, has=0, needs=1):
        world.vault.stake(1, sender=STRANGER.address)
    with reverts("NothingExiting", owner=HONEST.address):
        world.vault.finishUnstake(HONEST.address, sender=STRANGER.address)
    assert world.vault.stakeOf(HONEST.address) == since
    assert sorted(draw(world, job)) == sorted([HONEST.address, SNEAKY.address])


def test_operator_without_whom_a_draw_fails_can_have_another(world: World) -> None:
    """Known and stated in SECURITY.md: where fewer than n others take the terms, leaving makes the draw fail, and the
    next hash is another chance. Where n others do, leaving only costs the leaver its place."""
    assert isinstance(world.chain, RevmChain)
    own, others = (SNEAKY, THIRD), (HONEST, *REPLICAS[3:5])
    for honest, again in ((others[:2], True), (others, False)):
        with world.chain.undone():
            enlist(world, *honest, *own)
            job = post_drawn(world, 3)
            first = world.job(job)["drawBlock"]
            mine(world)
            for account in own:
                world.registry.removeOffer(MODEL_ID, sender=account.address)
            drawn = draw(world, job)
            assert sorted(drawn) == ([] if again else sorted(p.address for p in honest))
            assert (world.job(job)["drawBlock"] > first) == world.job(job)["drawFailed"] == again
            for account in own:
                world.registry.setOffer(MODEL_ID, offer(world), sender=account.address)
            if again:
                assert len(draw(world, job)) == 3


def test_stake_that_was_there_before_the_block_counts(world: World) -> None:
    two_on_the_list(world)
    poor = times_drawn(world, before_the_block=False, after_it=False)
    rich = times_drawn(world, before_the_block=True, after_it=False)
    assert poor < ROUNDS // 5 < ROUNDS // 3 < rich


def test_nobody_learns_or_changes_a_draw_in_the_block_of_the_posting(world: World) -> None:
    enlist(world, HONEST, SNEAKY)
    job = post_drawn(world, 1)
    block = world.job(job)["drawBlock"]
    with reverts("DrawNotReady", jobId=job.id, drawBlock=block):
        world.jobs.draw(job.id, sender=SNEAKY.address)


def test_provider_that_enters_once_the_hash_is_known_is_not_drawn(world: World) -> None:
    enlist(world, HONEST)
    job = post_drawn(world, 1)
    mine(world)
    world.registry.setProvider("http://x", bytes(32), sender=SNEAKY.address)
    world.registry.setOffer(MODEL_ID, offer(world), sender=SNEAKY.address)
    assert draw(world, job) == [HONEST.address]


@pytest.mark.parametrize("pruned", [0, 1, 2])
def test_entry_pruned_once_the_hash_is_known_moves_nobody_elses_place(world: World, pruned: int) -> None:
    """The pruned one drops out; whoever else was drawn with the same seed is drawn still."""
    assert isinstance(world.chain, RevmChain)
    three = (HONEST, SNEAKY, THIRD)
    enlist(world, *three)
    mine(world, LIST_REST + 1)
    leaver = three[pruned]
    for _ in range(12):
        mine(world)
        with world.chain.undone():
            job = post_drawn(world, 1)
            mine(world)
            with world.chain.undone():
                expected = draw(world, job)
            world.registry.removeOffer(MODEL_ID, sender=leaver.address)
            world.registry.prune(MODEL_ID, leaver.address, sender=STRANGER.address)
            if expected != [leaver.address]:
                assert draw(world, job) == expected


def test_nobody_prunes_whoever_can_be_drawn(world: World) -> None:
    enlist(world, HONEST, SNEAKY)
    mine(world, LIST_REST + 1)
    with reverts("StillDrawable", provider=HONEST.address, modelId=MODEL_ID):
        world.registry.prune(MODEL_ID, HONEST.address, sender=SNEAKY.address)


def test_list_full_of_accounts_without_stake_cannot_be_made(world: World) -> None:
    for i in range(5):
        account = "0x" + f"{i + 1:040x}"
        world.registry.setProvider("http://x", bytes(32), sender=account)
        with reverts("StakeTooSmall", provider=account, staked=0, minimum=LEAST_STAKE):
            world.registry.setOffer(MODEL_ID, offer(world), sender=account)
    assert world.registry.drawableLength(MODEL_ID) == 0


def test_client_gets_neither_itself_nor_a_provider_of_its_naming(world: World) -> None:
    enlist(world, HONEST, SNEAKY)
    job = post_drawn(world, 1, client=SNEAKY)
    assert draw(world, job) == [HONEST.address]
    quote = world.quote(SNEAKY, model_id=MODEL_ID)
    with reverts("QuoteMismatch", provider=SNEAKY.address, field=b"provider".ljust(32, b"\0")):
        post_drawn(world, 2, offered=quote)
    assert quote.provider != ZERO_ADDRESS


def test_client_that_dislikes_a_draw_pays_for_leaving(world: World) -> None:
    """By cancelling, and by letting the draw's deadline pass."""
    enlist(world, *REPLICAS[:4])
    disliked, undrawn = post_drawn(world, 3), post_drawn(world, 3)
    draw(world, disliked)
    before = world.credit(CLIENT)
    world.jobs.cancel(disliked.id, sender=CLIENT.address)
    escrow = world.job(disliked)["escrow"]
    assert world.credit(CLIENT) - before == escrow - 3 * 200
    world.warp(61)
    before = world.credit(CLIENT)
    world.settle(undrawn)
    assert world.credit(CLIENT) - before == escrow - 3 * 200
    assert world.burnt() == 3 * 200


def test_authority_over_an_offer_stays_with_its_provider(world: World) -> None:
    """A trap that the provider calls enters, leaves and prunes only itself."""
    trap: Contract = world.deploy("Puppet")
    enlist(world, HONEST)
    call = world.registry.encode("setOffer", MODEL_ID, offer(world))
    trap.run(world.registry.address, world.registry.encode("setProvider", "http://t", bytes(32)), sender=HONEST.address)
    with reverts("StakeTooSmall", provider=trap.address, staked=0, minimum=LEAST_STAKE):
        trap.run(world.registry.address, call, sender=HONEST.address)
    assert world.registry.isDrawable(HONEST.address, MODEL_ID)
