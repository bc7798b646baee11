"""Where games of disputes are played: with a judge that is told what is wrong, or the deployed one and the tiny model.

A scene is what one provider shows, and where its lie is, if it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from eth_abi import encode

from market.hashing import ZERO32, keccak256, tokens_root
from market.inference.reference import greedy
from market.models.pack import Pack, load_pack
from market.types import Model, Request
from market.verification.accusation import Accuser, accuse_token
from market.verification.descent import Descent, Leaf
from market.verification.geometry import LOGITS_CHUNK, Geometry, Node, Operation, Place, number_of
from market.verification.inputs import Inputs, is_maximum
from market.verification.model_trees import ModelTrees
from market.verification.structs import Accusation, LayerFormat, Opening, Shape
from market.verification.trace import Trace
from tests.gas.disputes import JudgedWorld
from tests.liar import Decoy, find, lie
from tests.stateful.dispute_model import NodeKey
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.disputes import (
    ANSWER,
    LEAF_BITS,
    LOGITS_LEAF,
    MODEL,
    OPENER,
    PROVIDER,
    DisputeWorld,
    Game,
    Tree,
    accuse_rival,
    honest,
    request,
)
from tests.unit.contracts.twists import Twister

SEED = 5
PADDED = (Operation.EMBEDDING, Operation.ATTENTION_NORM, Operation.VALUE, Operation.SCORES, Operation.SOFTMAX,
          Operation.QUANTISE_MIX, Operation.ATTENTION_OUTPUT, Operation.ACTIVATION, Operation.DOWN)  # fmt: skip
"""That have leaves with padding in the tiny model."""
LIARS = ("liar", "evader")
"""Who changed an element. An evader answers everything but one node on the way to it."""
WRONG_ELEMENT = (*LIARS, "padder")
"""Whose leaf is accused. A padder changed what is behind the elements."""
OTHERS = ("decoy", "equivocator", "chooser", "overrun")
"""Who hides something outside the program, signs two outputs, returns another id than the logits give,
or more of them than were asked for."""
PROMPT, OUTPUTS = 66, 3  # two blocks of positions


@dataclass(frozen=True)
class Scene:
    """Nodes are (depth, index).

    Attributes:
        leaf: the wrong one where the provider lies, else the one that everybody asks for.
        way: depths of the requests that lead to it.
        right: leaves that are right whoever is asked.
        outside: nodes outside the program.
        hidden: the one of them where something is, if the provider put anything there.
        padded: the leaf with anything but zeros in its padding, where the game takes no such reply. To the deployed
            judge paddings belong to payloads, and are accused.
        ids: the answer, where it is not what the logits give.
        most: tokens that were asked for, where they are fewer than were answered.
    """

    tree: Any
    leaf: NodeKey
    way: tuple[int, ...]
    right: tuple[NodeKey, ...]
    outside: tuple[NodeKey, ...]
    hidden: NodeKey | None = None
    padded: NodeKey | None = None
    ids: list[int] | None = None
    most: int | None = None

    def on_the_way(self, depth: int) -> NodeKey:
        return depth, self.leaf[1] >> (self.leaf[0] - depth)


@dataclass(frozen=True)
class Rivalry:
    """An accusation of an id. `leaf` has the rival's logit."""

    accusation: tuple[Any, ...]
    leaf: NodeKey
    wrong: bool


class PaddedTree(Tree):
    """One payload has a bit behind its last element."""

    def payload(self, index: int) -> bytes:
        payload = super().payload(index)
        return payload[:-1] + b"\1" if index == TOY_LEAF else payload


TOY_LEAF = 1_234
TOY_OUTSIDE = ((2, 3), (7, 31), (11, 15))


