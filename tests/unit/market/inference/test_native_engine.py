"""The engine in C against the numpy reference, to the last bit: layers, whole answers, threads, batches, cuts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.inference import reference
from market.inference.batch import Part, Want
from market.inference.engine import load_engine
from market.inference.errors import BackendError, PromptError, SelfTestError
from market.inference.forward_selftest import small_model
from market.inference.model import Int32Array, Int64Array, Linear
from market.inference.native import library as lib
from market.inference.native_engine import ROWS, NativeEngine
from market.models.pack import WEIGHTS, Pack, load_pack

pytestmark = pytest.mark.skipif(lib.library() is None, reason="the package was installed without a C compiler")
CASES = [(kernel, threads) for kernel in lib.KERNELS for threads in (1, 2)]
IDS = [int(i) for i in np.random.default_rng(7).integers(0, 288, 70)]


def engine_or_skip(pack: Pack, kernel: str, threads: int = 1) -> NativeEngine:
    if kernel not in lib.supported():
        pytest.skip(f"this processor has no {kernel}")
    return NativeEngine(pack.model, kernel, threads)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}t")
def engine(request: pytest.FixtureRequest, tiny_pack: Pack) -> NativeEngine:
    return engine_or_skip(tiny_pack, *request.param)


@pytest.fixture(scope="module")
def expected(tiny_pack: Pack) -> Int64Array:
    """Logits of every position of IDS by the reference."""
    return reference.forward(tiny_pack.model, IDS)


LONG = np.random.default_rng(8).integers(0, 288, (3, 200)).tolist()
PLANS = {  # ids of each of three sequences in each step
    "one id": [[1, 0, 0]],
    "fewer than a group": [[7, 0, 0]],
    "a group": [[8, 0, 0]],
    "groups and a rest": [[70, 0, 0]],
    "pieces": [[200, 0, 0]],
    "one by one": [[1, 0, 0]] * 20,
    "cut": [[1, 0, 0], [7, 0, 0], [130, 0, 0], [61, 0, 0], [1, 0, 0]],
    "one id each": [[1, 1, 1]] * 12,
    "few each": [[3, 1, 2], [1, 5, 9], [2, 0, 4]],
    "pieces of several": [[100, 40, 60], [1, 1, 1], [64, 0, 130], [0, 130, 1], [20, 1, 8]],
}


@pytest.fixture(scope="module")
def streams(tiny_pack: Pack) -> list[list[Int64Array]]:
    """Of each sequence of LONG, the residual stream [200, hidden] before each layer and at the end."""
    return [list(reference_residuals(tiny_pack, ids)) for ids in LONG]


def reference_residuals(pack: Pack, ids: list[int]) -> Iterator[Int64Array]:
    """The residual stream before each layer and at the end, from the reference's operations."""
    model, c = pack.model, pack.model.config
    x = reference.embed(model.embedding, np.array(ids))
    yield x
    for layer in model.layers:
        a, shift = reference.quantise(reference.normalise(x, layer.attention_norm, c.epsilon))
        q, k, v = (
            reference.linear(matrix, a, shift).reshape(len(ids), -1, c.head_size)
            for matrix in (layer.query, layer.key, layer.value)
        )
        q = reference.to_cache(reference.rotate(q, model.tables), layer.query_fraction)
        k = reference.to_cache(reference.rotate(k, model.tables), layer.key_fraction)
        v = reference.to_cache(v, layer.value_fraction)
        mixed = reference.attend(q, k, v, layer, c.score_multiplier, model.tables).reshape(len(ids), -1)
        x = x + reference.linear(layer.attention_output, *reference.quantise(mixed))
        a, shift = reference.quantise(reference.normalise(x, layer.feed_forward_norm, c.epsilon))
        gate, up = reference.linear(layer.gate, a, shift), reference.linear(layer.up, a, shift)
        product = (reference.silu(gate, model.tables) * up + 2**15) >> 16
        x = x + reference.linear(layer.down, *reference.quantise(product))
        yield x


