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
LOOK_SECONDS = 1.0  # how long `locked` waits for those who only look, and `holder` for one that is about to sign
RETRY_SECONDS = 0.01


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory's lock and writes this process's id into it.

    Raises:
        ConfigError: somebody else holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOOK_SECONDS
    with open(directory / "lock", "a+", encoding="utf-8") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # a supervisor, or somebody who only looks and is gone in a moment
                if time.monotonic() > deadline:
                    text = f"A local network already runs in {directory}."
                    raise ConfigError(text, hint="assay down stops it.") from None
                time.sleep(RETRY_SECONDS)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def holder(directory: Path) -> int | None:
    """Process id of the running supervisor of this directory, or None.

    Looks with a shared lock, so that two who look at once do not take each other for a supervisor. What a killed
    supervisor left is cleared then, so that its id is never read as that of the next one; a supervisor that has the
    lock but has not written its id yet is waited for.

    Raises:
        ConfigError: somebody holds the lock and names no process.
    """
    deadline = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            with open(directory / "lock", "r+", encoding="utf-8") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = lock.read()
                else:
                    lock.truncate(0)
                    return None
        except FileNotFoundError:
            return None
        if text.endswith("\n") and text.strip().isdigit():
            return int(text)
        if time.monotonic() > deadline:
            raise ConfigError(
                f"A process holds {directory / 'lock'} and does not say which it is.",
                hint="`fuser` with that path names it.",
            )
        time.sleep(RETRY_SECONDS)


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
