"""What every lifecycle call costs, on anvil, from a fixed deployment: the same figures on every machine."""

from __future__ import annotations

from collections.abc import Callable

from eth_abi import encode

from market.hashing import keccak256, pack_tokens, tokens_root
from market.types import Model, Output, Request
from tests.gas.anvil import AnvilChain, anvil
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.draws import MODEL_ID as DRAWN_MODEL_ID
from tests.unit.contracts.draws import offer, post_drawn, publish
from tests.unit.contracts.world import (
    CLIENT,
    COMMIT_WINDOW,
    DEMAND_WINDOW,
    DISPUTE_WINDOW,
    OTHER_CLIENT,
    REPLICAS,
    REVEAL_WINDOW,
    STRANGER,
    UNBONDING_WINDOW,
    PostedJob,
    World,
    answer,
    pack_permit,
    request,
)

JOB_TOTAL = "job of 3 replicas, 8 transactions"
JOB_KEYS = ("post", "commit 1", "commit 2", "commit 3", "reveal 1", "reveal 2", "reveal 3", "settle")
RIGHT = answer()  # shorter than the limit, so that the client gets something back
ONE, TWO, THREE = REPLICAS[:3]


def measure() -> dict[str, int]:
    """Call → gas used by its transaction. Starts and stops anvil; takes about two seconds."""
    with anvil() as url:
        world = World(chain=AnvilChain(list(artefacts().values()), url))
        meter = _Meter(world)
        _vault(meter)
        _registry(meter)
        _honest_job(meter)
        _other_posts(meter)
        _other_ends(meter)
        _bonds(meter)
        _draws(meter)
        _demands(meter)
        _seeds(meter)
        meter.gas[JOB_TOTAL] = sum(meter.gas[key] for key in JOB_KEYS)
        return meter.gas


class _Meter:
    def __init__(self, world: World) -> None:
        self.world = world
        self.gas: dict[str, int] = {}

    def __call__(self, name: str, call: Callable[[], object]) -> None:
        call()
        self.gas[name] = self.world.chain.gas_used


def _vault(meter: _Meter) -> None:
    vault, token, who = meter.world.vault, meter.world.token.address, STRANGER.address
    meter("deposit", lambda: vault.deposit(token, who, 10_000, sender=who))
    meter("stake", lambda: vault.stake(6_000, sender=who))
    meter("requestUnstake", lambda: vault.requestUnstake(5_000, sender=who))
    meter.world.warp(UNBONDING_WINDOW)
    meter("finishUnstake", lambda: vault.finishUnstake(who, sender=who))
    meter("withdraw", lambda: vault.withdraw(token, who, 1_000, sender=who))


def _registry(meter: _Meter) -> None:
    registry, who = meter.world.registry, ONE.address
    model = Model(*(keccak256(bytes([i])) for i in range(5)))
    offer = (meter.world.token.address, 1, 2, 3, 4, 5, 3, 0)
    url = "https://provider.example:8443"
    meter("setProvider", lambda: registry.setProvider(url, bytes(32), sender=who))
    meter("publishModel", lambda: registry.publishModel(model.values(), "tiny", "", sender=who))
    meter("setOffer", lambda: registry.setOffer(model.model_id, offer, sender=who))
    meter("removeOffer", lambda: registry.removeOffer(model.model_id, sender=who))
    meter("removeProvider", lambda: registry.removeProvider(sender=who))


def _honest_job(meter: _Meter) -> None:
    """A client's first job, paid by allowance, with three providers that were never paid before."""
    world = meter.world
    quotes = [world.quote(p) for p in REPLICAS[:3]]
    params = world.params(quotes)
    meter("post", lambda: world.jobs.post(params, sender=CLIENT.address))
    job = PostedJob(world.jobs.jobIdOf(CLIENT.address, 0), request(), tuple(quotes))
    for i, provider in enumerate(REPLICAS[:3]):
        meter(f"commit {i + 1}", lambda p=provider: world.commit(job, (p, RIGHT)))  # type: ignore[misc]
    for i, provider in enumerate(REPLICAS[:3]):
        meter(f"reveal {i + 1}", lambda p=provider: world.reveal(job, (p, RIGHT)))  # type: ignore[misc]
    meter("settle", lambda: world.settle(job))
    meter("withdraw a price", lambda: world.vault.withdraw(world.token.address, ONE.address, 900, sender=ONE.address))


def _other_posts(meter: _Meter) -> None:
    world, ids = meter.world, list(range(64))
    single = [world.quote(ONE, mode=0)]
    asked = request(input_root=tokens_root(ids), input_tokens=len(ids))
    who = OTHER_CLIENT.address
    alone = world.params(single, mode=0, quorum=1)
    meter("post, mode none", lambda: world.jobs.post(alone, sender=CLIENT.address))
    meter("post, 64 tokens inline", lambda: world.post(asked=asked, inline=pack_tokens(ids)))
    meter("post, 7 replicas", lambda: world.post(7, quorum=4))
    world.token.approve(world.vault.address, 0, sender=who)
    permit = pack_permit(world.permit(OTHER_CLIENT, world.vault.address, 10**6, world.chain.now + 60))
    meter("post, by permit", lambda: world.post(client=OTHER_CLIENT, permit=permit))
    world.vault.deposit(world.token.address, who, 10**5, sender=who)
    meter("post, from credit", lambda: world.post(client=OTHER_CLIENT))


