"""Blocking work beside an event loop, on threads that never hold up the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


def on_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Runs `work` on a daemon thread: unlike `asyncio.to_thread`, the loop's end does not wait for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - handed to whoever awaits
            error = raised
        with suppress(RuntimeError):  # the loop is closed: the agent stopped meanwhile
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=run, name="background", daemon=True).start()
    return future
