"""Mutation testing of the contracts: do the tests notice when one operator, statement or rule is another?

slither's mutators make the mutants (generate_mutants.py); a seeded shuffle orders them and the first that count are
tried, one after the other. A mutant that does not compile, or compiles to the same bytecode, does not count. Each is
compiled out of memory and tested in a forked process, so nothing under contracts/ changes, and every result is written
down at once: a run that was stopped goes on where it was.

    MUTANTS=150 SEED=0 python -m tools.security mutants
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.compiler import ROOT, Artefact, CompilationFailed, compile_sources, read_sources
from tools.security.environment import BINARIES, BUILD, INSTEAD, with_forge

RESULTS = BUILD / "mutants.json"
EQUIVALENT = ROOT / "tests" / "security" / "equivalent_mutants.toml"
REQUIRED = 0.95
#: a source → the tests that most likely notice; the others follow
NEAREST = {
    "Vault": ("vault",),
    "Registry": ("registry",),
    "Jobs": ("jobs_settle", "jobs_reveal", "jobs_bonds", "jobs_commit", "jobs_cancel", "jobs_post"),
    "Disputes": ("disputes_play", "disputes_open", "disputes_money", "disputes_subjects"),
    "ClaimRules": ("disputes_open",),
    "Verdicts": ("jobs_bonds", "jobs_optimistic", "disputes_subjects"),
    "Payout": ("jobs_settle", "jobs_bonds", "jobs_post"),
    "QuoteRules": ("jobs_post",),
    "JobRecords": ("jobs_views", "jobs_settle", "jobs_reveal"),
    "TokensRoot": ("jobs_post", "wire_vectors"),
    "WireHash": ("jobs_post", "jobs_bonds", "wire_vectors"),
}
#: compiles the plain sources, and so notices nothing
NOT_RUN = "test_build.py"
#: asked only about mutants that the others let pass
LAST = ("tests/stateful/test_market.py", "tests/stateful/test_disputes.py")
#: seconds of processor time for one round of tests; a mutant that loops for longer is caught
CPU_SECONDS = 600


@dataclass(frozen=True)
class Mutant:
    """mutator: slither's name; start, end: bytes of `file` that `new` replaces; line: from 1; old: what was there."""

    mutator: str
    file: str
    line: int
    start: int
    end: int
    old: str
    new: str

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.file}:{self.start}:{self.end}:{self.new}".encode()).hexdigest()[:12]

    def applied(self, sources: Mapping[str, str]) -> dict[str, str]:
        """The sources with this one changed."""
        text = sources[self.file].encode()
        changed = text[: self.start] + self.new.encode() + text[self.end :]
        return dict(sources) | {self.file: changed.decode()}

    def __str__(self) -> str:
        old, new = (" ".join(text.split())[:110] for text in (self.old, self.new))
        return f"{self.id} {self.mutator} {self.file}:{self.line}\n    - {old}\n    + {new}"


class Results:
    """What is known about each mutant of these sources, on disk after every one."""

    def __init__(self, path: Path, sources: str, tests: str) -> None:
        """`sources` and `tests` name the content of both: what was caught stays caught while the sources are the same,
        what survived is tried again when the tests changed."""
        self._path = path
        self._head = {"sources": sources, "tests": tests}
        self._all: dict[str, dict[str, Any]] = {}
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["sources"] == sources:
                same = stored["tests"] == tests
                self._all = {k: v for k, v in stored["mutants"].items() if same or v["result"] != "survived"}

    def of(self, mutant: Mutant) -> dict[str, Any] | None:
        return self._all.get(mutant.id)

    def add(self, mutant: Mutant, result: str, **more: Any) -> None:
        where = {"mutator": mutant.mutator, "file": mutant.file, "line": mutant.line, "new": mutant.new}
        self._all[mutant.id] = {"result": result, **where, **more}
        self.write()

    def write(self, **summary: Any) -> None:
        """Writes beside and renames: a killed run leaves the last whole file."""
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({**self._head, **summary, "mutants": self._all}, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self._path)


def run(count: int, seed: int) -> bool:
    """Tries `count` mutants. Returns whether enough of them were caught."""
    sources = read_sources()
    mutants = generate(sources)
    random.Random(seed).shuffle(mutants)  # noqa: S311
    results = Results(RESULTS, digest(sources.items()), digest(_test_files()))
    equivalent = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    runner = Runner(sources)
    counted = {"caught": 0, "survived": 0, "equivalent": 0}
    survivors: list[Mutant] = []
    started = time.monotonic()
    for mutant in mutants:
        if sum(counted.values()) >= count:
            break
        if is_explained(mutant, equivalent):
            counted["equivalent"] += 1
            continue
        if results.of(mutant) is None:
            runner.try_(mutant, results)
        result = (results.of(mutant) or {})["result"]
        if result not in counted:
            continue
        counted[result] += 1
        if result == "survived":
            survivors.append(mutant)
            print(f"  survived: {mutant}", flush=True)
        if sum(counted.values()) % 10 == 0:
            print(f"  {counted} after {time.monotonic() - started:.0f} s", flush=True)
    tried = counted["caught"] + counted["survived"]
    share = counted["caught"] / tried if tried else 0.0
    sample = {"size": count, "seed": seed, "of": len(mutants), "equivalent": counted["equivalent"]}
    results.write(sample=sample, tried=tried, caught=counted["caught"], survived=counted["survived"])
    print(
        f"mutants: {counted['caught']} of {tried} caught ({share:.2%}; {REQUIRED:.0%} needed); {counted['equivalent']} "
        f"explained as equivalent; sample of {count} with seed {seed} out of {len(mutants)}"
    )
    return share >= REQUIRED


