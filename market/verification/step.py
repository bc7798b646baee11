"""The steps that the contracts execute, in Python: is the accused element what its inputs give?

From payloads alone; every opening is checked against the claim's roots at the place that the accusation's own place
implies (docs/disputes.md, section 3). Python's integers, so nothing wraps, as in the EVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

from market.hashing import TOKENS_PER_LEAF, keccak256, leaf_hash
from market.inference.reference import LOG2_E_Q16
from market.models import tables
from market.verification import arithmetic as a
from market.verification.geometry import (
    CHUNK,
    HEAD_OPERATIONS,
    LOGITS_CHUNK,
    NORMS,
    Geometry,
    Node,
    Operation,
    Place,
    Section,
    ceil_div,
    ceil_log2,
    padded,
)
from market.verification.inputs import (
    MATRICES,
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
from market.verification.structs import Accusation, Claim, LayerFormat, Opening, OutputAccusation, Shape
from market.verification.tree import empty, fold_path

Op = Operation


class OpeningError(ValueError):
    """An opening does not lead to its root, has another length, or names a place that does not exist: the contract
    reverts.
    """


class Step:
    """Judges accusations of one program. ``layers``: one format for each."""

    def __init__(self, shape: Shape, layers: Sequence[LayerFormat]) -> None:
        self._shape, self._layers = shape, tuple(layers)

    def is_wrong(self, claim: Claim, root: bytes, accusation: Accusation) -> bool:
        """``IJudge.isWrong``. Raises OpeningError where that reverts."""
        return _Case(self._shape, self._layers, claim, root, accusation).is_wrong()

    def is_output_wrong(self, claim: Claim, root: bytes, accusation: OutputAccusation) -> bool:
        """``IJudge.isOutputWrong``. Raises OpeningError where that reverts."""
        geometry, position = geometry_of(self._shape, claim), accusation.position
        output, rival = accusation.output, accusation.rival
        if not 0 <= position < claim.output_tokens or output == rival:
            raise OpeningError(f"no rival {rival} at output position {position}")
        check_tokens(claim, TokensWord(True, position), accusation.ids)
        if token_in(accusation.ids.payload, position) != output:
            raise OpeningError(f"the id at output position {position} is not {output}")
        logits = []
        for token, opening in ((output, accusation.output_logits), (rival, accusation.rival_logits)):
            if not 0 <= token < self._shape.vocabulary:
                raise OpeningError(f"id {token} is outside the vocabulary")
            slot, element = divmod(token, LOGITS_CHUNK)
            place = Place(geometry.groups - 1, Op.LOGITS, position, slot)
            check_leaf(geometry, root, place, opening)
            logits.append(decode(opening.payload, 4, element + 1)[element])
        keys = [a.key(claim, logit, token, position) for logit, token in zip(logits, (output, rival), strict=True)]
        return keys[1] > keys[0] or (keys[1] == keys[0] and rival < output)


def geometry_of(shape: Shape, claim: Claim) -> Geometry:
    return Geometry(shape, claim.input_tokens, claim.output_tokens)


def check_leaf(geometry: Geometry, root: bytes, place: Place, opening: Opening, accused: bool = False) -> None:
    """Raises OpeningError unless it is that leaf's; only an ``accused`` one's padding may be anything."""
    section = geometry.section(place.group, place.operation)
    if not section.inside(place.row, place.slot):
        raise OpeningError(f"{place} is outside the program")
    if len(opening.payload) != section.payload_bytes(place.row, place.slot):
        raise OpeningError(f"{len(opening.payload)} bytes are not the payload of {place}")
    if not accused and any(
        opening.payload[section.elements(place.row, place.slot) * section.element_size(place.slot) :]
    ):
        raise OpeningError(f"the padding of {place} is not zero")
    _check(leaf_hash(opening.payload), geometry.node_of(place), opening, root, place)


def check_row(geometry: Geometry, root: bytes, row: TraceRow, opening: Opening) -> None:
    """Raises OpeningError unless it is that row's."""
    section, at, hashes = geometry.section(row.group, row.operation), 0, []
    if row.row >= section.rows:
        raise OpeningError(f"{row} is outside the program")
    for slot in range(section.slots):
        size = section.payload_bytes(row.row, slot)
        used = section.elements(row.row, slot) * section.element_size(slot)
        if any(opening.payload[at + used : at + size]):
            raise OpeningError(f"the padding of {row} is not zero")
        hashes.append(leaf_hash(opening.payload[at : at + size]))
        at += size
    if at != len(opening.payload):
        raise OpeningError(f"{len(opening.payload)} bytes are not the payloads of {row}")
    for height in range(section.slot_bits):
        hashes += [empty(height)] * (len(hashes) % 2)
        hashes = [keccak256(hashes[i] + hashes[i + 1]) for i in range(0, len(hashes), 2)]
    _check(hashes[0], geometry.row_node(row.group, row.operation, row.row), opening, root, row)


