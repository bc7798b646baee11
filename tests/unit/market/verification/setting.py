"""A claim about the tiny model, its honest trace, and whoever wants to be wrong about it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from market.hashing import tokens_root
from market.inference.model import IntegerModel
from market.models.pack import Pack
from market.verification.accusation import Accuser
from market.verification.descent import Descent
from market.verification.geometry import Geometry, Operation, Place, number_of
from market.verification.inputs import Inputs
from market.verification.model_trees import ModelTrees
from market.verification.step import Step
from market.verification.structs import Accusation, Claim, LayerFormat, Shape
from market.verification.trace import Trace


@dataclass(frozen=True)
class Setting:
    """One receipt of a model."""

    pack: Pack
    input_ids: tuple[int, ...]
    output_ids: tuple[int, ...]

    @property
    def model(self) -> IntegerModel:
        return self.pack.model

    @cached_property
    def shape(self) -> Shape:
        return Shape.of(self.pack.program)

    @cached_property
    def layers(self) -> tuple[LayerFormat, ...]:
        return LayerFormat.all_of(self.pack.program)

    @cached_property
    def honest(self) -> Trace:
        return Trace(self.model, self.shape, self.input_ids, self.output_ids)

    @property
    def geometry(self) -> Geometry:
        return self.honest.geometry

    @cached_property
    def trees(self) -> ModelTrees:
        return ModelTrees(self.model, self.shape)

    @cached_property
    def step(self) -> Step:
        return Step(self.shape, self.layers)

    def claim(self, sampler: int = 0, temperature_q16: int = 0, seed: bytes = bytes(32)) -> Claim:
        roots = self.pack.roots
        return Claim(
            subject="0x" + "11" * 20,
            subject_id=b"\x22" * 32,
            provider="0x" + "33" * 20,
            weights_root=roots.weights_root,
            program_root=roots.program_root,
            tables_root=roots.tables_root,
            input_root=tokens_root(self.input_ids),
            output_root=tokens_root(self.output_ids),
            input_tokens=len(self.input_ids),
            output_tokens=len(self.output_ids),
            sampler=sampler,
            temperature_q16=temperature_q16,
            top_k=0,
            top_p_q16=65536 if sampler else 0,
            seed=seed,
        )

    def accuse_anyway(self, place: Place, element: int, witness: int = 0) -> Accusation:
        """An accusation of an element of the honest trace."""
        accuser = Accuser(Descent(self.honest, self.honest.root()), self.trees)
        token = (*self.input_ids, *self.output_ids)[place.row] if place.operation is Operation.EMBEDDING else 0
        wanted = Inputs(self.geometry).of(place, element, witness, token)
        return Accusation(
            place.group,
            number_of(place.operation),
            place.row,
            place.slot,
            element,
            witness,
            accuser.leaf(place),
            tuple(accuser.open(one) for one in wanted),
        )

    def sections(self) -> Iterator[tuple[int, Operation]]:
        for group in range(self.geometry.groups):
            for operation in self.geometry.operations(group):
                yield group, operation

    def random_place(self, rng: random.Random, group: int, operation: Operation) -> Place:
        section = self.geometry.section(group, operation)
        while True:
            row, slot = rng.randrange(section.rows), rng.randrange(section.slots)
            if section.inside(row, slot):
                return Place(group, operation, row, slot)


def ids(seed: str, count: int, vocabulary: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, vocabulary) for _ in range(count))


def setting(pack: Pack, input_tokens: int = 60, output_tokens: int = 12) -> Setting:
    """Two blocks of positions with what is there by default."""
    vocabulary = pack.model.config.vocabulary
    return Setting(pack, ids("input", input_tokens, vocabulary), ids("output", output_tokens, vocabulary))