def generate(sources: Mapping[str, str]) -> list[Mutant]:
    """Every mutant of these sources, made anew when they changed."""
    made = BUILD / f"all_mutants-{digest(sources.items())}.json"
    if not made.exists():
        part = made.with_suffix(".part")
        script = Path(__file__).with_name("generate_mutants.py")
        command = [str(BINARIES / "python"), "-P", str(script), str(part)]
        subprocess.run(command, cwd=ROOT, env=with_forge("mutants"), check=True, stdout=subprocess.DEVNULL)
        os.replace(part, made)
    texts = {path: text.encode() for path, text in sources.items()}
    found = [
        Mutant(old=texts[raw["file"]][raw["start"] : raw["end"]].decode(errors="replace"), **raw)
        for raw in json.loads(made.read_text(encoding="utf-8"))
    ]
    unique = {mutant.id: mutant for mutant in found if not is_unused_increment(mutant, sources)}
    return sorted(unique.values(), key=lambda mutant: mutant.id)


def is_explained(mutant: Mutant, equivalent: list[dict[str, str]]) -> bool:
    """Whether a committed entry {file, change, reason} says that this mutant changes nothing that anybody can see.

    `file` is a shell pattern, `change` a regular expression for the whole of "old => new", white space collapsed.
    """
    change = " ".join(f"{mutant.old} => {mutant.new}".split())
    return any(
        fnmatch.fnmatch(mutant.file, entry["file"]) and re.fullmatch(entry["change"], change) for entry in equivalent
    )


def is_unused_increment(mutant: Mutant, sources: Mapping[str, str]) -> bool:
    """Whether `++x` became `x++`, or the other way round, where nobody looks at the value."""
    if sorted(mutant.old) != sorted(mutant.new) or not re.fullmatch(r"(\+\+|--)?[\w.\[\]]+(\+\+|--)?", mutant.old):
        return False
    text = sources[mutant.file].encode()
    before, after = text[: mutant.start].rstrip()[-1:], text[mutant.end :].lstrip()[:1]
    return before in (b";", b"{", b"}", b")") and after in (b";", b")")


class Runner:
    """Compiles and tests one mutant at a time."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._plain = compile_sources(sources)
        self._artefacts = BUILD / "mutant_artefacts.json"

    def try_(self, mutant: Mutant, results: Results) -> None:
        """Adds what became of it: caught, survived, broken (does not compile) or same (no other bytecode)."""
        try:
            changed = self._compile(mutant)
        except (CompilationFailed, UnicodeDecodeError):
            results.add(mutant, "broken")
            return
        if not changed:
            results.add(mutant, "same")
            return
        merged: dict[str, Artefact] = {n: a for contracts in self._plain.values() for n, a in contracts.items()}
        self._artefacts.write_text(json.dumps(merged | changed), encoding="utf-8")
        started = time.monotonic()
        by = next((by for tests in rounds(mutant.file) if (by := self._first_failure(tests))), None)
        seconds = round(time.monotonic() - started, 1)
        if by is None:
            results.add(mutant, "survived", old=mutant.old, seconds=seconds)
        else:
            results.add(mutant, "caught", by=by, seconds=seconds)

    def _compile(self, mutant: Mutant) -> dict[str, Artefact]:
        """Contracts whose bytecode the mutant changes."""
        affected = {path: ["*"] for path in importers(self._sources, mutant.file)}
        compiled = compile_sources(mutant.applied(self._sources), affected, strict=False, keep=False)
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
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    first = First()
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


def _imports(path: str, text: str) -> Iterator[str]:
    for name in re.findall(r'^\s*(?:import|\})[^"]*"(\.[^"]+)"', text, re.MULTILINE):
        yield os.path.normpath(os.path.join(os.path.dirname(path), name))


def rounds(file: str) -> list[list[str]]:
    """Test files in the order of asking: the nearest to the mutated file, the other quick ones, the slow ones."""
    folder = ROOT / "tests" / "unit" / "contracts"
    files = sorted(p.relative_to(ROOT).as_posix() for p in folder.glob("test_*.py") if p.name != NOT_RUN)
    files += sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "tests" / "security").glob("test_*.py"))
    nearest = [f for word in NEAREST.get(Path(file).stem, ("jobs",)) for f in files if f"test_{word}" in f]
    return [nearest, [f for f in files if f not in nearest], list(LAST)]


def _test_files() -> Iterator[tuple[str, str]]:
    for folder in ("tests/unit/contracts", "tests/security", "tests/stateful"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def digest(files: Any) -> str:
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()[:16]
