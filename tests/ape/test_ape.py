"""Runs the ape tests as their users would: by ape's own command, with the repository's compiler and anvil."""

from __future__ import annotations

from pathlib import Path

from tests.ape.command import run_ape
from tools.build_contracts import SHIPPED


def test_ape_runs_a_whole_job_and_compiles_to_the_shipped_code(tmp_path: Path) -> None:
    run = run_ape(tmp_path, "test", "-c", "tests/ape/ape.ini", "tests/ape")
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = 2
    assert f"{jobs + len(SHIPPED)} passed" in run.stdout
