"""A process from its start to its first token, and the most memory it holds: the engine and llama.cpp."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.common import Row
from market.models.pack import Pack

ROUNDS = 5
FIRST_PROMPT, LONG_PROMPT, DECODED = 16, 512, 64  # tokens
THREADS = 2


def rows(pack: Pack, peer: list[str], ids: Sequence[int]) -> list[Row]:
    """Rows ``first_token`` and ``memory``; every figure from a process of its own."""
    commands = ([sys.executable, "-m", "bench.engine_start", str(pack.path)], peer)
    first = {"do": "prefill", "threads": THREADS, "ids": list(ids[:FIRST_PROMPT])}
    times = [[_seconds_to(line, first) for line in commands] for _ in range(ROUNDS)]
    work: list[dict[str, object]] = [
        {"do": "decode", "threads": THREADS, "ids": list(ids[:LONG_PROMPT]), "count": DECODED},
        {"do": "memory"},
    ]
    mine, theirs = (_last_answer(line, work)["bytes"] for line in commands)
    waited = statistics.median(ours / peers for ours, peers in times)
    return [
        Row(
            key="first_token",
            figure=f"process start to first token after {FIRST_PROMPT}, {THREADS} threads, median of {ROUNDS} rounds",
            value=statistics.median(ours for ours, _ in times),
            unit="s",
            peer="llama.cpp Q8_0",
            peer_value=statistics.median(peers for _, peers in times),
            ratio=waited,
            bar="≤ 1 ×",
            holds=waited <= 1,
        ),
        Row(
            key="memory",
            figure=f"peak resident memory, {LONG_PROMPT} tokens of prompt and {DECODED} decoded",
            value=mine / 1e6,
            unit="MB",
            peer="llama.cpp Q8_0",
            peer_value=theirs / 1e6,
            ratio=mine / theirs,
            bar="≤ 1.2 ×",
            holds=mine / theirs <= 1.2,
        ),
    ]


def _seconds_to(line: list[str], asked: dict[str, object]) -> float:
    started = time.perf_counter()
    with _process(line) as process:
        _answer(process, asked)
        return time.perf_counter() - started


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
