"""A claim of any shape whose trees have only the leaves that a step opens, and noise beside them.

A step sees leaves and paths, so nothing else has to exist: a case of one step is cheap, whatever the shapes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from market.hashing import ZERO32, keccak256, leaf_hash, tokens_root
from market.models.program import Fractions, build, tensors
from market.models.roots import program_root
from market.verification.geometry import Geometry, Node, Operation, Place, WeightGeometry, number_of, padded
from market.verification.model_trees import token_opening
from market.verification.structs import Accusation, Claim, LayerFormat, Opening, Shape
from market.verification.tree import Keccak
from tests.unit.contracts.abi import Chain, Contract
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.revm import RevmChain

NOISE = keccak256(b"whatever lies beside")
DEPLOYER = "0x" + "11" * 20
_MATRICES = ("query", "key", "value", "attention_output", "gate", "up", "down")
_KECCAK = Keccak(0)


def deploy_judge(chain: Chain) -> Contract:
    """The judge and the libraries that it is linked to."""
    compiled = artefacts()
    libraries = {
        name: chain.deploy(compiled[name], sender=DEPLOYER).address for name in compiled["Judge"]["linkReferences"]
    }
    return chain.deploy(compiled["Judge"], sender=DEPLOYER, libraries=libraries)


@cache
def root_of(shape: Shape, layers: tuple[LayerFormat, ...]) -> bytes:
    """The program root that packing computes."""
    exponents = {"embedding": shape.embedding_exponent}
    if not shape.tied:
        exponents["head"] = shape.head_exponent
    for i, layer in enumerate(layers):
        exponents |= {f"layers.{i}.{name}": getattr(layer, name) for name in _MATRICES}
    fractions = Fractions(*(tuple(getattr(f, f"{n}_fraction") for f in layers) for n in ("query", "key", "value")))
    return program_root(build(shape.config(), shape.tied, exponents, fractions))


@cache
def leaves_of(shape: Shape) -> tuple[WeightGeometry, dict[str, int]]:
    """Of the weight tree: where leaves are, and the number of each tensor."""
    return WeightGeometry(shape), {spec.name: i for i, spec in enumerate(tensors(shape.config(), shape.tied))}


def pack(values: Sequence[int], size: int) -> bytes:
    """Elements of so many bytes as a payload."""
    data = b"".join(value.to_bytes(size, "big", signed=True) for value in values)
    return data.ljust(padded(len(data)), b"\0")


class Tree:
    """A binary tree with hashes at any depths, and noise wherever nothing was put."""

    def __init__(self) -> None:
        self._payloads: dict[Node, bytes] = {}
        self._known: dict[Node, bytes] = {}
        self._above: set[Node] = set()
        self._hashes: dict[Node, bytes] = {}

    def put(self, node: Node, payload: bytes) -> None:
        self._payloads[node] = payload
        self.fix(node, leaf_hash(payload))

    def fix(self, node: Node, value: bytes) -> None:
        """A hash whatever lies below it."""
        self._known[node] = value
        self._hashes.clear()
        while node.depth and (node := node.parent()) not in self._above:
            self._above.add(node)

    @property
    def root(self) -> bytes:
        return self.hash(Node(0, 0))

    def hash(self, node: Node) -> bytes:
        if node in self._known:
            return self._known[node]
        if node not in self._above:
            return NOISE
        if node not in self._hashes:
            self._hashes[node] = keccak256(self.hash(node.child(1, 0)) + self.hash(node.child(1, 1)))
        return self._hashes[node]

    def path(self, node: Node) -> tuple[bytes, ...]:
        return tuple(self.hash(Node(node.depth - k, (node.index >> k) ^ 1)) for k in range(node.depth))

    def open(self, node: Node) -> Opening:
        return Opening(self._payloads[node], self.path(node))

    def payload(self, node: Node) -> bytes:
        return self._payloads[node]


@dataclass
class Ground:
    """Everything that a dispute about one claim may open."""

    shape: Shape
    layers: tuple[LayerFormat, ...]
    input_ids: Sequence[int]
    output_ids: Sequence[int]
    trace: Tree = field(default_factory=Tree)
    weights: Tree = field(default_factory=Tree)
    tables: Tree = field(default_factory=Tree)
    sampling: tuple[int, int, int, int, bytes] = (0, 0, 0, 0, ZERO32)

    def __post_init__(self) -> None:
        self.geometry = Geometry(self.shape, len(self.input_ids), len(self.output_ids))
        self.leaves, self._numbers = leaves_of(self.shape)
        self.program_root = root_of(self.shape, self.layers)

    # ---- what lies there

    def put(self, place: Place, values: Sequence[int]) -> None:
        section = self.geometry.section(place.group, place.operation)
        assert len(values) == section.elements(place.row, place.slot), place
        self.put_raw(place, pack(values, section.element_size(place.slot)))

    def put_raw(self, place: Place, payload: bytes) -> None:
        self.trace.put(self.geometry.node_of(place), payload)

    def put_row(
        self, group: int, operation: Operation, row: int, values: Sequence[int], statistic: Sequence[int] = ()
    ) -> None:
        section = self.geometry.section(group, operation)
        for slot in range(1 << section.slot_bits):
            place = Place(group, operation, row, slot)
            if slot >= section.slots:
                self.trace.fix(self.geometry.node_of(place), ZERO32)
            elif section.statistic and slot == 0:
                self.put(place, statistic)
            else:
                start = section.chunk * (slot - (section.statistic > 0))
                self.put(place, values[start : start + section.chunk])

    def put_weights(self, tensor: str, row: int, multiplier: int, values: Sequence[int]) -> None:
        header = struct.pack(">HII22x", self.number(tensor), row, multiplier)
        self.put_weight_leaf(self.leaves.row(tensor, row), header + pack(values, 1))

    def put_gains(self, tensor: str, group: int, gains: Sequence[int]) -> None:
        header = struct.pack(">HII22x", self.number(tensor), group, 0)
        self.put_weight_leaf(self.leaves.gain(tensor, 64 * group), header + pack([*gains, *[0] * (64 - len(gains))], 4))

    def put_weight_leaf(self, leaf: int, payload: bytes) -> None:
        self.weights.put(Node(self.leaves.depth, leaf), payload)

    def number(self, tensor: str) -> int:
        """Of a tensor in the weight tree; ``head`` is the embedding where the model ties them."""
        return self._numbers["embedding" if tensor == "head" and self.shape.tied else tensor]

    # ---- openings

    def open(self, place: Place) -> Opening:
        return self.trace.open(self.geometry.node_of(place))

    def open_row(self, group: int, operation: Operation, row: int) -> Opening:
        slots = range(self.geometry.section(group, operation).slots)
        nodes = (self.geometry.node_of(Place(group, operation, row, slot)) for slot in slots)
        payload = b"".join(self.trace.payload(node) for node in nodes)
        return Opening(payload, self.trace.path(self.geometry.row_node(group, operation, row)))

    def open_weights(self, tensor: str, row: int) -> Opening:
        return self.weights.open(Node(self.leaves.depth, self.leaves.row(tensor, row)))

    def open_gains(self, tensor: str, index: int) -> Opening:
        return self.weights.open(Node(self.leaves.depth, self.leaves.gain(tensor, index)))

    def open_ids(self, position: int) -> Opening:
        """The word with the id at a position of prompt and output."""
        prompt = len(self.input_ids)
        if position < prompt:
            return token_opening(self.input_ids, position, _KECCAK)
        return token_opening(self.output_ids, position - prompt, _KECCAK)

    # ---- the claim

    def claim(self) -> Claim:
        sampler, temperature, top_k, top_p, seed = self.sampling
        return Claim(
            subject="0x" + "22" * 20,
            subject_id=keccak256(b"subject"),
            provider="0x" + "33" * 20,
            weights_root=self.weights.root,
            program_root=self.program_root,
            tables_root=self.tables.root,
            input_root=tokens_root(list(self.input_ids)),
            output_root=tokens_root(list(self.output_ids)),
            input_tokens=len(self.input_ids),
            output_tokens=len(self.output_ids),
            sampler=sampler,
            temperature_q16=temperature,
            top_k=top_k,
            top_p_q16=top_p,
            seed=seed,
        )

    def accuse(self, place: Place, element: int, inputs: Iterable[Opening], witness: int = 0) -> Accusation:
        number = number_of(place.operation)
        opened = self.open(place)
        return Accusation(place.group, number, place.row, place.slot, element, witness, opened, tuple(inputs))


class Court:
    """A judge who knows the programs it is asked about."""

    def __init__(self, chain: RevmChain) -> None:
        self.chain, self.judge = chain, deploy_judge(chain)
        self._known: set[bytes] = set()

    def know(self, shape: Shape, layers: Sequence[LayerFormat], root: bytes) -> None:
        if root not in self._known:
            assert self.judge.acceptProgram(shape.values(), [layer.values() for layer in layers]) == root
            self._known.add(root)

    def finds_wrong(self, ground: Ground, accusation: Accusation, **claim: Any) -> bool:
        self.know(ground.shape, ground.layers, ground.program_root)
        told = replace(ground.claim(), **claim)
        found: bool = self.judge.isWrong(told.values(), ground.trace.root, accusation.values())
        return found
