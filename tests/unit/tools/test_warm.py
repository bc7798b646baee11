"""A program that starts warm is a process like any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from eth_account import Account

from market.keystore import save_account
from tests import warm

ASSAY = (sys.executable, "-m", "assay")
pytestmark = pytest.mark.skipif(subprocess.Popen is not warm.Popen, reason="everything starts cold")


def run(*words: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ASSAY, *words], cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_warm_program_says_and_returns_what_a_cold_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [("job", "nothing", "--json"), ("key", "show", "--keystore", "nowhere"), ("nothing",)]
    found = [run(*words) for words in cases]
    assert [answer.returncode for answer in found] == [2, 2, 2]
    monkeypatch.setattr(subprocess, "Popen", warm.Popen.__base__)
    cold = run(*cases[0])
    assert (cold.returncode, cold.stdout, cold.stderr) == (found[0].returncode, found[0].stdout, found[0].stderr)


def test_warm_program_has_its_own_folder_and_environment(tmp_path: Path) -> None:
    account = Account.create()
    save_account(tmp_path / "keystore.json", account, "long enough", light=True)
    shown = run("key", "show", "--json", folder=tmp_path, ASSAY_HOME=".")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert json.loads(shown.stdout)["address"] == account.address.lower()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_warm_program_is_a_child_that_signals_reach(number: signal.Signals) -> None:
    with subprocess.Popen([*ASSAY, "job", "post"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        assert f"PPid:\t{os.getpid()}\n" in status
        process.send_signal(number)
        assert process.wait(30) == -number


def test_other_programs_and_commands_of_which_more_is_asked_start_cold() -> None:
    asked = {"args": [*ASSAY, "job"], "preexec_fn": None, "env": {}, "cwd": "/", "start_new_session": False}
    assert warm._order(asked) is not None
    for change in (
        {"args": [*ASSAY, "up"]},
        {"args": [sys.executable, "-c", "1"]},
        {"args": "assay job"},
        {"preexec_fn": lambda: None},
        {"pass_fds": (7,)},
        {"umask": 0o77},
    ):
        assert warm._order(asked | change) is None, change
