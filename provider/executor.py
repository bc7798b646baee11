"""Runs the model: one worker thread, a bounded queue, no chain and no text."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from market.errors import AssayError
from market.inference.engine import Engine
from market.inference.sampling import Picker
from market.types import Finish

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Work:
    """One job for the engine."""

    job_id: bytes
    model_id: bytes
    ids: tuple[int, ...]
    max_output_tokens: int
    stop_tokens: tuple[int, ...]
    sampling: Picker | None = None  # None: greedy


@dataclass(frozen=True)
class Answer:
    """Output ids, why they end, and how long the engine took (milliseconds, waiting not included)."""

    ids: tuple[int, ...]
    finish: Finish
    milliseconds: int


@dataclass(frozen=True)
class Failure:
    """The engine could not answer."""

    code: str
    message: str


class Executor(Protocol):
    """What the node asks of whoever computes. Every method returns at once."""

    def submit(self, work: Work) -> bool:
        """Takes work; False when the queue is full. Work for a job that is already there changes nothing."""

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        """What came out; None while it waits or runs, and for unknown jobs."""

    def holds(self, job_id: bytes) -> bool:
        """Whether the job waits, runs or has an outcome here."""

    def drop(self, job_id: bytes) -> None:
        """Forgets a job, and stops it if it runs."""

    def load(self) -> int:
        """Jobs that wait or run."""

    def stop(self) -> None:
        """Stops what runs, takes no more. Does not wait for the thread."""


ExecutorFactory = Callable[[Mapping[bytes, Engine], int, Callable[[bytes], None]], Executor]


class EngineExecutor:
    """The honest executor: `on_done(job_id)` is called on the worker thread after each outcome."""

    def __init__(self, engines: Mapping[bytes, Engine], limit: int, on_done: Callable[[bytes], None]) -> None:
        self._engines = engines
        self._limit = limit
        self._on_done = on_done
        self._changed = threading.Condition()
        self._waiting: OrderedDict[bytes, Work] = OrderedDict()
        self._running: bytes | None = None
        self._cancelled = False  # the running job
        self._outcomes: dict[bytes, Answer | Failure] = {}
        self._stopped = False
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    def submit(self, work: Work) -> bool:
        with self._changed:
            if self.holds(work.job_id):
                return True
            if self._stopped or self.load() >= self._limit:
                return False
            self._waiting[work.job_id] = work
            self._changed.notify()
        return True

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        with self._changed:
            return self._outcomes.get(job_id)

    def holds(self, job_id: bytes) -> bool:
        with self._changed:
            return (
                job_id in self._outcomes or job_id in self._waiting or (job_id == self._running and not self._cancelled)
            )

    def drop(self, job_id: bytes) -> None:
        with self._changed:
            self._waiting.pop(job_id, None)
            self._outcomes.pop(job_id, None)
            if job_id == self._running:
                self._cancelled = True

    def load(self) -> int:
        with self._changed:
            return len(self._waiting) + (self._running is not None)

    def stop(self) -> None:
        with self._changed:
            self._stopped = self._cancelled = True
            self._waiting.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                job_id, work = self._waiting.popitem(last=False)
                self._running, self._cancelled = job_id, False
            outcome = self._answer(work)
            with self._changed:
                kept = not self._cancelled
                if kept:
                    self._outcomes[job_id] = outcome
                self._running = None
            if kept:
                self._on_done(job_id)

    def _answer(self, work: Work) -> Answer | Failure:
        started = time.monotonic()
        log.info("inference_started", job_id="0x" + work.job_id.hex(), input_tokens=len(work.ids))
        try:
            generation = self._engines[work.model_id].generate(
                work.ids,
                work.max_output_tokens,
                work.stop_tokens,
                cancelled=lambda: self._cancelled,
                sampling=work.sampling,
            )
        except AssayError as error:
            return Failure(error.code, error.message)
        except Exception as error:  # noqa: BLE001 - torch raises what it likes; the job is refused, the agent lives
            return Failure("ENGINE_FAILED", f"The engine raised {type(error).__name__}.")
        return Answer(tuple(generation.ids), generation.finish, int((time.monotonic() - started) * 1000))