def check_tokens(claim: Claim, word: TokensWord, opening: Opening) -> None:
    """Raises OpeningError unless it is the word of ids that holds an index."""
    count, root = (claim.output_tokens, claim.output_root) if word.output else (claim.input_tokens, claim.input_root)
    depth = ceil_log2(ceil_div(count, TOKENS_PER_LEAF))
    if len(opening.payload) != 32:
        raise OpeningError("a word of ids has 32 bytes")
    _check(leaf_hash(opening.payload), Node(depth, word.index // TOKENS_PER_LEAF), opening, root, word)


def token_in(payload: bytes, index: int) -> int:
    at = 4 * (index % TOKENS_PER_LEAF)
    return int.from_bytes(payload[at : at + 4], "big")


def _check(node_hash: bytes, node: Node, opening: Opening, root: bytes, what: object) -> None:
    if len(opening.path) != node.depth or fold_path(node_hash, node.index, opening.path) != root:
        raise OpeningError(f"the opening of {what} does not lead to its root")


@cache
def _exponential() -> a.Exponential:
    return a.Exponential(tables.exp2(8).tolist(), tables.exp2(16).tolist())


class _Case:
    """One accusation."""

    def __init__(
        self, shape: Shape, layers: tuple[LayerFormat, ...], claim: Claim, root: bytes, accusation: Accusation
    ) -> None:
        self._shape, self._claim, self._root, self._accusation = shape, claim, root, accusation
        try:
            self._geometry = geometry = geometry_of(shape, claim)
            operation = geometry.operations(accusation.group)[accusation.operation]
            self._section: Section = geometry.section(accusation.group, operation)
            self._operation = operation
            self._place = Place(accusation.group, operation, accusation.row, accusation.slot)
            self._inputs = Inputs(geometry)
            self._wanted = self._inputs.of(self._place, accusation.element, accusation.witness)
        except (ValueError, IndexError) as error:
            raise OpeningError(str(error)) from error
        inner = operation not in (*HEAD_OPERATIONS, Op.EMBEDDING)
        self._layer = layers[accusation.group - 1] if inner else None

    def is_wrong(self) -> bool:
        accusation, place, element = self._accusation, self._place, self._accusation.element
        payload, size = accusation.accused.payload, self._section.element_size(place.slot)
        check_leaf(self._geometry, self._root, place, accusation.accused, accused=True)
        count = self._section.elements(place.row, place.slot)
        self._mine = decode(payload, size, count)
        if element == count:
            self._check_inputs()
            return any(payload[size * count :])
        if self._operation is Op.EMBEDDING:
            self._name_token()
        self._check_inputs()
        if is_maximum(self._operation, place.slot, element):
            return self._maximum_wrong()
        return self._mine[element] != self._value()

    def _name_token(self) -> None:
        accusation = self._accusation
        if not accusation.inputs:
            raise OpeningError("no inputs")
        word = cast(TokensWord, self._wanted[0])
        token = token_in(accusation.inputs[0].payload, word.index)
        self._wanted = self._inputs.of(self._place, accusation.element, 0, token)

    def _check_inputs(self) -> None:
        inputs = self._accusation.inputs
        if len(inputs) != len(self._wanted):
            raise OpeningError(f"{len(self._wanted)} inputs are needed, not {len(inputs)}")
        for wanted, opening in zip(self._wanted, inputs, strict=True):
            self._check_input(wanted, opening)

    def _check_input(self, wanted: Input, opening: Opening) -> None:
        claim, weights = self._claim, self._inputs.weights
        match wanted:
            case TraceLeaf(place):
                check_leaf(self._geometry, self._root, place, opening)
            case TraceRow():
                check_row(self._geometry, self._root, wanted, opening)
            case TokensWord():
                check_tokens(claim, wanted, opening)
            case WeightLeaf(leaf):
                node = Node(weights.depth, leaf)
                _check(leaf_hash(opening.payload), node, opening, claim.weights_root, wanted)
            case TableLeaf(leaf):
                node = Node(weights.table_depth, leaf)
                _check(leaf_hash(opening.payload), node, opening, claim.tables_root, wanted)

    def _elements(self, index: int) -> list[int]:
        """All elements of an input that is a leaf of the trace."""
        wanted = cast(TraceLeaf, self._wanted[index])
        group, operation, row, slot = wanted.place
        section = self._geometry.section(group, operation)
        payload = self._accusation.inputs[index].payload
        return decode(payload, section.element_size(slot), section.elements(row, slot))

    def _row(self, index: int) -> tuple[list[int], list[int]]:
        """Statistic and elements of an input that is a row."""
        wanted = cast(TraceRow, self._wanted[index])
        section = self._geometry.section(wanted.group, wanted.operation)
        payload, at = self._accusation.inputs[index].payload, padded(8 * section.statistic)
        return decode(payload, 8, section.statistic), decode(payload[at:], section.size, section.width)

    def _gain(self, index: int, element: int) -> int:
        return decode(self._accusation.inputs[index].payload[32:], 4, CHUNK)[element % CHUNK]

    def _maximum_wrong(self) -> bool:
        """The claim (s′, i′) or (M, i′) against the witness."""
        first = 2 if self._operation in NORMS else 0
        claimed, index = self._mine[first], self._mine[first + 1]
        witness = self._accusation.witness
        attained = self._attained(witness)
        if not 0 <= index < maximum_count(self._geometry, self._place):
            return True
        if witness == index:
            return attained != claimed
        return attained > claimed or (attained == claimed and witness < index)

    def _attained(self, witness: int) -> int:
        if self._operation is Op.SOFTMAX:
            return self._elements(0)[witness % CHUNK]
        if self._operation is Op.QUANTISE_MIX:
            y = self._elements(0)[witness % self._shape.head_size]
        elif self._operation is Op.ACTIVATION:
            y = self._activated(witness % CHUNK)
        else:
            y = a.normalised(self._elements(0)[witness % CHUNK], self._mine[0], self._mine[1], self._gain(1, witness))
        return max(1, abs(y)).bit_length() - 15

    def _activated(self, element: int) -> int:
        gate, up = self._elements(0)[element], self._elements(1)[element]
        return (_exponential().silu(gate, LOG2_E_Q16) * up + 2**15) >> 16

    def _value(self) -> int:
        operation, element, shape = self._operation, self._accusation.element, self._shape
        if operation in NORMS:
            return self._norm_value()
        if operation in MATRICES:
            return self._matrix_value()
        row, slot = self._place.row, self._place.slot
        match operation:
            case Op.EMBEDDING:
                weight, multiplier = self._weight(1)
                return a.rsr(weight[CHUNK * slot + element] * multiplier, shape.embedding_exponent - 16)
            case Op.ROTATE_QUERY | Op.ROTATE_KEY:
                return self._rotated()
            case Op.SCORES:
                dot = sum(q * k for q, k in zip(self._elements(0), self._elements(1), strict=True))
                return a.rsr(dot * shape.score_multiplier, self._format.query_fraction + self._format.key_fraction + 2)
            case Op.SOFTMAX:
                before = self._mine[element - 1] if element > 2 else 0
                return before + sum(self._weights(self._elements(0), self._mine[0]))
            case Op.MIX_SUM:
                before, first = (self._elements(0)[element], 1) if len(self._wanted) == 4 else (0, 0)
                weights = self._weights(self._elements(first), self._elements(first + 1)[0])
                return before + sum(w * v for w, v in zip(weights, self._elements(first + 2), strict=False))
            case Op.MIX:
                total = self._elements(1)[2 + row // CHUNK]
                numerator = self._elements(0)[element] << (16 - self._format.value_fraction)
                return (2 * numerator + total) // (2 * total) if total else 0
            case Op.QUANTISE_MIX:
                return a.quantised(self._elements(0)[element], self._elements(1)[0])
            case Op.ACTIVATION:
                return a.quantised(self._activated(element), self._elements(2)[0])
        raise AssertionError(operation)

    @property
    def _format(self) -> LayerFormat:
        if self._layer is None:
            raise AssertionError("the operation belongs to no layer")
        return self._layer

    def _norm_value(self) -> int:
        element = self._accusation.element
        if self._place.slot == 0:
            return a.norm_statistic(self._row(0)[1], self._shape.epsilon)[element]
        scale, inverse, shift, _ = self._elements(2)
        y = a.normalised(self._elements(0)[element], scale, inverse, self._gain(1, element))
        return a.quantised(y, shift)

    def _matrix_value(self) -> int:
        statistic, q = self._row(0)
        shift = statistic[2 if len(statistic) == 4 else 0]
        weight, multiplier = self._weight(1)
        accumulated = sum(x * w for x, w in zip(q, weight, strict=True))
        name = MATRICES[self._operation]
        exponent = self._shape.head_exponent if self._operation is Op.LOGITS else getattr(self._format, name)
        y = a.rsr(accumulated * multiplier, exponent - shift)
        if self._operation is Op.VALUE:
            return a.to_cache(y, self._format.value_fraction)
        if self._operation in (Op.ATTENTION_OUTPUT, Op.DOWN):
            return y + self._elements(2)[self._accusation.element]
        return y

    def _weight(self, index: int) -> tuple[list[int], int]:
        """int8 weights of a row and its multiplier."""
        payload, columns = self._accusation.inputs[index].payload, self._shape.hidden
        if self._operation is Op.ATTENTION_OUTPUT:
            columns = self._shape.heads * self._shape.head_size
        elif self._operation is Op.DOWN:
            columns = self._shape.feed_forward
        return decode(payload[32:], 1, columns), int.from_bytes(payload[6:10], "big")

    def _rotated(self) -> int:
        z, element, half = self._elements(0), self._accusation.element, self._shape.head_size // 2
        _, _, entry = self._inputs.weights.rope(self._place.row, element)
        cos, sin = (decode(opening.payload, 4, entry + 1)[entry] for opening in self._accusation.inputs[1:])
        low, high = z[element % half], z[element % half + half]
        turned = (low * cos - high * sin) if element < half else (high * cos + low * sin)
        fraction = self._format.query_fraction if self._operation is Op.ROTATE_QUERY else self._format.key_fraction
        return a.to_cache((turned + 2**14) >> 15, fraction)

    def _weights(self, scores: list[int], largest: int) -> list[int]:
        """Q20; a score above the largest, which only a dishonest trace has, weighs like it."""
        return [_exponential().negative(max(largest - score, 0)) >> 10 for score in scores]
