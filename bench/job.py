"""Step times of the demo's job, on three ways of making blocks, beside a reference article's budgets.

The article (multi-machine inference): look-up 100–500 ms, matching 50–200, negotiation 100–300 (discovery 625 ms in
all on average), distribution 50–200, inference 920, aggregation 100–300, 1.87 s together.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from assay.demo import MAX_OUTPUT_TOKENS, PROMPT, connect
from assay.network import LocalNetwork, NetworkPlan
from bench.common import Row
from client import JobResult
from client.steps import STEPS
from market.anvil import Anvil
from market.chain import Call, Chain
from market.transactions import Transactions

PACK = Path(__file__).resolve().parent.parent / "build" / "models" / "smollm2-135m-instruct"
BLOCK_TIMES = {"automine": None, "1 s blocks": 1.0, "2 s blocks": 2.0}
RUNS = {"automine": 5, "1 s blocks": 3, "2 s blocks": 3}
#: step → (mean of the article's range, its upper end), milliseconds
ARTICLE = {
    "discovery": (300, 500),
    "matching": (125, 200),
    "negotiation": (200, 300),
    "distribution": (125, 200),
    "inference": (920, 920),
    "aggregation": (200, 300),
    "total": (1870, 1870),
}
OVERHEAD_BAR = 950
SENDS = 25


def run() -> list[Row]:
    """Medians over several jobs after one that warms up. Needs the demo's pack."""
    rows = send_rows()
    for name, block_time in BLOCK_TIMES.items():
        results = measure(block_time, RUNS[name])
        rows += step_rows(name, results)
        overheads = [overhead(result) for result in results]
        median = statistics.median(overheads)
        automine = block_time is None
        rows.append(
            Row(
                key="total_overhead_ms" if automine else f"total_overhead_ms_{key_of(name)}",
                figure=f"total less the slower agreeing replica's inference and less settlement, {name}",
                value=round(median),
                unit="ms",
                peer="article",
                peer_value=OVERHEAD_BAR,
                ratio=OVERHEAD_BAR / max(median, 1),
                bar=f"≤ {OVERHEAD_BAR}" if automine else "",
                holds=median <= OVERHEAD_BAR if automine else None,
            )
        )
    return rows


def send_rows() -> list[Row]:
    """How long one transaction takes from the call to its receipt: every step on chain pays it."""
    with Anvil.start() as anvil, tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
        sender, receiver = anvil.accounts[:2]
        transfer = Call(receiver.address, b"", "transfer", 1)
        with Transactions(Chain(anvil.rpc_url), sender, Path(folder) / "queue.sqlite") as transactions:
            times = []
            for _ in range(SENDS):
                started = time.perf_counter()
                transactions.send(transfer)
                times.append(time.perf_counter() - started)
    figure = "one transaction, persisted, sent and its receipt read, automine"
    return [Row(key="transaction_ms", figure=figure, value=round(statistics.median(times) * 1000, 1), unit="ms")]


def measure(block_time: float | None, runs: int) -> list[JobResult]:
    with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
        plan = NetworkPlan(directory=Path(folder), packs=(PACK,), block_time=block_time)
        with LocalNetwork(plan) as network:
            info = network.start()
            with connect(network, info) as client:
                jobs = [
                    client.run(messages=[{"role": "user", "content": PROMPT}], max_output_tokens=MAX_OUTPUT_TOKENS)
                    for _ in range(runs + 1)
                ]
    assert all(job.settled for job in jobs)
    return jobs[1:]


def overhead(result: JobResult) -> int:
    """What verification, chain and network add until the answer is agreed; settlement is counted apart."""
    steps = result.steps_ms
    return steps["total"] - steps["inference"] - steps["settlement"]


def step_rows(name: str, results: list[JobResult]) -> list[Row]:
    rows = []
    for step in STEPS:
        value = round(statistics.median(result.steps_ms[step] for result in results))
        mean, _ = ARTICLE.get(step, (None, None))
        rows.append(
            Row(
                key=f"{step}_{key_of(name)}",
                figure=f"{step}, {name}",
                value=value,
                unit="ms",
                peer="article" if mean is not None else "",
                peer_value=mean,
                ratio=None if mean is None else mean / max(value, 1),
            )
        )
    return rows


def key_of(name: str) -> str:
    return name.split(" ")[0] if name == "automine" else f"{name[0]}s"
