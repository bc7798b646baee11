"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, mode: int, overwrite: bool = True) -> None:
    """Writes beside `path` with permissions `mode`, syncs, and moves it into place.

    Raises:
        FileExistsError: the file is there and `overwrite` is false.
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(name, path)
        else:
            os.link(name, path)  # fails where the file is there, unlike a rename
            os.unlink(name)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
