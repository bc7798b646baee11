"""`python -m tests.integration.provider.crashing POINT --config … --password-file …`: the agent, killed there.

POINT is one of ALL. The command line of the package cannot reach this wiring.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import provider.agent
from market.chain import Call
from market.inference.batch import BatchEngine, Part, Result, Slot
from market.keystore import load_account
from market.transactions import CHECKPOINTS, Queued
from market.types import Output
from market.verification.structs import Claim
from market.verification.trace import Trace
from market.verification.traces import Traces
from provider import seeds
from provider.chainside import ChainSide
from provider.config import ProviderConfig
from provider.executor import Answer, EngineExecutor, ExecutorFactory, Failure
from provider.journal import Journal
from provider.program import serve
from provider.records import JobRow, Stage
from provider.signals import Signals

POINTS = (
    "inference",
    "before-commit",
    "after-commit",
    "before-reveal",
    "after-reveal",
    "before-settle",
    "after-settle",
)
DRAW_POINTS = ("before-draw", "after-draw")
RELEASE_POINTS = ("before-release", "after-release")
PUBLISH_POINTS = ("before-publish", "after-publish")
SEED_POINTS = ("before-seed", "after-seed")
DISPUTE_POINTS = (
    "trace",
    "before-reply",
    "persisted-reply",
    "broadcast-reply",
    "after-reply",
    "before-close",
    "persisted-close",
    "broadcast-close",
    "after-close",
)
"""persisted: the transaction is in the queue's file alone; broadcast: the endpoint has it, no receipt is here yet."""
JOURNAL_POINTS = ("stored-quote", "stored-request", "stored-acceptance", "stored-seen", "stored-final", "stored-closed")
"""The journal has it on disk, and nobody was told: no answer is out, the job's next step is not taken."""
ALL = (*POINTS, *DRAW_POINTS, *RELEASE_POINTS, *PUBLISH_POINTS, *SEED_POINTS, *DISPUTE_POINTS, *JOURNAL_POINTS)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class FatalEngine:
    """Dies at its first token."""

    def __init__(self, engine: BatchEngine) -> None:
        self._engine = engine
        self.config = engine.config

    def new_slot(self, capacity: int) -> Slot:
        return self._engine.new_slot(capacity)

    def step(self, parts: Sequence[Part]) -> list[Result]:
        self._engine.step(parts)
        die()


class FatalSide(ChainSide):
    point = ""

    def commit(self, job_id: bytes, commitment: bytes, key: str) -> None:
        self._around("commit", lambda: super(FatalSide, self).commit(job_id, commitment, key))

    def reveal(self, job_id: bytes, output: Output, salt: bytes, key: str) -> None:
        self._around("reveal", lambda: super(FatalSide, self).reveal(job_id, output, salt, key))

    def settle(self, job_id: bytes, key: str) -> None:
        self._around("settle", lambda: super(FatalSide, self).settle(job_id, key))

    def draw(self, job_id: bytes, key: str) -> None:
        self._around("draw", lambda: super(FatalSide, self).draw(job_id, key))

    def release_bond(self, job_id: bytes, key: str) -> None:
        self._around("release", lambda: super(FatalSide, self).release_bond(job_id, key))

    def publish_output(self, job_id: bytes, ids: Sequence[int], key: str) -> None:
        self._around("publish", lambda: super(FatalSide, self).publish_output(job_id, ids, key))

    def fix_seed(self, job_id: bytes, key: str) -> None:
        self._around("seed", lambda: super(FatalSide, self).fix_seed(job_id, key))

    def enqueue(self, call: Call, key: str, waits: int | None = None) -> Queued:
        what = key.partition(":")[0]
        at, _, of = self.point.partition("-")
        if of == what and at in CHECKPOINTS:
            self._transactions._checkpoint = lambda name: die() if name == at else None
        if self.point == f"before-{what}":
            die()
        queued = super().enqueue(call, key, waits)
        if self.point == f"after-{what}":
            queued.wait()
            die()
        return queued

    def _around(self, what: str, send: Callable[[], None]) -> None:
        if self.point == f"before-{what}":
            die()
        send()
        if self.point == f"after-{what}":
            die()


class FatalJournal(Journal):
    point = ""

    def add_quote(self, *what: Any, **more: Any) -> None:
        super().add_quote(*what, **more)
        self._stored("quote")

    def put_request(self, *what: Any, **more: Any) -> None:
        super().put_request(*what, **more)
        self._stored("request")

    def add_acceptance(self, *what: Any, **more: Any) -> None:
        super().add_acceptance(*what, **more)
        self._stored("acceptance")

    def add_job(self, *what: Any, **more: Any) -> bool:
        is_new = super().add_job(*what, **more)
        self._stored("seen")
        return is_new

    def advance(self, job_id: bytes, stage: Stage, *what: Any, **more: Any) -> JobRow:
        row = super().advance(job_id, stage, *what, **more)
        self._stored(stage.lower())
        return row

    def _stored(self, what: str) -> None:
        if self.point == f"stored-{what}":
            die()


class FatalTraces(Traces):
    """Dies as soon as a trace is wanted."""

    def trace(self, claim: Claim, input_ids: Sequence[int], output_ids: Sequence[int]) -> Trace:
        die()


class EndlessExecutor(EngineExecutor):
    """Is never done: the agent waits, and has the seed stored meanwhile."""

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        return None


def fatal_executor(
    engines: Mapping[bytes, BatchEngine], limit: int, on_done: Callable[[bytes], None]
) -> EngineExecutor:
    return EngineExecutor({model: FatalEngine(engine) for model, engine in engines.items()}, limit, on_done)


def main(point: str, config: Path, password_file: Path) -> None:
    signals = Signals()
    settings = ProviderConfig.load(config)
    account = load_account(settings.keystore, password_file.read_text(encoding="utf-8").strip())
    FatalSide.point = FatalJournal.point = point
    provider.agent.Journal = FatalJournal  # type: ignore[misc]
    executors: ExecutorFactory = EngineExecutor
    if point == "inference":
        executors = fatal_executor
    elif point in SEED_POINTS:
        executors, seeds.LOOK = EndlessExecutor, 1
    serve(
        settings,
        account,
        signals,
        lambda agent: print(f"ready {agent.url} {agent.address}", flush=True),
        executor_factory=executors,
        side_factory=lambda chain, jobs, vault, transactions, timeout: FatalSide(
            chain, jobs, vault, transactions, timeout=timeout
        ),
        traces_factory=FatalTraces if point == "trace" else Traces,
    )


if __name__ == "__main__":
    chosen, _, config_path, _, password_path = sys.argv[1:]
    assert chosen in ALL
    main(chosen, Path(config_path), Path(password_path))
