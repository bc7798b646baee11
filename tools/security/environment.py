"""Where the security tools live, and how they call the compiler."""

from __future__ import annotations

import os

from tools.compiler import ROOT

INSTEAD = "ASSAY_TEST_ARTEFACTS"
"""Environment variable: a JSON file of artefacts that the tests of contracts take instead of the sources'."""
ASKED = "ASSAY_ASKED_ACCOUNTS"
"""Environment variable: the file that tests/security/branch_plugin.py writes."""
BUILD = ROOT / "build" / "security"
BINARIES = ROOT / ".venv-security" / "bin"


def with_forge(name: str, **more: str) -> dict[str, str]:
    """An environment in which forge builds into folders of its own: slither begins with `forge clean`."""
    folders = {"FOUNDRY_OUT": str(BUILD / name / "out"), "FOUNDRY_CACHE_PATH": str(BUILD / name / "cache")}
    return os.environ | folders | more
