"""Talks to the engine's peer, which runs in a virtual environment of its own (``bench/llama_peer.py``)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv-bench" / "bin" / "python"
PROGRAM = ROOT / "bench" / "llama_peer.py"


def command(source: Path, folder: Path) -> list[str]:
    """What starts the peer, which is compiled for this machine before (minutes, once) and requantises the source."""
    subprocess.run([sys.executable, str(ROOT / "tools" / "setup.py"), "bench"], cwd=ROOT, check=True)
    fast = [str(PYTHON), str(PROGRAM), str(source), str(folder / "peer-q8_0.gguf")]
    probe = json.dumps({"do": "prefill", "threads": 1, "ids": [1] * 64})
    done = subprocess.run(fast, input=probe, stdout=subprocess.DEVNULL, text=True, check=False)
    if done.returncode >= 0:
        return fast
    print("llama.cpp dies of this machine's AMX and runs without", flush=True)
    return [*fast, "plain"]


@dataclass
class LlamaCpp:
    """A running peer, and what rows call it."""

    process: subprocess.Popen[str]
    label: str = ""

    @classmethod
    @contextmanager
    def start(cls, line: list[str]) -> Iterator[Self]:
        """Ends with the block."""
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        peer = cls(process)
        try:
            ready = peer.read()
            peer.label = f"llama.cpp Q8_0 ({ready['version']}, {ready['layouts']})"
            yield peer
        finally:
            process.terminate()
            process.wait()

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """One measurement."""
        assert self.process.stdin is not None
        print(json.dumps({"do": do, **fields}), file=self.process.stdin, flush=True)
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next line of the peer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended; its last words stand above")
        found: dict[str, Any] = json.loads(line)
        return found


def prompts(ids: Sequence[int], count: int, length: int) -> list[list[int]]:
    """Different pieces of a text."""
    return [list(ids[n * length : (n + 1) * length]) for n in range(count)]
