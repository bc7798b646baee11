"""Gas of every lifecycle call on anvil, and a job of three replicas against its bar.

python -m bench.gas              measures and prints
python -m bench.gas --snapshot   also writes tests/gas/snapshot.json
"""

from __future__ import annotations

import re
import sys

from bench.common import Row, write_rows
from tests.gas import snapshot
from tests.gas.disputes import measure_disputes
from tests.gas.lifecycle import JOB_KEYS, JOB_TOTAL, measure
from tests.gas.test_gas import BAR

NAME = "gas"


def rows(gas: dict[str, int]) -> list[Row]:
    """The job's total first, then each call in the order it was measured."""
    total = gas[JOB_TOTAL]
    job = Row(
        key="gas_job_total",
        figure=f"{JOB_TOTAL}: post, 3 commits, 3 reveals, settle",
        value=total,
        unit="gas",
        bar=f"≤ {BAR}",
        holds=total <= BAR,
    )
    in_job = set(JOB_KEYS)
    calls = [
        Row(f"gas_{_key(name)}", f"{name}{' (part of the job)' if name in in_job else ''}", used, "gas")
        for name, used in gas.items()
        if name != JOB_TOTAL
    ]
    return [job, *calls]


def run() -> list[Row]:
    """Measures on a fresh anvil (cancun rules, optimizer 200 runs, no via-IR)."""
    return rows(_measured())


def _measured() -> dict[str, int]:
    return measure() | measure_disputes()


def _key(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")


def main() -> int:
    gas = _measured()
    if "--snapshot" in sys.argv[1:]:
        snapshot.write(gas)
    found = rows(gas)
    write_rows(NAME, found)
    for row in found:
        print(f"{row.figure:<64} {row.value:>12,} {row.unit}  {row.bar}")
    return 0 if all(row.holds in (True, None) for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
