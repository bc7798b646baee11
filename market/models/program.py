"""The program of a pack: what is computed, in execution order, with every shape, exponent and constant.

One leaf of ``programRoot`` per operation: nine ABI-encoded words (docs/numerics.md, section 7.2). A program
is valid only if it equals the one ``build`` makes from the shapes it states; nothing else can be executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any, Literal

from market.hashing import encode_static
from market.inference.model import Config

CHUNK = 64  # output elements per leaf of the trace, and gains per weight leaf


class Kind(IntEnum):
    """Operations by the number they have in a program leaf."""

    EMBEDDING = 1
    ATTENTION_NORM = 2
    QUERY = 3
    KEY = 4
    VALUE = 5
    ROTATE_QUERY = 6
    ROTATE_KEY = 7
    STORE_VALUE = 8
    SCORES = 9
    SOFTMAX = 10
    MIX = 11
    QUANTISE_MIX = 12
    ATTENTION_OUTPUT = 13
    FEED_FORWARD_NORM = 14
    GATE = 15
    UP = 16
    ACTIVATION = 17
    DOWN = 18
    OUTPUT_NORM = 19
    LOGITS = 20
    ARGMAX = 21


_MATRICES: tuple[Kind, ...] = (
    Kind.EMBEDDING,
    Kind.QUERY,
    Kind.KEY,
    Kind.VALUE,
    Kind.ATTENTION_OUTPUT,
    Kind.GATE,
    Kind.UP,
    Kind.DOWN,
)
_MATRICES += (Kind.LOGITS,)


@dataclass(frozen=True)
class Operation:
    """One leaf. Fields without a meaning for the kind are 0."""

    kind: Kind
    layer: int
    rows: int
    columns: int
    first_weight_leaf: int
    exponent: int  # of the weight matrix; for scores the right shift
    fraction_bits: int  # of the int16 result of rotate and store; for mix those of the value
    constant: int  # epsilon of a norm, multiplier of the scores
    chunk_length: int

    def leaf_payload(self) -> bytes:
        """Nine ABI words: uint256 each, the exponent int256."""
        kinds = ["int256" if field.name == "exponent" else "uint256" for field in fields(self)]
        return encode_static(kinds, [int(getattr(self, field.name)) for field in fields(self)])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "kind": self.kind.name.lower()}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor under ``weightsRoot``; its number there is its place in ``tensors``."""

    name: str
    role: Literal["matrix", "gain"]
    rows: int  # a gain has one row
    columns: int
    first_leaf: int

    @property
    def leaves(self) -> int:
        return self.rows if self.role == "matrix" else -(-self.columns // CHUNK)


def tensors(config: Config, tied: bool) -> tuple[TensorSpec, ...]:
    """All tensors in the order of the weight tree and of weights.safetensors."""
    c, query, key = config, config.heads * config.head_size, config.kv_heads * config.head_size
    shapes: list[tuple[str, Literal["matrix", "gain"], int, int]] = [("embedding", "matrix", c.vocabulary, c.hidden)]
    for layer in range(c.layers):
        shapes += [
            (f"layers.{layer}.attention_norm", "gain", 1, c.hidden),
            (f"layers.{layer}.query", "matrix", query, c.hidden),
            (f"layers.{layer}.key", "matrix", key, c.hidden),
            (f"layers.{layer}.value", "matrix", key, c.hidden),
            (f"layers.{layer}.attention_output", "matrix", c.hidden, query),
            (f"layers.{layer}.feed_forward_norm", "gain", 1, c.hidden),
            (f"layers.{layer}.gate", "matrix", c.feed_forward, c.hidden),
            (f"layers.{layer}.up", "matrix", c.feed_forward, c.hidden),
            (f"layers.{layer}.down", "matrix", c.hidden, c.feed_forward),
        ]
    shapes.append(("output_norm", "gain", 1, c.hidden))
    if not tied:
        shapes.append(("head", "matrix", c.vocabulary, c.hidden))
    result: list[TensorSpec] = []
    for name, role, rows, columns in shapes:
        first = result[-1].first_leaf + result[-1].leaves if result else 0
        result.append(TensorSpec(name, role, rows, columns, first))
    return tuple(result)


@dataclass(frozen=True)
class Fractions:
    """Fraction bits of the int16 query, key and value, one number a layer, each 0..15."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]


def build(config: Config, tied: bool, exponents: Mapping[str, int], fractions: Fractions) -> tuple[Operation, ...]:
    """The program of a llama-shaped model; ``exponents`` by matrix name."""
    c = config
    specs = {spec.name: spec for spec in tensors(config, tied)}

    def matrix(kind: Kind, name: str, layer: int = 0) -> Operation:
        spec = specs[name]
        return Operation(kind, layer, spec.rows, spec.columns, spec.first_leaf, exponents[name], 0, 0, CHUNK)

    def norm(kind: Kind, name: str, layer: int = 0) -> Operation:
        return Operation(kind, layer, 1, c.hidden, specs[name].first_leaf, 0, 0, c.epsilon, CHUNK)

    def plain(
        kind: Kind, layer: int, rows: int, columns: int, exponent: int = 0, fraction: int = 0, constant: int = 0
    ) -> Operation:
        return Operation(kind, layer, rows, columns, 0, exponent, fraction, constant, CHUNK)

    operations = [matrix(Kind.EMBEDDING, "embedding")]
    for i in range(c.layers):
        query, key, value = fractions.query[i], fractions.key[i], fractions.value[i]
        operations += [
            norm(Kind.ATTENTION_NORM, f"layers.{i}.attention_norm", i),
            matrix(Kind.QUERY, f"layers.{i}.query", i),
            matrix(Kind.KEY, f"layers.{i}.key", i),
            matrix(Kind.VALUE, f"layers.{i}.value", i),
            plain(Kind.ROTATE_QUERY, i, c.heads, c.head_size, fraction=query),
            plain(Kind.ROTATE_KEY, i, c.kv_heads, c.head_size, fraction=key),
            plain(Kind.STORE_VALUE, i, c.kv_heads, c.head_size, fraction=value),
            plain(Kind.SCORES, i, c.heads, c.context, exponent=query + key + 2, constant=c.score_multiplier),
            plain(Kind.SOFTMAX, i, c.heads, c.context),
            plain(Kind.MIX, i, c.heads, c.head_size, fraction=value),
            plain(Kind.QUANTISE_MIX, i, 1, c.heads * c.head_size),
            matrix(Kind.ATTENTION_OUTPUT, f"layers.{i}.attention_output", i),
            norm(Kind.FEED_FORWARD_NORM, f"layers.{i}.feed_forward_norm", i),
            matrix(Kind.GATE, f"layers.{i}.gate", i),
            matrix(Kind.UP, f"layers.{i}.up", i),
            plain(Kind.ACTIVATION, i, 1, c.feed_forward),
            matrix(Kind.DOWN, f"layers.{i}.down", i),
        ]
    operations += [
        norm(Kind.OUTPUT_NORM, "output_norm"),
        matrix(Kind.LOGITS, "embedding" if tied else "head"),
        plain(Kind.ARGMAX, 0, 1, c.vocabulary),
    ]
    return tuple(operations)


@dataclass(frozen=True)
class Program:
    """A program that was checked to be executable, with what an engine needs to know of it."""

    operations: tuple[Operation, ...]
    config: Config
    tied: bool
    exponents: Mapping[str, int]
    fractions: Fractions


def read(data: object) -> Program:
    """A program from program.json's content. Raises ValueError, saying why, unless it is exactly what
    ``build`` makes.
    """
    if not isinstance(data, dict) or data.get("format") != 1 or not isinstance(data.get("operations"), list):
        raise ValueError("is not a format 1 program")
    try:
        operations = tuple(_operation(entry) for entry in data["operations"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("has a malformed operation") from error
    first: dict[Kind, Operation] = {}
    for operation in operations:
        first.setdefault(operation.kind, operation)
    if set(first) != set(Kind):
        raise ValueError("lacks an operation of the llama program")
    config = Config(
        vocabulary=first[Kind.EMBEDDING].rows,
        context=first[Kind.SCORES].columns,
        hidden=first[Kind.EMBEDDING].columns,
        feed_forward=first[Kind.GATE].rows,
        layers=sum(operation.kind is Kind.QUERY for operation in operations),
        heads=first[Kind.ROTATE_QUERY].rows,
        kv_heads=first[Kind.ROTATE_KEY].rows,
        head_size=first[Kind.ROTATE_QUERY].columns,
        epsilon=first[Kind.ATTENTION_NORM].constant,
        score_multiplier=first[Kind.SCORES].constant,
    )
    tied = first[Kind.LOGITS].first_weight_leaf == first[Kind.EMBEDDING].first_weight_leaf
    matrices = [spec for spec in tensors(config, tied) if spec.role == "matrix"]
    by_leaf = {spec.first_leaf: spec.name for spec in matrices}
    exponents = {by_leaf.get(o.first_weight_leaf, ""): o.exponent for o in operations if o.kind in _MATRICES}
    fractions = Fractions(
        *(
            tuple(operation.fraction_bits for operation in operations if operation.kind is kind)
            for kind in (Kind.ROTATE_QUERY, Kind.ROTATE_KEY, Kind.STORE_VALUE)
        )
    )
    counts = {len(fractions.query), len(fractions.key), len(fractions.value)}
    names_known = exponents.keys() == {spec.name for spec in matrices}
    if counts != {config.layers} or not names_known or build(config, tied, exponents, fractions) != operations:
        raise ValueError("is not the llama program of its own shapes")
    return Program(operations, config, tied, exponents, fractions)


def to_json(operations: Sequence[Operation]) -> dict[str, Any]:
    """program.json's content."""
    return {"format": 1, "operations": [operation.to_json() for operation in operations]}


def _operation(entry: dict[str, Any]) -> Operation:
    if set(entry) != {field.name for field in fields(Operation)}:
        raise ValueError("unexpected fields")
    numbers = {name: value for name, value in entry.items() if name != "kind"}
    if any(type(value) is not int or abs(value) >= 1 << 62 for value in numbers.values()):
        raise ValueError("not an integer")
    if any(value < 0 for name, value in numbers.items() if name != "exponent"):
        raise ValueError("negative")
    return Operation(kind=Kind[entry["kind"].upper()], **numbers)
