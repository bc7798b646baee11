"""Money of real jobs whose arbiter is the game: whatever becomes of each replica's answer, the vault's balance covers
what it owes after every transaction, and at the end everybody has what docs/protocol.md and docs/disputes.md say, to
the unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from eth_account.signers.local import LocalAccount
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from market.hashing import pack_tokens
from market.settlement import BURNT_ADDRESS, BondState, slash
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.demands import money
from tests.unit.contracts.disputes import (
    ANSWER,
    LEAF_BITS,
    MODEL,
    OPENER,
    REQUEST_FEE,
    ROOT_FEE,
    WINDOW,
    DisputeWorld,
    JobGame,
    Tree,
    honest,
    request,
)
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CLIENT, DAY, DISPUTE_DEADLINE, REPLICAS, SHARE_BPS, STRANGER, PostedJob

MINORITY = [11, 2]
WAY = (2, 7, 12, LEAF_BITS)
LEAVES = (1_234, 3_000, 5_001)  # of each replica, should it lie
LIES = {index: Tree(lie=leaf) for index, leaf in enumerate(LEAVES)}
PEOPLE = (CLIENT, STRANGER, REPLICAS[0], REPLICAS[3])
PARTIES = (CLIENT, STRANGER, *REPLICAS, OPENER)
people = st.sampled_from(PEOPLE)


@dataclass(frozen=True)
class Part:
    """What becomes of a replica's answer.

    Attributes:
        fate: "undisputed", "proved" or "missed" (guilty), "cleared", or "expired": nobody asks for a verdict.
        asked: requests before that.
        demanded: the client has the answer published.
    """

    fate: str
    lies: bool
    demanded: bool
    opener: LocalAccount
    asker: LocalAccount
    prover: LocalAccount
    asked: int


parts = st.builds(
    Part,
    fate=st.sampled_from(("proved", "missed", "cleared", "expired", "undisputed")),
    lies=st.booleans(),
    demanded=st.booleans(),
    opener=people,
    asker=people,
    prover=people,
    asked=st.integers(0, len(WAY)),
)


@dataclass
class ReplicaGame(JobGame):
    """About any replica of a job."""

    provider: LocalAccount = REPLICAS[0]

    @property
    def triple(self) -> tuple[str, bytes, str]:
        return self.world.jobs.address, self.job_id, self.provider.address


class Play:
    """A settled job of three, whose last replica disagreed; `expected` is what everybody gains from then on."""

    def __init__(self, world: DisputeWorld, plan: list[Part]) -> None:
        self.world, self.plan = world, plan
        asked = request()
        job = self.job = world.post(3, asked=asked, terms={"model_id": MODEL.model_id, "bond": 50_000})
        assert isinstance(job, PostedJob)
        self.games = [
            ReplicaGame(
                world,
                request=asked,
                job_id=job.id,
                ids=list(ANSWER if index < 2 else MINORITY),
                tree=LIES[index] if self._lies(part) else honest(),
                provider=REPLICAS[index],
            )
            for index, part in enumerate(plan)
        ]
        answers = [(game.provider, game.output) for game in self.games]
        world.commit(job, *answers)
        world.reveal(job, *answers)
        world.settle(job)
        for part, leaf in zip(plan, LEAVES, strict=True):
            if self._lies(part):
                self.games[0].mark_wrong(leaf)
        self.before = self._money()
        self.expected: Counter[str] = Counter()
        self.owed_to_buyers: dict[int, int] = {}  # a minority's price, until its bond leaves

    @staticmethod
    def _lies(part: Part) -> bool:
        """Only of a liar is anything proved."""
        return part.lies or part.fate == "proved"

    def _money(self) -> dict[str, int]:
        return money(self.world, *(who.address for who in PARTIES)) | {BURNT_ADDRESS: self.world.burnt()}

    def gains(self) -> dict[str, int]:
        now = self._money()
        return {who: now[who] - had for who, had in self.before.items() if now[who] != had}

    def run(self) -> Iterator[None]:
        for index in range(len(self.plan)):
            if self.plan[index].demanded:
                yield from self._demand(index)
        for index, part in enumerate(self.plan):
            if part.fate != "undisputed":
                yield from self._dispute(index)
        for index, part in enumerate(self.plan):
            if part.fate == "cleared":
                yield from self._clear(index)
        yield from self._expire()
        for index in range(len(self.plan)):
            if self._bond(index) is not BondState.SLASHED:
                yield from self._release(index)

    def _bond(self, index: int) -> BondState:
        return BondState(self.world.replica(self.job, index)["bondState"])

    def _demand(self, index: int) -> Iterator[None]:
        world, game = self.world, self.games[index]
        fee, price = world.cost_of_demand(self.job, game.provider.address)
        assert (price > 0) == (index == 2)
        world.jobs.demandReveal(self.job.id, game.provider.address, b"", sender=CLIENT.address)
        self.expected[CLIENT.address] -= fee + price
        self.owed_to_buyers[index] = price
        yield
        world.jobs.publishOutput(self.job.id, pack_tokens(game.ids), sender=game.provider.address)
        self.expected[game.provider.address] += fee
        yield

    def _dispute(self, index: int) -> Iterator[None]:
        game, part, leaf = self.games[index], self.plan[index], LEAVES[index]
        game.open(part.opener)
        self.expected[part.opener.address] -= ROOT_FEE
        yield
        game.answer_root(game.provider)
        for depth in WAY[: part.asked]:
            game.ask(depth, leaf >> (LEAF_BITS - depth), part.asker)
            self.expected[part.asker.address] -= REQUEST_FEE
            yield
            game.answer(depth, leaf >> (LEAF_BITS - depth), game.provider)
            yield
        if part.fate == "missed":
            game.ask(3, 1, part.asker, up=3)
            self.expected[part.asker.address] -= REQUEST_FEE
            yield
            self.world.warp(WINDOW + 1)
            game.missed(3, 1, part.prover)
            yield from self._convicted(index, part.asker, REQUEST_FEE)
        elif part.fate == "proved":
            game.prove(leaf, part.prover)
            got_leaf = part.asked == len(WAY)
            yield from self._convicted(index, part.asker if got_leaf else part.opener, 0)
        elif not part.lies:
            with reverts("NothingWrong", disputeId=game.id):
                game.prove(leaf, part.prover)

    def _convicted(self, index: int, requester: LocalAccount, more: int) -> Iterator[None]:
        """The bond pays back, rewards and burns; prepayments and the price of what was bought go back."""
        game, part = self.games[index], self.plan[index]
        replica = self.world.replica(self.job, index)
        assert self._bond(index) is BondState.SLASHED
        division = slash(replica["bond"], replica["paid"], SHARE_BPS)
        assert (division.refunded > 0) == (index < 2)
        self.expected[CLIENT.address] += division.refunded + self.owed_to_buyers.pop(index, 0)
        self.expected[requester.address] += division.reward // 2
        self.expected[part.prover.address] += division.reward - division.reward // 2
        self.expected[BURNT_ADDRESS] += division.burnt
        yield
        yield from self._refund(game, part, more)

    def _refund(self, game: ReplicaGame, part: Part, more: int) -> Iterator[None]:
        prepaid = Counter({part.opener.address: ROOT_FEE})
        prepaid[part.asker.address] += part.asked * REQUEST_FEE + more
        assert game.view["prepaid"] == prepaid.total()
        for payer, amount in prepaid.items():
            if amount:
                self.world.disputes.refund(game.id, payer, sender=STRANGER.address)
                self.expected[payer] += amount
                yield

    def _clear(self, index: int) -> Iterator[None]:
        game, part = self.games[index], self.plan[index]
        prepaid = ROOT_FEE + part.asked * REQUEST_FEE
        self.world.chain.now = max(self.world.chain.now, game.view["endAt"] + 1)
        game.close(part.prover)
        assert self._bond(index) is BondState.LOCKED
        self.expected[game.provider.address] += prepaid * 9 // 10
        self.expected[BURNT_ADDRESS] += prepaid - prepaid * 9 // 10
        yield

    def _expire(self) -> Iterator[None]:
        """Nobody asked for a verdict in time: neither side gains, and nothing is held for ever."""
        self.world.warp(2 * DAY + DISPUTE_DEADLINE + 7 * DAY)
        for index, part in enumerate(self.plan):
            if part.fate == "expired":
                assert self._bond(index) is BondState.DISPUTED
                self.world.disputes.expire(self.games[index].id, sender=STRANGER.address)
                yield
                yield from self._refund(self.games[index], part, 0)

    def _release(self, index: int) -> Iterator[None]:
        game = self.games[index]
        bond = self.world.replica(self.job, index)["bond"]
        self.world.jobs.releaseBond(self.job.id, game.provider.address, sender=STRANGER.address)
        assert self._bond(index) is BondState.RELEASED
        self.expected[game.provider.address] += bond + self.owed_to_buyers.pop(index, 0)
        yield


@pytest.fixture(scope="module")
def world() -> DisputeWorld:
    return DisputeWorld()


def owed(world: DisputeWorld) -> int:
    """Σ held by modules + Σ stake + Σ exits + Σ credits."""
    addresses = {*(who.address for who in PARTIES), BURNT_ADDRESS}
    rights = sum(world.credit(a) + world.vault.staked(a) + world.vault.exits(a)[0] for a in addresses)
    return int(rights + sum(world.held_by(module) for module in (world.jobs, world.disputes, world.receipts)))


def check(world: DisputeWorld, plan: list[Part]) -> None:
    assert isinstance(world.chain, RevmChain)
    with world.chain.undone():
        play = Play(world, plan)
        for _ in play.run():
            balance = world.token.balanceOf(world.vault.address)
            assert balance == world.vault.total(world.token.address) == owed(world)
        assert play.gains() == {who: amount for who, amount in play.expected.items() if amount}
        assert not play.owed_to_buyers
        assert world.held_by(world.jobs) == world.held_by(world.disputes) == 0


@given(plan=st.lists(parts, min_size=3, max_size=3))
@settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_money_of_jobs_whose_arbiter_is_the_game(world: DisputeWorld, plan: list[Part]) -> None:
    for part in plan:
        event(part.fate)
    check(world, plan)


@pytest.mark.parametrize("demanded", [False, True])
@pytest.mark.parametrize("fate", ["proved", "missed", "cleared", "expired", "undisputed"])
def test_money_of_every_fate(world: DisputeWorld, fate: str, demanded: bool) -> None:
    """Of a replica that was paid, and of the one that disagreed."""
    part = Part(fate, False, demanded, CLIENT, STRANGER, REPLICAS[3], len(WAY))
    check(world, [part] * 3)
