"""Branch coverage of the contracts by the tests that run in the process's EVM.

The contracts are compiled with a probe in every condition (instrument.py), the tests run against those, and what the
probes asked for is what was taken. Nothing under contracts/ changes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tools.compiler import ROOT, compile_sources, read_sources, syntax_trees
from tools.security import measured
from tools.security.environment import ASKED, BUILD, INSTEAD
from tools.security.instrument import Side, assembly_conditions, instrument

REPORT = BUILD / "branch_coverage.json"
REQUIRED = 0.98
TESTS = ("tests/unit/contracts", "tests/security")
#: beginnings of ids: what compiles the plain sources, and what measures contracts, which probes make longer and dearer
NOT_RUN = (
    "tests/unit/contracts/test_build.py",
    "tests/unit/contracts/test_steps_gas.py",
    "tests/unit/contracts/test_steps_attention.py::test_step_fits_the_limit_of_eip_170",
    "tests/unit/contracts/test_sampling_vectors.py::test_comparing_two_tokens_costs_little",
)


def measure() -> bool:
    """Runs the tests and writes the report.

    Returns:
        whether enough was covered (and the tests passed).
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    sides, unprobed = _compile_instrumented(BUILD / "instrumented.json")
    asked = BUILD / "asked.json"
    asked.unlink(missing_ok=True)
    environment = os.environ | {INSTEAD: str(BUILD / "instrumented.json"), ASKED: str(asked)}
    command = [sys.executable, "-m", "pytest", "-p", "tests.security.branch_plugin", *TESTS]
    command += [f"--deselect={test}" for test in NOT_RUN]
    passed = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
    if not asked.exists():
        print("branches: the tests did not run; see above.")
        return False
    enough = report(sides, set(json.loads(asked.read_text(encoding="utf-8"))), passed, unprobed)
    if not passed:
        print("branches: the tests fail on the instrumented contracts; see above.")
    return passed and enough


def report(sides: list[Side], asked: set[str], passed: bool, unprobed: int) -> bool:
    """Writes {covered, total, missing, passed, assembly, contracts: a digest} and prints it.

    Args:
        passed: whether all tests did. A branch that a failing test took was taken, and nobody checked what came of it.
        unprobed: conditions inside assembly, which are no part of the total.

    Returns:
        whether enough was covered.
    """
    missing = [str(side) for side in sides if side.address not in asked]
    covered = len(sides) - len(missing)
    contracts = measured.digest(measured.present())
    result = {"covered": covered, "total": len(sides), "missing": missing, "passed": passed, "assembly": unprobed}
    result[measured.KEY] = contracts
    REPORT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for line in missing:
        print(f"  not taken: {line}")
    print(f"branches: {covered} of {len(sides)} sides taken ({covered / len(sides):.2%}; {REQUIRED:.0%} needed)")
    print(f"branches: {unprobed} conditions inside assembly are not among them")
    return covered >= REQUIRED * len(sides)


def _compile_instrumented(target: Path) -> tuple[list[Side], int]:
    sources = read_sources()
    wanted = {path: text for path, text in sources.items() if not path.startswith("contracts/test/")}
    trees = syntax_trees(sources)
    changed, sides = instrument(sources, trees, wanted)
    compiled = compile_sources(changed, strict=False)
    artefacts = {name: artefact for contracts in compiled.values() for name, artefact in contracts.items()}
    target.write_text(json.dumps(artefacts), encoding="utf-8")
    return sides, sum(assembly_conditions(trees[path]) for path in wanted)
