"""A process from its start to its first token, and the most memory it holds: the engine and llama.cpp.

Both are Python processes. The peer's comes through its binding, ``import llama_cpp``, which loads numpy, jinja2 and
diskcache, and makes a cache of 1,024 positions: both are in ``first_token`` and ``memory``, which have the bars. In
``first_token_bare`` and ``memory_bare`` the peer loads the binding's ctypes declarations alone (``bare`` in
``llama_peer.py``), and the caches of both have as many positions.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bench.common import Row
from bench.timing import Took
from market.models.pack import Pack

if TYPE_CHECKING:
    from market.inference.engine import Engine

ROUNDS = 5
IMPORTS = "the peer's binding loads numpy, jinja2 and diskcache, its cache has 1,024 positions"
BARE = "the peer without its binding's classes and what they load, caches of {} positions on both sides"
FIRST_CONTEXT, LONG_CONTEXT = 256, 768  # llama.cpp makes caches in steps of 256
FIRST_PROMPT, LONG_PROMPT, DECODED = 16, 512, 64  # tokens
THREADS = 2


def rows(pack: Pack, peer: list[str], label: str, ids: Sequence[int], rounds: int = ROUNDS) -> list[Row]:
    """Rows ``first_token`` (also by processor time) and ``memory``, and both again with a bare peer, without a bar.

    Every figure comes from a process of its own.
    """
    ours = [sys.executable, "-m", "bench.engine_start", str(pack.path)]
    commands, bare = (ours, peer), (ours, [*peer, "bare"])
    first: dict[str, object] = {"do": "prefill", "threads": THREADS, "ids": list(ids[:FIRST_PROMPT])}
    work: dict[str, object] = {"do": "decode", "threads": THREADS, "ids": list(ids[:LONG_PROMPT]), "count": DECODED}
    filling = {**work, "count": LONG_CONTEXT - LONG_PROMPT, "context": LONG_CONTEXT}
    starts, peaks, bare_starts, bare_peaks = [], [], [], []
    for _ in range(rounds):
        starts.append([_until(line, first) for line in commands])
        bare_starts.append([_until(line, {**first, "context": FIRST_CONTEXT}) for line in bare])
        peaks.append([_peak(line, work) for line in commands])
        bare_peaks.append([_peak(line, filling) for line in bare])
    start = f"process start to first token after {FIRST_PROMPT}, {THREADS} threads, median of {rounds} rounds"
    peak = f"peak resident memory, {LONG_PROMPT} tokens of prompt and {{}} decoded, median of {rounds} rounds"
    words, memory = f"{start}; {IMPORTS}", f"{peak.format(DECODED)}; {IMPORTS}"
    bare_words = f"{start}; {BARE.format(FIRST_CONTEXT)}"
    bare_memory = f"{peak.format(filling['count'])}; {BARE.format(LONG_CONTEXT)}"
    return [
        _row("first_token", words, "s", label, [(ours.wall, theirs.wall) for ours, theirs in starts], 1),
        _row(
            "first_token_cpu",
            "the same, by processor time from start to end of the process",
            "CPU-s",
            label,
            [(ours.cpu, theirs.cpu) for ours, theirs in starts],
            None,
        ),
        _row("memory", memory, "MB", label, [(ours, theirs) for ours, theirs in peaks], 1.2),
        _row(
            "first_token_bare", bare_words, "s", label, [(ours.wall, theirs.wall) for ours, theirs in bare_starts], None
        ),
        _row("memory_bare", bare_memory, "MB", label, [(ours, theirs) for ours, theirs in bare_peaks], None),
    ]


def _row(key: str, figure: str, unit: str, peer: str, rounds: Sequence[tuple[float, float]], most: float | None) -> Row:
    """Medians of (ours, the peer's) and of their ratio, which is to be at most ``most``."""
    ratio = statistics.median(ours / theirs for ours, theirs in rounds)
    return Row(
        key=key,
        figure=figure,
        value=statistics.median(ours for ours, _ in rounds),
        unit=unit,
        peer=peer,
        peer_value=statistics.median(theirs for _, theirs in rounds),
        ratio=ratio,
        bar="" if most is None else f"≤ {most:g} ×",
        holds=None if most is None else ratio <= most,
    )


def _until(line: list[str], asked: dict[str, object]) -> Took:
    """Seconds until the answer has come, and of the processors until the process has ended."""
    started = time.perf_counter()
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        _answer(process, asked)
        waited = time.perf_counter() - started
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # else Popen would wait for it again
    return Took(waited, used.ru_utime + used.ru_stime)


def _peak(line: list[str], work: dict[str, object]) -> float:
    """Megabytes, after the work."""
    with _process(line) as process:
        _answer(process, work)
        return _answer(process, {"do": "memory"})["bytes"] / 1e6


@contextmanager
def _process(line: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Ends with its input."""
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.communicate()


def _answer(process: subprocess.Popen[str], asked: dict[str, object]) -> dict[str, int]:
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps(asked), file=process.stdin, flush=True)
    while text := process.stdout.readline():
        answer: dict[str, int] = json.loads(text)
        if "ready" not in answer:
            return answer
    raise SystemExit("a process ended without an answer; its last words stand above")


def _decoded(engine: Engine, ids: Sequence[int], count: int, context: int) -> list[int]:
    """As `generate` does, over a cache of so many positions."""
    from market.inference.batch import Part, Want

    slot, pending, output = engine.new_slot(context), list(ids), list[int]()
    for _ in range(count):
        (token,) = engine.step([Part(slot, pending, Want.TOKEN)])
        pending = [cast(int, token)]  # as was wanted
        output += pending
    return output


def main(folder: str) -> None:
    """The engine's side: the same commands as the peer's."""
    from market.inference.engine import load_engine
    from market.models.pack import load_pack_beside

    _, engine = load_pack_beside(Path(folder), partial(load_engine, threads=THREADS))
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "memory":
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            peak = next(int(row.split()[1]) * 1024 for row in status.splitlines() if row.startswith("VmHWM"))
            print(json.dumps({"bytes": peak}), flush=True)
        elif "context" in asked:
            output = _decoded(engine, asked["ids"], 1 + asked.get("count", 0), asked["context"])
            print(json.dumps({"ids": output}), flush=True)
        else:
            generation = engine.generate(asked["ids"], 1 + asked.get("count", 0), ())
            print(json.dumps({"ids": generation.ids}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
