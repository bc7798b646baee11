"""`assay up` and `assay down`: a network that stays, is found by the other commands, and survives being stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from assay.supervisor import holder

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 120


class Shell:
    """Runs `assay` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "assay", *arguments],
            cwd=ROOT,
            env={**os.environ, "ASSAY_HOME": str(self.home), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


def test_network_that_was_stopped_goes_on_with_its_jobs_and_money(shell: Shell, tiny_pack: Path) -> None:
    first = shell.json("up", "--pack", str(tiny_pack), "--providers", "2")
    try:
        assert len(first["providers"]) == 2
        again = shell.run("up", "--pack", str(tiny_pack))
        assert again.returncode == 0
        assert "Already running" in again.stdout
        stranger = "0x" + "11" * 20
        assert shell.json("up", "--fund", stranger)["tokens"] == "1000000000000"
        posted = shell.json(
            "job", "post", "--yes", "--replicas", "2", "--quorum", "2", "--max-output-tokens", "4", "hello"
        )
        assert posted["settled"] is True
        assert shell.json("down")["stopped"] is True
        assert shell.json("down")["stopped"] is False
        refused = shell.run("job", "list", "--json")
        assert refused.returncode == 3
        assert json.loads(refused.stdout)["error"]["code"] == "ChainUnreachable"
        second = shell.json("up", "--pack", str(tiny_pack), "--providers", "2")
        assert second["rpc_url"] == first["rpc_url"]  # configurations stay true
        jobs = shell.json("job", "list")
        listed = jobs["jobs"] if isinstance(jobs, dict) else jobs
        assert [job["job_id"] for job in listed] == [posted["job_id"]]
        assert listed[0]["state"] == "settled"
    finally:
        shell.run("down")


def test_network_whose_supervisor_is_killed_leaves_nothing_and_starts_again(shell: Shell, tiny_pack: Path) -> None:
    info = shell.json("up", "--pack", str(tiny_pack), "--providers", "1")
    try:
        os.kill(info["supervisor"], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{process['pid']}").exists() for process in info["providers"]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert holder(shell.home / "network") is None
        assert len(shell.json("up", "--pack", str(tiny_pack), "--providers", "1")["providers"]) == 1
    finally:
        shell.run("down")


def test_up_without_a_pack_says_how_to_make_one(shell: Shell, tmp_path: Path) -> None:
    done = shell.run("up", "--pack", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert "make demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_with_a_corrupted_pack_names_it_and_exits_with_one(shell: Shell, tmp_path: Path) -> None:
    done = shell.run("doctor", "--pack", str(tmp_path / "nothing"), "--json")
    assert done.returncode == 1
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["python"]["ok"]
    assert checks["anvil"]["ok"]
    assert not checks["model pack"]["ok"]


def test_command_that_does_not_exist_is_refused_without_a_traceback(shell: Shell) -> None:
    done = shell.run("nothing")
    assert done.returncode == 2
    assert "No such command" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_of_every_command_shows_an_example_or_its_commands(shell: Shell) -> None:
    from assay.cli import COMMANDS

    for name in COMMANDS:
        done = shell.run(name, "--help")
        assert done.returncode == 0, name
        assert "Example" in done.stdout or "Commands" in done.stdout, name
