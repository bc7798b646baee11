"""Drawable providers and drawn jobs, and the draw's rule once more in Python (docs/protocol.md, "Drawn replicas")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from eth_abi import encode
from eth_account.signers.local import LocalAccount

from market.hashing import chain_seed, keccak256
from market.types import ZERO_ADDRESS, Mode, Model, Quote, Request
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CLIENT, INPUT, MAX_OUTPUT, STAKE_CAP, PostedJob, World, request

MODEL = Model(*(keccak256(b"drawable" + bytes([i])) for i in range(5)))
MODEL_ID = MODEL.model_id
LEAST_STAKE = STAKE_CAP // 16
LIST_REST = 256
TRIES = 64
WEIGHTS = 65_536
MAX_BOND = 50_000
TERMS = {
    "provider": ZERO_ADDRESS,
    "model_id": MODEL_ID,
    "base_fee": 1_000,
    "price_per_m_input": 500_000,
    "price_per_m_output": 2_000_001,
    "kill_fee": 200,
}
DRAW_FEE = 200


def blockhash(number: int) -> bytes:
    """Of a block of the chain inside the process: pyrevm hashes the number's digits."""
    return keccak256(str(number).encode())


def tries(seed: bytes, length: int) -> Iterator[tuple[int, int]]:
    """The draw's 64 tries: (index in the list, toss below 65,536)."""
    for number in range(TRIES):
        word = int.from_bytes(keccak256(encode(["bytes32", "uint256"], [seed, number])))
        yield (word >> 128) * length >> 128, word % WEIGHTS


def pick(seed: bytes, weights: Sequence[int], count: int) -> list[int]:
    """Indices of the list that are drawn where everybody takes the terms."""
    drawn: list[int] = []
    for index, toss in tries(seed, len(weights)):
        if len(drawn) < count and toss < weights[index] and index not in drawn:
            drawn.append(index)
    return drawn


def mine(world: World, blocks: int = 1) -> None:
    assert isinstance(world.chain, RevmChain)
    world.chain.mine(blocks)


def number(world: World) -> int:
    assert isinstance(world.chain, RevmChain)
    return world.chain.number


def offer(world: World, **changes: Any) -> tuple[Any, ...]:
    """An offer that takes the terms of a drawn job exactly, and bonds up to MAX_BOND."""
    values = {
        "token": world.token.address,
        "baseFee": 1_000,
        "pricePerMInput": 500_000,
        "pricePerMOutput": 2_000_001,
        "maxInputTokens": len(INPUT),
        "maxOutputTokens": MAX_OUTPUT,
        "modes": 0b11,
        "maxBond": MAX_BOND,
    }
    assert values.keys() >= changes.keys()
    return tuple((values | changes).values())


def publish(world: World) -> None:
    world.registry.publishModel(MODEL.values(), "tiny", "", sender=CLIENT.address)


def set_stake(world: World, provider: LocalAccount, amount: int) -> None:
    """Lets a provider's stake above `amount` go."""
    excess = world.staked(provider) - amount
    if excess:
        world.vault.requestUnstake(excess, sender=provider.address)


def enlist(world: World, *providers: LocalAccount, **changes: Any) -> None:
    """Makes providers drawable from the next block on. The model is published."""
    for provider in providers:
        world.registry.setProvider("http://x", bytes(32), sender=provider.address)
        world.registry.setOffer(MODEL_ID, offer(world, **changes), sender=provider.address)
    mine(world)


def terms(world: World, **changes: Any) -> Quote:
    """What whoever is drawn is offered."""
    return world.quote(CLIENT, **{**TERMS, **changes})


def drawn_request(**changes: Any) -> Request:
    return request(**{"model_id": MODEL_ID, **changes})


def post_drawn(
    world: World, draw: int = 3, *, client: LocalAccount = CLIENT, offered: Quote | None = None, **changes: Any
) -> PostedJob:
    """Posts a job whose replicas are drawn."""
    if draw == 1:
        changes = {"quorum": 1, "mode": Mode.NONE, **changes}
    asked = changes.pop("asked", None) or drawn_request()
    quote = offered or terms(world, mode=changes.get("mode", Mode.QUORUM))
    params = world.params([quote], asked=asked, draw=draw, **changes)
    return PostedJob(world.jobs.post(params, sender=client.address), asked, (quote,) * draw)


def draw(world: World, job: PostedJob, sender: str = CLIENT.address) -> list[str]:
    """Draws in the next block. Returns who was drawn, in order."""
    mine(world)
    world.jobs.draw(job.id, sender=sender)
    return [event.values["provider"] for event in world.logs("ReplicaDrawn")]


def seed_of(job: PostedJob, block: int) -> bytes:
    return chain_seed(job.id, blockhash(block))
