"""halmos: the specifications under tests/security/halmos, for all values of their arguments."""

from __future__ import annotations

import json
import re
import subprocess

from tools.compiler import ROOT
from tools.security.environment import BINARIES, BUILD, with_forge

SPECS = ROOT / "tests" / "security" / "halmos"
REPORT = BUILD / "halmos.json"
OUT = "build/security/halmos/out"
#: seconds for one question to the solver; a question without an answer is a failure
SOLVER_TIMEOUT = 120


def run() -> bool:
    """Proves every `check_…`. Returns whether all of them were proved, and none was forgotten."""
    BUILD.mkdir(parents=True, exist_ok=True)
    REPORT.unlink(missing_ok=True)
    command = [
        *(str(BINARIES / "halmos"), "--root", ".", "--forge-build-out", OUT, "--no-status", "--loop", "4"),
        *("--solver-timeout-assertion", f"{SOLVER_TIMEOUT}s", "--json-output", str(REPORT)),
    ]
    environment = with_forge("halmos", FOUNDRY_PROFILE="halmos")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if not REPORT.exists():
        print(f"{done.stdout}{done.stderr}halmos itself failed; see above.")
        return False
    tests = json.loads(REPORT.read_text(encoding="utf-8"))["test_results"]
    proved = {test["name"].split("(")[0]: test["exitcode"] == 0 for found in tests.values() for test in found}
    forgotten = written() - set(proved)
    if forgotten or not all(proved.values()):
        print(done.stdout + done.stderr)
    for name in sorted(forgotten):
        print(f"  never tried: {name}")
    print(f"halmos: {sum(proved.values())} of {len(proved) + len(forgotten)} specifications proved")
    return not forgotten and all(proved.values())


def written() -> set[str]:
    """Names of all specifications."""
    text = "".join(path.read_text(encoding="utf-8") for path in SPECS.glob("*.sol"))
    return set(re.findall(r"function (check_\w+)", text))
