"""Tokens per second beside llama.cpp (Q8_0) and torch float32, in rounds in which everybody runs once."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from bench.bandwidth import Weights
from bench.common import Row
from bench.float_llama import FloatLlama
from bench.peer import LlamaCpp, prompts
from market.inference.engine import Engine, kernels_in_use, load_engine
from market.inference.scheduler import Scheduler, Task
from market.models.pack import Pack
from market.models.source import Source

ROUNDS = 7
PREFILL = 512  # tokens
PROMPT, DECODED = 128, 96
STREAMS, STREAM_PROMPT, STREAM_DECODED = 8, 64, 48
NOBODY: tuple[int, ...] = ()


@dataclass(frozen=True)
class Took:
    """Seconds; ``tokens``: by the clock on the wall, of each token where they come one by one."""

    wall: float
    cpu: float
    tokens: tuple[float, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One line of the table: how both sides do it, and how many tokens that makes."""

    key: str
    words: str
    tokens: int
    bar: float
    ours: Callable[[], Took]
    theirs: Callable[[], Took]
    peer: str


def rows(pack: Pack, source: Source, peer: LlamaCpp, ids: Sequence[int]) -> list[Row]:
    """Rows of speed, of the processor time that it took, and of the memory bandwidth that bounds decoding."""
    engines = {threads: load_engine(pack, threads=threads) for threads in (1, 2)}
    floats = FloatLlama(source, pack.limits.context)
    figures, weights = _figures(engines, floats, peer, ids), Weights(pack)
    rounds: dict[str, list[tuple[Took, Took]]] = {figure.key: [] for figure in figures}
    reads: dict[int, list[float]] = {threads: [] for threads in engines}
    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS}", flush=True)
        for figure in figures:
            rounds[figure.key].append((figure.ours(), figure.theirs()))
        for threads, seconds in reads.items():
            seconds.append(weights.seconds(threads))
    kernels = kernels_in_use(engines[1])
    made = [row for figure in figures for row in _rows(figure, rounds[figure.key], kernels)]
    decodes = {threads: [ours.wall / DECODED for ours, _ in rounds[f"decode_{threads}t"]] for threads in engines}
    tokens = {threads: [s for ours, _ in rounds[f"decode_{threads}t"] for s in ours.tokens] for threads in engines}
    floors = [_floor(weights.size, threads, decodes[threads], reads[threads]) for threads in engines]
    return [*made, _second_thread(decodes[1], decodes[2]), *slow_tokens(tokens[1], tokens[2]), *floors]


def _figures(engines: dict[int, Engine], floats: FloatLlama, peer: LlamaCpp, ids: Sequence[int]) -> list[Figure]:
    long, short = list(ids[:PREFILL]), list(ids[:PROMPT])
    streams = prompts(ids, STREAMS, STREAM_PROMPT)
    figures = []
    for threads, decode_bar in ((1, 1.8), (2, 2.5)):
        engine, several = engines[threads], f"{threads} thread{'s' * (threads > 1)}"
        figures += [
            Figure(
                f"decode_{threads}t",
                f"greedy decoding of {DECODED} tokens after {PROMPT}, {several}",
                DECODED,
                decode_bar,
                partial(_decode, engine, short),
                partial(_asked, peer, "decode", threads=threads, ids=short, count=DECODED),
                peer.label,
            ),
            Figure(
                f"prefill_{threads}t",
                f"prompt of {PREFILL} tokens, {several}",
                PREFILL,
                3.0,
                partial(_prefill, engine, long),
                partial(_asked, peer, "prefill", threads=threads, ids=long),
                peer.label,
            ),
        ]
    return [
        *figures,
        Figure(
            "batch8",
            f"{STREAMS} streams of {STREAM_DECODED} tokens after {STREAM_PROMPT}, all together, 2 threads",
            STREAMS * STREAM_DECODED,
            3.5,
            partial(_batch, engines[2], streams),
            partial(_asked, peer, "batch", threads=2, prompts=streams, count=STREAM_DECODED),
            peer.label,
        ),
        Figure(
            "decode_vs_torch",
            f"greedy decoding of {DECODED} tokens after {PROMPT}, 1 thread",
            DECODED,
            5.0,
            partial(_decode, engines[1], short),
            partial(_torch_decode, floats, short),
            "torch float32",
        ),
    ]


def _rows(figure: Figure, rounds: Sequence[tuple[Took, Took]], kernels: str) -> list[Row]:
    ratio = statistics.median(theirs.wall / ours.wall for ours, theirs in rounds)
    wall = Row(
        key=figure.key,
        figure=f"{figure.words}, {kernels}, median of {len(rounds)} rounds",
        value=figure.tokens / statistics.median(ours.wall for ours, _ in rounds),
        unit="tok/s",
        peer=figure.peer,
        peer_value=figure.tokens / statistics.median(theirs.wall for _, theirs in rounds),
        ratio=ratio,
        bar=f"≥ {figure.bar:g} ×",
        holds=ratio >= figure.bar,
    )
    cpu = Row(
        key=f"{figure.key}_cpu",
        figure="the same, by processor time",
        value=figure.tokens / statistics.median(ours.cpu for ours, _ in rounds),
        unit="tok/CPU-s",
        peer=figure.peer,
        peer_value=figure.tokens / statistics.median(theirs.cpu for _, theirs in rounds),
        ratio=statistics.median(theirs.cpu / ours.cpu for ours, theirs in rounds),
    )
    return [wall, cpu]


