"""Openings of weights, tables and ids, against the roots that name the model."""

from __future__ import annotations

import random

import numpy as np
import pytest

from market.hashing import leaf_hash, tokens_root
from market.verification.geometry import WeightGeometry
from market.verification.leaves import decode
from market.verification.model_trees import ModelTrees, token_opening
from market.verification.tree import Keccak, fold_path
from tests.unit.market.verification.setting import Setting, ids


def test_roots_are_the_packs(tiny: Setting) -> None:
    assert tiny.trees.weights_root == tiny.pack.roots.weights_root
    assert tiny.trees.tables_root == tiny.pack.roots.tables_root
    slow = ModelTrees(tiny.model, tiny.shape, Keccak(0))
    assert slow.weights_root == tiny.pack.roots.weights_root


def test_weight_openings(tiny: Setting) -> None:
    weights, rng = WeightGeometry(tiny.shape), random.Random(1)
    for leaf in {0, weights.leaves - 1, *(rng.randrange(weights.leaves) for _ in range(30))}:
        opening = tiny.trees.weight_opening(leaf)
        assert len(opening.path) == weights.depth
        assert fold_path(leaf_hash(opening.payload), leaf, opening.path) == tiny.pack.roots.weights_root
    row = tiny.trees.weight_opening(weights.row("layers.1.down", 5)).payload
    matrix = tiny.model.layers[1].down
    assert decode(row[32:], 1, 160) == matrix.weight[5].tolist()
    assert int.from_bytes(row[6:10], "big") == matrix.multiplier[5]
    gain = tiny.trees.weight_opening(weights.gain("output_norm", 70)).payload
    assert decode(gain[32:], 4, 8) == tiny.model.output_norm[64:].tolist()
    with pytest.raises(IndexError):
        tiny.trees.weight_opening(weights.leaves)


def test_table_openings(tiny: Setting) -> None:
    weights, tables = WeightGeometry(tiny.shape), tiny.model.tables
    for leaf in range(weights.table_leaves):
        opening = tiny.trees.table_opening(leaf)
        assert len(opening.path) == weights.table_depth
        assert fold_path(leaf_hash(opening.payload), leaf, opening.path) == tiny.pack.roots.tables_root
    for position, i in ((0, 0), (5, 3), (511, 15), (300, 8)):
        cos, sin, entry = weights.rope(position, i)
        half = tiny.shape.head_size // 2
        assert decode(tiny.trees.table_opening(cos).payload, 4, 256)[entry] == tables.rope_cos[position, i % half]
        assert decode(tiny.trees.table_opening(sin).payload, 4, 256)[entry] == tables.rope_sin[position, i % half]


def test_the_path_of_the_exponential_tables(tiny: Setting) -> None:
    both = [
        leaf_hash(np.asarray(t).astype(">i4").tobytes())
        for t in (tiny.model.tables.exp2_high, tiny.model.tables.exp2_low)
    ]
    node = fold_path(both[0], 0, [both[1]])
    assert fold_path(node, 0, tiny.trees.tables_path()) == tiny.pack.roots.tables_root


@pytest.mark.parametrize("count", [1, 7, 8, 9, 60, 64, 65])
def test_token_openings(count: int) -> None:
    words, keccak = ids("tokens", count, 288), Keccak()
    for index in {0, count // 2, count - 1}:
        opening = token_opening(words, index, keccak)
        assert fold_path(leaf_hash(opening.payload), index // 8, opening.path) == tokens_root(words)
        at = 4 * (index % 8)
        assert int.from_bytes(opening.payload[at : at + 4], "big") == words[index]