def same_layer_by_layer(
    engine: NativeEngine, streams: list[list[Int64Array]], plan: list[list[int]], alone: Sequence[int] = (0,)
) -> None:
    """``alone``: whether each step, in turn, leaves the other threads out, which the pool would decide by the clock."""
    slots = [engine.new_slot(200) for _ in LONG]
    for number, counts in enumerate(plan):
        batch, spans = [], []
        for which, count in enumerate(counts):
            start = slots[which].length
            if count:
                batch.append((slots[which], LONG[which][start : start + count]))
                spans.append((which, slice(start, start + count)))
        leave, before = alone[number % len(alone)], engine.passes_alone
        engine.leave_out(leave)
        got = engine.residuals(batch)
        assert engine.passes_alone - before == (leave if engine.threads > 1 else 0)
        for layer, stream in enumerate(got):
            expected = np.concatenate([streams[which][layer][span] for which, span in spans])
            assert np.array_equal(stream, expected), f"before layer {layer}, step {number}"


@pytest.mark.parametrize("plan", PLANS)
def test_residual_stream_equals_the_reference_layer_by_layer(
    plan: str, engine: NativeEngine, streams: list[list[Int64Array]]
) -> None:
    """However sequences are cut and whoever stands beside them. 64 rows for each thread and more go in pieces."""
    same_layer_by_layer(engine, streams, PLANS[plan])


@pytest.mark.parametrize("kernel", lib.KERNELS)
def test_residual_stream_on_more_threads_than_pieces_equals_the_reference_layer_by_layer(
    kernel: str, tiny_pack: Pack, streams: list[list[Int64Array]]
) -> None:
    """A pass of 200 rows goes in pieces with all but one left out, and otherwise not."""
    engine = engine_or_skip(tiny_pack, kernel, 6)
    for plan in ("one id", "cut", "few each", "pieces of several"):
        for alone in ([0], [1], [0, 1], [1, 0]):
            same_layer_by_layer(engine, streams, PLANS[plan], alone)


def test_logits_of_every_position_equal_the_reference(engine: NativeEngine, expected: Int64Array) -> None:
    assert np.array_equal(engine.forward(IDS), expected)


def test_logits_token_by_token_equal_the_reference(engine: NativeEngine, expected: Int64Array) -> None:
    cache = engine.new_slot(len(IDS))
    got = [engine.step([Part(cache, [token], Want.LOGITS)])[0] for token in IDS]
    assert np.array_equal(np.array(got), expected)


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_any_interleaving_of_sequences_gives_each_its_own_logits(
    tiny_pack: Pack, expected: Int64Array, data: st.DataObject
) -> None:
    """Sequences of different lengths, each cut anywhere, beside any others: nothing depends on the neighbours."""
    kernel, threads = data.draw(st.sampled_from([case for case in CASES if case[0] in lib.supported()]))
    engine = NativeEngine(tiny_pack.model, kernel, threads)
    caches = [engine.new_slot(len(IDS)) for _ in range(data.draw(st.integers(1, 11)))]
    for _ in range(6):
        parts = []
        for cache in data.draw(st.permutations(caches)):
            count = data.draw(st.integers(0, min(20, len(IDS) - cache.length)))
            if count:
                parts.append(Part(cache, IDS[cache.length : cache.length + count], data.draw(st.sampled_from(Want))))
        if not parts:
            break
        ends = [part.slot.length + len(part.ids) - 1 for part in parts]
        engine.leave_out(data.draw(st.sampled_from([0, 100])))  # the other threads
        for part, end, got in zip(parts, ends, engine.step(parts), strict=True):
            if part.want is Want.LOGITS:
                assert np.array_equal(cast(Int64Array, got), expected[end])
            else:
                assert got == (reference.argmax(expected[end]) if part.want is Want.TOKEN else None)


def test_batch_larger_than_a_pass_equals_single_sequences(engine: NativeEngine, expected: Int64Array) -> None:
    parts = [Part(engine.new_slot(70), IDS[: 70 - index], Want.LOGITS) for index in range(6)]
    assert sum(len(part.ids) for part in parts) > ROWS
    assert np.array_equal(np.array(engine.step(parts)), expected[[69 - index for index in range(6)]])