def _other_ends(meter: _Meter) -> None:
    world = meter.world
    cancelled, silent, unneeded = world.post(), world.post(), world.post()
    meter("cancel", lambda: world.jobs.cancel(cancelled.id, sender=CLIENT.address))
    world.commit(silent, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    world.reveal(silent, (ONE, RIGHT), (TWO, RIGHT))
    world.commit(unneeded, (ONE, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    meter("settle, one silent", lambda: world.settle(silent))
    meter("settle, too few commits", lambda: world.settle(unneeded))
    late = world.post()
    world.commit(late, (ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    world.reveal(late, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    meter("reveal, late", lambda: world.reveal(late, (THREE, RIGHT)))
    meter("settle, one late", lambda: world.settle(late))
    split = world.post()
    for i, provider in enumerate((ONE, TWO, THREE)):
        world.commit(split, (provider, answer(f"{i}")))
    for i, provider in enumerate((ONE, TWO, THREE)):
        world.reveal(split, (provider, answer(f"{i}")))
    meter("settle, no agreement", lambda: world.settle(split))


def _bonds(meter: _Meter) -> None:
    world = meter.world
    job = world.settled(RIGHT, RIGHT, RIGHT)
    kinds = [kind for _, _, kind in Request.members()]
    evidence = encode(kinds, list(job.request.values()))
    jobs, arbiter, who = world.jobs.address, world.arbiter, STRANGER.address
    for name, provider, guilty in (("guilty", ONE, True), ("not guilty", TWO, False)):
        arbiter.dispute(jobs, job.id, provider.address, evidence, sender=who)
        meter(
            f"resolve, {name} (toy arbiter)",
            lambda p=provider, g=guilty: arbiter.decide(jobs, job.id, p.address, g, who, sender=who),  # type: ignore[misc]
        )
    meter(
        "freeze (toy arbiter)",
        lambda: arbiter.dispute(jobs, job.id, THREE.address, evidence, sender=who),
    )
    world.warp(DISPUTE_WINDOW + 1)
    meter("releaseBond", lambda: world.jobs.releaseBond(job.id, TWO.address, sender=who))


def _draws(meter: _Meter) -> None:
    """Five drawable providers with the highest weight, three of them drawn."""
    world = meter.world
    publish(world)
    registry, who = world.registry, ONE.address
    registry.setProvider("http://x", bytes(32), sender=who)
    meter("setOffer, drawable", lambda: registry.setOffer(DRAWN_MODEL_ID, offer(world), sender=who))
    meter("setOffer, drawable, again", lambda: registry.setOffer(DRAWN_MODEL_ID, offer(world), sender=who))
    for provider in REPLICAS[1:5]:
        registry.setProvider("http://x", bytes(32), sender=provider.address)
        registry.setOffer(DRAWN_MODEL_ID, offer(world), sender=provider.address)
    drawn, lapsed = [], []
    meter("post, to be drawn", lambda: drawn.append(post_drawn(world)))
    meter("draw", lambda: world.jobs.draw(drawn[0].id, sender=CLIENT.address))
    lapsed.append(post_drawn(world))
    world.warp(COMMIT_WINDOW + 1)
    meter("settle, nobody drawn", lambda: world.settle(lapsed[0]))


def _demands(meter: _Meter) -> None:
    """Of outputs of 64 tokens."""
    world, ids = meter.world, list(range(64))
    output = Output(tokens_root(ids), len(ids), 1)
    job = world.post(asked=request(max_output_tokens=64))
    answers = [(provider, output) for provider in (ONE, TWO, THREE)]
    world.commit(job, *answers)
    world.reveal(job, *answers)
    world.settle(job)
    jobs, who = world.jobs, CLIENT.address
    meter("demandReveal", lambda: jobs.demandReveal(job.id, ONE.address, b"", sender=who))
    jobs.demandReveal(job.id, TWO.address, b"", sender=who)
    meter("publishOutput, 64 tokens", lambda: jobs.publishOutput(job.id, pack_tokens(ids), sender=ONE.address))
    world.warp(DEMAND_WINDOW + 1)
    meter("slashWithheld", lambda: jobs.slashWithheld(job.id, TWO.address, sender=who))


def _seeds(meter: _Meter) -> None:
    """Of jobs that the chain seeds: what they cost beside `post` and `commit`."""
    world, asked = meter.world, request(sampler=2, temperature_q16=65_536, top_p_q16=65_536)
    posted: list[PostedJob] = []
    meter("post, seeded by the chain", lambda: posted.append(world.post(asked=asked)))
    meter("commit 1, seeded by the chain", lambda: world.commit(posted[0], (ONE, RIGHT)))
    meter("commit 2, seeded by the chain", lambda: world.commit(posted[0], (TWO, RIGHT)))
    waiting = world.post(asked=asked)
    meter("fixSeed", lambda: world.jobs.fixSeed(waiting.id, sender=STRANGER.address))
