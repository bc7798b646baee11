"""Runs the ape tests as their users would: by ape's own command, with the repository's compiler and anvil."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.gas.anvil import ANVIL
from tools.compiler import ROOT, link_compiler

LIMIT_SECONDS = 300


def test_ape_runs_a_whole_job_and_compiles_to_the_shipped_code(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": os.pathsep.join(map(str, (scripts, ANVIL.parent, ROOT / "tools", os.environ["PATH"]))),
        "SOLCX_BINARY_PATH": str(link_compiler()),
        "APE_DATA_FOLDER": str(tmp_path),
    }
    run = subprocess.run(
        [scripts / "ape", "test", "-c", "tests/ape/ape.ini", "tests/ape"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "6 passed" in run.stdout
