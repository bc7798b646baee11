"""Mutation testing of the contracts: do the tests notice when one operator, statement or rule is another?

slither's mutators make the mutants (generate_mutants.py); a seed puts them in order and the first that count are tried,
one after the other. A mutant that does not compile, or compiles to the same bytecode, does not count. Each is compiled
out of memory and tested in a forked process (mutant_runner.py), so nothing under contracts/ changes, and every result
is written down at once (mutant_results.py): a run that was stopped goes on where it was, and one after a change of some
contracts tries only mutants of those.

    MUTANTS=150 SEED=0 python -m tools.security mutants
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import subprocess
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.compiler import ROOT, read_sources
from tools.security import measured
from tools.security.environment import BINARIES, BUILD, with_forge
from tools.security.mutant_results import Results
from tools.security.mutant_runner import Runner

RESULTS = BUILD / "mutants.json"
EQUIVALENT = ROOT / "tests" / "security" / "equivalent_mutants.toml"
REQUIRED = 0.95


@dataclass(frozen=True)
class Mutant:
    """mutator: slither's name; start, end: bytes of `file` that `new` replaces; line: from 1; old: what was there;
    place: its line's text, and which of several such lines, so that it stays the same mutant when others move it."""

    mutator: str
    file: str
    line: int
    start: int
    end: int
    old: str
    new: str
    place: str

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.file}:{self.place}:{self.old}:{self.new}".encode()).hexdigest()[:12]

    def rank(self, seed: int) -> str:
        """Its place in the order of a seed, whichever other mutants there are."""
        return hashlib.sha256(f"{seed}:{self.id}".encode()).hexdigest()

    def applied(self, sources: Mapping[str, str]) -> dict[str, str]:
        """The sources with this one changed."""
        text = sources[self.file].encode()
        changed = text[: self.start] + self.new.encode() + text[self.end :]
        return dict(sources) | {self.file: changed.decode()}

    def __str__(self) -> str:
        old, new = (" ".join(text.split())[:110] for text in (self.old, self.new))
        return f"{self.id} {self.mutator} {self.file}:{self.line}\n    - {old}\n    + {new}"


def run(count: int, seed: int) -> bool:
    """Tries `count` mutants. Returns whether enough of them were caught."""
    sources = read_sources()
    mutants = sorted(generate(sources), key=lambda mutant: mutant.rank(seed))
    equivalent = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    runner = Runner(sources)
    results = Results(RESULTS, runner.contracts, digest(_test_files()))
    results.keep_only({mutant.id for mutant in mutants})
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
    summary = {"tried": tried, "caught": counted["caught"], "survived": counted["survived"], "sample": sample}
    is_reported = results.report(summary, measured.present())
    print(
        f"mutants: {counted['caught']} of {tried} caught ({share:.2%}; {REQUIRED:.0%} needed); {counted['equivalent']} "
        f"explained as equivalent; sample of {count} with seed {seed} out of {len(mutants)}"
    )
    if not is_reported:
        print(f"mutants: {RESULTS.name} keeps the larger sample that was tried before: {results.summary}")
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
    return placed(json.loads(made.read_text(encoding="utf-8")), sources)


def placed(found: list[dict[str, Any]], sources: Mapping[str, str]) -> list[Mutant]:
    """What slither's mutators found ({mutator, file, line, start, end, new}), each once, without unused increments."""
    texts = {path: text.encode() for path, text in sources.items()}
    unique = {(raw["file"], raw["start"], raw["end"], raw["new"]): raw for raw in found}
    seen: Counter[tuple[str, str, str]] = Counter()
    mutants = []
    for (file, start, end, new), raw in sorted(unique.items()):
        text = texts[file]
        first, after = text.rfind(b"\n", 0, start) + 1, (text + b"\n").find(b"\n", start)
        line = text[first:after].decode(errors="replace")
        where = f"{start - first - (len(line) - len(line.lstrip()))}:{end - start}:{line.strip()}"
        seen[file, where, new] += 1
        place = f"{where}:{seen[file, where, new]}"
        mutant = Mutant(old=text[start:end].decode(errors="replace"), place=place, **raw)
        if not is_unused_increment(mutant, sources):
            mutants.append(mutant)
    return mutants


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


def _test_files() -> Iterator[tuple[str, str]]:
    for folder in ("tests/unit/contracts", "tests/security", "tests/stateful"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def digest(files: Any) -> str:
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()[:16]
