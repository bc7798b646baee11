"""The example contract: asks, is answered by drawn providers, checks the answer, pays back what is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from market.hashing import pack_stop_tokens, pack_tokens, tokens_root
from market.types import Commitment, Output
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.draws import MODEL_ID, enlist, mine, publish, terms
from tests.unit.contracts.world import CLIENT, INPUT, MAX_OUTPUT, OTHER_CLIENT, REPLICAS, STRANGER, World, salt_of

IDS = [7, 8, 2]
RIGHT = Output(tokens_root(IDS), len(IDS), 1)
CAP = 20_000
ASKER = CLIENT.address


@contextmanager
def refused(name: str) -> Iterator[None]:
    with pytest.raises(Revert) as caught:
        yield
    assert caught.value.name == name


def deploy(world: World, temperature_q16: int = 0) -> Contract:
    made = world.deploy("Consumer", world.jobs.address, temperature_q16)
    world.token.approve(made.address, 10**6, sender=ASKER)
    return made


@pytest.fixture
def consumer(world: World) -> Contract:
    publish(world)
    mine(world, 1_000)
    enlist(world, *REPLICAS[:5])
    return deploy(world)


def ask(world: World, consumer: Contract, cap: int = CAP, **changes: Any) -> bytes:
    arguments = [
        pack_tokens(INPUT),
        len(INPUT),
        MAX_OUTPUT,
        pack_stop_tokens([2]),
        terms(world, **changes).values(),
        cap,
    ]
    job: bytes = consumer.ask(*arguments, sender=ASKER)
    return job


def drawn(world: World, job: bytes) -> list[Any]:
    mine(world)
    world.jobs.draw(job, sender=STRANGER.address)
    addresses = [event.values["provider"].lower() for event in world.logs("ReplicaDrawn")]
    return [provider for provider in REPLICAS if provider.address.lower() in addresses]


def settle(world: World, job: bytes, *outputs: Output) -> list[Any]:
    providers = drawn(world, job)
    for provider, output in zip(providers, outputs, strict=True):
        commitment = Commitment(job, provider.address, output.output_hash, salt_of(provider))
        world.jobs.commit(job, world.domain.digest(commitment), sender=provider.address)
    for provider, output in zip(providers, outputs, strict=True):
        world.jobs.reveal(job, output.values(), salt_of(provider), sender=provider.address)
    world.jobs.settle(job, sender=STRANGER.address)
    return providers


def balance(world: World) -> int:
    return int(world.token.balanceOf(ASKER))


def test_ask_posts_a_public_drawn_job_and_takes_no_more_than_its_escrow(world: World, consumer: Contract) -> None:
    before = balance(world)
    job = ask(world, consumer)
    found = world.jobs.job(job)
    assert found["client"].lower() == consumer.address.lower()
    assert found["inlineInput"]
    assert found["replicas"] == 3
    assert balance(world) == before - found["escrow"]
    assert world.credit(consumer.address) == 0


def test_answer_is_taken_from_anyone_once_and_only_the_agreed_one(world: World, consumer: Contract) -> None:
    job = ask(world, consumer)
    with refused("NotSettled"):
        consumer.answer(job, RIGHT.values(), pack_tokens(IDS), sender=STRANGER.address)
    settle(world, job, RIGHT, RIGHT, RIGHT)
    wrong = Output(tokens_root([7, 9, 2]), 3, 1)
    with refused("NotTheAnswer"):
        consumer.answer(job, wrong.values(), pack_tokens([7, 9, 2]), sender=STRANGER.address)
    with refused("NotTheAnswer"):
        consumer.answer(job, RIGHT.values(), pack_tokens([7, 9, 2]), sender=STRANGER.address)
    consumer.answer(job, RIGHT.values(), pack_tokens(IDS), sender=STRANGER.address)
    assert consumer.answers(job) == pack_tokens(IDS)
    with refused("AlreadyAnswered"):
        consumer.answer(job, RIGHT.values(), pack_tokens(IDS), sender=STRANGER.address)


def test_refund_gives_the_asker_what_the_job_did_not_cost_once(world: World, consumer: Contract) -> None:
    before = balance(world)
    job = ask(world, consumer)
    with refused("NotFinal"):
        consumer.refund(job, sender=STRANGER.address)
    settle(world, job, RIGHT, RIGHT, RIGHT)
    consumer.refund(job, sender=STRANGER.address)
    paid = sum(replica["paid"] for replica in world.jobs.replicas(job))
    assert 0 < paid < world.jobs.job(job)["escrow"]
    assert balance(world) == before - paid
    assert world.credit(consumer.address) == 0
    with refused("NothingDue"):
        consumer.refund(job, sender=STRANGER.address)


def test_refund_of_a_job_nobody_drew_is_less_the_draw_fee(world: World, consumer: Contract) -> None:
    before = balance(world)
    job = ask(world, consumer)
    world.warp(3_600)
    world.jobs.settle(job, sender=STRANGER.address)
    consumer.refund(job, sender=STRANGER.address)
    fee = 3 * world.jobs.replicas(job)[0]["killFee"]
    assert balance(world) == before - fee
    assert world.credit(consumer.address) == 0


def test_refund_of_a_job_that_found_nobody_is_all_of_it(world: World, consumer: Contract) -> None:
    for provider in REPLICAS[:5]:
        world.registry.removeOffer(MODEL_ID, sender=provider.address)
    before = balance(world)
    job = ask(world, consumer)
    assert drawn(world, job) == []
    assert world.jobs.job(job)["drawFailed"]
    world.warp(3_600)
    world.jobs.settle(job, sender=STRANGER.address)
    consumer.refund(job, sender=STRANGER.address)
    assert balance(world) == before
    assert world.credit(consumer.address) == 0


def test_ask_with_a_cap_that_is_the_escrow_has_nothing_to_give_back(world: World, consumer: Contract) -> None:
    escrow = world.jobs.job(ask(world, consumer))["escrow"]
    before = balance(world)
    ask(world, consumer, cap=escrow)
    assert balance(world) == before - escrow
    assert world.credit(consumer.address) == 0


def test_answer_that_is_withheld_is_demanded_by_anyone_and_its_price_comes_back(
    world: World, consumer: Contract
) -> None:
    job = ask(world, consumer)
    provider = settle(world, job, RIGHT, RIGHT, RIGHT)[0]
    consumer.refund(job, sender=STRANGER.address)
    before = balance(world)
    world.jobs.demandReveal(job, provider.address, b"", sender=OTHER_CLIENT.address)
    world.warp(world.jobs.demandWindow() + 1)
    world.jobs.slashWithheld(job, provider.address, sender=STRANGER.address)
    consumer.refund(job, sender=STRANGER.address)
    assert balance(world) == before + max(replica["paid"] for replica in world.jobs.replicas(job))
    assert world.credit(consumer.address) == 0


def test_consumer_with_a_temperature_asks_for_an_answer_that_the_chain_seeds(world: World, consumer: Contract) -> None:
    assert tuple(world.jobs.seedOf(ask(world, consumer))) == (bytes(32), 0, False)
    chancy = deploy(world, 45_875)
    job = ask(world, chancy)
    (published,) = world.logs("RequestPublished")
    asked = published.values["request"]
    assert (asked["sampler"], asked["temperatureQ16"], asked["topPQ16"], asked["seed"]) == (
        2,
        45_875,
        65_536,
        bytes(32),
    )
    settle(world, job, RIGHT, RIGHT, RIGHT)
    seed, _, is_fixed = world.jobs.seedOf(job)
    assert is_fixed
    assert seed != bytes(32)
    chancy.answer(job, RIGHT.values(), pack_tokens(IDS), sender=STRANGER.address)
    assert chancy.answers(job) == pack_tokens(IDS)


@pytest.mark.parametrize("call", ["answer", "refund"])
def test_job_that_nobody_asked_here_is_refused(world: World, consumer: Contract, call: str) -> None:
    stranger = bytes(32)
    arguments = [stranger, RIGHT.values(), pack_tokens(IDS)] if call == "answer" else [stranger]
    with refused("UnknownQuestion"):
        getattr(consumer, call)(*arguments, sender=STRANGER.address)


def test_ask_above_the_cap_takes_nothing(world: World, consumer: Contract) -> None:
    before = balance(world)
    with pytest.raises(Revert):
        ask(world, consumer, base_fee=CAP)
    assert balance(world) == before