class ToyStage:
    """With the toy judge: the same lie every time, openings trusted."""

    rounds = 4
    scenes = len(TOY_OUTSIDE)
    model = MODEL
    twister = None  # openings are trusted

    def __init__(self, world: DisputeWorld) -> None:
        self.world = world
        self._liar, self._padder = Tree(lie=TOY_LEAF), PaddedTree()
        self._decoys = [Tree(hidden=key) for key in TOY_OUTSIDE]

    def scene(self, number: int, behaviour: str) -> Scene:
        leaf = (LEAF_BITS, TOY_LEAF)
        right = ((LEAF_BITS, 1_235), (LEAF_BITS, 0))
        plain = Scene(honest(), leaf, (2, 7, 12, LEAF_BITS), right, TOY_OUTSIDE)
        if behaviour in LIARS:
            return replace(plain, tree=self._liar)
        if behaviour == "padder":
            return replace(plain, tree=self._padder, padded=leaf)
        if behaviour == "decoy":
            return replace(plain, tree=self._decoys[number], hidden=TOY_OUTSIDE[number])
        return replace(plain, most=len(ANSWER) - 1) if behaviour == "overrun" else plain

    def is_outside(self, key: NodeKey) -> bool:
        return key in TOY_OUTSIDE

    def is_nowhere(self, key: NodeKey) -> bool:
        return False

    def ready(self, game: Game, scene: Scene, behaviour: str) -> None:
        """Tells the judge."""
        self.world.judge.setRounds(self.rounds - 1)
        if behaviour in WRONG_ELEMENT:
            game.mark_wrong(scene.leaf[1])
        if behaviour == "chooser":
            self.world.judge.setWrong(keccak256(encode(["uint32"] * 3, list(accuse_rival(game)[:3]))), True)

    def rivalry(self, game: Game, behaviour: str, pick: int) -> Rivalry:
        accusation = accuse_rival(game)
        if pick % 2:
            return Rivalry((accusation[0] + 1, *accusation[1:]), (LEAF_BITS, LOGITS_LEAF), False)
        return Rivalry(accusation, (LEAF_BITS, LOGITS_LEAF), behaviour == "chooser")

    def game(self, scene: Scene, **fields: Any) -> Game:
        return Game(self.world, **self._fields(scene), **fields)

    def made_up(self, scene: Scene, subject: Contract) -> Game:
        """About a subject that takes no verdict."""
        return subject_of(Game, subject)(self.world, **self._fields(scene))

    def _fields(self, scene: Scene) -> dict[str, Any]:
        asked = request() if scene.most is None else request(max_output_tokens=scene.most)
        return {"tree": scene.tree, "request": asked}


# ------------------------------------------------------------------------------------------------------ the real judge


class Shown:
    """A provider's trace, as the games ask for it. Places outside the tree have a made-up hash, which nobody reads."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.geometry = trace, trace.geometry
        self._hashes: dict[NodeKey, bytes] = {}

    def node(self, depth: int, index: int) -> bytes:
        key = depth, index
        if key not in self._hashes:
            try:
                self._hashes[key] = self.trace.hash(Node(depth, index))
            except ValueError:
                self._hashes[key] = ZERO32
        return self._hashes[key]

    def hashes(self, depth: int, index: int) -> list[bytes]:
        node = Node(depth, index)
        levels = self.geometry.node_at(node).levels
        return [self.node(*node.child(levels, i)) for i in range(1 << levels)]

    def path(self, depth: int, index: int, up: int) -> list[bytes]:
        return [self.node(depth - i, (index >> i) ^ 1) for i in range(up)]

    def payload_at(self, depth: int, index: int) -> bytes:
        place = self.geometry.place_of(Node(depth, index))
        assert place is not None
        return self.trace.payload(place)


def introduce(world: DisputeWorld, pack: Pack, trees: ModelTrees) -> Model:
    """Tells the judge of a pack's program and tables, as a deployment does."""
    shape, layers, roots = Shape.of(pack.program), LayerFormat.all_of(pack.program), pack.roots
    world.judge.acceptProgram(shape.values(), [f.values() for f in layers], sender=OPENER.address)
    world.judge.acceptTables(roots.tables_root, list(trees.tables_path()), sender=OPENER.address)
    return Model(roots.weights_root, roots.program_root, roots.tables_root, ZERO32, ZERO32)


def asked_of(model: Model, prompt: Sequence[int], most: int) -> Request:
    """A greedy request that no token ends."""
    return request(
        model_id=model.model_id,
        input_root=tokens_root(prompt),
        input_tokens=len(prompt),
        max_output_tokens=most,
        stop_tokens=b"\xff" * 32,
    )


Wrong = tuple[Shown, Place, Accusation]


@dataclass
class JudgedGame(Game):
    """A game with accusations that the deployed judge computes again."""

    accusations: dict[NodeKey, Accusation] = field(default_factory=dict)

    def is_leaf(self, depth: int, index: int) -> bool:
        info = self.tree.geometry.node_at(Node(depth, index))
        return bool(info.inside and not info.levels)

    def payload(self, depth: int, index: int) -> bytes:
        return bytes(self.tree.payload_at(depth, index))

    def prove_leaf(self, key: NodeKey, sender: str) -> None:
        self.world.disputes.prove(self.claim, self.accusations[key].values(), sender=sender)


