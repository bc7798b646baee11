"""Sampling and log-probabilities: reference and serving code against unbounded integers, and against real softmax."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from market.hashing import ZERO32, keccak256
from market.inference import reference, reference_sampling, sampling
from market.inference.errors import SamplingError
from market.inference.log_probabilities import log_probabilities
from market.inference.model import Int64Array
from market.inference.sampling import Sampling
from market.inference.torch_engine import TorchEngine
from market.models import tables as table_builder
from market.models.pack import Pack
from market.types import Request, Sampler
from tests.unit.market.inference import oracle, vectors
from tests.unit.market.inference.test_operations import edges

quick = settings(max_examples=80, deadline=None, derandomize=True)
TABLES = table_builder.build(context=8, head_size=4, rope_base=10000.0)
HIGH, LOW = TABLES.exp2_high.tolist(), TABLES.exp2_low.tolist()
FULL = 65536
TOP = (1 << 32) - 1

temperatures = st.one_of(st.integers(1, TOP), st.sampled_from([1, 2, 45875, FULL, 1 << 20, TOP]))
top_ps = st.one_of(st.integers(1, FULL), st.sampled_from([1, 58982, FULL - 1, FULL]))
top_ks = st.one_of(st.integers(0, 50), st.just(TOP))
seeds = st.binary(min_size=32, max_size=32)
rows = st.one_of(
    st.lists(edges(62), min_size=1, max_size=40),
    st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    st.lists(st.integers(-20 * FULL, 20 * FULL), min_size=1, max_size=40),
)


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(vectors.FILE.read_text())
    return content


def array(row: list[int]) -> Int64Array:
    return np.array(row, dtype=np.int64)


def test_vectors_of_sampling_hold_in_both_implementations(file: dict[str, Any]) -> None:
    case = file["sampling"]
    seed, logits = bytes.fromhex(case["seed"][2:]), array(case["logits"])
    for position, number in case["draws"]:
        assert hex(sampling.draw(seed, position)) == hex(reference_sampling.draw(seed, position)) == number
    start = sampling.draw(seed, 7)
    for token, expected in case["token_hash"]:
        assert reference_sampling.token_hash(start % 2**64, token) == int(expected)
        counter = np.array([token], dtype=np.uint64) * np.uint64(sampling.COUNTER_STEP)
        assert int(sampling._hashes(start, counter)[0]) == int(expected)
    for x, fraction, expected in case["minus_ln"]:
        assert sampling.minus_ln(int(x), fraction) == int(expected)
        assert reference_sampling.negative_log(int(x), fraction) == int(expected)
    for h, expected in case["gumbel"]:
        assert sampling.noise(int(h)) == reference_sampling.gumbel(int(h)) == expected
    for temperature, top_k, top_p, order, ids in case["chosen"]:
        chosen = Sampling(temperature, top_k, top_p, seed)
        if order is not None:
            assert reference_sampling.nucleus(case["logits"], chosen, TABLES) == order
        assert [chosen.pick(logits, t) for t in range(len(ids))] == ids
        assert [reference_sampling.pick(logits, t, chosen, TABLES) for t in range(len(ids))] == ids


def test_vectors_of_log_probabilities_hold_in_both_implementations(file: dict[str, Any]) -> None:
    for row, expected in file["log_probabilities"]:
        logits = array(row)
        ranked = sorted(range(len(row)), key=lambda j: (-row[j], j))
        assert [reference_sampling.log_probability(logits, j, TABLES) for j in range(len(row))] == expected
        assert [log_probabilities(logits, j)[0].value_q16 for j in range(len(row))] == expected
        _, top = log_probabilities(logits, 0, len(row))
        assert [entry.token for entry in top] == ranked == reference_sampling.likeliest(logits, len(row))
        assert [entry.value_q16 for entry in top] == [expected[j] for j in ranked]


def test_vectors_of_the_sampled_tiny_model_hold(
    file: dict[str, Any], tiny_pack: Pack, tiny_engine: TorchEngine
) -> None:
    tiny, seed = file["tiny"], bytes.fromhex(file["sampling"]["seed"][2:])
    outputs = set()
    for temperature, top_k, top_p, expected in tiny["sampled"]:
        chosen = Sampling(temperature, top_k, top_p, seed)
        assert list(tiny_engine.generate(tiny["prompt"], 16, [], sampling=chosen).ids) == expected
        outputs.add(tuple(expected))
    assert len(outputs) > 1


@quick
@given(st.integers(0, (1 << 63) - 1))
def test_noise_equals_exact_integers_and_is_near_the_real_one(half: int) -> None:
    h = 2 * half + 1
    with mp.workprec(200):
        exact = -mp.log(-mp.log1p(-mpf(h) / 2**64))
        assert abs(mpf(oracle.gumbel(h)) / 2**20 - exact) < mpf(2) ** -20
    assert sampling.noise(h) == reference_sampling.gumbel(h) == oracle.gumbel(h)


@pytest.mark.parametrize("h", [1, 3, 5, (1 << 63) - 1, (1 << 63) + 1, (1 << 64) - 3, (1 << 64) - 1])
def test_noise_at_its_extremes_fits_26_bits(h: int) -> None:
    assert sampling.noise(h) == oracle.gumbel(h)
    assert abs(sampling.noise(h)) < 1 << 26


@quick
@given(st.one_of(st.integers(1, (1 << 102) - 1), edges(102).map(lambda x: abs(x) or 1)), st.sampled_from([30, 64, 96]))
def test_minus_ln_extremes_equal_exact_integers(x: int, fraction: int) -> None:
    expected = oracle.minus_ln(x, fraction)
    assert sampling.minus_ln(x, fraction) == reference_sampling.negative_log(x, fraction) == expected
    with mp.workprec(300):
        assert abs(mpf(expected) / 2**96 + mp.log(mpf(x)) - fraction * mp.log(2)) < mpf(2) ** -28


@quick
@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=50), st.integers(0, 63))
def test_bounds_of_the_noise_hold_for_every_hash(numbers: list[int], shift: int) -> None:
    hashes = np.array([(number >> shift) | 1 for number in numbers], dtype=np.uint64)
    bounds = sampling._noise_bounds().take(sampling._cells(hashes), mode="clip")
    for h, bound in zip(hashes.tolist(), bounds.tolist(), strict=True):
        assert sampling.noise(h) <= bound


def test_bounds_of_the_noise_hold_beside_every_edge() -> None:
    for octave in range(64):
        for step in (0, 1, 64, 127):
            edge = ((128 + step) << octave) // 128
            near = [edge - (edge >> cut) + offset for cut in (20, 24, 25, 26, 70) for offset in (-1, 0, 1)]
            hashes = np.array([h | 1 for h in near if 0 <= h < 1 << 64], dtype=np.uint64)
            bounds = sampling._noise_bounds().take(sampling._cells(hashes), mode="clip")
            assert all(sampling.noise(h) <= b for h, b in zip(hashes.tolist(), bounds.tolist(), strict=True))


def test_powers_are_the_products_of_the_published_tables() -> None:
    products = (TABLES.exp2_high.astype(np.int64)[:, None] * TABLES.exp2_low.astype(np.int64) >> 30).reshape(-1)
    assert np.array_equal(sampling._powers(), products)


@settings(quick, max_examples=300)
@given(rows, st.integers(0, TOP), temperatures, top_ks, top_ps, seeds)
def test_pick_extremes_equal_exact_integers(
    row: list[int], position: int, temperature: int, top_k: int, top_p: int, seed: bytes
) -> None:
    chosen = Sampling(temperature, top_k, top_p, seed)
    expected = oracle.pick(row, position, temperature, top_k, top_p, seed, HIGH, LOW)
    assert chosen.pick(array(row), position) == expected
    assert reference_sampling.pick(array(row), position, chosen, TABLES) == expected
    kept = chosen._kept(array(row))
    inside = oracle.kept(row, temperature, top_k, top_p, HIGH, LOW)
    assert (list(range(len(row))) if kept is None else kept.tolist()) == sorted(inside)


@pytest.mark.parametrize("spread", [0, 1000, 3 * FULL, 1 << 61])
@pytest.mark.parametrize(
    "fields", [(FULL, 0, FULL), (45875, 50, 62259), (FULL, 0, 58982), (1 << 20, 0, 64880), (TOP, 20000, 32768)]
)
def test_pick_from_a_whole_vocabulary_equals_the_reference(spread: int, fields: tuple[int, int, int]) -> None:
    logits = np.random.default_rng(5).integers(-spread, spread + 1, 49152)
    chosen = Sampling(*fields, seed=keccak256(b"%d" % spread))
    assert chosen.pick(logits, 3) == reference_sampling.pick(logits, 3, chosen, TABLES)


@quick
@given(rows)
def test_log_probability_extremes_equal_exact_integers(row: list[int]) -> None:
    for token in range(len(row)):
        expected = oracle.log_probability(row, token, HIGH, LOW)
        assert log_probabilities(array(row), token)[0].value_q16 == expected
        assert reference_sampling.log_probability(array(row), token, TABLES) == expected
        assert expected <= 0


@pytest.mark.parametrize("width", [0.0, 0.1, 2.0, 5.0])
def test_log_probabilities_of_a_whole_vocabulary_are_near_the_real_ones(width: float) -> None:
    logits = (np.random.default_rng(2).normal(0, width, 49152) * FULL).astype(np.int64)
    real = logits / FULL - np.log(np.exp(logits / FULL - logits.max() / FULL).sum()) - logits.max() / FULL
    chosen, top = log_probabilities(logits, 77, 5)
    for entry in (chosen, *top):
        assert abs(entry.value_q16 / FULL - real[entry.token]) < 2**-13


@pytest.mark.parametrize("token", [-1, 4])
def test_log_probabilities_of_a_token_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        log_probabilities(array([1, 2, 3, 4]), token)
    with pytest.raises(ValueError, match="likeliest"):
        log_probabilities(array([1, 2, 3, 4]), 0, token + 9 if token == -1 else 5)


def frequencies(logits: Int64Array, fields: tuple[int, int, int], draws: int) -> Int64Array:
    chosen = Sampling(*fields, seed=keccak256(b"frequencies"))
    return np.bincount([chosen.pick(logits, t) for t in range(draws)], minlength=len(logits))


@pytest.mark.parametrize("temperature", [32768, FULL, 3 * FULL])
def test_frequencies_match_softmax(temperature: int) -> None:
    logits = array([0, 20000, -70000, 130000, 65536, 65536, -200000, 1, 100000, 5, 90000, -1])
    weights = np.exp(logits / temperature)
    expected = weights / weights.sum() * 10000
    counts = frequencies(logits, (temperature, 0, FULL), 10000)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < 31.3  # 11 degrees of freedom: exceeded once in 1,000 seeds; the seed is fixed


def test_frequencies_inside_a_nucleus_match_softmax_renormalised() -> None:
    logits = array([0, 20000, -70000, 130000, 65536, 65536, -200000, 1, 100000, 5, 90000, -1])
    counts = frequencies(logits, (FULL, 6, 58982), 10000)
    kept = oracle.kept(logits.tolist(), FULL, 6, 58982, HIGH, LOW)
    assert kept == [3, 8, 10, 4, 5]  # of the six largest; these reach 90 % of their weight
    assert counts[kept].sum() == 10000
    weights = np.exp(logits[kept] / FULL)
    expected = weights / weights.sum() * 10000
    assert ((counts[kept] - expected) ** 2 / expected).sum() < 18.5  # 4 degrees of freedom, one in 1,000


def test_hashes_of_a_whole_vocabulary_are_uniform_and_distinct() -> None:
    hashes = np.concatenate([sampling._hashes(sampling.draw(ZERO32, t), sampling._counters(49152)) for t in range(8)])
    assert len(np.unique(hashes)) == len(hashes)
    expected = len(hashes) / 256
    for shift in (56, 40, 8):
        counts = np.bincount(((hashes >> np.uint64(shift)) & np.uint64(255)).astype(np.int64), minlength=256)
        assert ((counts - expected) ** 2 / expected).sum() < 330.5  # 255 degrees of freedom, one in 1,000


@pytest.mark.slow
def test_frequencies_over_twenty_million_draws_match_softmax() -> None:
    """The hashes are the sampler's; their noise is the real one, 2^-20 from the sampler's at most."""
    logits = array([0, 20000, -70000, 130000, 65536, 65536, -200000, 1, 100000, 5, 90000, -1])
    weights = np.exp(logits / FULL)
    counts, draws, random = np.zeros(12), 2_000_000, np.random.default_rng(0)
    for _ in range(10):
        starts = random.integers(0, 1 << 64, draws, dtype=np.uint64)
        keys = np.empty((12, draws))
        for token, counter in enumerate(sampling._counters(12)):
            keys[token] = -np.log(-np.log1p(-sampling._hashes(0, starts + counter).astype(np.float64) / 2.0**64))
        counts += np.bincount((keys + logits[:, None] / FULL).argmax(0), minlength=12)
    expected = weights / weights.sum() * counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 31.3  # 11 degrees of freedom, one in 1,000


@pytest.mark.slow
def test_every_part_of_a_flat_vocabulary_wins_equally_often() -> None:
    counters = sampling._counters(49152)
    winners = [int(sampling._hashes(sampling.draw(ZERO32, t), counters).argmin()) for t in range(40_000)]
    counts = np.bincount(np.array(winners) // 768, minlength=64)
    assert ((counts - 625) ** 2 / 625).sum() < 103.5  # 63 degrees of freedom, one in 1,000


def test_temperature_0_is_the_argmax_whatever_the_other_fields_are() -> None:
    logits = array([3, 9, 9, 1])
    for top_k, top_p in ((0, FULL), (1, 1), (3, 30000)):
        chosen = Sampling(0, top_k, top_p, keccak256(b"any"))
        assert chosen.pick(logits, 4) == reference_sampling.pick(logits, 4, chosen, TABLES) == reference.argmax(logits)


def test_top_k_of_one_and_a_tiny_top_p_leave_the_argmax() -> None:
    logits = array([3, 9, 9, 1])
    for fields in ((TOP, 1, FULL), (TOP, 0, 1)):
        assert {Sampling(*fields, seed=ZERO32).pick(logits, t) for t in range(50)} == {1}


@pytest.mark.parametrize(
    ("field", "values"),
    [("temperatureQ16", (-1, 0, FULL)), ("temperatureQ16", (1 << 32, 0, FULL)), ("topK", (1, -1, FULL)),
     ("topPQ16", (1, 0, 0)), ("topPQ16", (1, 0, FULL + 1))],
)  # fmt: skip
def test_values_that_no_request_may_have_are_refused(field: str, values: tuple[int, int, int]) -> None:
    with pytest.raises(SamplingError, match=field):
        Sampling(*values, seed=ZERO32)


def asked(sampler: int, seed: bytes = ZERO32, **fields: int) -> Request:
    numbers = {"temperature_q16": 0, "top_k": 0, "top_p_q16": 0} | fields
    return Request(ZERO32, ZERO32, 1, 1, ZERO32, sampler, seed=seed, nonce=ZERO32, **numbers)


def test_sampling_of_a_request_follows_its_sampler() -> None:
    seed = keccak256(b"seed")
    fields = {"temperature_q16": FULL, "top_k": 4, "top_p_q16": 60000}
    assert Sampling.of(asked(Sampler.GREEDY)) is None
    assert Sampling.of(asked(Sampler.SEEDED_BY_REQUEST, seed, **fields)) == Sampling(FULL, 4, 60000, seed)
    assert Sampling.of(asked(Sampler.SEEDED_BY_CHAIN, **fields), chain_seed=seed) == Sampling(FULL, 4, 60000, seed)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (asked(0, temperature_q16=1), "sampler"),
        (asked(0, keccak256(b"seed")), "sampler"),
        (asked(1, keccak256(b"seed")), "topPQ16"),
        (asked(2, top_p_q16=FULL), "sampler"),
        (asked(2, keccak256(b"seed"), top_p_q16=FULL), "seed"),
        (asked(3, top_p_q16=FULL), "sampler"),
    ],
)
def test_sampling_of_a_request_that_contradicts_itself_is_refused(request_: Request, field: str) -> None:
    with pytest.raises(SamplingError) as caught:
        Sampling.of(request_)
    assert caught.value.field == field


def test_picking_from_a_whole_vocabulary_is_cheap() -> None:
    """Two milliseconds are the bar on an idle machine; the best of many leaves out what others did meanwhile."""
    logits = (np.random.default_rng(3).normal(0, 3, 49152) * FULL).astype(np.int64)
    for fields in ((FULL, 0, FULL), (45875, 50, 62259), (FULL, 0, 58982)):
        chosen, best = Sampling(*fields, seed=ZERO32), 1.0
        for position in range(30):
            started = time.perf_counter()
            chosen.pick(logits, position)
            best = min(best, time.perf_counter() - started)
        assert best < 0.006
