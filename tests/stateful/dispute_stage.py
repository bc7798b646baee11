"""Where games of disputes are played: with a judge that is told what is wrong, or the deployed one and the tiny model.

A scene is what one provider shows, and where its lie is, if it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from market.hashing import ZERO32, keccak256, tokens_root
from market.inference.reference import greedy
from market.models.pack import load_pack
from market.types import Model, Request
from market.verification.accusation import Accuser
from market.verification.descent import Descent, Leaf
from market.verification.geometry import Geometry, Node, Operation, Place, number_of
from market.verification.inputs import Inputs, is_maximum
from market.verification.model_trees import ModelTrees
from market.verification.structs import Accusation, LayerFormat, Opening, Shape
from market.verification.trace import Trace
from tests.gas.disputes import JudgedWorld
from tests.liar import find, lie
from tests.stateful.dispute_model import NodeKey
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.disputes import LEAF_BITS, MODEL, OPENER, PROVIDER, DisputeWorld, Game, Tree, honest, request

SEED = 5
PROMPT, OUTPUTS = 66, 3  # two blocks of positions


@dataclass(frozen=True)
class Scene:
    """Nodes are (depth, index).

    Attributes:
        leaf: the wrong one where the provider lies, else the one that everybody asks for.
        way: depths of the requests that lead to it.
        right: leaves that are right whoever is asked.
        outside: nodes outside the program.
    """

    tree: Any
    leaf: NodeKey
    way: tuple[int, ...]
    right: tuple[NodeKey, ...]
    outside: tuple[NodeKey, ...]

    def on_the_way(self, depth: int) -> NodeKey:
        return depth, self.leaf[1] >> (self.leaf[0] - depth)


class ToyStage:
    """With the toy judge: the same lie every time, openings trusted."""

    rounds = 4
    scenes = 1
    model = MODEL

    def __init__(self, world: DisputeWorld) -> None:
        self.world = world
        self._liar = Tree(lie=1_234)

    def scene(self, number: int, lies: bool) -> Scene:
        leaf = (LEAF_BITS, 1_234)
        tree = self._liar if lies else honest()
        right = ((LEAF_BITS, 1_235), (LEAF_BITS, 0))
        return Scene(tree, leaf, (2, 7, 12, LEAF_BITS), right, ((2, 3), (7, 31), (11, 15)))

    def is_outside(self, key: NodeKey) -> bool:
        return key in {(2, 3), (7, 31), (11, 15)}

    def ready(self, game: Game, scene: Scene, lies: bool) -> None:
        """Tells the judge."""
        self.world.judge.setRounds(self.rounds - 1)
        if lies:
            game.mark_wrong(scene.leaf[1])

    def game(self, scene: Scene, **fields: Any) -> Game:
        return Game(self.world, tree=scene.tree, **fields)

    def made_up(self, scene: Scene, subject: Contract) -> Game:
        """About a subject that takes no verdict."""
        return subject_of(Game, subject)(self.world, tree=scene.tree)


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
    """With the deployed judge and the tiny model: one lie an operation, at a random element, half of them continued."""

    def __init__(self, pack: Path, scenes: int | None = None) -> None:
        loaded, random = load_pack(pack), Random(SEED)
        shape, layers = Shape.of(loaded.program), LayerFormat.all_of(loaded.program)
        self.world = JudgedWorld()
        self.world.judge.acceptProgram(shape.values(), [f.values() for f in layers], sender=OPENER.address)
        self._trees = ModelTrees(loaded.model, shape)
        roots = loaded.roots
        self.world.judge.acceptTables(roots.tables_root, list(self._trees.tables_path()), sender=OPENER.address)
        self.model = Model(roots.weights_root, roots.program_root, roots.tables_root, ZERO32, ZERO32)
        self.prompt = [random.randrange(3, shape.vocabulary) for _ in range(PROMPT)]
        self.answer = greedy(loaded.model, self.prompt, OUTPUTS, ())
        self._arguments = (loaded.model, shape, self.prompt, self.answer)
        self._honest = Trace(*self._arguments)
        self.geometry: Geometry = self._honest.geometry
        self.rounds = self.geometry.rounds() + 1
        operations = list(Operation) if scenes is None else random.sample(list(Operation), scenes)
        self._lies = [self._lie(operation, random, bool(i % 2)) for i, operation in enumerate(operations)]
        self.scenes = len(self._lies)
        self._shown = Shown(self._honest)
        self._right = tuple(
            self.geometry.node_of(Place(0, Operation.EMBEDDING, row, 0)) for row in (0, len(self.prompt))
        )

    def _lie(self, operation: Operation, random: Random, continued: bool) -> tuple[Shown, Place, Accusation]:
        groups = [g for g in range(self.geometry.groups) if operation in self.geometry.operations(g)]
        while True:
            section = self.geometry.section(random.choice(groups), operation)
            row, slot = random.randrange(1, section.rows), random.randrange(section.slots)
            if not section.inside(row, slot):
                continue
            place = Place(section.group, operation, row, slot)
            element = random.randrange(section.elements(row, slot))
            liar = lie(*self._arguments, place, element, random.choice((-1, 1)), continued)
            if liar.root() == self._honest.root():
                continue  # a limit swallowed it
            descent, move, _ = find(self._honest, liar)
            assert isinstance(move, Leaf)
            assert move.place == place
            return Shown(liar), place, Accuser(descent, self._trees).accuse(place, liar.payload(place))

    def scene(self, number: int, lies: bool) -> Scene:
        shown, place, _ = self._lies[number]
        leaf = self.geometry.node_of(place)
        way, at = [], Node(0, 0)
        while at != leaf:
            depth = at.depth + self.geometry.node_at(at).levels
            at = leaf.parent(leaf.depth - depth)
            way.append(depth)
        outside = tuple(key for key in self._beside(leaf) if self.is_outside(key))
        return Scene(shown if lies else self._shown, tuple(leaf), tuple(way), self._right, outside)

    def _beside(self, leaf: Node) -> Sequence[NodeKey]:
        """Last places of the levels above a leaf: what is outside lies at the end."""
        top = self.geometry.group_bits
        group = leaf.index >> (leaf.depth - top)
        return (top, (1 << top) - 1), (top + 5, (group << 5) | 31)

    def is_outside(self, key: NodeKey) -> bool:
        try:
            return not self.geometry.node_at(Node(*key)).inside
        except ValueError:
            return True

    def ready(self, game: Game, scene: Scene, lies: bool) -> None:
        """What can be accused: the lie, and elements that are right."""
        assert isinstance(game, JudgedGame)
        game.accusations = {key: self._accuse(scene.tree.trace, key) for key in scene.right}
        wrong = next(found for shown, place, found in self._lies if tuple(self.geometry.node_of(place)) == scene.leaf)
        game.accusations[scene.leaf] = wrong if lies else self._accuse(self._honest, scene.leaf)

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
            "request": self._request(),
            "ids": list(self.answer),
            "prompt": self.prompt,
            "finish": 2,
            "tree": scene.tree,
            "model": self.model,
        }

    def _request(self) -> Request:
        return request(
            model_id=self.model.model_id,
            input_root=tokens_root(self.prompt),
            input_tokens=len(self.prompt),
            max_output_tokens=len(self.answer),
            stop_tokens=b"\xff" * 32,
        )


def subject_of(kind: type[Game], subject: Contract) -> type[Game]:
    """Games about an answer of that subject."""
    triple = (subject.address, keccak256(b"anything"), PROVIDER.address)
    return type("MadeUp", (kind,), {"triple": property(lambda _game: triple)})
