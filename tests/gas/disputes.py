"""What every move of a dispute costs, on anvil, with the real judge and the geometry of a 135M-parameter model.

A 64-token answer to a 128-token prompt. The tree is made up along one way down: the game looks at hashes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from market.artefacts import STEPS
from market.hashing import ZERO32, keccak256, leaf_hash, merkle_root, tokens_root
from market.models.roots import TABLE_CHUNK
from market.models.tables import exp2
from market.types import Model
from market.verification.geometry import Geometry, Node, Operation, Place
from market.verification.structs import LayerFormat, Shape
from market.verification.tree import fold_path
from tests.gas.anvil import AnvilChain, anvil
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.claims import root_of
from tests.unit.contracts.disputes import (
    OPENER,
    PROVIDER,
    REQUEST_FEE,
    ROOT_FEE,
    WINDOW,
    DisputeWorld,
    Game,
    JobGame,
    request,
    settled_job,
)

SHAPE = Shape(49_152, 2_048, 576, 1_536, 30, 9, 3, 64, 43_000, 47_000, True, 14, 14)
LAYERS = (LayerFormat(14, 14, 14, 14, 14, 14, 14, 8, 8, 8),) * SHAPE.layers
PROMPT = [1_000 + i for i in range(128)]
LONG_PROMPT = [1_000 + i for i in range(1_024)]
ANSWER = [2_000 + i for i in range(63)] + [2]
TABLES = b"".join(exp2(bits).astype(">i4").tobytes() for bits in (8, 16))
TABLES_PATH = [keccak256(b"rotary" + bytes([i])) for i in range(9)]  # 2 + 2 · 256 leaves are 10 levels
MODEL = Model(
    keccak256(b"weights"),
    root_of(SHAPE, LAYERS),
    fold_path(
        merkle_root(leaf_hash(TABLES[i : i + TABLE_CHUNK]) for i in range(0, len(TABLES), TABLE_CHUNK)), 0, TABLES_PATH
    ),
    keccak256(b"tokenizer"),
    keccak256(b"template"),
)
PLACE = Place(30, Operation.DOWN, 190, 8)
OPEN_LONG = "dispute: open, 1,024 + 64 tokens"
TOTAL = "dispute: all of it but the proof, and the slash"


@dataclass
class WayDown:
    """Hashes that lead to one leaf, and noise beside them."""

    geometry: Geometry
    leaf: Node
    payload: bytes
    shown: dict[Node, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stops = [Node(0, 0)]
        while self.stops[-1].depth < self.leaf.depth:
            depth = self.stops[-1].depth + self.geometry.node_at(self.stops[-1]).levels
            self.stops.append(self.leaf.parent(self.leaf.depth - depth))
        below = leaf_hash(self.payload)
        for above, stop in zip(self.stops[-2::-1], self.stops[:0:-1], strict=True):
            levels = stop.depth - above.depth
            hashes = [keccak256(b"beside" + bytes([above.depth, i])) for i in range(1 << levels)]
            hashes[stop.index & ((1 << levels) - 1)] = below
            self.shown[above] = hashes
            below = merkle_root(hashes)

    def path(self, stop: Node, above: Node) -> list[bytes]:
        level, index, path = self.shown[above], stop.index, []
        index &= len(level) - 1
        while len(level) > 1:
            path.append(level[index ^ 1])
            level = [keccak256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
            index >>= 1
        return path

    def hash(self, stop: Node, above: Node) -> bytes:
        return self.shown[above][stop.index & (len(self.shown[above]) - 1)]


class JudgedWorld(DisputeWorld):
    """With the judge that is deployed, which knows the one model."""

    def _deploy_arbiter(self):  # type: ignore[no-untyped-def]
        self.libraries = {name: self.deploy(name).address for name in STEPS}
        self.judge = self.deploy("Judge")
        return self.deploy("Disputes", self.vault.address, self.judge.address, WINDOW, ROOT_FEE, REQUEST_FEE)


def measure_disputes() -> dict[str, int]:
    """Move → gas used by its transaction. Starts and stops anvil; takes about five seconds."""
    with anvil() as url:
        world = JudgedWorld(chain=AnvilChain(list(artefacts().values()), url))
        gas: dict[str, int] = {}
        world.judge.acceptProgram(SHAPE.values(), [layer.values() for layer in LAYERS], sender=OPENER.address)
        gas["acceptProgram, 30 layers"] = world.chain.gas_used
        world.judge.acceptTables(MODEL.tables_root, TABLES_PATH, sender=OPENER.address)
        gas["acceptTables"] = world.chain.gas_used
        game = _game(world)
        gas |= _play(game)
        gas[TOTAL] = sum(gas[f"dispute: {move}"] for move in ("open", "root", *_numbered(), "missed, guilty"))
        _game(world, LONG_PROMPT).open()
        gas[OPEN_LONG] = world.chain.gas_used
        return gas


def _numbered() -> list[str]:
    return [f"{move} {i}" for i in range(1, 6) for move in ("request", "reply")]


def _game(world: DisputeWorld, prompt: list[int] = PROMPT) -> JobGame:
    asked = request(
        model_id=MODEL.model_id,
        input_root=tokens_root(prompt),
        input_tokens=len(prompt),
        max_output_tokens=len(ANSWER),
    )
    return settled_job(JobGame(world, request=asked, ids=ANSWER, prompt=prompt, model=MODEL))


def _play(game: Game) -> dict[str, int]:
    world, disputes = game.world, game.world.disputes
    geometry = Geometry(SHAPE, len(PROMPT), len(ANSWER))
    leaf = geometry.node_of(PLACE)
    way = WayDown(geometry, leaf, bytes(geometry.node_at(leaf).payload_bytes))
    gas: dict[str, int] = {}

    def done(move: str) -> None:
        gas[f"dispute: {move}"] = world.chain.gas_used

    game.open()
    done("open")
    disputes.answerRoot(game.claim, way.shown[way.stops[0]], sender=PROVIDER.address)
    done("root")
    for number, (above, stop) in enumerate(zip(way.stops, way.stops[1:], strict=False), 1):
        node = (stop.depth, stop.index, way.hash(stop, above), way.path(stop, above))
        disputes.request(game.claim, node, b"", sender=OPENER.address)
        done(f"request {number}")
        if stop == leaf:
            disputes.answerPayload(game.id, *stop, way.payload, sender=PROVIDER.address)
        else:
            disputes.answerHashes(game.id, *stop, way.shown[stop], sender=PROVIDER.address)
        done(f"reply {number}")
    beside = Node(way.stops[1].depth, way.stops[1].index ^ 1)
    node = (*beside, way.hash(beside, way.stops[0]), way.path(beside, way.stops[0]))
    disputes.request(game.claim, node, b"", sender=OPENER.address)
    world.warp(WINDOW + 1)
    game.missed(*beside)
    done("missed, guilty")
    disputes.refund(game.id, OPENER.address, sender=OPENER.address)
    done("refund")
    assert game.view["root"] != ZERO32
    return gas


if __name__ == "__main__":
    for move, used in measure_disputes().items():
        print(f"{used:>9,}  {move}")
