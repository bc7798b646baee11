"""Random cases of the steps of embedding, norms and matrices: what lies in the trees, and the element they give.

The expected values are computed here from unbounded integers, the places from docs/disputes.md: nothing is shared with
the contracts or with market/verification but the struct definitions and the tree's geometry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import isqrt
from random import Random

from market.verification.geometry import Operation, Place
from market.verification.structs import Accusation, LayerFormat, Opening, Shape
from tests.unit.contracts.claims import Ground
from tests.unit.market.inference.oracle import shift_round, to_cache

Op = Operation
TINY = Shape(288, 512, 72, 160, 2, 6, 2, 16, 42_949, 94_548, True, 34, 34)
SHAPES = (
    TINY,
    Shape(40, 300, 100, 96, 1, 2, 1, 32, 1, 47_274, False, 30, 29),
    Shape(1_000, 4_096, 64, 64, 3, 3, 3, 48, 42_949, 1, False, 16, 62),
    Shape(49_152, 2_048, 576, 1_536, 30, 9, 3, 64, 42_949, 47_274, True, 33, 33),
)
LARGEST = Shape(128, 4_096, 1_536, 2_048, 254, 32, 8, 64, 2**40, 2**20, True, 40, 40)
NORMS = (Op.ATTENTION_NORM, Op.FEED_FORWARD_NORM, Op.OUTPUT_NORM)
MATRICES = (Op.QUERY, Op.KEY, Op.VALUE, Op.GATE, Op.UP, Op.LOGITS, Op.ATTENTION_OUTPUT, Op.DOWN)
_WIDTH = {Op.VALUE: 16, Op.ATTENTION_OUTPUT: 48, Op.DOWN: 48}  # bits of an element; 32 for the others


@cache
def formats(shape: Shape) -> tuple[LayerFormat, ...]:
    """Different numbers in each layer and field; query and key so that scores fit their type."""
    random = Random(shape.vocabulary)
    return tuple(
        LayerFormat(*(random.randint(16, 62) for _ in range(7)), *(random.randint(low, 15) for low in (8, 8, 0)))
        for _ in range(shape.layers)
    )


@dataclass(frozen=True)
class Case:
    """A place whose element is put as it has to be, with the openings that prove it."""

    ground: Ground
    place: Place
    element: int
    expected: int
    inputs: Callable[[], Sequence[Opening]]  # of the trees as they are when it is called
    values: list[int]  # of the accused leaf
    witness: int = 0

    def accuse(self, claimed: int | None = None) -> Accusation:
        """Of the right element, or of this one."""
        values = list(self.values)
        values[self.element] = self.expected if claimed is None else claimed
        self.ground.put(self.place, values)
        return self.ground.accuse(self.place, self.element, self.inputs(), self.witness)

    def wrong_values(self, random: Random) -> list[int]:
        """The nearest ones, a flipped bit, the opposite."""
        section = self.ground.geometry.section(self.place.group, self.place.operation)
        half = 1 << (8 * section.element_size(self.place.slot) - 1)
        flipped = (self.expected + half ^ 1 << random.randrange(half.bit_length())) - half
        candidates = {self.expected - 1, self.expected + 1, flipped, -self.expected} - {self.expected}
        return sorted(value for value in candidates if -half <= value < half)


def ground(random: Random, shapes: Sequence[Shape] = SHAPES) -> Ground:
    """Lengths at random, short ones more often."""
    shape = random.choice(shapes)
    tokens = random.choice((2, 3, random.randint(2, 70), random.randint(2, shape.context), shape.context))
    prompt = random.randint(1, tokens - 1)
    ids = [random.randrange(shape.vocabulary) for _ in range(tokens)]
    return Ground(shape, formats(shape), ids[:prompt], ids[prompt:])


def numbers(random: Random, limit: int, count: int) -> list[int]:
    """−limit … limit: anything, small ones, or the extremes alone."""
    kind = random.randrange(6)
    if kind == 0:
        return [random.choice((-limit, limit, -1, 0, 1)) for _ in range(count)]
    if kind == 1:
        limit >>= random.randrange(limit.bit_length())
    return [random.randint(-limit, limit) for _ in range(count)]


def leaf_of(random: Random, at: Ground, place: Place) -> list[int]:
    """Any elements, for the accused leaf."""
    section = at.geometry.section(place.group, place.operation)
    limit = (1 << (8 * section.element_size(place.slot) - 1)) - 1
    return numbers(random, limit, section.elements(place.row, place.slot))


def somewhere(random: Random, at: Ground, operation: Operation, *, statistic: bool = False) -> tuple[Place, int]:
    """A place and an element of an operation, the corners more often."""
    shape = at.shape
    group = random.randint(1, shape.layers)
    if operation is Op.EMBEDDING:
        group = 0
    elif operation in (Op.OUTPUT_NORM, Op.LOGITS):
        group = shape.layers + 1
    section = at.geometry.section(group, operation)
    row = random.choice((0, section.rows - 1, random.randrange(section.rows)))
    slot = 0
    if not statistic:
        first = 1 if section.statistic else 0
        slot = random.choice((first, section.slots - 1, random.randint(first, section.slots - 1)))
    elements = section.elements(row, slot)
    return Place(group, operation, row, slot), random.choice((0, elements - 1, random.randrange(elements)))


# ---- EMBEDDING


def embedding(random: Random, at: Ground) -> Case:
    place, element = somewhere(random, at, Op.EMBEDDING)
    token = [*at.input_ids, *at.output_ids][place.row]
    weights = numbers(random, 127, at.shape.hidden)
    multiplier = random.choice((0, 2**24 - 1, random.randrange(2**24)))
    at.put_weights("embedding", token, multiplier, weights)
    expected = shift_round(weights[64 * place.slot + element] * multiplier, at.shape.embedding_exponent - 16)

    def inputs() -> list[Opening]:
        return [at.open_ids(place.row), at.open_weights("embedding", token)]

    return Case(at, place, element, expected, inputs, leaf_of(random, at, place))


# ---- matrices


def residual(at: Ground, place: Place) -> tuple[int, Operation, int]:
    """Group, operation and row of X."""
    group, operation, row, _ = place
    if operation in (Op.FEED_FORWARD_NORM, Op.DOWN):
        return group, Op.ATTENTION_OUTPUT, row
    if operation is Op.OUTPUT_NORM:
        row += len(at.input_ids) - 1
    return (0, Op.EMBEDDING, row) if group == 1 else (group - 1, Op.DOWN, row)


_SOURCE = {
    Op.QUERY: Op.ATTENTION_NORM,
    Op.KEY: Op.ATTENTION_NORM,
    Op.VALUE: Op.ATTENTION_NORM,
    Op.GATE: Op.FEED_FORWARD_NORM,
    Op.UP: Op.FEED_FORWARD_NORM,
    Op.LOGITS: Op.OUTPUT_NORM,
    Op.ATTENTION_OUTPUT: Op.QUANTISE_MIX,
    Op.DOWN: Op.ACTIVATION,
}


def matrix(random: Random, at: Ground, operation: Operation) -> Case:
    while True:  # until the element fits its type, as every honest one does
        case = _matrix(random, at, operation)
        if abs(case.expected) < 1 << (_WIDTH.get(operation, 32) - 1):
            return case


def _matrix(random: Random, at: Ground, operation: Operation) -> Case:
    place, element = somewhere(random, at, operation)
    group, _, row, slot = place
    size = at.shape.head_size
    weight_row, position = 64 * slot + element, row
    if operation in (Op.QUERY, Op.KEY):
        weight_row = size * slot + element
    elif operation is Op.VALUE:
        weight_row, position = slot, 64 * row + element
    elif operation is Op.LOGITS:
        weight_row = 128 * slot + element
    name = "head" if operation is Op.LOGITS else f"layers.{group - 1}.{operation.name.lower()}"
    exponent = at.shape.head_exponent
    if operation is not Op.LOGITS:
        exponent = getattr(at.layers[group - 1], operation.name.lower())
    columns = {Op.ATTENTION_OUTPUT: at.shape.heads * size, Op.DOWN: at.shape.feed_forward}.get(
        operation, at.shape.hidden
    )
    a, w = numbers(random, 32_639, columns), numbers(random, 127, columns)
    multiplier = random.choice((1, 2**24 - 1, random.randrange(2**24)))
    product = sum(x * y for x, y in zip(a, w, strict=True)) * multiplier
    shift = min(max(product.bit_length() - random.randint(0, 31), 1), 62)
    source = _SOURCE[operation]
    largest = random.randrange(columns)
    statistic = [exponent - shift, largest]
    if source in NORMS:
        statistic = [random.randrange(20), random.randrange(2**43), *statistic]
    at.put_row(group, source, position, a, statistic)
    at.put_weights(name, weight_row, multiplier, w)
    expected = shift_round(product, shift)
    adds = operation in (Op.ATTENTION_OUTPUT, Op.DOWN)
    x = residual(at, place)
    if operation is Op.VALUE:
        expected = to_cache(expected, at.layers[group - 1].value_fraction)
    elif adds:
        chunk = leaf_of(random, at, Place(*x, slot))
        at.put(Place(*x, slot), chunk)
        expected += chunk[element]

    def inputs() -> list[Opening]:
        added = [at.open(Place(*x, slot))] if adds else []
        return [at.open_row(group, source, position), at.open_weights(name, weight_row), *added]

    return Case(at, place, element, expected, inputs, leaf_of(random, at, place))


# ---- norms


def statistic_of(x: Sequence[int], epsilon: int) -> tuple[int, int]:
    """s and v."""
    s = max(max(abs(value) for value in x).bit_length() - 22, 0)
    mean = sum(shift_round(value, s) ** 2 for value in x) // len(x) + epsilon // 4**s
    return s, 2**52 // max(isqrt(mean * 2**18), 1)


def normalised(x: int, s: int, v: int, gain: int) -> int:
    return shift_round(shift_round(x, s) * v // 2**23 * gain, 16)


def _gains(at: Ground, place: Place) -> str:
    name = place.operation.name.lower()
    return name if place.operation is Op.OUTPUT_NORM else f"layers.{place.group - 1}.{name}"


def _row_of_x(random: Random, at: Ground, place: Place) -> list[int]:
    x = numbers(random, 2**47 - 1, at.shape.hidden)
    if random.random() < 0.5:  # as large as real ones
        x = [value >> 25 for value in x]
    at.put_row(*residual(at, place), x)
    return x


def norm_size(random: Random, at: Ground, operation: Operation) -> Case:
    """s or v."""
    place, _ = somewhere(random, at, operation, statistic=True)
    x = _row_of_x(random, at, place)
    element = random.randrange(2)
    expected = statistic_of(x, at.shape.epsilon)[element]

    def inputs() -> list[Opening]:
        return [at.open_row(*residual(at, place))]

    return Case(at, place, element, expected, inputs, leaf_of(random, at, place))


@dataclass(frozen=True)
class NormRow:
    """A norm's row with everything in it right."""

    x: list[int]
    gain: list[int]
    y: list[int]
    statistic: list[int]  # s, v, s′, i′