class JudgedStage:
    """With the deployed judge and the tiny model: one lie an operation, at a random element, half of them continued;
    and paddings, decoys and answers that are wrong."""

    def __init__(self, pack: Path, scenes: int | None = None, seed: int = SEED) -> None:
        loaded, random = load_pack(pack), Random(seed)
        shape = Shape.of(loaded.program)
        self.world = JudgedWorld()
        self._trees = ModelTrees(loaded.model, shape)
        self.model = introduce(self.world, loaded, self._trees)
        self.prompt = [random.randrange(3, shape.vocabulary) for _ in range(PROMPT)]
        self.answer = greedy(loaded.model, self.prompt, OUTPUTS, ())
        self._arguments = (loaded.model, shape, self.prompt, self.answer)
        self._honest = Trace(*self._arguments)
        self.geometry: Geometry = self._honest.geometry
        self.rounds = self.geometry.rounds() + 1
        operations = list(Operation) if scenes is None else random.sample(list(Operation), scenes)
        self._lies = [self._lie(operation, random, bool(i % 2)) for i, operation in enumerate(operations)]
        self.scenes = len(self._lies)
        self._paddings = [self._padding(random) for _ in range(min(self.scenes, 6))]
        self._shown = Shown(self._honest)
        self._right = tuple(
            self.geometry.node_of(Place(0, Operation.EMBEDDING, row, 0)) for row in (0, len(self.prompt))
        )
        chosen = [*self.answer[:-1], (self.answer[-1] + random.randrange(1, shape.vocabulary)) % shape.vocabulary]
        self._chosen = Shown(Trace(loaded.model, shape, self.prompt, chosen))
        self._decoys: dict[NodeKey, Shown] = {}
        self._logits = self._honest.logits()
        self.twister = Twister([self._accuse(self._honest, key) for key in (*self._right, *self._some(random, 12))])

    def _some(self, random: Random, count: int) -> list[NodeKey]:
        return [
            self.geometry.node_of(self._place(random.choice(list(Operation)), random, lambda _: True))
            for _ in range(count)
        ]

    def _place(self, operation: Operation, random: Random, fits: Callable[[Place], bool]) -> Place:
        """Any of an operation's leaves, of any group that has it, but of the first row."""
        groups = [g for g in range(self.geometry.groups) if operation in self.geometry.operations(g)]
        while True:
            section = self.geometry.section(random.choice(groups), operation)
            row, slot = random.randrange(1, section.rows), random.randrange(section.slots)
            place = Place(section.group, operation, row, slot)
            if section.inside(row, slot) and fits(place):
                return place

    def _lie(self, operation: Operation, random: Random, continued: bool) -> Wrong:
        while True:
            place = self._place(operation, random, lambda _: True)
            element = random.randrange(self._elements(place))
            liar = lie(*self._arguments, place, element, random.choice((-1, 1)), continued)
            if liar.root() != self._honest.root():  # else a limit swallowed it
                return self._found(liar, place)

    def _padding(self, random: Random) -> Wrong:
        """A leaf with something behind its elements."""
        place = self._place(random.choice(PADDED), random, self._has_padding)
        return self._found(lie(*self._arguments, place, self._elements(place), 1, continued=False), place)

    def _has_padding(self, place: Place) -> bool:
        """Of an element's size, at least."""
        size = self.geometry.section(place.group, place.operation).element_size(place.slot)
        return -size * self._elements(place) % 32 >= size

    def _elements(self, place: Place) -> int:
        return self.geometry.section(place.group, place.operation).elements(place.row, place.slot)

    def _found(self, liar: Trace, place: Place) -> Wrong:
        descent, move, _ = find(self._honest, liar)
        assert isinstance(move, Leaf)
        assert move.place == place
        return Shown(liar), place, Accuser(descent, self._trees).accuse(place, liar.payload(place))

    def scene(self, number: int, behaviour: str) -> Scene:
        wrong = self._wrong(number, behaviour)
        leaf = self.geometry.node_of(wrong[1])
        way, at = [], Node(0, 0)
        while at != leaf:
            depth = at.depth + self.geometry.node_at(at).levels
            at = leaf.parent(leaf.depth - depth)
            way.append(depth)
        outside = tuple(key for key in self._beside(leaf) if self.is_outside(key))
        plain = Scene(self._shown, leaf, tuple(way), self._right, outside)
        if behaviour in WRONG_ELEMENT:
            return replace(plain, tree=wrong[0])
        if behaviour == "decoy":
            hidden = outside[number % len(outside)]
            return replace(plain, tree=self._decoy(hidden), hidden=hidden)
        if behaviour == "chooser":
            return replace(plain, tree=self._chosen, ids=list(self._chosen.trace.output_ids))
        return replace(plain, most=len(self.answer) - 1) if behaviour == "overrun" else plain

    def _wrong(self, number: int, behaviour: str) -> Wrong:
        return self._paddings[number % len(self._paddings)] if behaviour == "padder" else self._lies[number]

    def _decoy(self, hidden: NodeKey) -> Shown:
        if hidden not in self._decoys:
            self._decoys[hidden] = Shown(Decoy(*self._arguments, Node(*hidden)))
        return self._decoys[hidden]

    def _beside(self, leaf: Node) -> Sequence[NodeKey]:
        """Last places of the levels above a leaf, and of its section: what is outside lies at the end."""
        top = self.geometry.group_bits
        group = leaf.index >> (leaf.depth - top)
        below = leaf.depth - top - 5
        return (top, (1 << top) - 1), (top + 5, (group << 5) | 31), (leaf.depth, leaf.index | ((1 << below) - 1))

    def is_outside(self, key: NodeKey) -> bool:
        try:
            return not self.geometry.node_at(Node(*key)).inside
        except ValueError:
            return True

    def is_nowhere(self, key: NodeKey) -> bool:
        """Whether no tree has such a node: its hash is made up, and no path leads from it."""
        try:
            self.geometry.node_at(Node(*key))
        except ValueError:
            return True
        return False

    def ready(self, game: Game, scene: Scene, behaviour: str) -> None:
        """What can be accused: what is wrong, and elements that are right."""
        assert isinstance(game, JudgedGame)
        game.accusations = {key: self._accuse(scene.tree.trace, key) for key in scene.right}
        wrong = (found for shown, _, found in (*self._lies, *self._paddings) if shown is scene.tree)
        game.accusations[scene.leaf] = next(wrong, None) or self._accuse(scene.tree.trace, scene.leaf)

    def rivalry(self, game: Game, behaviour: str, pick: int) -> Rivalry:
        """The last id against the one that its logits give, or any against any."""
        trace: Trace = game.tree.trace
        random, last = Random(pick), len(self.answer) - 1
        position, rival = last, int(self.answer[last])
        if pick % 2:
            position, rival = random.randrange(last + 1), random.randrange(self.geometry.shape.vocabulary)
        own = trace.output_ids[position]
        accuser = Accuser(Descent(trace, trace.root()), self._trees)
        logits = self._logits[position]
        wrong = bool(logits[rival] > logits[own] or (logits[rival] == logits[own] and rival < own))
        place = Place(self.geometry.groups - 1, Operation.LOGITS, position, rival // LOGITS_CHUNK)
        accusation = accuse_token(accuser, position, own, rival).values()
        return Rivalry(accusation, self.geometry.node_of(place), wrong)

    def _accuse(self, trace: Trace, key: NodeKey) -> Accusation:
        """Of the first element of a leaf, with the openings of the provider's own tree."""
        place = self.geometry.place_of(Node(*key))
        assert place is not None
        descent = Descent(trace, trace.root())
        accuser = Accuser(descent, self._trees)
        last = self.geometry.section(place.group, place.operation).elements(place.row, place.slot)
        element = last if is_maximum(place.operation, place.slot, 0) else 0  # padding needs no witness
        token = (*trace.input_ids, *trace.output_ids)[place.row]
        inputs = Inputs(self.geometry).of(place, element, 0, token)
        return Accusation(
            place.group, number_of(place.operation), place.row, place.slot, element, 0,
            Opening(trace.payload(place), descent.path(Node(*key))), tuple(accuser.open(wanted) for wanted in inputs),
        )  # fmt: skip

    def game(self, scene: Scene, **fields: Any) -> Game:
        return JudgedGame(self.world, **self._fields(scene), **fields)

    def made_up(self, scene: Scene, subject: Contract) -> Game:
        return subject_of(JudgedGame, subject)(self.world, **self._fields(scene))

    def _fields(self, scene: Scene) -> dict[str, Any]:
        return {
            "request": asked_of(self.model, self.prompt, len(self.answer) if scene.most is None else scene.most),
            "ids": list(self.answer) if scene.ids is None else scene.ids,
            "prompt": self.prompt,
            "finish": 2,
            "tree": scene.tree,
            "model": self.model,
        }


def subject_of(kind: type[Game], subject: Contract) -> type[Game]:
    """Games about an answer of that subject."""
    triple = (subject.address, keccak256(b"anything"), PROVIDER.address)
    return type("MadeUp", (kind,), {"triple": property(lambda _game: triple)})
