"""What is known about each mutant, on disk after every one, and which of it still holds once contracts changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.security import measured

if TYPE_CHECKING:
    from tools.security.mutants import Mutant


class Results:
    """One entry per mutant: {result, mutator, file, line, new, of, …}.

    `of` names the contracts whose bytecode decided the result and that bytecode's digest, without the mutant. A result
    holds while those are the same, whatever else changed; that a mutant survived holds only while all contracts and all
    tests are the same. What no longer holds still says which test to ask first.
    """

    def __init__(self, path: Path, contracts: Mapping[str, str], tests: str) -> None:
        """
        Args:
            contracts: name → digest of the bytecode, of every contract as it is now.
            tests: names the content of the tests.
        """
        self._path = path
        self._contracts = contracts
        everything = hashlib.sha256(json.dumps([tests, sorted(contracts.items())]).encode())
        self._seen_by = everything.hexdigest()[:16]
        self._all: dict[str, dict[str, Any]] = {}
        self.summary: dict[str, Any] = {}
        """What the last run that came to its end counted."""
        if path.exists():
            self.summary = json.loads(path.read_text(encoding="utf-8"))
            self._all = self.summary.pop("mutants")

    def of(self, mutant: Mutant) -> dict[str, Any] | None:
        """The entry, where it holds."""
        entry = self._all.get(mutant.id)
        return entry if entry is not None and self._holds(entry) else None

    def likely(self, mutant: Mutant, count: int) -> list[str]:
        """Tests that may well catch it, the likeliest first: the one that did, then those that caught others nearby."""
        known = self._all.get(mutant.id, {}).get("by")
        near = [e for e in self._all.values() if e["file"] == mutant.file and "by" in e]
        near.sort(key=lambda entry: abs(entry["line"] - mutant.line))
        return list(dict.fromkeys([*([known] if known else []), *(e["by"] for e in near)]))[:count]

    def add(self, mutant: Mutant, result: str, of: list[str], **more: Any) -> None:
        """`of`: the contracts that decided."""
        where = {"mutator": mutant.mutator, "file": mutant.file, "line": mutant.line, "new": mutant.new}
        decided = {name: self._contracts[name] for name in sorted(of)}
        if result == "survived":
            more["seen_by"] = self._seen_by
        self._all[mutant.id] = {"result": result, **where, **more, "of": decided}
        self.write()

    def keep_only(self, ids: set[str]) -> None:
        """Forgets mutants that there are no more."""
        self._all = {name: entry for name, entry in self._all.items() if name in ids}

    def report(self, summary: dict[str, Any], contracts: Mapping[str, str]) -> bool:
        """Writes what a run counted, unless there is a report of more mutants of the same contracts.

        Args:
            contracts: those that are shipped (`measured.present`).

        Returns:
            whether the report is this one.
        """
        last = {**self.summary, "mutants": self._all}
        is_smaller = summary["tried"] < self.summary.get("tried", 0) and measured.is_of(last, contracts)
        if not is_smaller:
            self.summary = summary | {measured.KEY: measured.digest(contracts)}
        self.write()
        return not is_smaller

    def write(self) -> None:
        """Writes beside and renames: a killed run leaves the last whole file."""
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({**self.summary, "mutants": self._all}, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self._path)

    def _holds(self, entry: dict[str, Any]) -> bool:
        if entry["result"] == "survived" and entry["seen_by"] != self._seen_by:
            return False
        return all(self._contracts.get(name) == digest for name, digest in entry["of"].items())
