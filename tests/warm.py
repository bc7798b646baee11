"""Starts the suite's Python programs from a process that has imported Assay already: a start costs a fork, not seconds.

`python -m assay …`, an agent that misbehaves and the like are processes as ever: with their own id, environment,
folder, files and signals, children of whoever starts them, and they run the same main function. Only the imports are
shared. `install` puts `Popen` in the place of subprocess's; what is not of these programs, or asks for something that a
fork cannot give, starts as always. ASSAY_TESTS_COLD=1 starts everything so.

python -m tests.warm FD    the process that forks; FD is its end of a socket
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from market.anvil import die_with

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    "assay",
    "tests.integration.chain.crash",
    "tests.integration.chain.deploy_crash",
    "tests.integration.chain.index_crash",
    "tests.integration.client.crashing",
    "tests.integration.provider.crashing",
)
SCRIPTS = (str(ROOT / "tests" / "adversaries.py"),)
COLD = ("demo", "up", "down")
"""Commands of which tests look at what the kernel says of a process, or that are there to be started by people."""
IMPORTED = (
    *(
        "assay.cli",
        "assay.chain_cli",
        "assay.dispute_cli",
        "assay.watch_cli",
        "assay.doctor",
        "client.cli",
        "client.client",
    ),
    *("market.key_cli", "market.proofs.cli", "provider.agent", "provider.cli", "provider.program", "tests.liar"),
    *("market.models.text", "market.inference.native_engine", "market.deployment", "rich.table", "typer.rich_utils"),
)
_PR_SET_CHILD_SUBREAPER = 36
_LIMIT = 1 << 20
_SECONDS = 60
_REAL = subprocess.Popen
_PLAIN = {
    "executable": None, "close_fds": True, "pass_fds": (), "shell": False, "gid": None, "gids": None, "uid": None,
    "umask": -1, "process_group": -1,
}  # fmt: skip


# ---- in the process of the tests


class Nursery:
    """The process that forks, started on first use. One for each process of the tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def start(self, order: Mapping[str, Any], files: list[int]) -> int:
        """Starts a program whose standard files are these; returns its id. It is a child of this process."""
        with self._lock:
            here = self._socket or self._begin()
            _subreaper(True)  # of the two forks the first ends at once: the second becomes our child
            try:
                data = json.dumps(order).encode()
                here.sendall(len(data).to_bytes(4, "big"))
                socket.send_fds(here, [data[:1]], files)
                here.sendall(data[1:])
                return int.from_bytes(_exactly(here, 4), "big")
            finally:
                _subreaper(False)

    def _begin(self) -> socket.socket:
        here, there = socket.socketpair()
        here.settimeout(_SECONDS)
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a fork keeps no threads
        process = _REAL(
            [sys.executable, "-m", "tests.warm", str(there.fileno())],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
        )
        there.close()
        self._socket = here
        atexit.register(_close, here, process)
        return here


def _close(here: socket.socket, process: subprocess.Popen[bytes]) -> None:
    here.close()
    process.wait(_SECONDS)


_nursery = Nursery()


class Popen(_REAL):  # type: ignore[type-arg]
    """subprocess.Popen, whose programs of MODULES and SCRIPTS start warm."""

    def _execute_child(self, *given: Any) -> None:
        asked = inspect.signature(_REAL._execute_child).bind(self, *given).arguments  # type: ignore[attr-defined]
        order = _order(asked)
        if order is None:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        nothing = -1
        with open(os.devnull, "r+b", buffering=0) as null:
            ends = (asked["p2cread"], asked["c2pwrite"], asked["errwrite"])
            files = [number if end == nothing else end for number, end in enumerate(ends)]
            self.pid = _nursery.start(order, [null.fileno() if not _open(file) else file for file in files])
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in _PIPES))  # type: ignore[attr-defined]


_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def install() -> None:
    """From now on this process starts warm what can be."""
    if sys.platform == "linux" and os.environ.get("ASSAY_TESTS_COLD") != "1":
        subprocess.Popen = Popen  # type: ignore[misc]


def _order(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the fork must know, or None where the program is not one of ours or asks for what a fork cannot give."""
    words, prepare = asked["args"], asked["preexec_fn"]
    if isinstance(words, str | bytes | os.PathLike) or any(
        asked.get(name, plain) != plain for name, plain in _PLAIN.items()
    ):
        return None
    words = [os.fspath(word) for word in words]
    module = len(words) > 2 and words[:2] == [sys.executable, "-m"] and words[2] in MODULES
    script = len(words) > 1 and words[0] == sys.executable and words[1] in SCRIPTS
    if not (module or script) or (module and words[2] == "assay" and words[3:4] and words[3] in COLD):
        return None
    if prepare is not None and prepare.__qualname__ != "die_with.<locals>.prepare":
        return None
    environment = os.environ if asked["env"] is None else asked["env"]
    return {
        "module": words[2] if module else None,
        "words": words[2:] if module else words[1:],
        "environment": {str(name): str(value) for name, value in environment.items()},
        "folder": os.fspath(asked["cwd"] or os.getcwd()),
        "session": bool(asked["start_new_session"]),
        "dies": prepare is not None,
        "parent": os.getpid(),
    }


def _open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def _subreaper(on: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def _exactly(here: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = here.recv(count - len(data))
        if not part:
            raise ConnectionError("the process that starts the tests' programs has ended")
        data += part
    return data


# ---- in the process that forks


def _serve(here: socket.socket) -> dict[str, Any]:
    """Forks for every order. Returns the order in the fork only."""
    while True:
        try:
            size = int.from_bytes(_exactly(here, 4), "big")
        except ConnectionError:
            os._exit(0)  # the tests are over
        first, files, _, _ = socket.recv_fds(here, 1, 3)
        order: dict[str, Any] = json.loads(first + _exactly(here, size - 1))
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid:
                os.write(writer, pid.to_bytes(4, "big"))
                os._exit(0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.close(reader)
            os.close(writer)
            here.close()
            _become(order, files)
            return order
        os.close(writer)
        os.waitpid(between, 0)
        here.sendall(os.read(reader, 4))
        for number in (reader, *files):
            os.close(number)


def _become(order: Mapping[str, Any], files: list[int]) -> None:
    """Files, folder, environment and arguments of a program that was just started."""
    while os.getppid() != order["parent"]:  # until the process between is gone
        time.sleep(0.001)
    for number, file in enumerate(files):
        os.dup2(file, number)
        if file > 2:
            os.close(file)
    if order["session"]:
        os.setsid()
    if order["dies"]:
        die_with(order["parent"])()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = list(order["words"])
    sys.path[0] = order["folder"] if order["module"] else str(Path(order["words"][0]).parent)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - to the program's end
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        setattr(sys, ("__stdin__", "__stdout__", "__stderr__")[number], stream)


def main() -> None:
    here = socket.socket(fileno=int(sys.argv[1]))
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the tests
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork has one thread: what the others held stays held"
    gc.freeze()
    order = _serve(here)
    if order["module"] is None:
        runpy.run_path(order["words"][0], run_name="__main__")
    else:
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
