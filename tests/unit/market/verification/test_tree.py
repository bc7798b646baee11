"""The batch keccak against sha3, and a section's tree against one written out."""

from __future__ import annotations

import numpy as np
import pytest

from market.hashing import ZERO32, keccak256, leaf_hash, merkle_root
from market.inference.native import library
from market.verification.tree import Keccak, Payloads, SectionTree, empty, fold, fold_path

LENGTHS = (0, 1, 31, 32, 128, 134, 135, 136, 137, 256, 270, 271, 272, 320, 384, 407, 408, 512, 640, 1000)


def widths() -> list[int]:
    loaded = library.library()
    most = loaded.assay_keccak_width() if loaded else 0
    return [width for width in (0, 1, 4, 8) if width <= most]


@pytest.fixture(params=widths())
def keccak(request: pytest.FixtureRequest) -> Keccak:
    return Keccak(request.param)


def test_the_widest_is_the_default() -> None:
    assert Keccak().width == widths()[-1]
    for impossible in (2, 16):
        with pytest.raises(ValueError, match="no keccak of width"):
            Keccak(impossible)


@pytest.mark.parametrize("count", [1, 3, 8, 9, 61])
def test_leaves_of_any_lengths(keccak: Keccak, count: int) -> None:
    rng = np.random.default_rng(count)
    length = rng.choice(LENGTHS, count).astype(np.int32)
    offset = (np.cumsum(length) - length).astype(np.int64)
    data = rng.integers(0, 256, int(length.sum()), dtype=np.uint8)
    hashes = keccak.leaves(Payloads(data, offset, length, np.arange(count)))
    for i in range(count):
        payload = data[offset[i] : offset[i] + length[i]].tobytes()
        assert hashes[i].tobytes() == keccak256(b"\0" + payload), length[i]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 5), (2, 16), (7, 1)])
def test_a_level_fills_odd_rows(keccak: Keccak, shape: tuple[int, int]) -> None:
    nodes = np.random.default_rng(1).integers(0, 256, (*shape, 32), dtype=np.uint8)
    above = keccak.level(nodes, empty(3))
    for row in range(shape[0]):
        words = [node.tobytes() for node in nodes[row]] + [empty(3)] * (shape[1] % 2)
        expected = [keccak256(words[i] + words[i + 1]) for i in range(0, len(words), 2)]
        assert [node.tobytes() for node in above[row]] == expected


@pytest.mark.parametrize(("rows", "slots"), [(1, 1), (1, 5), (6, 1), (5, 3), (9, 8)])
def test_a_section_tree_is_the_padded_merkle_tree(keccak: Keccak, rows: int, slots: int) -> None:
    slot_bits, row_bits = (slots - 1).bit_length(), (rows - 1).bit_length()
    hashes = np.random.default_rng(rows).integers(0, 256, (rows, slots, 32), dtype=np.uint8)
    tree = SectionTree(keccak, hashes, slot_bits, row_bits)
    leaves = [ZERO32] * (1 << (slot_bits + row_bits))
    for row in range(rows):
        for slot in range(slots):
            leaves[(row << slot_bits) + slot] = hashes[row, slot].tobytes()
    levels = fold(leaves)
    assert tree.root == levels[-1][0] == merkle_root(leaves)
    for height, level in enumerate(levels):
        assert [tree.hash(height, i) for i in range(len(level))] == level


def test_paths_fold_to_the_root() -> None:
    levels = fold([leaf_hash(bytes([i]) * 32) for i in range(8)])
    for leaf in range(8):
        path = [levels[height][(leaf >> height) ^ 1] for height in range(3)]
        assert fold_path(levels[0][leaf], leaf, path) == levels[-1][0]
        assert fold_path(levels[0][leaf], leaf ^ 1, path) != levels[-1][0]


def test_empty_is_what_the_page_says() -> None:
    assert empty(0) == bytes(32)
    assert empty(2) == keccak256(keccak256(bytes(64)) * 2)
