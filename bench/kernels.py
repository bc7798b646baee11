"""The native engine beside its peers, round by round in one run: ratios are what counts, the machine has moods.

    python -m bench.kernels                          torch float32 as the peer
    python -m bench.kernels --llama PYTHON GGUF      llama.cpp Q8_0 as the peer: a Python that has llama-cpp-python (a
                                                     virtualenv of its own) and a Q8_0 file of the same model

Each engine runs in a process of its own that answers one request at a time, so that neither threads nor memory of one
meet the other's. Figures: tokens per second, wall and CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACK = ROOT / "build" / "models" / "smollm2-135m-instruct"
WORKER = Path(__file__).parent / "kernels_worker.py"
PROMPT_TOKENS, DECODED_TOKENS, STREAMS = 512, 48, 8
FIGURES = ("prefill", "decode", "batch8")


@dataclass(frozen=True)
class Rate:
    """Tokens per second of one figure in one round."""

    wall: float
    cpu: float


class Worker:
    """A process with one engine loaded. ``start_seconds``: from its start to its first token; ``peak_mib``: VmHWM."""

    def __init__(self, python: str, engine: str, threads: int, path: Path) -> None:
        command = [python, str(WORKER), engine, str(threads), str(path)]
        quiet = subprocess.DEVNULL if engine == "llama" else None  # it reports every tensor
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True, cwd=ROOT
        )
        self.start_seconds = float(self._ask("first")["seconds"])

    def measure(self, figure: str) -> Rate:
        """One run of ``figure``."""
        answer = self._ask(figure)
        return Rate(answer["tokens"] / answer["wall"], answer["tokens"] / answer["cpu"])

    def peak_mib(self) -> float:
        return float(self._ask("memory")["mib"])

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(30)

    def _ask(self, request: str) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # llama.cpp talks on the side
                return dict(json.loads(line))
        raise RuntimeError(f"{WORKER.name} ended")


@contextmanager
def workers(peer: Sequence[str], threads: int) -> Iterator[tuple[Worker, Worker]]:
    """Ours and the peer's; ``peer``: interpreter, engine, file."""
    ours = Worker(sys.executable, "native", threads, PACK)
    theirs = Worker(peer[0], peer[1], threads, Path(peer[2]))
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()


def compare(peer: Sequence[str], threads: int, rounds: int) -> dict[str, tuple[float, float, float, float]]:
    """figure → our and the peer's median rate, and the median ratio by wall and by CPU."""
    with workers(peer, threads) as (ours, theirs):
        pairs = {figure: [(ours.measure(figure), theirs.measure(figure)) for _ in range(rounds)] for figure in FIGURES}
        results = {
            figure: (
                statistics.median(a.wall for a, _ in both),
                statistics.median(b.wall for _, b in both),
                statistics.median(a.wall / b.wall for a, b in both),
                statistics.median(a.cpu / b.cpu for a, b in both),
            )
            for figure, both in pairs.items()
        }
        mine, other = ours.peak_mib(), theirs.peak_mib()
        results["memory MiB"] = (mine, other, mine / other, mine / other)
        mine, other = ours.start_seconds, theirs.start_seconds
        results["first token s"] = (mine, other, mine / other, mine / other)
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", nargs=2, metavar=("PYTHON", "GGUF"))
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    peer = [options.llama[0], "llama", options.llama[1]] if options.llama else [sys.executable, "torch", str(PACK)]
    for threads in options.threads:
        for figure, (ours, theirs, wall, cpu) in compare(peer, threads, options.rounds).items():
            rates = f"ours {ours:8.1f}  {peer[1]} {theirs:8.1f}"
            sys.stdout.write(f"{threads}t {figure:14} {rates}  ratio {wall:5.2f} wall {cpu:5.2f} CPU\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
