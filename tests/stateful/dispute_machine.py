"""The game of a dispute: everybody's moves (`dispute_table.py`), what convicts at once, what no contract may take, and
the end, where somebody watches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from eth_account.signers.local import LocalAccount
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, get_state_machine_test, precondition, rule

from market.hashing import ZERO32, keccak256, tokens_root
from market.types import Output
from tests.stateful.dispute_model import EXPIRY_WINDOW, ROOT, NodeKey, State
from tests.stateful.dispute_stage import WRONG_ELEMENT, Rivalry
from tests.stateful.dispute_table import ACTORS, BEHAVIOURS, WATCHER, DisputeTable, Stage, actors, numbers
from tests.stateful.ledger import Refused
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.disputes import PROVIDER, WINDOW
from tests.unit.contracts.world import DAY, REPLICAS

OTHER_OUTPUT = Output(tokens_root([11, 2]), 2, 1)
LARGEST = 2**32 - 1
RIGHT_ELEMENTS = ("honest", "silent", "equivocator")
"""Whose every element, padding and id holds, so that no accusation of any may."""
REFUSALS = {
    *("NothingWrong", "OutsideProgram", "ElementOutside", "InputsMiscounted", "PayloadMisfit", "PaddingNotZero"),
    *("PathMisfit", "OpeningMismatch", "HeaderMismatch", "IdMismatch"),
}
"""What the judge may say to a twisted accusation. Anything else, a panic above all, fails the run."""
delays = st.sampled_from((1, 60, WINDOW // 2, WINDOW, WINDOW + 1, 5 * WINDOW, DAY // 2, DAY, 2 * DAY))
SECOND, FORGED = "another output", "another signer"
CONTRADICTIONS = (SECOND, SECOND, FORGED, "the same output", "another index", "another request")


class DisputeMachine(DisputeTable):
    """Two receipts of one session, and an answer of a subject that means harm. `outcomes` counts over all examples."""

    def _lively(self, number: int, pick: int) -> int:
        """Where something is going on, if anywhere; now and then where nothing is."""
        lively = [n for n, dispute in enumerate(self.model.disputes) if dispute.state is State.OPEN]
        return lively[pick % len(lively)] if lively and pick % 8 and number not in lively else number

    # --- what convicts at once

    @rule(number=numbers, who=actors, form=st.sampled_from(CONTRADICTIONS))
    def contradict(self, number: int, who: LocalAccount, form: str) -> None:
        if form == SECOND and number not in self.signed_twice:
            form = "another index"  # the equivocator's receipt, or one of an honest provider's other answers
        self._contradict(number, who, form)

    def _contradict(self, number: int, who: LocalAccount, form: str) -> str | None:
        game = self.games[number]
        changes: dict[str, Any] = {}
        if form == "another index":
            changes = {"index": game.index ^ 1}
        elif form == "another request":
            changes = {"request_hash": keccak256(b"another request")}
        output = game.output if form == "the same output" else OTHER_OUTPUT
        receipt = game.receipt_for(output, **changes)
        contradiction = game.signed(receipt, REPLICAS[1] if form == FORGED else PROVIDER)

        def contradicted() -> None:
            arguments = (*game.triple, game.evidence, contradiction)
            self.world.disputes.contradict(*arguments, sender=who.address)

        signed, second = form != FORGED, form == SECOND
        return self._both(
            lambda: self.model.contradict(number, who.address, signed=signed, second=second), contradicted
        )

    @rule(number=numbers, who=actors, pick=st.integers(0, 63))
    def prove_outside(self, number: int, who: LocalAccount, pick: int) -> None:
        """From any answered node above it; or from where nobody answered."""
        number = self._lively(number, pick)
        key = self.scene.hidden or self.scene.outside[pick % len(self.scene.outside)]
        if pick % 3 == 0:
            key = self.scene.outside[pick % len(self.scene.outside)]
        nodes = self.model.disputes[number].nodes
        ways = [up for up in range(1, key[0] + 1) if (n := nodes.get((key[0] - up, key[1] >> up))) and n.answered]
        self._prove_outside(number, who, key, ways[pick % len(ways)] if ways and pick % 4 else 1 + pick % key[0])

    def _prove_outside(self, number: int, who: LocalAccount, key: NodeKey, up: int) -> str | None:
        game, hidden = self.games[number], key == self.scene.hidden

        def proved_outside() -> None:
            self.world.disputes.proveOutside(game.claim, game.node(*key, up), sender=who.address)

        return self._both(lambda: self.model.prove_outside(number, who.address, key, up, hidden=hidden), proved_outside)

    @precondition(lambda self: self.behaviour not in WRONG_ELEMENT)
    @rule(number=numbers, who=actors, pick=st.integers(0, 63))
    def prove_output(self, number: int, who: LocalAccount, pick: int) -> None:
        number = self._lively(number, pick)
        self._prove_output(number, who, self.stage.rivalry(self.games[number], self.behaviour, pick))

    def _prove_output(self, number: int, who: LocalAccount, rivalry: Rivalry) -> str | None:
        game = self.games[number]

        def proved_output() -> None:
            self.world.disputes.proveOutput(game.claim, rivalry.accusation, sender=who.address)

        return self._both(
            lambda: self.model.prove(number, who.address, rivalry.leaf, wrong=rivalry.wrong), proved_output
        )

    # --- what never does

    @precondition(lambda self: self.stage.twister is not None and self.behaviour in RIGHT_ELEMENTS)
    @rule(number=numbers, who=actors, start=st.integers(0, LARGEST))
    def prove_twisted(self, number: int, who: LocalAccount, start: int) -> None:
        number = self._lively(number, start)
        assert self.stage.twister is not None
        accusation = self.stage.twister.twisted(Random(start)).values()
        claim = self.games[number].claim
        self._refused(number, lambda: self.world.disputes.prove(claim, accusation, sender=who.address))

    prove_twisted_again = prove_twisted

    @precondition(lambda self: self.stage.twister is not None and self.behaviour in RIGHT_ELEMENTS)
    @rule(number=numbers, who=actors, pick=st.integers(0, 63), way=st.integers(0, 4))
    def prove_twisted_output(self, number: int, who: LocalAccount, pick: int, way: int) -> None:
        """Numbers that would wrap, an id that was not returned, and openings of each other's places."""
        number = self._lively(number, pick)
        game = self.games[number]
        position, output, rival, ids, own, other = self.stage.rivalry(game, self.behaviour, pick).accusation
        twisted = (
            (LARGEST, output, rival, ids, own, other),
            (position, output, LARGEST - rival, ids, own, other),
            (position, rival ^ 1, rival, ids, other, other),
            (position, output, rival, own, ids, other),
            (position, output, rival ^ 1, ids, other, own),
        )[way]
        self._refused(number, lambda: self.world.disputes.proveOutput(game.claim, twisted, sender=who.address))

    def _refused(self, number: int, act: Callable[[], Any]) -> None:
        """Before the judge is asked for a reason that the model knows, else by one of the judge's."""
        with pytest.raises(Revert) as caught:
            act()
        known: str | None = None
        try:
            self.model.provable(number)
        except Refused as error:
            known = error.name
        assert caught.value.name in ({known} if known else REFUSALS)
        self.outcomes[known or "twisted"] += 1

    @rule(number=numbers, who=actors, pick=st.integers(0, 63), proves=st.booleans())
    def forge(self, number: int, who: LocalAccount, pick: int, proves: bool) -> None:
        """A node's place or path is not its own: asked for, or said to be outside."""
        number = self._lively(number, pick)
        game, disputes = self.games[number], self.world.disputes
        depth = self.scene.way[0]
        _, _, own, path = game.node(depth, 0, depth)
        beside = game.node(depth, 1, depth)[2]
        top = self.model.disputes[number].nodes.get((1, 0))
        if pick % 5 == 3 and top is not None and top.answered:
            pick += 1  # a path that ends there is no forged one
        node, error = (
            ((depth, 1 << depth, own, path), "NoSuchPlace"),
            ((2**256 - depth, 0, own, path), "NoSuchPlace"),
            ((depth, 0, beside, path), "BadPath"),  # its neighbour's hash
            ((depth, 0, own, path[:-1]), "NotAnswered"),  # a path that ends below the root
            ((depth, 0, own, [*path, ZERO32]), "NotAnswered"),  # one that goes beyond it
        )[pick % 5]

        def forged() -> None:
            if proves:
                disputes.proveOutside(game.claim, node, sender=who.address)
            else:
                disputes.request(game.claim, node, b"", sender=who.address)

        if proves:
            self._both(lambda: self.model.prove_forged(number, error), forged)
        else:
            self._both(lambda: self.model.request_forged(number, (depth, node[1]), error), forged)

    @rule(number=numbers, who=actors, pick=st.integers(0, 63))
    def confuse(self, number: int, who: LocalAccount, pick: int) -> None:
        """A node's hashes for a leaf's payload, a payload for hashes, the root's without its provider."""
        number = self._lively(number, pick)
        game, disputes, dispute = self.games[number], self.world.disputes, self.model.disputes[number]
        keys = dispute.pending or [*dispute.nodes] or [ROOT]
        key = keys[pick % len(keys)]
        error = "BadReply" if key == ROOT and pick % 2 else "BadReplyLength"

        def confused() -> None:
            if game.is_leaf(*key):
                payload = game.payload(*key)
                words = [payload[i : i + 32] for i in range(0, len(payload), 32)]
                disputes.answerHashes(game.id, *key, words, sender=who.address)
            elif key == ROOT and pick % 2:
                disputes.answerHashes(game.id, *key, game.tree.hashes(*key), sender=who.address)
            else:
                payload = b"".join(game.tree.hashes(*key))
                disputes.answerPayload(game.id, *key, payload, sender=who.address)

        self._both(lambda: self.model.answer_confused(number, key, error), confused)

    # --- time

    @rule(seconds=delays, first=st.integers(0, 1))
    def wait(self, seconds: int, first: int) -> None:
        """Where somebody watches, nobody's time to dispute passes before the watcher has used it."""
        if self.watched and self.model.now <= self.model.session_end < self.model.now + seconds:
            self._watch(first)
        self._warp(seconds)

    def _watch(self, first: int) -> None:
        for number in (first, 1 - first):
            dispute = self.model.disputes[number]
            if dispute.state is State.NONE:
                self._begin(number)
            elif dispute.state is State.OPEN and self._breaks_its_part(number):
                self._decide(number)

    def _breaks_its_part(self, number: int) -> bool:
        if self.behaviour == "equivocator":
            return number in self.signed_twice
        if self.behaviour == "silent":
            return bool(self.model.disputes[number].pending)
        return self.behaviour != "honest"

    # --- the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "model"):
                self._finish()
        finally:
            if hasattr(self, "_undo"):
                self._undo.close()

    def _finish(self) -> None:
        """Somebody watches: whoever did not keep its part loses, whoever did is cleared, and all money leaves."""
        for number in (0, 1):
            if self.model.disputes[number].state is State.OPEN:
                self._decide(number)
            elif self.model.disputes[number].state is State.NONE:
                self._begin(number)
        self._count()
        if self.model.disputes[2].state is State.OPEN:
            self._warp(max(0, self.model.disputes[2].end_at + EXPIRY_WINDOW + 1 - self.model.now))
            self.expire(2, WATCHER)
        for number, dispute in enumerate(self.model.disputes):
            if dispute.state in (State.GUILTY, State.EXPIRED):
                for payer in (*ACTORS, WATCHER):
                    self._refund(number, WATCHER, payer)
            assert dispute.held == 0
        assert self.world.held_by(self.world.disputes) == 0
        self.money_is_where_the_model_says()

    def _count(self) -> None:
        """What was decided, and what was not: nobody came in time, or nothing was left of the bond for a second game.
        Of an answer that somebody watched no liar gets away.
        """
        states = [dispute.state for dispute in self.model.disputes[:2]]
        for number, state in enumerate(states):
            if state is State.GUILTY:
                self.outcomes[f"{self.behaviour} lost"] += 1
            elif not self._breaks_its_part(number):
                self.outcomes["cleared" if state is State.NOT_GUILTY else "undisputed"] += 1
            else:
                convicted = State.GUILTY in states
                assert convicted or not self.watched
                self.outcomes["nothing left of the bond" if convicted else "not challenged in time"] += 1

    def _begin(self, number: int) -> None:
        """What nobody disputed, in the subject's time."""
        if self.model.now > self.model.session_end or not self.model.bond:
            return
        if number in self.signed_twice:
            assert self._contradict(number, WATCHER, SECOND) is None
        elif self.behaviour not in ("honest", "equivocator"):
            self.open(number, WATCHER)
            if self.behaviour != "overrun":
                self._decide(number)
            assert self.model.disputes[number].state is State.GUILTY

    def _decide(self, number: int) -> None:
        dispute = self.model.disputes[number]
        if self.behaviour == "silent":
            self.ignored |= {(number, key) for key in dispute.pending}
        ignored = [key for key in dispute.pending if (number, key) in self.ignored]
        if number in self.signed_twice:
            assert self._contradict(number, WATCHER, SECOND) is None
        elif ignored:
            self._say_missed(number, ignored[0])
        elif self.behaviour in (*WRONG_ELEMENT, "decoy", "chooser") and self._in_time(number):
            self._find_what_is_wrong(number)
        else:
            self._warp(max(0, dispute.end_at + 1 - self.model.now))
            self.close(number, WATCHER)
            assert dispute.state is State.NOT_GUILTY
            return
        assert dispute.state is State.GUILTY

    def _say_missed(self, number: int, key: NodeKey) -> None:
        self._warp(max(0, self.model.disputes[number].nodes[key].deadline + 1 - self.model.now))
        assert self._missed(number, WATCHER, key) is None

    def _in_time(self, number: int) -> bool:
        return self.model.now <= self.model.disputes[number].dispute_end + WINDOW

    def _find_what_is_wrong(self, number: int) -> None:
        if self.behaviour in WRONG_ELEMENT:
            self._find_the_lie(number)
            return
        root = self.model.disputes[number].nodes[ROOT]
        if not root.answered:
            self._warp(root.deadline + 1 - self.model.now)
        if self.behaviour == "chooser":
            right = self.stage.rivalry(self.games[number], self.behaviour, 0)
            assert self._prove_output(number, WATCHER, right) is None
        else:
            assert self.scene.hidden is not None
            assert self._prove_outside(number, WATCHER, self.scene.hidden, self.scene.hidden[0]) is None

    def _find_the_lie(self, number: int) -> None:
        """A challenger that comes in the last second of the subject's window, whatever others asked for before, and
        takes a whole reply window for each of its moves."""
        dispute = self.model.disputes[number]
        self._warp(max(0, dispute.dispute_end + WINDOW + 1 - self.model.now))
        above = 0
        for depth in self.scene.way:
            key = self.scene.on_the_way(depth)
            if key not in dispute.nodes:
                assert self._request(number, WATCHER, key, depth - above) is None
            if (number, key) in self.ignored:
                self._say_missed(number, key)
                return
            if not dispute.nodes[key].answered:
                self._warp(dispute.nodes[key].deadline + 1 - self.model.now)
            self._warp(WINDOW - 1)
            above = depth
        assert self._prove(number, WATCHER, self.scene.leaf) is None


def run_dispute_machine(
    stage: Stage,
    *,
    examples: int,
    steps: int,
    start: int,
    behaviours: Sequence[str] = BEHAVIOURS,
    shrink: bool = True,
) -> Counter[str]:
    """Runs the machine against one deployment; the same `start` gives the same run. Returns what happened how often."""
    outcomes: Counter[str] = Counter()
    fields = {"stage": stage, "world": stage.world, "outcomes": outcomes, "behaviours": behaviours}
    machine: type[RuleBasedStateMachine] = type("DisputeMachineOf", (DisputeMachine,), fields)
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    seed(start)(get_state_machine_test(machine, settings=chosen))()
    return outcomes
