"""Registry.draw: who is drawn, how often, and that nobody changes it once the hash is known."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import pytest

from market.hashing import keccak256
from market.types import ZERO_ADDRESS
from tests.unit.contracts.draws import (
    LEAST_STAKE,
    LIST_REST,
    MODEL_ID,
    WEIGHTS,
    enlist,
    mine,
    number,
    offer,
    pick,
    publish,
    set_stake,
    tries,
)
from tests.unit.contracts.world import (
    CLIENT,
    INPUT,
    MAX_OUTPUT,
    REPLICAS,
    STAKE,
    STAKE_CAP,
    STRANGER,
    World,
    answer,
)

DRAWS = 10_000
SIX = REPLICAS[:6]
STAKES = (LEAST_STAKE, STAKE_CAP // 8, STAKE_CAP // 4, STAKE_CAP // 2, STAKE_CAP, STAKE_CAP + 1)
P, Q = REPLICAS[0].address, REPLICAS[1].address
# Upper 0.001 points of chi-square by degrees of freedom (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4).
CRITICAL = {5: 20.515, 19: 43.820}


@pytest.fixture(autouse=True)
def published(world: World) -> None:
    publish(world)
    mine(world, 1_000)


def wanted(world: World, seed: bytes, count: int = 1, **changes: Any) -> tuple[Any, ...]:
    """A draw from the list as it stands, on the terms of `offer`."""
    values = {
        "modelId": MODEL_ID,
        "seed": seed,
        "count": count,
        "length": world.registry.drawableLength(MODEL_ID),
        "drawBlock": number(world) - 1,
        "client": CLIENT.address,
        "mode": 1,
        "token": world.token.address,
        "baseFee": 1_000,
        "pricePerMInput": 500_000,
        "pricePerMOutput": 2_000_001,
        "bond": 10_000,
        "inputTokens": len(INPUT),
        "maxOutputTokens": MAX_OUTPUT,
    }
    assert values.keys() >= changes.keys()
    return tuple((values | changes).values())


def draw(world: World, seed: bytes, count: int = 1, **changes: Any) -> list[str]:
    drawn: list[str] = world.registry.draw(wanted(world, seed, count, **changes))
    return drawn


def add_stake(world: World, amount: int) -> None:
    """To the first provider's."""
    world.vault.deposit(world.token.address, P, amount, sender=P)
    world.vault.stake(amount, sender=P)


def seeds(count: int = 20) -> list[bytes]:
    return [keccak256(f"seed {i}".encode()) for i in range(count)]


def chi_square(seen: Counter[Any], chances: dict[Any, float]) -> float:
    total = sum(seen.values())
    assert set(seen) <= set(chances)
    return sum((seen[key] - total * chance) ** 2 / (total * chance) for key, chance in chances.items())


def test_ten_thousand_draws_are_weighted_by_stake(world: World) -> None:
    """The first of three, and the set of three, against the exact chances: without replacement, by weight."""
    for provider, stake in zip(SIX, STAKES, strict=True):
        set_stake(world, provider, stake)
    enlist(world, *SIX)
    weights = dict(zip((p.address.lower() for p in SIX), (4_096, 8_192, 16_384, 32_768, WEIGHTS, WEIGHTS), strict=True))
    call = world.registry.encode("draw", wanted(world, bytes(32), 3))
    first: Counter[str] = Counter()
    sets: Counter[frozenset[str]] = Counter()
    for i in range(DRAWS):
        data = call[:36] + keccak256(b"chi-square" + i.to_bytes(4)) + call[68:]  # the seed is the second word
        answer = world.chain.run_call(STRANGER.address, world.registry.address, data, static=True)
        drawn = ["0x" + answer[j + 12 : j + 32].hex() for j in range(64, len(answer), 32)]
        assert len(drawn) == len(set(drawn)) == 3
        first[drawn[0]] += 1
        sets[frozenset(drawn)] += 1
    total = sum(weights.values())
    chances: dict[frozenset[str], float] = Counter()
    for a, b, c in permutations(weights, 3):
        after_one, after_two = total - weights[a], total - weights[a] - weights[b]
        chances[frozenset((a, b, c))] += weights[a] / total * weights[b] / after_one * weights[c] / after_two
    assert sum(chances.values()) == pytest.approx(1)
    assert chi_square(first, {p: w / total for p, w in weights.items()}) < CRITICAL[5]
    assert chi_square(sets, chances) < CRITICAL[19]


