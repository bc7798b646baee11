"""A second copy of the file that anvil saves its chain to.

Anvil empties its file and writes it anew, every second. A chain that is killed in between leaves the beginning of one,
which anvil refuses to load: without a copy the whole chain is lost.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

from market.errors import ConfigError

LOOK_SECONDS = 0.25
_LOG = logging.getLogger(__name__)


def copy_of(state: Path) -> Path:
    """Where the copy of a chain's file is."""
    return state.with_name(f"{state.name}.copy")


def mend(state: Path) -> None:
    """Before a chain is loaded: puts the copy in the place of a file that is not whole.

    Raises:
        ConfigError: neither is whole. Nothing was changed.
    """
    copy = copy_of(state)
    if not state.exists():  # a new chain: an older one's copy is nobody's any more
        copy.unlink(missing_ok=True)
        return
    if _is_whole(state):
        return
    if not _is_whole(copy):
        raise ConfigError(
            f"The chain's file {state} is damaged, and there is no copy of it. Nothing was changed.",
            hint="Move it away to begin a new chain.",
        )
    saved = datetime.fromtimestamp(copy.stat().st_mtime, UTC)
    _LOG.warning("the chain's file was not whole: going on from the copy of %s", saved.isoformat(timespec="seconds"))
    _copy(copy, state)


class Keeper:
    """Copies a chain's file, from a thread, whenever anvil has written it to its end."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chain-copy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Safe to repeat."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        before = copied = None
        while not self._stop.wait(LOOK_SECONDS):
            now = self._version()
            if now is not None and now == before != copied and self._ends():
                try:
                    _copy(self._state, copy_of(self._state))
                except OSError as error:  # a full disk, say: the chain itself goes on
                    _LOG.warning("the chain's file could not be copied: %s", error)
                copied = now
            before = now

    def _version(self) -> tuple[int, int] | None:
        """What changes when the file is written; None while it is not there."""
        try:
            status = self._state.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def _ends(self) -> bool:
        """Whether the last byte may be a document's."""
        with self._state.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            return file.read() == b"}"


def _copy(source: Path, target: Path) -> None:
    """The file in the target's place is whole at any moment, but for the loss of power."""
    beside = target.with_name(f"{target.name}.new")
    shutil.copyfile(source, beside)
    os.replace(beside, target)


def _is_whole(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False
