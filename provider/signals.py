"""SIGTERM and SIGINT of the agent process: the first ends it cleanly within five seconds, the second at once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from types import FrameType

CLEAN_SECONDS = 4.5
"""After which a stop that is still not done ends hard. Nothing is lost: the journal and the queue are on disk."""


class Signals:
    """Install it on the main thread, before anything slow. Exit codes: 0 after SIGTERM, 130 after SIGINT."""

    def __init__(self) -> None:
        self.code = 0
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def attach(self, stop: asyncio.Event) -> None:
        """From now on the first signal sets `stop`, on the running loop; before, it raised SystemExit."""
        self._loop, self._stop = asyncio.get_running_loop(), stop

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            os._exit(128 + number)
        self.code = 0 if number == signal.SIGTERM else 128 + number
        watchdog = threading.Timer(CLEAN_SECONDS, os._exit, [self.code])
        watchdog.daemon = True
        watchdog.start()
        if self._loop is None or self._stop is None:
            raise SystemExit(self.code)
        self._loop.call_soon_threadsafe(self._stop.set)