def norm_row(random: Random, at: Ground, place: Place) -> NormRow:
    x = _row_of_x(random, at, place)
    gain = numbers(random, 2**16, len(x))
    for group in range(0, len(gain), 64):
        at.put_gains(_gains(at, place), group // 64, gain[group : group + 64])
    s, v = statistic_of(x, at.shape.epsilon)
    y = [normalised(value, s, v, g) for value, g in zip(x, gain, strict=True)]
    sizes = [max(1, abs(value)).bit_length() for value in y]
    return NormRow(x, gain, y, [s, v, max(sizes) - 15, sizes.index(max(sizes))])


def norm_inputs(at: Ground, place: Place, i: int) -> list[Opening]:
    """Chunk of X and gain leaf with element i."""
    return [at.open(Place(*residual(at, place), i // 64)), at.open_gains(_gains(at, place), i)]


def norm_value(random: Random, at: Ground, operation: Operation) -> Case:
    place, element = somewhere(random, at, operation)
    row = norm_row(random, at, place)
    at.put(place._replace(slot=0), row.statistic)
    i = 64 * (place.slot - 1) + element
    expected = max(-32_639, min(32_639, shift_round(row.y[i], row.statistic[2])))

    def inputs() -> list[Opening]:
        return [*norm_inputs(at, place, i), at.open(place._replace(slot=0))]

    return Case(at, place, element, expected, inputs, leaf_of(random, at, place))
