"""Settled jobs whose outputs are demanded, in as few words as a test needs."""

from __future__ import annotations

from market.hashing import pack_tokens, tokens_root
from market.settlement import BondState
from market.types import Output
from tests.unit.contracts.world import (
    CLIENT,
    INPUT,
    REPLICAS,
    STRANGER,
    PostedJob,
    World,
    request,
)

ONE, TWO, THREE = REPLICAS[:3]
P, Q, R = (p.address for p in REPLICAS[:3])
A = CLIENT.address
IDS = [5, 6, 7, 8, 9, 10, 11, 12, 2]
RIGHT = Output(tokens_root(IDS), len(IDS), 1)
WRONG = Output(tokens_root([5, 6, 2]), 3, 1)
BOND = 10_000
PRICE_PAID = 1_000 + -(-(len(INPUT) * 500_000 + len(IDS) * 2_000_001) // 10**6)


def settled(world: World, *outputs: Output, inline: bool = False) -> PostedJob:
    """A job of three; its input is public where `inline`."""
    ids = list(range(3, 13))
    asked = request(input_root=tokens_root(ids), input_tokens=len(ids)) if inline else request()
    job = world.post(3, asked=asked, inline=pack_tokens(ids) if inline else b"")
    answers = list(zip(REPLICAS, outputs or (RIGHT, RIGHT, WRONG), strict=False))
    world.commit(job, *answers)
    world.reveal(job, *answers)
    world.settle(job)
    return job


def demand(world: World, job: PostedJob, provider: str = P, sender: str = A, permit: bytes = b"") -> None:
    world.jobs.demandReveal(job.id, provider, permit, sender=sender)


def publish(world: World, job: PostedJob, provider: str = P, ids: list[int] | None = None) -> None:
    world.jobs.publishOutput(job.id, pack_tokens(IDS if ids is None else ids), sender=provider)


def slash_withheld(world: World, job: PostedJob, provider: str = P) -> None:
    world.jobs.slashWithheld(job.id, provider, sender=STRANGER.address)


def release(world: World, job: PostedJob, provider: str = P) -> None:
    world.jobs.releaseBond(job.id, provider, sender=STRANGER.address)


def bond_state(world: World, job: PostedJob, index: int = 0) -> BondState:
    return BondState(world.replica(job, index)["bondState"])


def money(world: World, *owners: str) -> dict[str, int]:
    """Credit, stake and tokens of each."""
    token = world.token
    return {o: world.credit(o) + world.vault.staked(o) + token.balanceOf(o) for o in owners}
