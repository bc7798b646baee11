"""What an honest challenger does next in a dispute: a function of its own trace and of what the chain shows.

In order: what decides at once (an overdue reply, another id that wins, something outside the program), then one step
down towards the first wrong leaf, then the proof. What others asked for is used; nothing is asked for twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from market.errors import MarketError
from market.inference.sampling import ONE_Q16, Sampling
from market.types import Sampler
from market.verification.accusation import Accuser, accuse_token
from market.verification.arithmetic import has_output_step
from market.verification.descent import Agrees as SameRoot
from market.verification.descent import Descent, Leaf, Outside, RevealError
from market.verification.geometry import ROOT, Geometry, Node, Place
from market.verification.leaves import decode
from market.verification.model_trees import ModelTrees
from market.verification.step import OpeningError, Step
from market.verification.structs import Accusation, Claim, OutputAccusation
from market.verification.trace import Trace
from market.verification.tree import empty
from market.verification.words import node_words, place_words


class AskedNode(Protocol):
    """A node that was requested (market.disputes.Asked)."""

    @property
    def node(self) -> Node: ...
    @property
    def deadline(self) -> int: ...
    @property
    def hashes(self) -> tuple[bytes, ...]: ...
    @property
    def payload(self) -> bytes | None: ...
    @property
    def answered(self) -> bool: ...


class Game(Protocol):
    """What is looked at of a dispute (market.disputes.Dispute)."""

    @property
    def claim(self) -> Claim: ...
    @property
    def end_at(self) -> int: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def root(self) -> bytes | None: ...
    @property
    def asked(self) -> Mapping[Node, AskedNode]: ...
    @property
    def unanswered(self) -> Sequence[AskedNode]: ...
    @property
    def known(self) -> Mapping[Node, bytes]: ...
    def path_to_answered(self, node: Node) -> tuple[bytes, ...] | None: ...


@dataclass(frozen=True)
class Over:
    """Nothing is left to do."""

    reason: str


@dataclass(frozen=True)
class Agrees:
    """The answer is right: whoever goes on pays for it. `close_from`: unix second from which anyone may close."""

    reason: str
    close_from: int


@dataclass(frozen=True)
class Wait:
    """The provider is to reply until the unix second `until`."""

    reason: str
    until: int


@dataclass(frozen=True)
class RequestNode:
    """Ask for a node; `path` leads to one that was answered."""

    reason: str
    node: Node
    hash: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Prove:
    """Prove an element wrong."""

    reason: str
    accusation: Accusation


@dataclass(frozen=True)
class ProveOutput:
    """Prove that another id beats the one that was returned."""

    reason: str
    accusation: OutputAccusation


@dataclass(frozen=True)
class ProveOutside:
    """Prove that there is something where the program has nothing."""

    reason: str
    node: Node
    hash: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class SayMissed:
    """Say that a reply is overdue."""

    reason: str
    node: Node


Move = Over | Agrees | Wait | RequestNode | Prove | ProveOutput | ProveOutside | SayMissed


class StepDisagrees(MarketError):
    """Our own step does not confirm what our own trace accuses: one of the two is wrong, so nothing is sent."""


class Challenger:
    """One claim, computed again. Not for several threads at once.

    Args:
        trace: the honest one; it is computed when the first move needs it.
        trees: of the model; step: of its program.
    """

    def __init__(self, claim: Claim, trace: Trace, trees: ModelTrees, step: Step) -> None:
        self._claim, self._trace, self._trees, self._step = claim, trace, trees, step
        self._wrong_output: tuple[int, int, int] | None = None
        self._looked_at_output = False

    @property
    def geometry(self) -> Geometry:
        return self._trace.geometry

    def root(self) -> bytes:
        """Of the honest trace."""
        return self._trace.root()

    def wrong_output(self) -> tuple[int, int, int] | None:
        """The first output position whose id the model's own logits do not give, the id, and the one that they give;
        None where all are right.
        """
        if not self._looked_at_output:
            self._wrong_output, self._looked_at_output = self._find_wrong_output(), True
        return self._wrong_output

    def next(self, game: Game, now: int, reply_window: int) -> Move:
        """The next move.

        Args:
            now: unix seconds as the next block will have them, rather too early than too late.
            reply_window: seconds in which a provider must reply.

        Raises:
            StepDisagrees: see there.
        """
        if not game.is_open:
            return Over("The dispute is over.")
        for asked in game.unanswered:
            if now > asked.deadline:
                what = node_words(self.geometry, asked.node)
                return SayMissed(f"The provider did not show {what} in time. That alone makes it guilty.", asked.node)
        if game.root is None:
            until = game.asked[ROOT].deadline
            return Wait("The provider must give the root of its trace.", until)
        if now > game.end_at:
            return Over("The time to prove anything is over; `close` ends the dispute.")
        descent = self._descent(game, game.root)
        return (
            self._output_move(descent)
            or self._outside_move(game, descent)
            or self._step_down(game, descent, now, reply_window)
        )

    def way(self, game: Game) -> list[Node]:
        """The nodes from the root down to the deepest one that was shown and is not ours; empty where the root is."""
        if game.root is None or game.root == self._trace.root():
            return []
        node, found = ROOT, [ROOT]
        while (asked := game.asked.get(node)) is not None and asked.hashes:
            levels = (len(asked.hashes) - 1).bit_length()
            children = (node.child(levels, index) for index in range(len(asked.hashes)))
            node = next(child for child in children if game.known[child] != self._trace.hash(child))
            found.append(node)
        return found

    def _descent(self, game: Game, root: bytes) -> Descent:
        descent = Descent(self._trace, root)
        for node in sorted(game.asked):  # those above first
            if game.asked[node].hashes:
                descent.add(node, game.asked[node].hashes)
        return descent

    # ------------------------------------------------------------------------------------------- what decides at once

    def _find_wrong_output(self) -> tuple[int, int, int] | None:
        claim = self._claim
        sampling = None
        if claim.sampler in (Sampler.SEEDED_BY_REQUEST, Sampler.SEEDED_BY_CHAIN):  # the claim has the seed of either
            sampling = Sampling(claim.temperature_q16, claim.top_k, claim.top_p_q16 or ONE_Q16, claim.seed)
        logits = self._trace.logits()
        for position, token in enumerate(self._trace.output_ids):
            row = logits[position]
            right = int(np.argmax(row)) if sampling is None else sampling.pick(row, position)
            if right != token:
                return position, token, right
        return None

    def _output_move(self, descent: Descent) -> Move | None:
        found = self.wrong_output()
        if found is None or not has_output_step(self._claim, self.geometry.shape.vocabulary):
            return None
        position, output, rival = found
        try:
            accusation = accuse_token(Accuser(descent, self._trees), position, output, rival)
            is_wrong = self._step.is_output_wrong(self._claim, descent.root, accusation)
        except (RevealError, OpeningError):
            if descent.root == self._trace.root():
                raise
            return None  # the provider has other logits there: some number of its trace is wrong, too
        if not is_wrong:
            raise self._disagreement(f"id {rival} at output position {position}")
        return ProveOutput(
            f"At output position {position} the provider returned id {output}, but by its own logits id {rival} wins.",
            accusation,
        )

    def _outside_move(self, game: Game, descent: Descent) -> Move | None:
        for node, shown in sorted(game.known.items()):
            info = self.geometry.node_at(node)
            if not info.inside and shown != empty(info.levels):
                answered = node
                while not ((asked := game.asked.get(answered)) and asked.hashes) or answered == node:
                    answered = answered.parent()
                return _outside(node, shown, descent.path(node, answered))
        return None

    # ---------------------------------------------------------------------------------------------------- the way down

    def _step_down(self, game: Game, descent: Descent, now: int, reply_window: int) -> Move:
        found = descent.next()
        if isinstance(found, SameRoot):
            if self.wrong_output() is not None:
                return Over("The sampler of this answer has no step: its output cannot be judged.")
            return Agrees("The provider's trace and output are ours: the answer is right.", game.end_at + 1)
        if isinstance(found, Outside):
            return _outside(found.node, found.hash, found.path)
        what = node_words(self.geometry, found.node)
        asked = game.asked.get(found.node)
        if asked is not None and asked.payload is not None and isinstance(found, Leaf):
            return self._prove(found, asked.payload, descent)
        if asked is not None:
            return Wait(f"The provider must show {what}.", asked.deadline)
        if now > game.end_at - 2 * reply_window:
            return Over(f"It is too late to ask for {what}.")
        levels = self.geometry.node_at(found.node).levels
        shown = f"the {1 << levels} hashes {levels} levels below" if levels else "the numbers of this leaf"
        reason = f"The first difference lies in {what}: ask for {shown}."
        return RequestNode(reason, found.node, found.hash, found.path)

    def _prove(self, found: Leaf, payload: bytes, descent: Descent) -> Move:
        place, accusation = found.place, Accuser(descent, self._trees).accuse(found.place, payload)
        ours, theirs = self._elements(place, self._trace.payload(place)), self._elements(place, payload)
        if not self._step.is_wrong(self._claim, descent.root, accusation):
            raise self._disagreement(place_words(self.geometry, place, accusation.element))
        element = accusation.element
        if element < len(ours):
            where = place_words(self.geometry, place, element)
            reason = f"One step proves it: {where} is {theirs[element]}, and its inputs give {ours[element]}."
        else:
            reason = f"There is something in the padding of {place_words(self.geometry, place)}."
        return Prove(reason, accusation)

    def _elements(self, place: Place, payload: bytes) -> list[int]:
        section = self.geometry.section(place.group, place.operation)
        return decode(payload, section.element_size(place.slot), section.elements(place.row, place.slot))

    def _disagreement(self, what: str) -> StepDisagrees:
        return StepDisagrees(
            f"The trace computed here and the step executed here disagree about {what}. Nothing was sent.",
            hint="Run `assay model verify` on the pack; if it is whole, report this.",
        )


def _outside(node: Node, shown: bytes, path: tuple[bytes, ...]) -> ProveOutside:
    where = f"depth {node.depth}, index {node.index}"
    return ProveOutside(f"There is something at {where}, where the program has nothing.", node, shown, path)
