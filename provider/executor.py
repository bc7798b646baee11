"""Runs the models: one worker thread, bounded queues, no chain and no text."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from market.errors import AssayError
from market.inference.batch import BatchEngine
from market.inference.log_probabilities import PositionLogProbabilities
from market.inference.sampling import Picker
from market.inference.scheduler import Scheduler, SchedulerLimits, Task
from market.types import Finish

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Work:
    """One job for the engine. ``owner``: the client, whose later prompts may share what this one's prefix cost.

    ``log_probabilities``: how many likeliest tokens to tell of in place of each output token; 0: nothing is told.
    """

    job_id: bytes
    model_id: bytes
    ids: tuple[int, ...]
    max_output_tokens: int
    stop_tokens: tuple[int, ...]
    sampling: Picker | None = None  # None: greedy
    owner: bytes = b""
    log_probabilities: int = 0


@dataclass(frozen=True)
class Answer:
    """Output ids, why they end, how long the engine took (milliseconds, waiting not included), and the
    log-probabilities that were asked for.
    """

    ids: tuple[int, ...]
    finish: Finish
    milliseconds: int
    log_probabilities: tuple[PositionLogProbabilities, ...] = ()


@dataclass(frozen=True)
class Failure:
    """The engine could not answer."""

    code: str
    message: str


class Executor(Protocol):
    """What the node asks of whoever computes. Every method returns at once."""

    def submit(self, work: Work) -> bool:
        """Takes work; False when the queue is full. Work for a job that is already there changes nothing.

        Whoever has nothing here still finds room when somebody else has filled the queue.
        """

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


ExecutorFactory = Callable[[Mapping[bytes, BatchEngine], int, Callable[[bytes], None]], Executor]

SLOTS = 8
"""Answers of one model in progress at once: beyond, a step takes longer than it gains."""
RESERVE = 2
"""So many times the queue's limit fit where each further job is its owner's only one."""


class EngineExecutor:
    """The honest executor: one thread that steps a scheduler per model, so that short jobs do not wait for long ones.

    `on_done(job_id)` is called on that thread after each outcome. `limit`: jobs that wait or run. Jobs that are refused
    come again, in no order: without a reserve, an owner whose jobs fill the queue would keep everybody else's out until
    their deadlines.
    """

    def __init__(self, engines: Mapping[bytes, BatchEngine], limit: int, on_done: Callable[[bytes], None]) -> None:
        serving = SchedulerLimits(slots=min(SLOTS, limit), waiting=RESERVE * limit)
        self._schedulers = {model_id: Scheduler(engine, serving) for model_id, engine in engines.items()}
        self._limit = limit
        self._on_done = on_done
        self._changed = threading.Condition()
        self._news: list[Work | bytes] = []  # work to take and jobs to drop, in the order they came
        self._open: dict[bytes, bytes] = {}  # jobs that wait or run, and whose they are
        self._outcomes: dict[bytes, Answer | Failure] = {}
        self._stopped = False
        self._started: dict[bytes, float] = {}  # of the thread alone, like the schedulers
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    def submit(self, work: Work) -> bool:
        with self._changed:
            if self.holds(work.job_id):
                return True
            if self._stopped or not self._has_room_for(work.owner):
                return False
            self._open[work.job_id] = work.owner
            self._news.append(work)
            self._changed.notify()
        return True

    def _has_room_for(self, owner: bytes) -> bool:
        if self.load() < self._limit:
            return True
        return owner != b"" and owner not in self._open.values() and self.load() < RESERVE * self._limit

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        with self._changed:
            return self._outcomes.get(job_id)

    def holds(self, job_id: bytes) -> bool:
        with self._changed:
            return job_id in self._outcomes or job_id in self._open

    def drop(self, job_id: bytes) -> None:
        with self._changed:
            self._outcomes.pop(job_id, None)
            if job_id in self._open:
                del self._open[job_id]
                self._news.append(job_id)
                self._changed.notify()

    def load(self) -> int:
        with self._changed:
            return len(self._open)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._open.clear()
            self._changed.notify()

    # ------------------------------------------------------------------------------------------------- its thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._news or self._stopped or self._busy())
                if self._stopped:
                    return
                news, self._news = self._news, []
            for item in news:
                if isinstance(item, Work):
                    self._take(item)
                else:
                    self._forget(item)
            for scheduler in self._schedulers.values():
                if scheduler.busy:
                    self._step(scheduler)

    def _busy(self) -> bool:
        return any(scheduler.busy for scheduler in self._schedulers.values())

    def _take(self, work: Work) -> None:
        task = Task(
            key=work.job_id,
            ids=work.ids,
            max_output_tokens=work.max_output_tokens,
            stop_tokens=work.stop_tokens,
            sampling=work.sampling,
            owner=work.owner,
            log_probabilities=work.log_probabilities,
        )
        try:
            self._schedulers[work.model_id].submit(task)
        except AssayError as error:
            self._ended(work.job_id, Failure(error.code, error.message))
        except Exception as error:  # noqa: BLE001 - one job that cannot be taken must not end the thread of all
            self._ended(work.job_id, _broken(error))

    def _forget(self, job_id: bytes) -> None:
        self._started.pop(job_id, None)
        for scheduler in self._schedulers.values():
            scheduler.cancel(job_id)

    def _step(self, scheduler: Scheduler) -> None:
        try:
            for task in scheduler.admit():
                log.info("inference_started", job_id="0x" + task.key.hex(), input_tokens=len(task.ids))
                self._started[task.key] = time.monotonic()
            ended = scheduler.step()
        except Exception as error:  # noqa: BLE001 - torch raises what it likes; the jobs are refused, the agent lives
            for job_id in scheduler.abandon():
                self._ended(job_id, _broken(error))
            return
        for job_id, generation in ended:
            if generation.finish is Finish.ERROR:
                self._ended(job_id, Failure("ENGINE_FAILED", "The next token could not be chosen."))
                continue
            milliseconds = int((time.monotonic() - self._started[job_id]) * 1000)
            self._ended(job_id, Answer(generation.ids, generation.finish, milliseconds, generation.log_probabilities))

    def _ended(self, job_id: bytes, outcome: Answer | Failure) -> None:
        self._started.pop(job_id, None)
        with self._changed:
            # what was dropped is stopped only now and then: it must not answer for what was submitted since
            kept = job_id not in self._news and self._open.pop(job_id, None) is not None
            if kept:
                self._outcomes[job_id] = outcome
        if kept:
            self._on_done(job_id)


def _broken(error: Exception) -> Failure:
    """By its type alone: the text of an exception may hold a prompt."""
    return Failure("ENGINE_FAILED", f"The engine raised {type(error).__name__}.")
