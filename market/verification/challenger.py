"""What an honest challenger does next in a dispute: a function of its own trace and of what the chain shows.

In order: what decides at once (an overdue reply, another id that wins, something outside the program), then one step
down towards the first wrong leaf, then the proof. What others asked for is used; nothing is asked for twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from market.inference.sampling import ONE_Q16, Sampling
from market.types import Sampler
from market.verification.geometry import LOGITS_CHUNK, Geometry, Node, Operation, Place
from market.verification.inputs import Inputs, is_maximum, maximum_count
from market.verification.leaves import decode
from market.verification.model_trees import ModelTrees, token_opening
from market.verification.openings import Openings, Unopenable
from market.verification.structs import Accusation, Claim, Opening, OutputAccusation
from market.verification.trace import Trace
from market.verification.tree import empty
from market.verification.words import node_words, place_words

ROOT = Node(0, 0)


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
    leaf_index: int
    accusation: Accusation


@dataclass(frozen=True)
class ProveOutput:
    """Prove that another id beats the one that was returned."""

    reason: str
    leaf_index: int
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


class Challenger:
    """One claim, computed again. Not for several threads at once.

    Args:
        trace: the honest one; it is computed when the first move needs it.
        trees: of the model.
    """

    def __init__(self, claim: Claim, trace: Trace, trees: ModelTrees) -> None:
        self._claim, self._trace, self._trees = claim, trace, trees
        self._inputs = Inputs(trace.geometry)
        self._wrong_output: tuple[int, int, int] | None = None
        self._looked_at_output = False

    @property
    def geometry(self) -> Geometry:
        return self._trace.geometry

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
        openings = Openings(self._trace, self._trees, game.known)
        return (
            self._output_move(openings) or self._outside_move(game) or self._descend(game, openings, now, reply_window)
        )

    # ------------------------------------------------------------------------------------------- what decides at once

    def _find_wrong_output(self) -> tuple[int, int, int] | None:
        claim = self._claim
        sampling = None
        if claim.sampler == Sampler.SEEDED_BY_REQUEST:
            sampling = Sampling(claim.temperature_q16, claim.top_k, claim.top_p_q16 or ONE_Q16, claim.seed)
        logits = self._trace.logits()
        for position, token in enumerate(self._trace.output_ids):
            row = logits[position]
            right = int(np.argmax(row)) if sampling is None else sampling.pick(row, position)
            if right != token:
                return position, token, right
        return None

    def _output_move(self, openings: Openings) -> Move | None:
        found = self.wrong_output()
        if found is None or not has_step(self._claim):
            return None
        position, output, rival = found
        group = self.geometry.groups - 1
        leaves = [Place(group, Operation.LOGITS, position, token // LOGITS_CHUNK) for token in (output, rival)]
        try:
            output_logits, rival_logits = (openings.leaf(leaf) for leaf in leaves)
        except Unopenable:
            return None  # the provider has other logits there: some number of its trace is wrong, too
        ids = token_opening(self._trace.output_ids, position, self._trees.keccak)
        return ProveOutput(
            f"At output position {position} the provider returned id {output}, but by its own logits id {rival} wins.",
            self.geometry.node_of(leaves[1]).index,
            OutputAccusation(position, output, rival, ids, output_logits, rival_logits),
        )

    def _outside_move(self, game: Game) -> Move | None:
        for node, shown in sorted(game.known.items()):
            if self.geometry.place_of(node) is None and shown != empty(self.geometry.empty_levels(node)):
                where = f"depth {node.depth}, index {node.index}"
                reason = f"There is something at {where}, where the program has nothing."
                return ProveOutside(reason, node, shown, _path(game, node))
        return None

    # ---------------------------------------------------------------------------------------------------- the way down

    def first_wrong(self, game: Game) -> Node | None:
        """The deepest node on the way to the first wrong leaf whose hash was shown; None where the root is ours."""
        if game.root is None or game.root == self._trace.root():
            return None
        node = ROOT
        while (asked := game.asked.get(node)) is not None and asked.hashes:
            levels = (len(asked.hashes) - 1).bit_length()
            node = next(
                child
                for index, shown in enumerate(asked.hashes)
                if shown != self._trace.hash(child := node.child(levels, index))
            )
        return node

    def _descend(self, game: Game, openings: Openings, now: int, reply_window: int) -> Move:
        node = self.first_wrong(game)
        if node is None:
            if self.wrong_output() is not None:
                return Over("The sampler of this answer has no step: its output cannot be judged.")
            return Agrees("The provider's trace and output are ours: the answer is right.", game.end_at + 1)
        what = node_words(self.geometry, node)
        asked = game.asked.get(node)
        if asked is not None and asked.payload is not None:
            return self._prove(node, asked.payload, openings)
        if asked is not None:
            return Wait(f"The provider must show {what}.", asked.deadline)
        if now > game.end_at - 2 * reply_window:
            return Over(f"It is too late to ask for {what}.")
        levels = self.geometry.levels(node)
        shown = f"the {1 << levels} hashes {levels} levels below" if levels else "the numbers of this leaf"
        reason = f"The first difference lies in {what}: ask for {shown}."
        return RequestNode(reason, node, game.known[node], _path(game, node))

    def _prove(self, node: Node, payload: bytes, openings: Openings) -> Move:
        place = self.geometry.place_of(node)
        if place is None:
            raise ValueError(f"{node} was shown, but lies outside the program")
        ours, theirs = self._elements(place, self._trace.payload(place)), self._elements(place, payload)
        element = next((i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), len(ours))
        witness = self._witness(place, element, ours, theirs)
        token = 0
        if place.operation is Operation.EMBEDDING:
            token = (*self._trace.input_ids, *self._trace.output_ids)[place.row]
        inputs = tuple(openings.of(wanted) for wanted in self._inputs.of(place, element, witness, token))
        number = self.geometry.operations(place.group).index(place.operation)
        accused = Opening(payload, openings.path(node))
        accusation = Accusation(place.group, number, place.row, place.slot, element, witness, accused, inputs)
        where = place_words(self.geometry, place, element if element < len(ours) else None)
        if element < len(ours):
            reason = f"Proved by one step: {where} is {theirs[element]}, and its inputs give {ours[element]}."
        else:
            reason = f"Proved by one look: there is something in the padding of {where}."
        return Prove(reason, node.index, accusation)

    def _elements(self, place: Place, payload: bytes) -> list[int]:
        section = self.geometry.section(place.group, place.operation)
        return decode(payload, section.element_size(place.slot), section.elements(place.row, place.slot))

    def _witness(self, place: Place, element: int, ours: list[int], theirs: list[int]) -> int:
        """The index that contradicts a claimed maximum: ours where it is larger, or as large and lower; else the
        claimed one, which does not attain what is claimed. Any where the claimed one is outside the row.
        """
        if element >= len(ours) or not is_maximum(place.operation, place.slot, element):
            return 0
        first = 0 if place.operation is Operation.SOFTMAX else len(ours) - 2
        (value, index), (claimed, at) = ours[first : first + 2], theirs[first : first + 2]
        if not 0 <= at < maximum_count(self.geometry, place):
            return index
        return index if value > claimed or (value == claimed and index < at) else at


def has_step(claim: Claim) -> bool:
    """Whether the sampler has a step: greedy, or seeded by the request without top-k and top-p."""
    whole = claim.top_k == 0 and claim.top_p_q16 in (0, ONE_Q16)
    return claim.sampler == Sampler.GREEDY or (claim.sampler == Sampler.SEEDED_BY_REQUEST and whole)


def _path(game: Game, node: Node) -> tuple[bytes, ...]:
    path = game.path_to_answered(node)
    if path is None:
        raise ValueError(f"no reply leads to {node}")
    return path
