"""Disputes played in memory: events as the contract emits them, between real traces of the tiny model. The contract's
own rules are tested against the contract; here it is what a challenger makes of what it sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from pydantic.alias_generators import to_camel

from market.disputes import Dispute, dispute_id_of, opened, with_event
from market.events import Event
from market.hashing import keccak256, pack_tokens, tokens_root
from market.inference.model import IntegerModel
from market.models.pack import Pack
from market.verification.challenger import Challenger, Move, RequestNode, SayMissed, Wait
from market.verification.geometry import ROOT, Node
from market.verification.layer import Hook
from market.verification.model_trees import ModelTrees
from market.verification.step import Step
from market.verification.structs import Claim, LayerFormat, Shape
from market.verification.trace import Trace

PROVIDER = "0x" + "11" * 20
CHALLENGER = "0x" + "22" * 20
SUBJECT = "0x" + "33" * 20
JOB = b"\x44" * 32
WINDOW = 60
START = 1_000_000


def claim_about(pack: Pack, input_ids: tuple[int, ...], output_ids: tuple[int, ...], **changes: Any) -> Claim:
    values: dict[str, Any] = {
        "subject": SUBJECT,
        "subject_id": JOB,
        "provider": PROVIDER,
        "weights_root": pack.roots.weights_root,
        "program_root": pack.roots.program_root,
        "tables_root": pack.roots.tables_root,
        "input_root": tokens_root(input_ids),
        "output_root": tokens_root(output_ids),
        "input_tokens": len(input_ids),
        "output_tokens": len(output_ids),
        "sampler": 0,
        "temperature_q16": 0,
        "top_k": 0,
        "top_p_q16": 0,
        "seed": bytes(32),
    }
    return Claim(**{**values, **changes})


def event(name: str, **args: Any) -> Event:
    return Event(name, args, SUBJECT, 1, "0x" + "00" * 32, "0x" + "00" * 32, 0)


@dataclass
class Play:
    """One dispute: a provider that shows the trace `theirs`, and whoever asks."""

    claim: Claim
    theirs: Trace
    now: int = START
    moves: list[Move] = field(default_factory=list)
    dispute: Dispute = field(init=False)

    def __post_init__(self) -> None:
        claim = {to_camel(f.name): getattr(self.claim, f.name) for f in fields(Claim)}
        self.dispute_id = dispute_id_of(self.claim.subject, self.claim.subject_id, self.claim.provider)
        rounds = self.theirs.geometry.rounds()
        self.dispute = opened(
            event(
                "Disputed",
                disputeId=self.dispute_id,
                opener=CHALLENGER,
                claim=claim,
                endAt=START + (2 * rounds + 3) * WINDOW,
                deadline=START + WINDOW,
                inputIds=pack_tokens(self.theirs.input_ids),
                outputIds=pack_tokens(self.theirs.output_ids),
            )
        )

    def happen(self, name: str, **args: Any) -> None:
        self.dispute = with_event(self.dispute, event(name, disputeId=self.dispute_id, **args))

    def answer_root(self) -> None:
        self.happen("RootGiven", root=self.theirs.root(), hashes=self.theirs.reveal(Node(0, 0)))

    def request(self, node: Node) -> None:
        levels = self.theirs.geometry.node_at(node).levels
        args = {"depth": node.depth, "index": node.index, "hash": self.theirs.hash(node), "levels": levels}
        self.happen("NodeRequested", requester=CHALLENGER, deadline=self.now + WINDOW, **args)

    def answer(self, node: Node) -> None:
        if self.theirs.geometry.node_at(node).levels:
            self.happen("HashesGiven", depth=node.depth, index=node.index, hashes=self.theirs.reveal(node))
        else:
            place = self.theirs.geometry.place_of(node)
            assert place is not None
            self.happen("PayloadGiven", depth=node.depth, index=node.index, payload=self.theirs.payload(place))

    def run(self, challenger: Challenger) -> Move:
        """Both sides move until the challenger has nothing more to ask. Returns its last move."""
        self.answer_root()
        while True:
            move = challenger.next(self.dispute, self.now, WINDOW)
            self.moves.append(move)
            assert not isinstance(move, Wait | SayMissed), "the provider has answered everything"
            if not isinstance(move, RequestNode):
                return move
            assert self.theirs.hash(move.node) == move.hash
            self.request(move.node)
            self.now += 1
            self.answer(move.node)


@dataclass
class Players:
    """An honest challenger and the means to make dishonest providers."""

    pack: Pack

    def __post_init__(self) -> None:
        self.shape = Shape.of(self.pack.program)
        self.trees = ModelTrees(self.pack.model, self.shape)

    def trace(self, input_ids: tuple[int, ...], output_ids: tuple[int, ...], hook: Hook | None = None) -> Trace:
        return Trace(self.pack.model, self.shape, input_ids, output_ids, hook=hook)

    def challenger(self, claim: Claim, trace: Trace) -> Challenger:
        return Challenger(claim, trace, self.trees, Step(self.shape, LayerFormat.all_of(self.pack.program)))

    def answer(self, input_ids: tuple[int, ...], count: int) -> tuple[int, ...]:
        """What the model answers, by one teacher-forced run a token."""
        output: tuple[int, ...] = ()
        for _ in range(count):
            logits = self.trace(input_ids, (*output, 0)).logits()
            output = (*output, int(logits[-1].argmax()))
        return output


class Hiding(Trace):
    """An honest trace, but for something at a node where the program has nothing."""

    def __init__(
        self, model: IntegerModel, shape: Shape, input_ids: tuple[int, ...], output_ids: tuple[int, ...], hidden: Node
    ) -> None:
        super().__init__(model, shape, input_ids, output_ids)
        self._honest, self._hidden = Trace(model, shape, input_ids, output_ids), hidden

    def root(self) -> bytes:
        return self.hash(ROOT)

    def hash(self, node: Node) -> bytes:
        below = self._hidden.depth - node.depth
        if below == 0 and node == self._hidden:
            return b"\x01" * 32
        if below > 0 and self._hidden.index >> below == node.index:
            return keccak256(self.hash(node.child(1, 0)) + self.hash(node.child(1, 1)))
        return self._honest.hash(node)
