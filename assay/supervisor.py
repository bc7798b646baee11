"""The process behind `assay up`: owns a local network until it is told to stop.

Holds a lock on the network's directory as long as it lives, so that nobody mistakes another process for it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assay.network import LocalNetwork, NetworkPlan
from market.errors import AssayError, ConfigError

STOP_SECONDS = 30
POLL_SECONDS = 0.1


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory's lock and writes this process's id into it.

    Raises:
        ConfigError: somebody else holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"A local network already runs in {directory}.", hint="assay down stops it.") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def holder(directory: Path) -> int | None:
    """Process id of the running supervisor of this directory, or None."""
    try:
        with open(directory / "lock", "r+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = lock.read().strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        pass
    return None


def stop(directory: Path) -> bool:
    """Stops the supervisor of this directory and waits for it. Returns whether one was running.

    Raises:
        ConfigError: it did not end.
    """
    process = holder(directory)
    if process is None:
        return False
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while holder(directory) is not None:
        if time.monotonic() > deadline:
            raise ConfigError(f"The local network (process {process}) does not stop.", hint="Its log: supervisor.log.")
        time.sleep(POLL_SECONDS)
    return True


def supervise(plan: NetworkPlan) -> int:
    """Runs the network until SIGTERM or SIGINT, or until the chain dies. Returns an exit code."""
    wanted = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: wanted.set())
    try:
        with locked(plan.directory), LocalNetwork(plan, say=_say) as network:
            info = network.start()
            _say(f"running {info.rpc_url}")
            reported: set[int] = set()
            while not wanted.wait(POLL_SECONDS):
                if not network.anvil.is_running:
                    _say("the chain died")
                    return 3
                for process in network.processes():
                    if process.poll() is not None and process.pid not in reported:
                        reported.add(process.pid)
                        _say(f"provider process {process.pid} ended with {process.returncode}")
    except AssayError as error:
        _say(f"error: {error}")
        return error.exit_code
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