def test_shortened_slot_goes_on_as_if_nothing_had_been(engine: NativeEngine, expected: Int64Array) -> None:
    slot = engine.new_slot(70)
    engine.step([Part(slot, [*IDS[:33], *([5] * 20)], Want.NOTHING)])
    slot.truncate(33)
    assert np.array_equal(engine.step([Part(slot, IDS[33:50], Want.LOGITS)]), expected[[49]])


def test_answers_equal_the_reference(engine: NativeEngine, tiny_pack: Pack) -> None:
    for prompt in ([1, 70, 80], [9], IDS[:40]):
        assert list(engine.generate(prompt, 16, []).ids) == reference.greedy(tiny_pack.model, prompt, 16, [])


def test_step_with_a_bad_entry_computes_nothing(engine: NativeEngine) -> None:
    good, small = engine.new_slot(20), engine.new_slot(4)
    for bad, limit in (
        (Part(small, [1] * 5, Want.TOKEN), "context"),
        (Part(small, [288], Want.TOKEN), "vocabulary"),
        (Part(small, [-1], Want.TOKEN), "vocabulary"),
        (Part(small, [], Want.TOKEN), "empty"),
    ):
        with pytest.raises(PromptError) as caught:
            engine.step([Part(good, [1, 2], Want.TOKEN), bad])
        assert caught.value.limit == limit
        assert (good.length, small.length) == (0, 0)
    with pytest.raises(ValueError, match="twice"):
        engine.step([Part(good, [1], Want.TOKEN), Part(good, [2], Want.TOKEN)])


def test_engine_with_an_untied_head_and_odd_shapes_equals_the_reference(tiny_pack: Pack) -> None:
    """Shapes that fill no register: the self-test's small model, whose head is a matrix of its own here."""
    tables = tiny_pack.model.tables
    small = small_model(tables)
    head = Linear(small.embedding.weight[::-1].copy(), small.embedding.multiplier, small.embedding.exponent + 1)
    model = replace(small, head=head)
    ids = list(range(20))
    for kernel, threads in CASES:
        if kernel in lib.supported():
            got = NativeEngine(model, kernel, threads).forward(ids)
            assert np.array_equal(got, reference.forward(model, ids)), kernel


def test_matrices_whose_sums_leave_int32_are_exact(tiny_pack: Pack) -> None:
    """Rows of an L1 norm beyond 65,797, up to the packer's limit: every kernel then sums in int64."""
    layer, c = tiny_pack.model.layers[0], tiny_pack.model.config
    wide = replace(c, hidden=1024, heads=1, kv_heads=1, feed_forward=24, vocabulary=40, layers=1)
    random = np.random.default_rng(3)

    def matrix(rows: int, columns: int) -> Linear:
        weight = random.choice(np.array([-127, 127, 126], dtype=np.int8), (rows, columns))
        return Linear(weight, np.full(rows, (1 << 24) - 1, dtype=np.int32), 40)

    def gain() -> Int32Array:
        return np.full(1024, 4096, dtype=np.int32)

    embedding = matrix(40, 1024)
    matrices = [matrix(16, 1024) for _ in range(3)], matrix(1024, 16), [matrix(24, 1024) for _ in range(2)]
    own = replace(
        layer,
        attention_norm=gain(),
        query=matrices[0][0],
        key=matrices[0][1],
        value=matrices[0][2],
        attention_output=matrices[1],
        feed_forward_norm=gain(),
        gate=matrices[2][0],
        up=matrices[2][1],
        down=matrix(1024, 24),
    )
    model = replace(
        tiny_pack.model, config=wide, embedding=embedding, layers=(own,), output_norm=gain(), head=embedding
    )
    ids = [3, 5, 39, 0, 7, 7, 12, 30, 1]
    assert len(np.unique(reference.forward(model, ids))) > 100  # no desert of zeros
    for kernel, threads in CASES:
        if kernel in lib.supported():
            engine = NativeEngine(model, kernel, threads)
            assert np.array_equal(engine.forward(ids), reference.forward(model, ids)), kernel
            assert np.array_equal(engine.forward(ids[:1]), reference.forward(model, ids[:1])), kernel


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kernel", lib.KERNELS)
def test_likeliest_of_equal_tokens_is_the_lowest_id(kernel: str, threads: int, tiny_pack: Pack) -> None:
    """Rows of the head repeat, so that equal logits come from one unit, from several, and from several threads."""
    model, random = tiny_pack.model, np.random.default_rng(5)
    for period in (1, 2, 31, 33, 97):
        order = np.arange(len(model.head.weight)) % period
        if period == 97:
            random.shuffle(order)
        head = Linear(model.head.weight[order].copy(), model.head.multiplier[order].copy(), model.head.exponent)
        repeated = replace(tiny_pack, model=replace(model, head=head))
        engine = engine_or_skip(repeated, kernel, threads)
        likeliest = [reference.argmax(row) for row in reference.forward(repeated.model, IDS[:20])]
        parts = [Part(engine.new_slot(20), IDS[: end + 1], Want.TOKEN) for end in range(20)]
        assert engine.step(parts) == likeliest, period
        slot = engine.new_slot(20)
        assert [engine.step([Part(slot, [token], Want.TOKEN)])[0] for token in IDS[:20]] == likeliest, period


