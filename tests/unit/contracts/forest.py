"""Trace and tables of a claim for one step alone, with shapes of any kind: no program has to be accepted for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from market.verification.geometry import TABLE_ENTRIES, Geometry, Node, Place, WeightGeometry, number_of, padded
from market.verification.structs import Accusation, Claim, LayerFormat, Opening, Shape
from tests.unit.contracts.claims import NOISE, Tree, pack


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big", signed=value < 0)


def encode_opening(opening: Opening) -> bytes:
    payload = opening.payload.ljust(padded(len(opening.payload)), b"\0")
    head = _word(64) + _word(96 + len(payload)) + _word(len(opening.payload))
    return head + payload + _word(len(opening.path)) + b"".join(opening.path)


def encode_accusation(accusation: Accusation) -> bytes:
    """What eth_abi gives for the struct, twenty times as fast (a test compares)."""
    a = accusation
    accused = encode_opening(a.accused)
    inputs = [encode_opening(opening) for opening in a.inputs]
    offsets, end = [], 32 * len(inputs)
    for data in inputs:
        offsets.append(_word(end))
        end += len(data)
    head = [a.group, a.operation, a.row, a.slot, a.element, a.witness, 256, 256 + len(accused)]
    return b"".join([*map(_word, head), accused, _word(len(inputs)), *offsets, *inputs])


@dataclass
class Forest:
    """Trace and tables of one claim, leaf by leaf."""

    shape: Shape
    layer: LayerFormat
    input_tokens: int
    output_tokens: int
    geometry: Geometry = field(init=False)
    weights: WeightGeometry = field(init=False)

    def __post_init__(self) -> None:
        self.geometry = Geometry(self.shape, self.input_tokens, self.output_tokens)
        self.weights = WeightGeometry(self.shape)
        self.trace, self.tables = Tree(), Tree()

    def put(self, place: Place, values: Sequence[int]) -> None:
        """A leaf by its elements."""
        section = self.geometry.section(place.group, place.operation)
        assert len(values) == section.elements(place.row, place.slot), place
        self.put_raw(place, pack(values, section.element_size(place.slot)))

    def put_raw(self, place: Place, payload: bytes) -> None:
        self.trace.put(self.geometry.node_of(place), payload)

    def put_rope(self, position: int, index: int, cos: int, sin: int) -> tuple[int, int]:
        """An entry of both rotary tables, noise beside it. Returns the numbers of their leaves."""
        cos_leaf, sin_leaf, within = self.weights.rope(position, index)
        for leaf, value in ((cos_leaf, cos), (sin_leaf, sin)):
            entries = [(37 * i) % 65537 - 32768 for i in range(TABLE_ENTRIES)]
            entries[within] = value
            self.tables.put(self._table(leaf), pack(entries, 4))
        return cos_leaf, sin_leaf

    def open(self, where: Place | int) -> Opening:
        """A leaf of the trace, or one of the tables by its number."""
        if isinstance(where, int):
            return self.tables.open(self._table(where))
        return self.trace.open(self.geometry.node_of(where))

    def _table(self, leaf: int) -> Node:
        return Node(self.weights.table_depth, leaf)

    def claim(self) -> Claim:
        zero = bytes(32)
        return Claim(
            *("0x" + "22" * 20, zero, "0x" + "33" * 20, NOISE, zero, self.tables.root, NOISE, NOISE),
            *(self.input_tokens, self.output_tokens, 0, 0, 0, 0, zero),
        )

    def context(self, **roots: bytes) -> tuple[Any, ...]:
        """`Context` of contracts/libraries/TraceTree.sol; the judge fills in the claimed element."""
        return (
            self.shape.values(),
            self.layer.values(),
            roots.get("trace", self.trace.root),
            NOISE,
            roots.get("tables", self.tables.root),
            NOISE,
            NOISE,
            self.input_tokens,
            self.output_tokens,
            0,
        )


@dataclass
class Step:
    """An accusation and what it is about: an honest leaf, in a forest that has the leaf's inputs."""

    forest: Forest
    place: Place
    values: list[int]
    element: int
    inputs: Sequence[Place | int] = ()
    witness: int = 0
    row: Sequence[int] = ()
    """Of a maximum: what is compared, element by element."""
    source: Callable[[int], list[Place]] | None = None
    """Of a maximum: puts the leaves that have a witness."""

    def accusation(self, **changes: Any) -> Accusation:
        """With the forest as it is now."""
        fields: dict[str, Any] = {
            "group": self.place.group,
            "operation": number_of(self.place.operation),
            "row": self.place.row,
            "slot": self.place.slot,
            "element": self.element,
            "witness": self.witness,
            "accused": self.forest.open(self.place),
            "inputs": tuple(self.forest.open(where) for where in self.inputs),
        }
        return Accusation(**(fields | changes))

    def claim(self, values: Sequence[int] | None = None) -> None:
        """Puts the accused leaf into the trace, honest or as given."""
        self.forest.put(self.place, self.values if values is None else values)

    def bring(self, witness: int) -> None:
        """Takes another witness, and puts the leaves that have it."""
        assert self.source is not None
        self.witness, self.inputs = witness, self.source(witness)

    def altered(self, by: int) -> list[int]:
        """The leaf with the accused element changed."""
        values = list(self.values)
        values[self.element] += by
        return values
