"""Work that must not be done twice at once, and what a killed run leaves."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """A fresh hidden folder beside ``target`` in which to make it, for one process at a time.

    Folders that killed runs left for the same target are removed first, and this one at the end. The lock is a file's,
    so it dies with its process.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in target.parent.glob(f".{target.name}.partial-*"):
            shutil.rmtree(left_over)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
