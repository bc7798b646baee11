"""From a wrong leaf's payload to the accusation that proves it wrong (docs/disputes.md, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from market.verification.arithmetic import has_output_step, key
from market.verification.descent import Descent
from market.verification.geometry import LOGITS_CHUNK, NORMS, Operation, Place, number_of
from market.verification.inputs import (
    Input,
    Inputs,
    TableLeaf,
    TokensWord,
    TraceLeaf,
    TraceRow,
    WeightLeaf,
    is_maximum,
    maximum_count,
)
from market.verification.leaves import decode
from market.verification.model_trees import ModelTrees, token_opening
from market.verification.structs import Accusation, Claim, Opening, OutputAccusation


class NothingWrong(ValueError):
    """What was to be accused equals the honest trace."""


class Accuser:
    """Builds accusations against one provider's trace."""

    def __init__(self, descent: Descent, trees: ModelTrees) -> None:
        self._descent, self._trees, self.trace = descent, trees, descent.trace
        self._inputs = Inputs(self.trace.geometry)

    def accuse(self, place: Place, payload: bytes) -> Accusation:
        """Of the first wrong leaf, which the provider showed to be ``payload``.

        Raises NothingWrong for the honest one.
        """
        element = self.first_wrong(place, payload)
        witness = 0
        if is_maximum(place.operation, place.slot, element):
            witness = self._witness(place, payload)
        token = 0
        if place.operation is Operation.EMBEDDING:
            token = (*self.trace.input_ids, *self.trace.output_ids)[place.row]
        node = self.trace.geometry.node_of(place)
        return Accusation(
            place.group,
            number_of(place.operation),
            place.row,
            place.slot,
            element,
            witness,
            Opening(payload, self._descent.path(node)),
            tuple(self.open(wanted) for wanted in self._inputs.of(place, element, witness, token)),
        )

    def leaf(self, place: Place) -> Opening:
        """An honest leaf of the provider's tree."""
        return self._descent.leaf(place)

    def first_wrong(self, place: Place, payload: bytes) -> int:
        """The lowest element that differs from the honest leaf's; their number where only the padding does."""
        section = self.trace.geometry.section(place.group, place.operation)
        size, count = section.element_size(place.slot), section.elements(place.row, place.slot)
        honest = self.trace.payload(place)
        if payload == honest:
            raise NothingWrong(f"{place} is honest")
        pairs = zip(decode(payload, size, count), decode(honest, size, count), strict=True)
        return next((i for i, (claimed, right) in enumerate(pairs) if claimed != right), count)

    def open(self, wanted: Input) -> Opening:
        """An input, as it lies in the provider's tree or in those of model and texts."""
        match wanted:
            case TraceLeaf(place):
                return self.leaf(place)
            case TraceRow(group, operation, row):
                node = self.trace.geometry.row_node(group, operation, row)
                return Opening(self.trace.row_payload(group, operation, row), self._descent.path(node))
            case WeightLeaf(leaf):
                return self._trees.weight_opening(leaf)
            case TableLeaf(leaf):
                return self._trees.table_opening(leaf)
            case TokensWord(output, index):
                ids = self.trace.output_ids if output else self.trace.input_ids
                return token_opening(ids, index, self._trees.keccak)

    def _witness(self, place: Place, payload: bytes) -> int:
        """The index that contradicts a claimed maximum: the true one where it exceeds the claim, or equals it and is
        lower; else the claimed one, which does not attain it.
        """
        first = 2 if place.operation in NORMS else 0
        size = self.trace.geometry.section(place.group, place.operation).element_size(place.slot)
        claimed, at = decode(payload, size, first + 2)[first:]
        right, lowest = decode(self.trace.payload(place), size, first + 2)[first:]
        if not 0 <= at < maximum_count(self.trace.geometry, place) or at == lowest:
            return lowest
        return lowest if right > claimed or (right == claimed and lowest < at) else at


def accuse_output(accuser: Accuser, claim: Claim) -> OutputAccusation | None:
    """The first output position whose id is not what the honest logits give, or None.

    For a trace whose root is the honest one; else its elements are accused. Raises ValueError for a sampler without a
    step.
    """
    trace, logits = accuser.trace, accuser.trace.logits()
    for position, output in enumerate(trace.output_ids):
        rival = _winner(claim, logits[position].tolist(), position)
        if rival != output:
            return accuse_token(accuser, position, output, rival)
    return None


def accuse_token(accuser: Accuser, position: int, output: int, rival: int) -> OutputAccusation:
    """That the rival beats the id at an output position."""
    trace = accuser.trace
    group = trace.geometry.groups - 1
    of_output, of_rival = (
        accuser.open(TraceLeaf(Place(group, Operation.LOGITS, position, token // LOGITS_CHUNK)))
        for token in (output, rival)
    )
    word = accuser.open(TokensWord(True, position))
    return OutputAccusation(position, output, rival, word, of_output, of_rival)


def _winner(claim: Claim, logits: Sequence[int], position: int) -> int:
    if not has_output_step(claim):
        raise ValueError(f"sampler {claim.sampler} with these filters has no step")
    if claim.sampler == 0 or claim.temperature_q16 == 0:
        return int(np.argmax(np.asarray(logits)))
    return max(range(len(logits)), key=lambda token: (key(claim, logits[token], token, position), -token))
