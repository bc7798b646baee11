"""Peak memory of a process that computes the trace of a text, beside one that answers with the same model.

`python -m bench.trace_memory` measures both, each in a process of its own: `VmHWM` counts what it ever held, the mapped
weights' pages too. Ids are drawn at random: neither time nor memory of a trace depends on them.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from bench.common import Row
from market.inference.engine import load_engine
from market.models.pack import load_pack
from market.verification.products import Products
from market.verification.structs import Shape
from market.verification.trace import Trace

PACK = Path(__file__).resolve().parent.parent / "build" / "models" / "smollm2-135m-instruct"
PROMPT, OUTPUT = 128, 64
MB = 10**6
WHAT = ("trace", "answer")


def row(prompt: int = PROMPT, output: int = OUTPUT) -> Row:
    """The figure, in MB."""
    trace, answer = (peak_of(what, prompt, output) for what in WHAT)
    return Row(
        "trace_memory",
        f"peak memory of a process that computes the trace of {prompt} + {output} tokens, mapped weights included",
        round(trace / MB),
        "MB",
        "one that answers",
        round(answer / MB),
        trace / answer,
    )


def peak_of(what: str, prompt: int, output: int) -> int:
    """Bytes that a process held at most."""
    command = [sys.executable, "-m", "bench.trace_memory", what, str(prompt), str(output)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compute(what: str, prompt: int, output: int) -> None:
    pack = load_pack(PACK)
    draw = random.Random(prompt + output)
    ids = [draw.randrange(pack.limits.vocabulary) for _ in range(prompt + output)]
    if what == "trace":
        products = Products.proved(pack.model)  # as agents and challengers do
        Trace(pack.model, Shape.of(pack.program), ids[:prompt], ids[prompt:], products=products).root()
    else:
        load_engine(pack, threads=1).generate(ids[:prompt], output, ())


def held() -> int:
    """Not getrusage: that counts the process which started this one, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


if __name__ == "__main__":
    if sys.argv[1:]:
        compute(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        print(held())
    else:
        print(row())
