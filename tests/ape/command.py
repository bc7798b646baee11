"""ape's own command in a process, with the repository's compiler and anvil, and a data folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.gas.anvil import ANVIL
from tools.compiler import ROOT, link_compiler

LIMIT_SECONDS = 900


def run_ape(
    folder: Path, *arguments: str, host: str = "", typed: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs `ape …` in the repository.

    Args:
        folder: ape's data folder. host: URL of the anvil that it uses as ethereum:local:foundry, if any.
        typed: what a person answers to its questions. variables: of the environment, besides.
    """
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": os.pathsep.join(map(str, (scripts, ANVIL.parent, ROOT / "tools", os.environ["PATH"]))),
        "SOLCX_BINARY_PATH": str(link_compiler()),
        "APE_DATA_FOLDER": str(folder),
        **variables,
    }
    if host:
        environment["APE_FOUNDRY_HOST"] = host
    return subprocess.run(
        [scripts / "ape", *arguments],
        cwd=ROOT,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def without_metadata(code: str) -> str:
    """Run-time code up to the CBOR tail, whose length is its last two bytes: the tail says how the source hashed."""
    body = code.removeprefix("0x")
    return body[: -2 * (int(body[-4:], 16) + 2)]
