"""An advisory lock on a file (flock(2)): the kernel releases it however its holder ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from market.errors import ConfigError


class FileLock:
    """Exclusive for as long as the object is open.

    Args:
        path: the lock file; created, never deleted (deleting it would let two holders in).
        purpose: for the message: "the transaction queue of 0x…".
        timeout: seconds to wait for another holder.

    Raises:
        ConfigError: code Locked where another process holds it past the time-out.
    """

    def __init__(self, path: Path, purpose: str, *, timeout: float = 0.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
                os.close(self._descriptor)
                raise ConfigError(
                    f"Another process{f' ({holder})' if holder else ''} is using {purpose}; nothing was done.",
                    hint="Wait until it ends, or stop it.",
                    code="Locked",
                    path=str(path),
                ) from None
            break
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"pid {os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Lets the next holder in. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
