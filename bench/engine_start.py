"""A process from its start to its first token, and the most memory it holds: the engine and llama.cpp."""

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

from bench.common import Row
from bench.timing import Took
from market.models.pack import Pack

ROUNDS = 5
FIRST_PROMPT, LONG_PROMPT, DECODED = 16, 512, 64  # tokens
THREADS = 2


def rows(pack: Pack, peer: list[str], label: str, ids: Sequence[int]) -> list[Row]:
    """Rows ``first_token`` (also by processor time) and ``memory``; every figure from a process of its own."""
    commands = ([sys.executable, "-m", "bench.engine_start", str(pack.path)], peer)
    first = {"do": "prefill", "threads": THREADS, "ids": list(ids[:FIRST_PROMPT])}
    work: list[dict[str, object]] = [
        {"do": "decode", "threads": THREADS, "ids": list(ids[:LONG_PROMPT]), "count": DECODED},
        {"do": "memory"},
    ]
    starts = [[_until(line, first) for line in commands] for _ in range(ROUNDS)]
    peaks = [[_last_answer(line, work)["bytes"] / 1e6 for line in commands] for _ in range(ROUNDS)]
    words = f"process start to first token after {FIRST_PROMPT}, {THREADS} threads, median of {ROUNDS} rounds"
    memory = f"peak resident memory, {LONG_PROMPT} tokens of prompt and {DECODED} decoded, median of {ROUNDS} rounds"
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


def _last_answer(line: list[str], asked: Sequence[dict[str, object]]) -> dict[str, int]:
    with _process(line) as process:
        return [_answer(process, item) for item in asked][-1]


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
        else:
            generation = engine.generate(asked["ids"], 1 + asked.get("count", 0), ())
            print(json.dumps({"ids": generation.ids}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
