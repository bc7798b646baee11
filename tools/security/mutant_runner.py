"""Compiles and tests one mutant at a time, and which tests it asks first.

Only what the mutated file can change is compiled. This process imports every test once and asks none: a mutant's tests
run in a fork of it, which has nothing left to import.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.compiler import ROOT, Artefact, CompilationFailed, compile_sources, recompile
from tools.security.environment import BUILD, INSTEAD
from tools.security.measured import digests

if TYPE_CHECKING:
    from tools.security.mutant_results import Results
    from tools.security.mutants import Mutant

_ROWS = ("steps_of_rows", "rows", "judge_lies", "trace_vectors")
_ATTENTION = ("steps_attention", "judge_lies", "trace_vectors")
#: a source → the tests that most likely notice; the others follow
NEAREST = {
    "Vault": ("vault",),
    "Registry": ("registry",),
    "Jobs": (
        *("jobs_settle", "jobs_reveal", "jobs_bonds", "jobs_commit", "jobs_cancel", "jobs_post", "jobs_draw"),
        *("jobs_demand", "jobs_optimistic", "jobs_deploy", "jobs_views", "disputes_subjects"),
    ),
    "JobChecks": ("jobs_commit", "jobs_settle", "jobs_reveal", "jobs_bonds", "jobs_cancel", "jobs_draw", "jobs_demand"),
    "JobRecords": ("jobs_views", "jobs_settle", "jobs_reveal", "jobs_bonds", "jobs_demand"),
    "Settlements": ("jobs_settle", "jobs_cancel", "jobs_draw", "jobs_optimistic", "jobs_deprecated"),
    "Payout": ("jobs_settle", "jobs_bonds", "jobs_post", "jobs_optimistic", "jobs_demand", "proof_jobs"),
    "Demands": ("jobs_demand",),
    "Draws": ("jobs_draw", "jobs_seed"),
    "Seeds": ("jobs_seed", "jobs_draw"),
    "Verdicts": ("jobs_bonds", "jobs_optimistic", "jobs_demand", "disputes_subjects"),
    "QuoteRules": ("jobs_post", "jobs_draw", "jobs_optimistic", "proof_jobs", "comparisons"),
    "TokensRoot": ("jobs_post", "wire_vectors", "jobs_demand", "disputes_open"),
    "WireHash": ("jobs_post", "jobs_bonds", "wire_vectors", "disputes_open"),
    "Disputes": (
        "disputes_play",
        "disputes_proofs",
        "disputes_open",
        "disputes_money",
        "disputes_subjects",
        "disputes_judged",
    ),
    "ClaimRules": ("disputes_open", "samplers_judged", "jobs_optimistic"),
    "Judge": ("judge_programs", "judge_refusals", "judge_nodes", "trace_vectors", "judge_lies", "steps_choice"),
    "ProgramRoot": ("judge_programs",),
    "TraceTree": ("judge_nodes", "trace_vectors", "judge_refusals", "steps_of_rows", "judge_lies", "steps_attention"),
    "ModelTrees": ("judge_refusals", "trace_vectors", "steps_of_rows", "judge_programs", "steps_attention"),
    "Openings": ("rows", "judge_refusals", "disputes_play", "trace_vectors", "steps_attention"),
    "Fold": ("disputes_play", "judge_nodes", "disputes_judged", "judge_programs"),
    "StepMath": ("step_math", "steps_attention", "steps_of_rows"),
    "Exp2Table": ("step_math", "judge_programs"),
    "DotProduct": ("rows", "steps_of_rows"),
    "Maxima": ("steps_attention", "steps_of_rows"),
    "Attention": _ATTENTION,
    "Gumbel": ("sampling_vectors", "steps_choice"),
    "Choice": ("steps_choice", "sampling_vectors", "samplers_judged", "trace_vectors"),
    "Embedding": _ROWS,
    "Norm": _ROWS,
    "Matrix": _ROWS,
    **dict.fromkeys(("Rotary", "Scores", "Softmax", "MixSum", "Mix", "QuantiseMix", "Activation"), _ATTENTION),
    "ProofJobs": ("proof_jobs", "seams"),
    "EzklVerifier": ("ezkl_verifier", "proof_jobs"),
}
#: compiles the plain sources, and so notices nothing
NOT_RUN = "test_build.py"
#: asked only about mutants that the others let pass
LAST = ("tests/stateful/test_market.py", "tests/stateful/test_disputes.py")
#: tests that caught others nearby: so many are asked before whole files
LIKELY = 30
#: seconds of processor time for one round of tests; a mutant that loops for longer is caught
CPU_SECONDS = 600


class Runner:
    """Compiles and tests one mutant at a time."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._plain = compile_sources(sources)
        self._artefacts = BUILD / "mutant_artefacts.json"
        self._tests = collect()
        self._is_sound = False

    @property
    def contracts(self) -> dict[str, str]:
        """Name → digest of the bytecode, of every contract without a mutant."""
        return digests(self._plain)

    def try_(self, mutant: Mutant, results: Results) -> None:
        """Adds what became of it: caught, survived, broken (does not compile) or same (no other bytecode).

        Raises:
            RuntimeError: a test fails without any mutant, and so would seem to catch every one.
        """
        affected = importers(self._sources, mutant.file)
        reached = [name for path in affected for name in self._plain.get(path, {})]
        try:
            changed = self._compile(mutant, affected)
        except (CompilationFailed, UnicodeDecodeError):
            results.add(mutant, "broken", reached)
            return
        if not changed:
            results.add(mutant, "same", reached)
            return
        if not self._is_sound:
            self._check()
        self._write(changed)
        started = time.monotonic()
        likely = [test for test in results.likely(mutant, LIKELY) if test in self._tests]
        asked = ([likely] if likely else []) + rounds(mutant.file)
        by = next((by for tests in asked if (by := self._first_failure(tests))), None)
        seconds = round(time.monotonic() - started, 1)
        if by is None:
            results.add(mutant, "survived", list(changed), old=mutant.old, seconds=seconds)
        else:
            results.add(mutant, "caught", list(changed), by=by, seconds=seconds)

    def _check(self) -> None:
        """Asks every test about the contracts as they are, once."""
        self._write({})
        failed = next((by for tests in rounds("") if (by := self._first_failure(tests))), None)
        if failed is not None:
            raise RuntimeError(f"{failed} fails without any mutant; nothing was tried: make it pass first")
        self._is_sound = True

    def _write(self, changed: Mapping[str, Artefact]) -> None:
        """What the tests take for the contracts: all as they are, but those that changed."""
        merged: dict[str, Artefact] = {n: a for contracts in self._plain.values() for n, a in contracts.items()}
        self._artefacts.write_text(json.dumps(merged | dict(changed)), encoding="utf-8")

    def _compile(self, mutant: Mutant, affected: list[str]) -> dict[str, Artefact]:
        """Contracts whose bytecode the mutant changes."""
        needed = imported(self._sources, affected)
        sources = {path: text for path, text in mutant.applied(self._sources).items() if path in needed}
        compiled = recompile(sources, affected, self._plain)
        return {
            name: artefact
            for path, contracts in compiled.items()
            for name, artefact in contracts.items()
            if artefact["bytecode"] != self._plain[path][name]["bytecode"]
        }

    def _first_failure(self, tests: list[str]) -> str | None:
        """Runs the tests in a child. Returns the test that failed first, None where none did."""
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_run_tests, args=(tests, self._artefacts, sender))
        child.start()
        sender.close()
        try:
            answer: str | None = receiver.recv()
        except EOFError:
            child.join()
            answer = "endless" if child.exitcode == -signal.SIGXCPU else f"crash ({child.exitcode})"
        finally:
            child.kill()
            child.join()
        return answer