def test_draw_is_the_rule_of_the_protocol(world: World) -> None:
    for provider, stake in zip(SIX, STAKES, strict=True):
        set_stake(world, provider, stake)
    enlist(world, *SIX)
    weights = [world.registry.drawableAt(MODEL_ID, i)[2] for i in range(6)]
    for seed in seeds():
        assert draw(world, seed, 3) == [SIX[i].address for i in pick(seed, weights, 3)]


def test_draw_from_an_empty_list_finds_nobody(world: World) -> None:
    assert draw(world, seeds()[0]) == []


def test_draw_finds_no_more_than_there_are(world: World) -> None:
    enlist(world, *REPLICAS[:2])
    assert sorted(draw(world, seeds()[0], 3)) == sorted([P, Q])


def test_draw_never_gives_the_client_its_own_job(world: World) -> None:
    enlist(world, *REPLICAS[:2])
    for seed in seeds():
        assert draw(world, seed, 2, client=P) == [Q]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("baseFee", -1),
        ("pricePerMInput", -1),
        ("pricePerMOutput", -1),
        ("inputTokens", 1),
        ("maxOutputTokens", 1),
        ("mode", 1),
        ("bond", 40_001),
    ],
)
def test_draw_takes_terms_at_the_offers_edge_and_none_beyond_it(world: World, field: str, change: int) -> None:
    enlist(world, *REPLICAS[:3])
    plain = {
        "baseFee": 1_000,
        "pricePerMInput": 500_000,
        "pricePerMOutput": 2_000_001,
        "inputTokens": len(INPUT),
        "maxOutputTokens": MAX_OUTPUT,
        "mode": 1,
        "bond": 10_000,
    }
    assert len(draw(world, seeds()[0], 3, **plain)) == 3
    assert draw(world, seeds()[0], 3, **{field: plain[field] + change}) == []


def test_draw_in_another_token_or_for_another_model_finds_nobody(world: World) -> None:
    enlist(world, *REPLICAS[:3])
    assert draw(world, seeds()[0], token=STRANGER.address) == []
    assert draw(world, seeds()[0], modelId=keccak256(b"other")) == []


def test_draw_takes_the_maximum_bond_where_the_stake_covers_it(world: World) -> None:
    set_stake(world, REPLICAS[0], LEAST_STAKE)
    enlist(world, REPLICAS[0], maxBond=10**9)
    assert any(draw(world, seed, bond=LEAST_STAKE) == [P] for seed in seeds())
    assert not any(draw(world, seed, bond=LEAST_STAKE + 1) for seed in seeds())


@pytest.mark.parametrize("how", ["offer removed", "provider removed", "no bond"])
def test_draw_passes_stale_entries_by(world: World, how: str) -> None:
    enlist(world, *REPLICAS[:2])
    if how == "offer removed":
        world.registry.removeOffer(MODEL_ID, sender=P)
    if how == "provider removed":
        world.registry.removeProvider(sender=P)
    if how == "no bond":
        world.registry.setOffer(MODEL_ID, offer(world, maxBond=0), sender=P)
    mine(world)
    for seed in seeds():
        assert draw(world, seed, 2) == [Q]


