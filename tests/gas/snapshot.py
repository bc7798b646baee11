"""The gas of every lifecycle call under version control. `python -m tests.gas.snapshot` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path

from tests.gas.disputes import measure_disputes
from tests.gas.lifecycle import measure
from tests.gas.proofs import measure_proofs

PATH = Path(__file__).with_name("snapshot.json")


def read() -> dict[str, int]:
    found: dict[str, int] = json.loads(PATH.read_text(encoding="utf-8"))
    return found


def write(gas: dict[str, int]) -> None:
    PATH.write_text(json.dumps(gas, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(measure() | measure_disputes() | measure_proofs())