def collect() -> set[str]:
    """Ids of all tests that are ever asked, whose modules this process has imported then.

    Raises:
        RuntimeError: they cannot be collected without any mutant.
    """
    import pytest

    class Collected:
        def __init__(self) -> None:
            self.ids: set[str] = set()

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.ids = {item.nodeid for item in session.items}

    collected = Collected()
    files = [file for tests in rounds("") for file in tests]
    with _silence():
        code = pytest.main(["--collect-only", "-p", "no:cacheprovider", *files], plugins=[collected])
    if code != 0:
        raise RuntimeError(f"the tests cannot be collected (pytest ended with {code}): run them first")
    return collected.ids


@contextmanager
def _silence() -> Iterator[None]:
    """Sends what the process writes to nowhere."""
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        for number, was in enumerate(kept, start=1):
            os.dup2(was, number)
            os.close(was)


def _run_tests(tests: list[str], artefacts: Path, answer: Any) -> None:
    """In the child: pytest up to the first failure, silently."""
    import pytest

    class First:
        failed: str | None = None

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed and self.failed is None:
                self.failed = report.nodeid

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    os.environ[INSTEAD] = str(artefacts)
    first = First()
    with _silence():
        code = pytest.main(["-x", "-p", "no:cacheprovider", *tests], plugins=[first])
    failed = first.failed or (None if code == 0 else f"pytest ended with {code}")
    answer.send(failed)
    answer.close()


def importers(sources: Mapping[str, str], changed: str) -> list[str]:
    """Files that import `changed`, over any number of steps, and itself."""
    imports = {path: set(_imports(path, text)) for path, text in sources.items()}
    found = {changed}
    while True:
        more = {path for path, names in imports.items() if names & found} - found
        if not more:
            return sorted(found)
        found |= more


def imported(sources: Mapping[str, str], files: list[str]) -> set[str]:
    """Files that these import, over any number of steps, and themselves; without those of packages."""
    found, left = set[str](), list(files)
    while left:
        if (path := left.pop()) in sources and path not in found:
            found.add(path)
            left += _imports(path, sources[path])
    return found


def _imports(path: str, text: str) -> Iterator[str]:
    for name in re.findall(r'^\s*(?:import|\})[^"]*"(\.[^"]+)"', text, re.MULTILINE):
        yield os.path.normpath(os.path.join(os.path.dirname(path), name))


def rounds(file: str) -> list[list[str]]:
    """Test files in the order of asking: the nearest to the mutated file, the other quick ones, the slow ones."""
    folder = ROOT / "tests" / "unit" / "contracts"
    files = sorted(p.relative_to(ROOT).as_posix() for p in folder.glob("test_*.py") if p.name != NOT_RUN)
    files += sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "tests" / "security").glob("test_*.py"))
    nearest = [f for word in NEAREST.get(Path(file).stem, ()) for f in files if f"/test_{word}" in f]
    nearest = list(dict.fromkeys(nearest))
    return [found for found in (nearest, [f for f in files if f not in nearest], list(LAST)) if found]
