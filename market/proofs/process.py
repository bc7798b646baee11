"""One job of a proving backend in a process of its own: so much memory, so long, and no longer."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.proofs.errors import ProverError

MIB = 1 << 20
_OUT_OF_MEMORY = (
    "MemoryError",
    "memory allocation of",
    "failed to map segment",
    "Cannot allocate memory",
    "out of memory",
)


@dataclass(frozen=True)
class Limits:
    """What a prover may use.

    Attributes:
        memory: bytes of address space (RLIMIT_AS of its process).
        seconds: wall time; afterwards the process and its children are killed.
        threads: of the backend's pool; 0 = one per core. Each may compute for `seconds` (RLIMIT_CPU), whoever is there
            to look at the clock.
        scratch: folder in which workers keep their files, an input among them, for as long as they run; None: the
            system's. Who may be killed names one, and calls `wipe` when it starts.
    """

    memory: int = 4096 * MIB
    seconds: float = 120.0
    threads: int = 0
    scratch: Path | None = None

    @property
    def cpu_seconds(self) -> int:
        return math.ceil(self.seconds * (self.threads or os.cpu_count() or 1)) + 1

    def wipe(self) -> None:
        """Removes what workers left that were killed together with the process that would have tidied up."""
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


@dataclass(frozen=True)
class Finished:
    """What a worker answered; how long it took as seen from here (wall), what it computed (seconds of all its threads),
    and its peak of resident memory in bytes."""

    answer: dict[str, Any]
    seconds: float
    cpu_seconds: float
    peak_memory: int


def run_limited(module: str, task: Mapping[str, Any], limits: Limits) -> Finished:
    """Runs `python -m module` with the task as JSON on standard input; the answer is JSON in a file it is told of.

    Raises:
        ProverError: code ProverTimeout, ProverOutOfMemory, ProverKilled or ProverFailed.
    """
    if limits.scratch is not None:
        limits.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="assay-prover-", dir=limits.scratch) as folder:
        answer = Path(folder) / "answer.json"
        document = {**task, "answer": str(answer), "memory": limits.memory}
        document |= {"cpuSeconds": limits.cpu_seconds, "parent": os.getpid()}
        # what the backend caches or looks for stays in the folder that goes with the job
        environment = {**os.environ, "EZKL_REPO_PATH": folder, "HOME": folder, "RUST_LOG": "error"}
        if limits.threads:
            environment["RAYON_NUM_THREADS"] = str(limits.threads)
        started = time.monotonic()
        with tempfile.TemporaryFile() as told:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=told,
                stderr=told,
                env=environment,
                start_new_session=True,
            )
            try:
                process.communicate(json.dumps(document).encode(), timeout=limits.seconds)
            except subprocess.TimeoutExpired:
                raise _timeout(limits) from None
            finally:
                _end(process)
            seconds = time.monotonic() - started
            told.seek(0)
            words = told.read()[-4000:].decode("utf-8", errors="replace")
        if process.returncode != 0 or not answer.exists():
            raise _failure(process.returncode, words, limits)
        result = json.loads(answer.read_text(encoding="utf-8"))
    return Finished(result, seconds, float(result.pop("cpuSeconds")), int(result.pop("peakMemory")))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever happened: neither the worker nor a child of it is left."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _timeout(limits: Limits) -> ProverError:
    return ProverError(
        f"The prover had {limits.seconds:g} s and was not done; it was stopped.",
        hint="Allow it more time, or prove a smaller model.",
        code="ProverTimeout",
        limit_seconds=limits.seconds,
    )


def _failure(code: int, words: str, limits: Limits) -> ProverError:
    if any(sign in words for sign in _OUT_OF_MEMORY):
        return ProverError(
            f"The prover needs more than the {limits.memory // MIB} MiB it may have.",
            hint="Allow it more memory, or prove a smaller model.",
            code="ProverOutOfMemory",
            limit_bytes=limits.memory,
        )
    last = next((line for line in reversed(words.strip().splitlines()) if line.strip()), "it said nothing")
    if code == -signal.SIGXCPU:
        return _timeout(limits)
    if code < 0:
        name = signal.Signals(-code).name
        return ProverError(f"The prover was ended by {name}.", hint="Try again.", code="ProverKilled", signal=name)
    return ProverError(f"The prover failed: {last[:300]}", code="ProverFailed")
