"""Random and extreme cases of the steps of attention and activation, with honest leaves from exact integers.

Values reach the limits of docs/disputes.md, section 2. Nothing here is shared with the contracts but the page.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from market.models import tables
from market.verification.geometry import CHUNK, Operation, Place
from market.verification.structs import LayerFormat, Shape
from tests.unit.contracts.forest import Forest, Step
from tests.unit.market.inference import oracle

HIGH = [int(x) for x in tables.exp2(8)]
LOW = [int(x) for x in tables.exp2(16)]
MULTIPLIERS = {size: tables.score_multiplier(size) for size in (16, 32, 48, 64)}
CACHE_LIMIT = 32767
FAR = 31 << 16
LENGTHS = [1, 2, 63, 64, 65, 127, 128, 129, 191, 200, 2047, 4095]
INT32 = 2**31 - 1
INT40 = 2**39 - 1


def shift_round(x: int, shift: int) -> int:
    """The oracle's, without fractions."""
    return x << -shift if shift <= 0 else (2 * x + 2**shift) // 2 ** (shift + 1)


def silu(x: int) -> int:
    """The oracle's, without fractions."""
    sigmoid = 2**60 // (2**30 + oracle.exp2_negative(abs(x) * 94548 // 65536, HIGH, LOW))
    return shift_round(x * (2**30 - sigmoid if x < 0 else sigmoid), 30)


def make_forest(random: Random) -> Forest:
    size = random.choice(list(MULTIPLIERS))
    kv_heads = random.choice([1, 2, 3])
    positions = random.choice(LENGTHS) if random.random() < 0.7 else random.randint(1, 300)
    shape = Shape(
        vocabulary=random.choice([300, 49152]),
        context=random.choice([c for c in (positions + 1, 2048, 4096) if c > positions]),
        hidden=random.choice([64, 100, 576]),
        feed_forward=random.choice([64, 100, 130, 256]),
        layers=random.choice([1, 2, 5, 30]),
        heads=kv_heads * random.choice([1, 2, 3]),
        kv_heads=kv_heads,
        head_size=size,
        epsilon=42949,
        score_multiplier=MULTIPLIERS[size],
        tied=True,
        embedding_exponent=30,
        head_exponent=30,
    )
    fractions = [random.choice([0, 15, random.randint(0, 15)]) for _ in range(3)]
    layer = LayerFormat(*[random.randint(17, 40) for _ in range(7)], *fractions)
    outputs = random.randint(1, positions)
    return Forest(shape, layer, positions + 1 - outputs, outputs)


def number(random: Random, limit: int) -> int:
    """Up to the limit, of any size: the limit itself, zero and its neighbours now and then."""
    if random.random() < 0.15:
        return random.choice([limit, -limit, 0, min(limit, 1), -min(limit, 1)])
    return random.choice([1, -1]) * (random.randint(0, limit) >> random.randrange(limit.bit_length() or 1))


def position(random: Random, forest: Forest) -> int:
    last = forest.geometry.positions - 1
    return random.choice([last, random.randint(0, last), random.choice([p for p in (0, 63, 64, last) if p <= last])])


def a_layer(random: Random, forest: Forest) -> int:
    return random.choice([1, forest.shape.layers, random.randint(1, forest.shape.layers)])


def group_head(forest: Forest, head: int) -> int:
    return head // (forest.shape.heads // forest.shape.kv_heads)


def weight(score: int, maximum: int) -> int:
    return oracle.exp2_negative(maximum - score, HIGH, LOW) // 2**10


def rotation(random: Random, forest: Forest | None, of_query: bool) -> Step:
    forest = forest or make_forest(random)
    shape, group, p = forest.shape, a_layer(random, forest), position(random, forest)
    head = random.randrange(shape.heads if of_query else shape.kv_heads)
    half, element = shape.head_size // 2, random.randrange(shape.head_size)
    limit = random.choice([INT32, 2**24, 2**17])
    z = [number(random, limit) for _ in range(shape.head_size)]
    cos, sin = number(random, 32768), number(random, 32768)
    source = Place(group, Operation.QUERY if of_query else Operation.KEY, p, head)
    forest.put(source, z)
    leaves = forest.put_rope(p, element, cos, sin)
    fraction = forest.layer.query_fraction if of_query else forest.layer.key_fraction
    turned = oracle.rotate(z, [cos] * half, [sin] * half)  # right at the accused element; the others stand for noise
    values = [oracle.to_cache(value, fraction) for value in turned]
    place = Place(group, Operation.ROTATE_QUERY if of_query else Operation.ROTATE_KEY, p, head)
    return Step(forest, place, values, element, [source, *leaves])


