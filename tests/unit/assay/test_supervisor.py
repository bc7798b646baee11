"""Who holds a network's directory: real locks, held by real processes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assay.supervisor import holder, locked
from market.errors import ConfigError

HOLD = "import sys, pathlib\nfrom assay.supervisor import locked\n"
HOLD += "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"


@contextmanager
def another_supervisor(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_directory_that_nobody_ever_used_has_no_holder(tmp_path: Path) -> None:
    assert holder(tmp_path / "none") is None


def test_directory_that_is_held_names_the_process_and_refuses_another(tmp_path: Path) -> None:
    with another_supervisor(tmp_path) as process:
        assert holder(tmp_path) == process.pid
        with pytest.raises(ConfigError, match="already runs"), locked(tmp_path):
            pass


def test_id_of_a_killed_supervisor_is_never_read_as_the_next_ones(tmp_path: Path) -> None:
    with another_supervisor(tmp_path) as process:
        process.kill()
        process.wait()
    assert (tmp_path / "lock").read_text() == f"{process.pid}\n"
    assert holder(tmp_path) is None
    assert (tmp_path / "lock").read_text() == ""


def test_two_who_look_at_once_see_nobody(tmp_path: Path) -> None:
    """An exclusive lock to look made the one take the other for a supervisor."""
    (tmp_path / "lock").touch()
    with open(tmp_path / "lock", encoding="utf-8") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert holder(tmp_path) is None


def test_supervisor_that_starts_while_somebody_looks_waits_for_them(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with open(tmp_path / "lock", encoding="utf-8") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        release = threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN))
        release.start()
        with locked(tmp_path):
            assert holder(tmp_path) == os.getpid()
        release.join()


def test_holder_that_has_not_written_its_id_yet_is_waited_for(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w", encoding="utf-8") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)

        def sign() -> None:
            starting.write("4321\n")
            starting.flush()

        signed = threading.Timer(0.1, sign)
        signed.start()
        assert holder(tmp_path) == 4321
        signed.join()


def test_holder_that_never_writes_its_id_is_an_error_not_an_idle_directory(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w", encoding="utf-8") as silent:
        fcntl.flock(silent, fcntl.LOCK_EX)
        started = time.monotonic()
        with pytest.raises(ConfigError, match="does not say which"):
            holder(tmp_path)
        assert time.monotonic() - started < 20