def _second_thread(one: Sequence[float], two: Sequence[float]) -> Row:
    """What the second thread is worth in the round in which it is worth least; seconds of each round."""
    worst = min(alone / both for alone, both in zip(one, two, strict=True))
    return Row(
        key="decode_2t_worst",
        figure=f"decoding on 2 threads against 1, averages of {DECODED} tokens, the worst of {len(one)} rounds",
        value=worst,
        unit="×",
        bar="≥ 1 ×",
        holds=worst >= 1,
    )


def slow_tokens(one: Sequence[float], two: Sequence[float]) -> list[Row]:
    """Single tokens on two threads, which averages hide, beside one thread's median; seconds of each token.

    Without a bar: one time slice of another process makes a token slow on one thread too (its own slowest are named).
    """

    def row(key: str, words: str, slow: Callable[[Sequence[float]], float]) -> Row:
        median = statistics.median(one)
        return Row(
            key=key,
            figure=f"{words} of {len(two)} single tokens on 2 threads (1 thread's own: {slow(one) * 1000:.1f} ms)",
            value=slow(two) * 1000,
            unit="ms",
            peer="1 thread's median token",
            peer_value=median * 1000,
            ratio=slow(two) / median,
        )

    return [
        row("decode_2t_token_p99", "99th percentile", lambda tokens: sorted(tokens)[-(-99 * len(tokens) // 100) - 1]),
        row("decode_2t_token_max", "the slowest", max),
    ]


def _floor(size: int, threads: int, decodes: Sequence[float], reads: Sequence[float]) -> Row:
    """How many tokens a second reading the weights alone would allow; seconds of each round, ``size`` in bytes."""
    processors = len(os.sched_getaffinity(0))
    read = f"reading the same maps of {size / 1e6:.0f} MB in C ({size / statistics.median(reads) / 1e9:.1f} GB/s)"
    return Row(
        key=f"decode_floor_{threads}t",
        figure=f"decoding against reading all weights once per token, {threads} of {processors} processors, "
        f"median of {len(reads)} rounds",
        value=1 / statistics.median(decodes),
        unit="tok/s",
        peer=read,
        peer_value=1 / statistics.median(reads),
        ratio=statistics.median(read / decode for read, decode in zip(reads, decodes, strict=True)),
    )


def _decode(engine: Engine, ids: Sequence[int]) -> Took:
    """From the first token to the last."""
    clock, heard = _Clock(), list[float]()

    def hear(_token: int) -> None:
        if not heard:
            clock.start()
        heard.append(time.perf_counter())

    engine.generate(ids, DECODED + 1, NOBODY, on_token=hear)
    took = clock.took()
    return Took(took.wall, took.cpu, tuple(after - before for before, after in pairwise(heard)))


def _prefill(engine: Engine, ids: Sequence[int]) -> Took:
    clock = _Clock()
    clock.start()
    engine.generate(ids, 1, NOBODY)
    return clock.took()


def _batch(engine: Engine, streams: Sequence[Sequence[int]]) -> Took:
    """As the provider serves: from the step in which the last stream has its first token."""
    scheduler = Scheduler(engine)
    for number, ids in enumerate(streams):
        scheduler.submit(Task(bytes([number]), tuple(ids), 1))
    while scheduler.busy:
        scheduler.step()  # slots and buffers exist from here on
    heard = [0] * len(streams)

    def hear(number: int, _token: int) -> None:
        heard[number] += 1

    for number, ids in enumerate(streams):
        scheduler.submit(
            Task(bytes([number]), tuple(ids), 2 * STREAM_DECODED, on_token=partial(hear, number)),
        )
    while min(heard) == 0:
        scheduler.step()
    before, clock = sum(heard), _Clock()
    clock.start()
    for _ in range(STREAM_DECODED):
        scheduler.step()
    took = clock.took()
    assert sum(heard) - before == len(streams) * STREAM_DECODED
    return took


def _torch_decode(model: FloatLlama, ids: Sequence[int]) -> Took:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cache = model.new_cache(1, PROMPT + DECODED)
        logits = model.forward(torch.tensor([list(ids)]), cache, last_only=True)
        clock = _Clock()
        clock.start()
        for _ in range(DECODED):
            logits = model.forward(logits[:, -1].argmax(-1, keepdim=True), cache, last_only=True)
        return clock.took()
    finally:
        torch.set_num_threads(threads)


def _asked(peer: LlamaCpp, do: str, **fields: object) -> Took:
    answer = peer.ask(do, **fields)
    return Took(answer["wall"], answer["cpu"])


class _Clock:
    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def took(self) -> Took:
        return Took(time.perf_counter() - self._wall, time.process_time() - self._cpu)