def test_draw_counts_stake_that_left_at_once(world: World) -> None:
    """A recorded weight is worth what is still staked: tosses between the two are lost."""
    enlist(world, REPLICAS[0])
    set_stake(world, REPLICAS[0], STAKE_CAP // 2)
    for seed in seeds():
        wins = any(toss < WEIGHTS // 2 for _, toss in tries(seed, 1))
        assert draw(world, seed) == ([P] if wins else [])
    set_stake(world, REPLICAS[0], LEAST_STAKE - 1)
    assert not any(draw(world, seed) for seed in seeds())


# --- once the hash of the draw block is known


def test_nobody_enters_a_draw_after_its_block(world: World) -> None:
    enlist(world, *REPLICAS[:2])
    mine(world)
    armed, length = number(world) - 1, world.registry.drawableLength(MODEL_ID)
    before = [draw(world, seed, 2, drawBlock=armed, length=length) for seed in seeds()]
    enlist(world, *REPLICAS[2:5])
    assert [draw(world, seed, 2, drawBlock=armed, length=length) for seed in seeds()] == before
    # not even where the length is read after them: they stand there since a later block
    assert all(set(draw(world, seed, 3, drawBlock=armed, length=5)) <= {P, Q} for seed in seeds())


def test_nobody_gains_weight_in_a_draw_after_its_block(world: World) -> None:
    for provider in REPLICAS[:2]:
        set_stake(world, provider, LEAST_STAKE)
    enlist(world, *REPLICAS[:2])
    mine(world, LIST_REST)
    armed = number(world) - 1
    before = [draw(world, seed, 2, drawBlock=armed) for seed in seeds()]
    add_stake(world, STAKE_CAP)
    enlist(world, REPLICAS[0])
    assert world.registry.drawableAt(MODEL_ID, 0)[2] == WEIGHTS
    without = [[provider for provider in drawn if provider != P] for drawn in before]
    assert [draw(world, seed, 2, drawBlock=armed) for seed in seeds()] == without != before
    assert [draw(world, seed, 2) for seed in seeds()] != before


def test_stake_counts_in_draws_of_its_own_block_and_later_ones(world: World) -> None:
    """An entry of full weight whose stake has shrunk: filling it up takes it out of what was armed before."""
    enlist(world, REPLICAS[0])
    set_stake(world, REPLICAS[0], LEAST_STAKE)
    mine(world)
    add_stake(world, STAKE_CAP)
    added = number(world)
    mine(world)
    assert not any(draw(world, seed, drawBlock=added - 1) for seed in seeds())
    assert all(draw(world, seed, drawBlock=added) == [P] for seed in seeds())


def test_stake_locked_in_bonds_counts_and_locks_no_second_bond(world: World) -> None:
    enlist(world, REPLICAS[0])
    bond = STAKE - 10_000
    job = world.post(1, quorum=1, mode=0, terms={"bond": bond, "mode": 0})
    world.commit(job, (REPLICAS[0], answer()))
    assert world.vault.stakeOf(P)[:2] == (10_000, bond)
    assert all(draw(world, seed, bond=10_000) == [P] for seed in seeds())
    assert not any(draw(world, seed, bond=10_001) for seed in seeds())


def test_whoever_leaves_after_the_draw_block_takes_only_itself_out(world: World) -> None:
    """Pruning moves the last entry; the draw still finds it where it stood."""
    enlist(world, *REPLICAS[:4])
    mine(world, LIST_REST)
    armed = number(world) - 1
    before = [draw(world, seed, 4, drawBlock=armed, length=4) for seed in seeds()]
    world.registry.removeOffer(MODEL_ID, sender=P)
    without = [draw(world, seed, 4, drawBlock=armed, length=4) for seed in seeds()]
    assert without == [[provider for provider in drawn if provider != P] for drawn in before]
    world.registry.prune(MODEL_ID, P, sender=STRANGER.address)
    assert [draw(world, seed, 4, drawBlock=armed, length=4) for seed in seeds()] == without
    mine(world)
    assert {p for seed in seeds() for p in draw(world, seed, 3)} == {p.address for p in REPLICAS[1:4]}


def test_draw_armed_in_the_block_of_a_change_sees_the_list_as_that_block_left_it(world: World) -> None:
    enlist(world, *REPLICAS[:3])
    mine(world, LIST_REST)
    world.registry.removeOffer(MODEL_ID, sender=P)
    armed, length = number(world), world.registry.drawableLength(MODEL_ID)
    world.registry.prune(MODEL_ID, P, sender=STRANGER.address)
    mine(world)
    rest = {p.address for p in REPLICAS[1:3]}
    assert all(set(draw(world, seed, 2, drawBlock=armed, length=length)) == rest for seed in seeds())
    assert all(set(draw(world, seed, 2, drawBlock=armed, length=length - 1)) == rest for seed in seeds())
    assert world.registry.drawableAt(MODEL_ID, 2)[0] == ZERO_ADDRESS
