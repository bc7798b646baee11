"""What a draw costs that is out of luck: a list of one provider with the highest weight and many with the least, who
lose 15 of 16 tosses. Each try is a provider looked at, most of them for the first time in the transaction."""

from __future__ import annotations

from dataclasses import dataclass

from market.hashing import chain_seed
from tests.gas.anvil import AnvilChain, anvil
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.draws import LEAST_STAKE, MODEL_ID, TRIES, WEIGHTS, offer, post_drawn, publish, tries
from tests.unit.contracts.world import CLIENT, MONEY, REPLICAS, STAKE_CAP, World, account

LIGHT = 15
DRAWN = 3


@dataclass(frozen=True)
class Drawn:
    """One draw.

    Attributes:
        providers: who was drawn; none where too few were found in 64 tries, and the draw was armed anew.
        gas: of the transaction. tries: providers looked at; rejected: those that lost the toss or were drawn already.
    """

    providers: tuple[str, ...]
    gas: int
    tries: int
    rejected: int


def unlucky_draws(count: int) -> list[Drawn]:
    """So many draws from such a list, of three replicas each: the same on every machine. Starts and stops anvil."""
    with anvil() as url:
        world = World(chain=AnvilChain(list(artefacts().values()), url))
        publish(world)
        world.registry.setProvider("http://x", bytes(32), sender=REPLICAS[0].address)
        world.registry.setOffer(MODEL_ID, offer(world), sender=REPLICAS[0].address)
        light = [enlist_new(world, f"light {number}", LEAST_STAKE) for number in range(LIGHT)]
        listed = [REPLICAS[0].address, *light]
        weights = [WEIGHTS] + [WEIGHTS * LEAST_STAKE // STAKE_CAP] * LIGHT
        return [_draw(world, listed, weights) for _ in range(count)]


def enlist_new(world: World, name: str, stake: int, **changes: int) -> str:
    """A provider that nobody knew before, drawable. Returns its address."""
    who = account(name).address
    world.token.mint(who, MONEY, sender=who)
    world.token.approve(world.vault.address, MONEY, sender=who)
    world.vault.deposit(world.token.address, who, stake, sender=who)
    world.vault.stake(stake, sender=who)
    world.registry.setProvider("http://x", bytes(32), sender=who)
    world.registry.setOffer(MODEL_ID, offer(world, **changes), sender=who)
    return who


def _draw(world: World, listed: list[str], weights: list[int]) -> Drawn:
    assert isinstance(world.chain, AnvilChain)
    job = post_drawn(world, DRAWN)
    seed = chain_seed(job.id, world.chain.block_hash(world.job(job)["drawBlock"]))
    world.jobs.draw(job.id, sender=CLIENT.address)
    drawn = tuple(event.values["provider"] for event in world.logs("ReplicaDrawn"))
    found: list[str] = []
    looked = 0
    for index, toss in tries(seed, len(weights)):
        looked += 1
        if toss < weights[index] and listed[index] not in found:
            found.append(listed[index])
        if len(found) == DRAWN:
            break
    assert list(drawn) == (found if len(found) == DRAWN else [])
    assert looked <= TRIES
    return Drawn(drawn, world.chain.gas_used, looked, looked - len(found))