def test_kernel_that_is_not_here_is_refused(tiny_pack: Pack) -> None:
    with pytest.raises(BackendError, match="abacus"):
        NativeEngine(tiny_pack.model, "abacus")


def test_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_pack: Pack) -> None:
    """A stale build: structures of another size would make C read past them. The hint names what serves instead."""
    monkeypatch.setattr(lib, "STRUCTURES", (*lib.STRUCTURES[1:], lib.STRUCTURES[0]))
    monkeypatch.setattr(lib, "library", lib.library.__wrapped__)
    for kernels in ("auto", *lib.KERNELS):
        with pytest.raises(SelfTestError, match="other structures") as caught:
            load_engine(tiny_pack, kernels=kernels)
        assert "kernels = torch or numpy" in str(caught.value)
    answers = [load_engine(tiny_pack, kernels=name).generate([1, 70, 80], 3, []) for name in ("torch", "numpy")]
    assert answers[0] == answers[1]
    broken = tmp_path / "_kernels.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(lib, "find_spec", lambda _: type("Spec", (), {"origin": str(broken)}))
    with pytest.raises(SelfTestError, match="native library"):
        lib.library()


def test_engine_gives_its_memory_back(tiny_pack: Pack) -> None:
    """Engines with threads come and go: neither threads nor buffers stay."""
    code = (
        "import sys, os; from market.models.pack import load_pack\n"
        "from market.inference.native_engine import NativeEngine\n"
        "model = load_pack(sys.argv[1]).model\n"
        "for _ in range(30): NativeEngine(model, 'portable', 3).generate([1, 2, 3], 2, [])\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    command = [sys.executable, "-c", code, str(tiny_pack.path)]
    threads = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    alone = int(
        subprocess.run(
            [sys.executable, "-c", "import numpy, os; print(len(os.listdir('/proc/self/task')))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert threads <= alone + 2


@pytest.mark.parametrize("kernel", lib.KERNELS)
def test_weights_that_c_reads_lie_in_the_read_only_map_of_the_file(kernel: str, tiny_pack: Pack) -> None:
    """Pages of a shared map are those of the file: processes share them. No kernel has a copy in another order."""
    if kernel not in lib.supported():
        pytest.skip(f"this processor has no {kernel}")
    pack = load_pack(tiny_pack.path)
    engine = load_engine(pack, threads=2, kernels=kernel)
    assert isinstance(engine, NativeEngine)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    own = [words for words in maps if words[-1] == str(pack.path / WEIGHTS)]
    assert {words[1] for words in own} == {"r--s"}  # readable, shared
    rooms = [range(*(int(address, 16) for address in words[0].split("-"))) for words in own]

    def mapped(address: int, size: int) -> None:
        assert any(address in room and address + size - 1 in room for room in rooms)

    matrices = [kept.struct for kept in engine._kept if isinstance(kept, lib.Matrix)]
    assert len(matrices) == 2 + len(lib.MATRICES) * pack.model.config.layers
    for matrix in matrices:
        mapped(matrix.weight, matrix.rows * matrix.columns)
        mapped(matrix.multiplier, 4 * matrix.rows)


def test_environment_chooses_the_kernels(tiny_pack: Pack) -> None:
    code = (
        "import sys; from market.models.pack import load_pack; from market.inference.engine import load_engine\n"
        "engine = load_engine(load_pack(sys.argv[1])); print(engine.kernels, *engine.generate([1, 70, 80], 12, []).ids)"
    )
    answers = set()
    for kernel in (*lib.supported(), "numpy"):
        command, environment = (
            [sys.executable, "-c", code, str(tiny_pack.path)],
            {**os.environ, "ASSAY_KERNELS": kernel},
        )
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        assert output[0] == kernel
        answers.add(tuple(output[1:]))
    assert len(answers) == 1


def test_two_threads_on_one_processor_do_not_collapse(tiny_pack: Pack) -> None:
    """A processor for two threads, as when other processes take the rest: pure spinning makes a token wait for hundreds
    of time slices, many times what one thread needs. Leaving the other thread out bounds it.

    Counted is the process's own processor time, in turns: what runs beside this test is not its matter. Pure spinning
    took 220 times as long as one thread.
    """
    code = (
        "import os, sys, time; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from market.models.pack import load_pack\n"
        "from market.inference.batch import Part, Want\n"
        "from market.inference.native_engine import NativeEngine\n"
        "model = load_pack(sys.argv[1]).model\n"
        "engines = [NativeEngine(model, 'portable', threads) for threads in (1, 2)]\n"
        "seconds = [[], []]\n"
        "for turn in range(10):\n"
        "    engine = engines[turn % 2]; cache = engine.new_slot(400); started = time.process_time()\n"
        "    for _ in range(400): engine.step([Part(cache, [7], Want.TOKEN)])\n"
        "    seconds[turn % 2].append(time.process_time() - started)\n"
        "print(*map(min, seconds), engines[1].passes_alone)"
    )
    command = [sys.executable, "-c", code, str(tiny_pack.path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    one, two, alone = float(output[0]), float(output[1]), int(output[2])
    assert alone > 600
    assert two < 2 * one


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_two_threads_beside_a_hog_on_one_processor_take_little_longer_than_one(tiny_pack: Pack) -> None:
    """By the clock on the wall, as whoever waits for an answer sees it: half of a second processor is no help, and must
    not be a hindrance.

    Both take turns and the best of each counts, and turns go on for 40 seconds or until the two are near: what else
    this machine does can make the test longer, not fail. Pure spinning never comes near.
    """
    code = (
        "import os, sys, time\n"
        "from market.models.pack import load_pack\n"
        "from market.inference.batch import Part, Want\n"
        "from market.inference.native_engine import NativeEngine\n"
        "model = load_pack(sys.argv[1]).model\n"
        "os.sched_setaffinity(0, {int(number) for number in sys.argv[2:]})\n"
        "engines = [NativeEngine(model, 'portable', threads) for threads in (1, 2)]\n"
        "best, turn, end = [1e9, 1e9], 0, time.perf_counter() + 40\n"
        "while turn < 4 or (time.perf_counter() < end and best[1] > 1.25 * best[0]):\n"
        "    engine = engines[turn % 2]; cache = engine.new_slot(100); started = time.perf_counter()\n"
        "    for _ in range(100): engine.step([Part(cache, [7], Want.TOKEN)])\n"
        "    best[turn % 2] = min(best[turn % 2], time.perf_counter() - started); turn += 1\n"
        "print(*best)"
    )
    free, taken = sorted(os.sched_getaffinity(0))[:2]
    spin = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin, str(taken)], stdout=subprocess.PIPE) as hog:
        try:
            assert hog.stdout is not None
            hog.stdout.readline()
            command = [sys.executable, "-c", code, str(tiny_pack.path), str(free), str(taken)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        finally:
            hog.kill()
    one, two = map(float, output)
    assert two <= 1.25 * one
