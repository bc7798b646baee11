"""The game beside its model: a provider that keeps, breaks or fakes its part, and everybody else making moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from eth_account.signers.local import LocalAccount
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from market.hashing import ZERO32
from market.settlement import BURNT_ADDRESS
from tests.stateful.dispute_model import ROOT, DisputeModel, ModelDispute, NodeKey, Rules, State
from tests.stateful.dispute_stage import LIARS, OTHERS, WRONG_ELEMENT, JudgedStage, ToyStage
from tests.stateful.ledger import Refused
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.disputes import (
    BOND,
    CHARGED,
    PROVIDER,
    REQUEST_FEE,
    ROOT_FEE,
    SHARE_BPS,
    WINDOW,
    DisputeWorld,
    Game,
)
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CLIENT, DAY, GUARDIAN, REPLICAS, STRANGER

ACTORS = (STRANGER, CLIENT, REPLICAS[3], PROVIDER)
WATCHER = REPLICAS[4]
Stage = ToyStage | JudgedStage
actors = st.sampled_from(ACTORS)
BEHAVIOURS = ("honest", "silent", *WRONG_ELEMENT, *OTHERS)
numbers = st.sampled_from((0, 0, 0, 1, 2))
depths = st.integers(0, 63)
sideways = st.sampled_from((0, 0, 0, 1, 2))


class DisputeTable(RuleBasedStateMachine):
    """Two receipts of one session, and an answer of a subject that means harm. `outcomes` counts over all examples."""

    stage: Stage
    world: DisputeWorld
    behaviours: Sequence[str]  # of the provider: one of them an example
    outcomes: Counter[str]

    @initialize(pick=st.integers(0, 10**6), scene=st.integers(0, 10**6))
    def begin(self, pick: int, scene: int) -> None:
        chain = self.world.chain
        assert isinstance(chain, RevmChain)
        self._undo = ExitStack()
        self._undo.enter_context(chain.undone())
        self.behaviour = behaviour = self.behaviours[pick % len(self.behaviours)]
        self.watched = pick // len(self.behaviours) % 2 == 0
        self.ignored: set[tuple[int, NodeKey]] = set()
        self.signed_twice = {0} if behaviour == "equivocator" else set()
        self.scene = self.stage.scene(scene % self.stage.scenes, behaviour)
        self.evaded: NodeKey | None = None
        if behaviour == "evader":
            way = self.scene.way
            self.evaded = self.scene.on_the_way(way[scene // self.stage.scenes % len(way)])
        subject = self.world.deploy("HostileSubject")
        self.games: list[Game] = [self.stage.game(self.scene), self.stage.game(self.scene, index=1)]
        self.games.append(self.stage.made_up(self.scene, subject))
        end = chain.now + DAY
        self.games[0].session()
        frozen = (
            self.stage.model.model_id,
            self.games[2].request.request_hash,
            self.games[2].output.output_hash,
            0,
            end,
            ZERO32,
        )
        subject.set(frozen, True, False)
        for game in self.games:
            self.stage.ready(game, self.scene, behaviour)
        who = CLIENT.address, PROVIDER.address
        rules = Rules(WINDOW, ROOT_FEE, REQUEST_FEE, self.stage.rounds, BOND, CHARGED, SHARE_BPS, *who)
        self.model = DisputeModel(rules, chain.now, end)
        self.model.disputes = [ModelDispute(end), ModelDispute(end), ModelDispute(end, takes_verdicts=False)]
        self.credit = {who: self.world.credit(who) for who in (*ACTORS, WATCHER)}
        self.wallet = {who: self._balance(who) for who in (*ACTORS, WATCHER)}
        self.burnt = self.world.burnt()

    def _balance(self, who: LocalAccount) -> int:
        return int(self.world.token.balanceOf(who.address))

    # --- both sides

    def _both(self, expect: Callable[[], None], act: Callable[[], Any]) -> str | None:
        """Runs the model, then the chain; both refuse with the same error or neither. Returns its name."""
        refused: str | None = None
        try:
            expect()
        except Refused as error:
            refused = error.name
        reverted: str | None = None
        try:
            act()
        except Revert as error:
            reverted = error.name
        assert reverted == refused
        self.outcomes[f"{act.__name__ if refused is None else refused}"] += 1
        return refused

    def _warp(self, seconds: int) -> None:
        """On the way every reply that the provider means to give is given in its last second."""
        until = self.model.now + seconds
        while due := self._due(until):
            deadline, number, key = due[0]
            self._set(max(deadline, self.model.now))
            assert self._answer(number, PROVIDER, key) is None
        self._set(until)

    def _due(self, until: int) -> list[tuple[int, int, NodeKey]]:
        return sorted(
            (dispute.nodes[key].deadline, number, key)
            for number, dispute in enumerate(self.model.disputes)
            if dispute.state is State.OPEN
            for key in dispute.pending
            if (number, key) not in self.ignored and dispute.nodes[key].deadline < until
        )

    def _set(self, timestamp: int) -> None:
        self.world.chain.now = self.model.now = timestamp

    def _answer(self, number: int, who: LocalAccount, key: NodeKey, *, right: bool = True) -> str | None:
        game = self.games[number]

        def answered() -> None:
            if key == ROOT:
                game.answer_root(who)
            elif right:
                game.answer(*key, who)
            elif game.is_leaf(*key):
                payload = game.payload(*key)
                wrong = bytes([payload[0] ^ 1]) + payload[1:]
                self.world.disputes.answerPayload(game.id, *key, wrong, sender=who.address)
            else:
                count = len(game.tree.hashes(*key))
                self.world.disputes.answerHashes(game.id, *key, [ZERO32] * count, sender=who.address)

        padded = key == self.scene.padded
        return self._both(lambda: self.model.answer(number, who.address, key, right=right, padded=padded), answered)

    def _request(self, number: int, who: LocalAccount, key: NodeKey, up: int) -> str | None:
        game = self.games[number]

        def requested() -> None:
            game.ask(*key, who, up)

        outside, nowhere = self.stage.is_outside(key), self.stage.is_nowhere(key)
        refused = self._both(lambda: self.model.request(number, who.address, key, up, outside, nowhere), requested)
        if refused is None and key == self.scene.padded:
            assert self._answer(number, PROVIDER, key) == "BadPadding"  # no reply to it is taken
            self.ignored.add((number, key))
        if refused is None and key == self.evaded:
            self.ignored.add((number, key))
        return refused

    def _prove(self, number: int, who: LocalAccount, leaf: NodeKey) -> str | None:
        game = self.games[number]
        wrong = self.behaviour in WRONG_ELEMENT and leaf == self.scene.leaf

        def proved() -> None:
            game.prove_leaf(leaf, who.address)

        return self._both(lambda: self.model.prove(number, who.address, leaf, wrong=wrong), proved)

    def _missed(self, number: int, who: LocalAccount, key: NodeKey) -> str | None:
        game = self.games[number]

        def missed() -> None:
            game.missed(*key, who)

        return self._both(lambda: self.model.missed(number, who.address, key), missed)

    # --- everybody's moves

    @rule(number=numbers, who=actors)
    def open(self, number: int, who: LocalAccount) -> None:
        game = self.games[number]

        def opened() -> None:
            game.open(who)

        overruns = self.behaviour == "overrun"
        self._both(lambda: self.model.open(number, who.address, overruns=overruns), opened)

    @rule(number=numbers, who=actors, ignore=st.booleans())
    def give_root(self, number: int, who: LocalAccount, ignore: bool) -> None:
        if ignore and self.behaviour == "silent" and ROOT in self.model.disputes[number].pending:
            self.ignored.add((number, ROOT))
        elif (number, ROOT) not in self.ignored:
            self._answer(number, who, ROOT)

    @rule(number=numbers, who=actors, pick=depths, side=sideways, jump=st.integers(0, 6), ignore=st.booleans())
    def request(self, number: int, who: LocalAccount, pick: int, side: int, jump: int, ignore: bool) -> None:
        chances = (*self.scene.way, *self.scene.way, *range(1, self.scene.leaf[0]))
        depth, index = self.scene.on_the_way(chances[pick % len(chances)])
        index ^= side if depth > 2 else side & 1
        nodes = self.model.disputes[number].nodes
        ways = [up for up in range(1, depth + 1) if (n := nodes.get((depth - up, index >> up))) and n.answered]
        up = ways[0] if ways and jump else min(depth, jump + 1)
        if self._request(number, who, (depth, index), up) is None and ignore and self.behaviour == "silent":
            self.ignored.add((number, (depth, index)))

    request_again = request

    @rule(number=numbers, who=actors, right=st.booleans())
    def advance(self, number: int, who: LocalAccount, right: bool) -> None:
        """The next move on the way down, whoever's turn it is."""
        dispute = self.model.disputes[number]
        pending = [key for key in dispute.pending if (number, key) not in self.ignored]
        way = self.scene.way
        following = [key for depth in way if (key := self.scene.on_the_way(depth)) not in dispute.nodes]
        if dispute.state is State.NONE:
            self.open(number, who)
        elif pending:
            self._answer(number, PROVIDER, pending[-1], right=right or pending[-1] == ROOT)
        elif following:
            depth = following[0][0]
            self._request(number, who, following[0], depth - max((0, *(d for d in way if d < depth))))

    advance_again = advance_more = advance

    @rule(number=numbers, who=actors, pick=st.integers(0, 63), right=st.booleans())
    def answer(self, number: int, who: LocalAccount, pick: int, right: bool) -> None:
        dispute = self.model.disputes[number]
        pending = [key for key in dispute.pending if key != ROOT] if pick % 4 else []
        keys = pending or [key for key in dispute.nodes if key != ROOT] or [(2, 0)]
        key = keys[pick % len(keys)]
        if (number, key) not in self.ignored or key == self.scene.padded:
            self._answer(number, who, key, right=right)

    @rule(number=numbers, who=actors, pick=st.integers(0, 2))
    def prove(self, number: int, who: LocalAccount, pick: int) -> None:
        leaf = (self.scene.leaf, *self.scene.right)[pick]
        if (
            self.behaviour not in LIARS
            or leaf != self.scene.leaf
            or number == 2
            or self.model.disputes[number].state is not State.OPEN
        ):
            self._prove(number, who, leaf)

    @rule(number=numbers, who=actors, pick=st.integers(0, 63))
    def miss(self, number: int, who: LocalAccount, pick: int) -> None:
        keys = [*self.model.disputes[number].nodes, (12, 5)]
        self._missed(number, who, keys[pick % len(keys)])

    @rule(number=numbers, who=actors)
    def close(self, number: int, who: LocalAccount) -> None:
        game = self.games[number]

        def closed() -> None:
            game.close(who)

        self._both(lambda: self.model.close(number), closed)

    @rule(number=numbers, who=actors)
    def expire(self, number: int, who: LocalAccount) -> None:
        game = self.games[number]

        def expired() -> None:
            self.world.disputes.expire(game.id, sender=who.address)

        self._both(lambda: self.model.expire(number), expired)

    @rule(number=numbers, who=actors, payer=actors)
    def refund(self, number: int, who: LocalAccount, payer: LocalAccount) -> None:
        self._refund(number, who, payer)

    def _refund(self, number: int, who: LocalAccount, payer: LocalAccount) -> None:
        game = self.games[number]

        def refunded() -> None:
            self.world.disputes.refund(game.id, payer.address, sender=who.address)

        self._both(lambda: self.model.refund(number, payer.address), refunded)

    @precondition(lambda self: not self.model.deprecated)
    @rule(chance=st.integers(0, 9))
    def deprecate(self, chance: int) -> None:
        if chance == 0:
            self.world.vault.deprecate(sender=GUARDIAN.address)
            self.model.deprecated = True

    # --- what holds after each

    @invariant()
    def money_is_where_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        for who, before in self.credit.items():
            assert self.world.credit(who) - before == self.model.credit[who.address]
            assert self.wallet[who] - self._balance(who) == self.model.wallet[who.address]
        assert self.world.credit(BURNT_ADDRESS) - self.burnt == self.model.burnt
        assert self.world.held_by(self.world.receipts) == self.model.bond
        held = sum(dispute.held for dispute in self.model.disputes)
        assert self.world.held_by(self.world.disputes) == held

    @invariant()
    def disputes_are_what_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        for game, dispute in zip(self.games, self.model.disputes, strict=True):
            view = game.view
            assert (view["state"], view["endAt"]) == (dispute.state, dispute.end_at)
            assert (view["unanswered"], view["prepaid"]) == (len(dispute.pending), dispute.held)

    @invariant()
    def honest_provider_is_never_guilty(self) -> None:
        if hasattr(self, "model") and self.behaviour == "honest":
            assert all(dispute.state is not State.GUILTY for dispute in self.model.disputes)
            assert self.model.bond == BOND
