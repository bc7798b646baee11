"""Calls `step` for the jobs that may go on: one call at a time for a job, several jobs at once, never lost."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from market.errors import AssayError
from provider.node import Next

log = structlog.get_logger(__name__)

THREADS = 16  # steps that may wait for a receipt at the same time
TICK = 0.2  # seconds between looks at the timers
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds before a failed step is tried again


class Worklist:
    """See the module. `kick` may be called from any thread; everything else from the event loop `run` runs in.

    Args:
        step: does the one next thing for a job (blocking; called on a worker thread).
        now: the chain's time in unix seconds; cheap.
        failed: told the code of each step that failed; UNEXPECTED where it crashed.
    """

    def __init__(
        self,
        step: Callable[[bytes], Next],
        now: Callable[[], int],
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._step = step
        self.now = now
        self._failed = failed
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="step")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._again: set[bytes] = set()
        self._due: dict[bytes, int] = {}
        self._failures: dict[bytes, int] = {}
        self._stopping = False

    def kick(self, job_id: bytes) -> None:
        """Says that something may have changed for a job. Before `run` starts and after it stopped, nothing happens."""
        loop = self._loop
        if loop is None or self._stopping:
            return
        try:
            loop.call_soon_threadsafe(self._start, job_id)
        except RuntimeError:  # the loop closed between two lines: the agent is stopping
            return

    async def run(self) -> None:
        """Looks after the timers until `stop`."""
        self._loop = asyncio.get_running_loop()
        while not self._stopping:
            now = self.now()
            for job_id in [job_id for job_id, at in self._due.items() if at <= now]:
                self._start(job_id)
            await asyncio.sleep(TICK)

    async def stop(self, patience: float) -> bool:
        """Starts nothing more; waits up to `patience` seconds. Returns whether all steps ended."""
        self._stopping = True
        running = list(self._tasks.values())
        if running:
            await asyncio.wait(running, timeout=patience)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return not self._tasks

    def _start(self, job_id: bytes) -> None:
        self._due.pop(job_id, None)
        if self._stopping:
            return
        if job_id in self._tasks:
            self._again.add(job_id)
            return
        self._tasks[job_id] = asyncio.get_running_loop().create_task(self._work(job_id))

    async def _work(self, job_id: bytes) -> None:
        try:
            while not self._stopping:
                self._again.discard(job_id)
                following = await self._once(job_id)
                if following is None:
                    return
                if following.again or job_id in self._again:
                    continue
                if following.at is not None:
                    self._due[job_id] = following.at
                return
        finally:
            del self._tasks[job_id]

    async def _once(self, job_id: bytes) -> Next | None:
        """One step; None when it failed and a later one is arranged."""
        loop = asyncio.get_running_loop()
        try:
            following = await loop.run_in_executor(self._pool, self._step, job_id)
        except AssayError as error:
            log.warning("step_failed", job_id="0x" + job_id.hex(), code=error.code, error=error.message)
            self._failed(error.code)
        except Exception as error:  # noqa: BLE001 - a bug must not end the agent: the other jobs have bonds at stake
            where = traceback.extract_tb(error.__traceback__)[-1]  # its text may hold a prompt and is not logged
            details = {"error": type(error).__name__, "file": where.filename, "line": where.lineno}
            log.error("step_crashed", job_id="0x" + job_id.hex(), **details)
            self._failed("UNEXPECTED")
        else:
            self._failures.pop(job_id, None)
            return following
        if self._stopping:
            return None
        count = self._failures[job_id] = self._failures.get(job_id, 0) + 1
        loop.call_later(min(FIRST_PAUSE * 2 ** (count - 1), LONGEST_PAUSE), self._start, job_id)
        return None
