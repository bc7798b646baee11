"""Proof, at every start, that an engine computes a whole model as ``market.inference.reference`` does.

The model is small, and no engine's own: each runs it from one end to the other, cut in several ways, before it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from market.inference import reference
from market.inference.batch import BatchEngine, Part, Want
from market.inference.errors import SelfTestError
from market.inference.model import AnyArray, Config, IntegerModel, Layer, Linear, Tables

SEED = 20240601


def check_forward(engine_over: Callable[[IntegerModel], BatchEngine], tables: Tables, name: str) -> None:
    """The small model from one end to the other, cut in several ways: logits, and the likeliest token.

    Raises SelfTestError with ``name``.
    """
    model = small_model(tables)
    engine = engine_over(model)
    ids = [int(i) for i in np.random.default_rng(SEED).integers(0, model.config.vocabulary, 12)]
    expected = reference.forward(model, ids)
    logits, tokens = engine.new_slot(len(ids)), engine.new_slot(len(ids))
    for start, end in pairwise((0, 5, 6, 7, 12)):
        got = np.array(engine.step([Part(logits, ids[start:end], Want.LOGITS)]))
        if not np.array_equal(got, expected[end - 1 : end]):
            raise SelfTestError(f"forward pass {name}")
        if engine.step([Part(tokens, ids[start:end], Want.TOKEN)]) != [reference.argmax(expected[end - 1])]:
            raise SelfTestError(f"likeliest token of the forward pass {name}")


def small_model(tables: Tables) -> IntegerModel:
    """Two layers of random weights, with rows of no register's multiple; the pack's exp2 tables, its first angles.

    Many rows of the embedding stand there twice, as neighbours or 64 rows apart: of such tokens, equally likely, the
    lower id is the answer.
    """
    random, size = np.random.default_rng(SEED), 16
    config = Config(
        vocabulary=97,
        context=32,
        hidden=72,
        feed_forward=104,
        layers=2,
        heads=6,
        kv_heads=2,
        head_size=size,
        epsilon=42949,
        score_multiplier=94548,
    )

    def matrix(rows: int, columns: int, exponent: int = 31) -> Linear:
        weight = random.integers(-127, 128, (rows, columns), dtype=np.int8)
        return Linear(weight, random.integers(1 << 20, 1 << 21, rows, dtype=np.int32), exponent)

    def gain() -> AnyArray:
        return random.integers(3000, 5000, config.hidden, dtype=np.int32)

    width, narrow = config.heads * size, config.kv_heads * size
    layers = tuple(
        Layer(
            attention_norm=gain(),
            query=matrix(width, config.hidden),
            key=matrix(narrow, config.hidden),
            value=matrix(narrow, config.hidden),
            attention_output=matrix(config.hidden, width),
            feed_forward_norm=gain(),
            gate=matrix(config.feed_forward, config.hidden),
            up=matrix(config.feed_forward, config.hidden),
            down=matrix(config.hidden, config.feed_forward),
            query_fraction=10,
            key_fraction=10,
            value_fraction=12,
        )
        for _ in range(config.layers)
    )
    angles = np.arange(config.context * size // 2).reshape(config.context, -1)
    cos = ((angles * 7919) % 65537 - 32768).astype(np.int32)  # any numbers of Q15 do
    sin = ((angles * 104729) % 65537 - 32768).astype(np.int32)
    embedding = matrix(config.vocabulary, config.hidden)
    for rows in (embedding.weight, embedding.multiplier):
        rows[1::4] = rows[:-1:4]
        rows[66::4] = rows[2:33:4]
    own = Tables(tables.exp2_high, tables.exp2_low, cos, sin)
    return IntegerModel(config, embedding, layers, gain(), embedding, own)