def rotate_query(random: Random, forest: Forest | None = None) -> Step:
    return rotation(random, forest, True)


def rotate_key(random: Random, forest: Forest | None = None) -> Step:
    return rotation(random, forest, False)


def scores(random: Random, forest: Forest | None = None) -> Step:
    forest = forest or make_forest(random)
    shape, group, p = forest.shape, a_layer(random, forest), position(random, forest)
    head, block = random.randrange(shape.heads), random.randint(0, p // CHUNK)
    slot = (head << forest.geometry.block_bits) + block
    place = Place(group, Operation.SCORES, p, slot)
    count = forest.geometry.section(group, Operation.SCORES).elements(p, slot)
    element = random.choice([0, count - 1, random.randrange(count)])
    shift = forest.layer.query_fraction + forest.layer.key_fraction + 2
    while True:  # the limit of a score is the program's to keep
        query, key = ([number(random, CACHE_LIMIT) for _ in range(shape.head_size)] for _ in range(2))
        if random.random() < 0.1:
            query, key = [CACHE_LIMIT] * shape.head_size, [random.choice([1, -1]) * CACHE_LIMIT] * shape.head_size
        dot = sum(a * b for a, b in zip(query, key, strict=True))
        score = shift_round(dot * shape.score_multiplier, shift)
        if abs(score) <= INT40:
            break
    from_query = Place(group, Operation.ROTATE_QUERY, p, head)
    from_key = Place(group, Operation.ROTATE_KEY, CHUNK * block + element, group_head(forest, head))
    forest.put(from_query, query)
    forest.put(from_key, key)
    values = [number(random, INT40) for _ in range(count)]
    values[element] = score
    return Step(forest, place, values, element, [from_query, from_key])


def row_of_scores(random: Random, count: int) -> list[int]:
    """Near one another or far apart, with ties."""
    spread = random.choice([0, 3, 1 << 16, FAR, 2 * FAR, INT40])
    base = number(random, INT40 - spread)
    row = [base + number(random, spread) if spread else base for _ in range(count)]
    if random.random() < 0.3:
        row[random.randrange(count)] = min(max(row) - random.choice([FAR - 1, FAR, FAR + 1]), INT40)
    return [max(-INT40 - 1, score) for score in row]


def fields_of(row: list[int]) -> list[int]:
    """M, i′ and the sums of SOFTMAX."""
    maximum = max(row)
    sums, total = [], 0
    for start in range(0, len(row), CHUNK):
        total += sum(weight(score, maximum) for score in row[start : start + CHUNK])
        sums.append(total)
    return [maximum, row.index(maximum), *sums]


def put_scores(forest: Forest, group: int, p: int, head: int, row: list[int], block: int) -> Place:
    place = Place(group, Operation.SCORES, p, (head << forest.geometry.block_bits) + block)
    forest.put(place, row[CHUNK * block : CHUNK * block + CHUNK])
    return place


def maximum(
    forest: Forest, place: Place, row: list[int], values: list[int], source: Callable[[int], list[Place]]
) -> Step:
    """Accused with the index itself as the witness; `row` is compared, `source` puts a witness's leaves."""
    step = Step(forest, place, values, 0, row=row, source=source)
    step.bring(values[1])
    return step


def softmax_maximum(random: Random, forest: Forest | None = None) -> Step:
    forest = forest or make_forest(random)
    group, p = a_layer(random, forest), position(random, forest)
    head = random.randrange(forest.shape.heads)
    row = row_of_scores(random, p + 1)
    place = Place(group, Operation.SOFTMAX, p, head)
    return maximum(forest, place, row, fields_of(row), lambda w: [put_scores(forest, group, p, head, row, w // CHUNK)])


def softmax_total(random: Random, forest: Forest | None = None) -> Step:
    forest = forest or make_forest(random)
    group, p = a_layer(random, forest), position(random, forest)
    head, block = random.randrange(forest.shape.heads), random.choice([0, p // CHUNK, random.randint(0, p // CHUNK)])
    row = row_of_scores(random, p + 1)
    source = put_scores(forest, group, p, head, row, block)
    return Step(forest, Place(group, Operation.SOFTMAX, p, head), fields_of(row), 2 + block, [source])


def mix_sum(random: Random, forest: Forest | None = None) -> Step:
    forest = forest or make_forest(random)
    shape, group, p = forest.shape, a_layer(random, forest), position(random, forest)
    head, block = random.randrange(shape.heads), random.choice([0, p // CHUNK, random.randint(0, p // CHUNK)])
    element = random.randrange(shape.head_size)
    row = row_of_scores(random, p + 1)
    fields = fields_of(row)
    value_slot = group_head(forest, head) * shape.head_size + element
    from_value = Place(group, Operation.VALUE, block, value_slot)
    limit = random.choice([CACHE_LIMIT, 100])
    stored = forest.geometry.section(group, Operation.VALUE).elements(block, value_slot)
    column = [number(random, limit) for _ in range(stored)]
    if random.random() < 0.1:
        column = [random.choice([1, -1]) * CACHE_LIMIT] * stored
    forest.put(from_value, column)
    slot = (head << forest.geometry.block_bits) + block
    place = Place(group, Operation.MIX_SUM, p, slot)
    inputs: list[Place | int] = []
    before = 0
    most = 0 if block == 0 else CACHE_LIMIT * fields[1 + block]
    if block:
        previous = Place(group, Operation.MIX_SUM, p, slot - 1)
        sums = [number(random, most) for _ in range(shape.head_size)]
        before = sums[element]
        forest.put(previous, sums)
        inputs.append(previous)
    inputs.append(put_scores(forest, group, p, head, row, block))
    totals = Place(group, Operation.SOFTMAX, p, head)
    forest.put(totals, fields)
    weights = [weight(score, fields[0]) for score in row[CHUNK * block : CHUNK * block + CHUNK]]
    values = [number(random, CACHE_LIMIT << 20) for _ in range(shape.head_size)]
    values[element] = before + sum(w * v for w, v in zip(weights, column, strict=False))  # v goes on after p
    return Step(forest, place, values, element, [*inputs, totals, from_value])


def mix(random: Random, forest: Forest | None = None) -> Step:
    forest = forest or make_forest(random)
    shape, group, p = forest.shape, a_layer(random, forest), position(random, forest)
    head, element = random.randrange(shape.heads), random.randrange(shape.head_size)
    block = p // CHUNK
    total = random.choice([2**20, (p + 1) << 20, random.randint(2**20, (p + 1) << 20)])
    sums = [number(random, CACHE_LIMIT * total) for _ in range(shape.head_size)]
    if random.random() < 0.3:  # halves and their neighbours
        sums[element] = (random.randint(-1000, 1000) * total + total // 2) // (1 << (16 - forest.layer.value_fraction))
    from_sum = Place(group, Operation.MIX_SUM, p, (head << forest.geometry.block_bits) + block)
    forest.put(from_sum, sums)
    fields = [number(random, INT40), random.randint(0, p), *[number(random, total) for _ in range(block)], total]
    from_totals = Place(group, Operation.SOFTMAX, p, head)
    forest.put(from_totals, fields)
    factor = 2 ** (16 - forest.layer.value_fraction)
    values = [(2 * value * factor + total) // (2 * total) for value in sums]
    return Step(forest, Place(group, Operation.MIX, p, head), values, element, [from_sum, from_totals])


def shifts_of(row: list[int]) -> list[int]:
    """What each element asks of s′."""
    return [max(1, abs(y)).bit_length() - 15 for y in row]


def largest_of(row: list[int]) -> list[int]:
    """s′ and i′."""
    shifts = shifts_of(row)
    return [max(shifts), shifts.index(max(shifts))]


def some_row(random: Random, count: int, limit: int) -> list[int]:
    """Sizes alike, so that several elements have the most bits; all zeros and ones too."""
    scale = random.choice([0, 1, 2, limit.bit_length(), random.randint(1, limit.bit_length())])
    row = [number(random, min(limit, (1 << scale) - 1)) if scale else 0 for _ in range(count)]
    if random.random() < 0.3:
        row[random.randrange(count)] = number(random, limit)
    return row


def quantise_mix_statistic(random: Random, forest: Forest | None = None) -> Step:
    forest = forest or make_forest(random)
    size, group, p = forest.shape.head_size, a_layer(random, forest), position(random, forest)
    row = some_row(random, forest.shape.heads * size, INT32)

    def source(witness: int) -> list[Place]:
        head = witness // size
        place = Place(group, Operation.MIX, p, head)
        forest.put(place, row[head * size : (head + 1) * size])
        return [place]

    return maximum(forest, Place(group, Operation.QUANTISE_MIX, p, 0), shifts_of(row), largest_of(row), source)


def scaled(random: Random, part: list[int]) -> list[int]:
    """A statistic of a row that holds these: its s′ is no smaller than theirs."""
    shift = max(shifts_of(part))
    return [shift + random.choice([0, 0, 1, random.randint(0, 10)]), random.randrange(64)]


def quantise_mix_value(random: Random, forest: Forest | None = None) -> Step:
    forest = forest or make_forest(random)
    size, group, p = forest.shape.head_size, a_layer(random, forest), position(random, forest)
    head, element = random.randrange(forest.shape.heads), random.randrange(size)
    row = some_row(random, size, INT32)
    fields = scaled(random, row)
    source, statistic = Place(group, Operation.MIX, p, head), Place(group, Operation.QUANTISE_MIX, p, 0)
    forest.put(source, row)
    forest.put(statistic, fields)
    place = Place(group, Operation.QUANTISE_MIX, p, 1 + head)
    return Step(forest, place, [quantised(y, fields[0]) for y in row], element, [source, statistic])


def quantised(y: int, shift: int) -> int:
    return max(-32639, min(32639, shift_round(y, shift)))


def gated(gate: int, up: int) -> int:
    return shift_round(silu(gate) * up, 16)


def some_gates(random: Random, count: int) -> list[tuple[int, int]]:
    """gate and up of so many elements."""
    limit = random.choice([INT32, 2**24, 2**20, 2**17])
    return list(zip(some_row(random, count, limit), some_row(random, count, INT32), strict=True))


def put_gates(forest: Forest, group: int, p: int, chunk: int, part: list[tuple[int, int]]) -> list[Place]:
    places = [Place(group, Operation.GATE, p, chunk), Place(group, Operation.UP, p, chunk)]
    for place, values in zip(places, zip(*part, strict=True), strict=True):
        forest.put(place, values)
    return places


def activation_statistic(random: Random, forest: Forest | None = None) -> Step:
    forest = forest or make_forest(random)
    group, p = a_layer(random, forest), position(random, forest)
    gates = some_gates(random, forest.shape.feed_forward)
    z = [gated(gate, up) for gate, up in gates]

    def source(witness: int) -> list[Place]:
        chunk = witness // CHUNK
        return put_gates(forest, group, p, chunk, gates[CHUNK * chunk : CHUNK * chunk + CHUNK])

    return maximum(forest, Place(group, Operation.ACTIVATION, p, 0), shifts_of(z), largest_of(z), source)


def activation_value(random: Random, forest: Forest | None = None) -> Step:
    forest = forest or make_forest(random)
    group, p = a_layer(random, forest), position(random, forest)
    chunks = -(-forest.shape.feed_forward // CHUNK)
    chunk = random.choice([chunks - 1, random.randrange(chunks)])
    gates = some_gates(random, min(CHUNK, forest.shape.feed_forward - CHUNK * chunk))
    z = [gated(gate, up) for gate, up in gates]
    fields = scaled(random, z)
    inputs = put_gates(forest, group, p, chunk, gates)
    statistic = Place(group, Operation.ACTIVATION, p, 0)
    forest.put(statistic, fields)
    place = Place(group, Operation.ACTIVATION, p, 1 + chunk)
    values = [quantised(y, fields[0]) for y in z]
    return Step(forest, place, values, random.randrange(len(z)), [*inputs, statistic])


Make = Callable[..., Step]
"""A case from a generator of random numbers, with shapes of its own or in the forest that is given."""

VALUES: dict[str, Make] = {
    "ROTATE_QUERY": rotate_query,
    "ROTATE_KEY": rotate_key,
    "SCORES": scores,
    "SOFTMAX total": softmax_total,
    "MIX_SUM": mix_sum,
    "MIX": mix,
    "QUANTISE_MIX value": quantise_mix_value,
    "ACTIVATION value": activation_value,
}
"""Steps whose element has one value."""

MAXIMA: dict[str, Make] = {
    "SOFTMAX maximum": softmax_maximum,
    "QUANTISE_MIX statistic": quantise_mix_statistic,
    "ACTIVATION statistic": activation_statistic,
}
"""Steps that hold a witness against a claimed maximum."""
