"""Files that are whole or not there, locks the kernel releases, default folders."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from market.config import Home, index_url, queue_path
from market.errors import ConfigError
from market.filelock import FileLock
from market.files import write_atomically

HOLD = """
import sys
from pathlib import Path
from market.filelock import FileLock
lock = FileLock(Path(sys.argv[1]), "the file")
print("held", flush=True)
sys.stdin.read()
"""


def test_written_file_has_its_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"one", mode=0o640)
    write_atomically(path, b"two", mode=0o640)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_written_file_that_may_not_overwrite_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one", mode=0o600, overwrite=False)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"two", mode=0o600, overwrite=False)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_lock_held_by_this_process_is_refused_and_free_after_close(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = FileLock(path, "the queue")
    with pytest.raises(ConfigError, match="the queue") as refused:
        FileLock(path, "the queue")
    assert refused.value.code == "Locked"
    first.close()
    first.close()
    FileLock(path, "the queue").close()


def test_lock_held_by_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"pid {holder.pid}"):
            FileLock(path, "the file")
        holder.kill()
        holder.wait()
    FileLock(path, "the file").close()


def test_lock_is_waited_for_until_its_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = FileLock(path, "the file")
    released = threading.Event()

    def release() -> None:
        released.set()
        first.close()

    threading.Timer(0.2, release).start()
    FileLock(path, "the file", timeout=60).close()
    assert released.is_set()


def test_home_is_where_the_environment_says() -> None:
    home = Home.of({"ASSAY_HOME": "~/somewhere"})
    assert home.path == Path("~/somewhere").expanduser()
    assert home.manifest.parent == home.keystore.parent == home.path
    assert Home.of({}).path.name == "assay"


def test_paths_tell_keys_and_chains_apart(tmp_path: Path) -> None:
    paths = {
        queue_path(tmp_path, chain, address) for chain in (1, 2) for address in ("0x" + "AA" * 20, "0x" + "bb" * 20)
    }
    assert len(paths) == 4
    assert queue_path(tmp_path, 1, "0xAB") == queue_path(tmp_path, 1, "0xab")
    assert index_url(tmp_path, 1, "0xAB").startswith("sqlite:////")
