"""The structs of contracts/interfaces/Trace.sol, field for field.

``values()`` of each is what web3 and eth_abi take for the Solidity struct.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from market.inference.model import Config
from market.models.program import Program


class TraceStruct:
    """Base of the structs: their fields in Solidity's order."""

    def values(self) -> tuple[Any, ...]:
        """Field values in order, structs and lists of structs as nested tuples and lists."""
        return tuple(_plain(getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, TraceStruct):
        return value.values()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class Shape(TraceStruct):
    """Shapes and constants of a llama-shaped program (docs/numerics.md, section 2)."""

    vocabulary: int
    context: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    epsilon: int  # Q32
    score_multiplier: int  # Q18
    tied: bool  # the embedding is the head
    embedding_exponent: int
    head_exponent: int  # the embedding's if tied

    @classmethod
    def of(cls, program: Program) -> Shape:
        c, exponents = program.config, program.exponents
        return cls(
            c.vocabulary,
            c.context,
            c.hidden,
            c.feed_forward,
            c.layers,
            c.heads,
            c.kv_heads,
            c.head_size,
            c.epsilon,
            c.score_multiplier,
            program.tied,
            exponents["embedding"],
            exponents["embedding" if program.tied else "head"],
        )

    def config(self) -> Config:
        return Config(
            self.vocabulary,
            self.context,
            self.hidden,
            self.feed_forward,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_size,
            self.epsilon,
            self.score_multiplier,
        )


@dataclass(frozen=True)
class LayerFormat(TraceStruct):
    """Exponents of a layer's matrices and fraction bits of its cache."""

    query: int
    key: int
    value: int
    attention_output: int
    gate: int
    up: int
    down: int
    query_fraction: int
    key_fraction: int
    value_fraction: int

    @classmethod
    def all_of(cls, program: Program) -> tuple[LayerFormat, ...]:
        """One for each layer."""
        names = ("query", "key", "value", "attention_output", "gate", "up", "down")
        fractions = program.fractions
        return tuple(
            cls(
                **{name: program.exponents[f"layers.{i}.{name}"] for name in names},
                query_fraction=fractions.query[i],
                key_fraction=fractions.key[i],
                value_fraction=fractions.value[i],
            )
            for i in range(program.config.layers)
        )


@dataclass(frozen=True)
class Claim(TraceStruct):
    """A receipt under dispute, whole."""

    subject: str  # address
    subject_id: bytes
    provider: str  # address
    weights_root: bytes
    program_root: bytes
    tables_root: bytes
    input_root: bytes
    output_root: bytes
    input_tokens: int
    output_tokens: int
    sampler: int
    temperature_q16: int
    top_k: int
    top_p_q16: int
    seed: bytes


@dataclass(frozen=True)
class Opening(TraceStruct):
    """A leaf's payload (or those of a whole row, one after the other) and its siblings up to the root, lowest first."""

    payload: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Accusation(TraceStruct):
    """ "This element of this leaf is wrong": the place in the trace, and openings in the order of section 3."""

    group: int
    operation: int  # its number in the group
    row: int
    slot: int
    element: int  # the number of elements accuses the padding
    witness: int  # the index that contradicts a maximum, else 0
    accused: Opening
    inputs: tuple[Opening, ...]


@dataclass(frozen=True)
class OutputAccusation(TraceStruct):
    """ "At output position `position` the rival beats the id that was returned"."""

    position: int
    output: int
    rival: int
    ids: Opening
    output_logits: Opening
    rival_logits: Opening
