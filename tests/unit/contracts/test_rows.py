"""What the steps do in assembly (DotProduct, NormRow, Openings) against exact integers and plain hashing."""

from __future__ import annotations

from random import Random

import pytest

from market.hashing import keccak256, leaf_hash
from market.verification.tree import empty, fold_path
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.claims import pack
from tests.unit.contracts.revm import RevmChain
from tests.unit.market.inference.oracle import shift_round

FEW, MANY = 200, 10_000


@pytest.fixture(scope="module")
def harness() -> Contract:
    compiled = artefacts()
    chain = RevmChain(list(compiled.values()))
    return chain.deploy(compiled["RowHarness"], sender="0x" + "11" * 20)


def numbers(random: Random, bits: int, count: int) -> list[int]:
    """Signed ones of so many bits: anything, small ones, or the extremes alone."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    kind = random.randrange(6)
    if kind == 0:
        return [random.choice((low, high, low + 1, -1, 0, 1)) for _ in range(count)]
    if kind == 1:
        return [random.choice((low, high))] * count
    if kind == 2:
        low, high = low >> random.randrange(bits), high >> random.randrange(bits)
    return [random.randint(low, high) for _ in range(count)]


def compare_dots(harness: Contract, seed: int, count: int) -> None:
    random = Random(seed)
    for _ in range(count):
        length = random.choice((1, 15, 16, 17, 31, 32, 33, 72, 576, random.randint(1, 300)))
        a, w = numbers(random, 16, length), numbers(random, 8, length)
        assert harness.dot(pack(a, 2), pack(w, 1)) == sum(x * y for x, y in zip(a, w, strict=True))


def compare_norms(harness: Contract, seed: int, count: int) -> None:
    random = Random(seed)
    for _ in range(count):
        width = random.choice((1, 5, 64, 72, random.randint(1, 200)))
        x, s = numbers(random, 48, width), random.randrange(27)
        data = pack(x, 6) + random.randbytes(32)  # no more than the row is read
        largest = max(abs(value) for value in x)
        assert harness.magnitudes(data, width).bit_length() == largest.bit_length()
        assert harness.squares(data, width, s) == sum(shift_round(value, s) ** 2 for value in x)


def test_products_of_rows_equal_exact_integers(harness: Contract) -> None:
    compare_dots(harness, 1, FEW)


@pytest.mark.parametrize("length", [1, 576, 1536, 2048])
@pytest.mark.parametrize("a", [-32768, -32639, 32639, 32767])
@pytest.mark.parametrize("w", [-128, -127, 127])
def test_products_of_extremes_do_not_overflow_a_lane(harness: Contract, length: int, a: int, w: int) -> None:
    assert harness.dot(pack([a] * length, 2), pack([w] * length, 1)) == a * w * length


def test_every_weight_meets_its_own_activation(harness: Contract) -> None:
    for i in range(64):
        for j in (i, (i + 1) % 64, (i + 8) % 64, (i + 32) % 64):
            a, w = [0] * 64, [0] * 64
            a[i], w[j] = 1001, -77
            assert harness.dot(pack(a, 2), pack(w, 1)) == (-77_077 if i == j else 0)


def test_what_lies_behind_the_activations_counts_for_nothing(harness: Contract) -> None:
    a, w = [7] * 48, [3] * 48
    assert harness.dot(pack(a, 2) + b"\xff" * 32, pack(w, 1)) == 7 * 3 * 48


def test_sizes_of_rows_equal_exact_integers(harness: Contract) -> None:
    compare_norms(harness, 2, FEW)


@pytest.mark.slow
def test_rows_equal_exact_integers_many_times(harness: Contract) -> None:
    compare_dots(harness, 3, MANY)
    compare_norms(harness, 4, MANY)


def test_elements_are_read_by_their_width(harness: Contract) -> None:
    random = Random(5)
    for width in (1, 2, 4, 5, 6, 8):
        values = numbers(random, 8 * width, 20)
        payload = pack(values, width)
        assert [harness.element(payload, i, width) for i in range(20)] == values


def test_rows_are_filled_with_empty_leaves(harness: Contract) -> None:
    random = Random(6)
    for _ in range(FEW):
        first, other = 32 * random.randint(1, 4), 32 * random.randint(1, 12)
        leaves = random.randint(1, 35)
        bits = (leaves - 1).bit_length()
        sizes = [first, *[other] * (leaves - 1)]
        if leaves > 1:
            sizes[-1] = 32 * random.randint(1, other // 32)  # the last chunk may be short
        payloads = [random.randbytes(size) for size in sizes]
        level = [leaf_hash(payload) for payload in payloads] + [empty(0)] * ((1 << bits) - leaves)
        while len(level) > 1:
            level = [keccak256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
        assert harness.rowHash(b"".join(payloads), first, other, bits) == level[0]


def test_paths_fold_by_the_bits_of_the_index(harness: Contract) -> None:
    random = Random(7)
    for depth in (0, 1, 2, 5, 27):
        node, path = random.randbytes(32), [random.randbytes(32) for _ in range(depth)]
        index = random.getrandbits(depth) if depth else 0
        assert harness.fold(node, index, path) == fold_path(node, index, path)


@pytest.mark.parametrize("length", [32, 64, 384])
def test_leaves_are_hashed_behind_a_zero_byte(harness: Contract, length: int) -> None:
    payload = Random(8).randbytes(length)
    assert harness.leafHash(payload) == keccak256(b"\0" + payload)


def test_padding_is_looked_at_to_the_last_bit(harness: Contract) -> None:
    for used in range(33, 65):
        assert harness.isZeroFrom(b"\xff" * used + bytes(64 - used), used)
        for place in range(used, 64):
            payload = bytearray(b"\xff" * used + bytes(64 - used))
            payload[place] = 1 << (place % 8)
            assert not harness.isZeroFrom(bytes(payload), used)
