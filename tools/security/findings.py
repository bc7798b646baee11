"""slither over the contracts: every finding, of any impact, is explained in a committed file or fails the run."""

from __future__ import annotations

import json
import subprocess
import tomllib
from dataclasses import dataclass
from typing import Any

from tools.compiler import ROOT
from tools.security.environment import BINARIES, BUILD, with_forge

TRIAGE = ROOT / "tests" / "security" / "slither.toml"
#: parts of the repository whose findings do not count: other people's code, and contracts that only tests deploy
LEFT_OUT = r"node_modules|contracts/test/"


@dataclass(frozen=True)
class Finding:
    """check: slither's name of the rule; impact: High … Optimization; where: `Contract.function` or `Contract`."""

    check: str
    impact: str
    where: str
    text: str


def run() -> bool:
    """Returns whether every finding is explained, and every explanation explains one."""
    BUILD.mkdir(parents=True, exist_ok=True)
    output = BUILD / "slither.json"
    output.unlink(missing_ok=True)
    command = [str(BINARIES / "slither"), ".", "--filter-paths", LEFT_OUT, "--json", str(output), "--fail-none"]
    done = subprocess.run(command, cwd=ROOT, env=with_forge("slither"), capture_output=True, text=True, check=False)
    if done.returncode != 0 or not output.exists():
        print(f"{done.stdout}{done.stderr}slither itself failed; see above.")
        return False
    findings = read(json.loads(output.read_text(encoding="utf-8")))
    explained = tomllib.loads(TRIAGE.read_text(encoding="utf-8"))["explained"]
    open_, stale = compare(findings, explained)
    for finding in open_:
        print(f"  {finding.impact}: {finding.check} in {finding.where}\n    {finding.text.strip()}")
    for entry in stale:
        print(f"  {TRIAGE.name} explains what slither no longer finds: {entry['check']} in {entry['where']}")
    print(f"slither: {len(findings)} findings, {len(findings) - len(open_)} of them explained")
    return not open_ and not stale


def read(report: dict[str, Any]) -> list[Finding]:
    """The findings of slither's JSON.

    Raises:
        ValueError: slither says that it failed.
    """
    if not report["success"]:
        raise ValueError(f"slither failed: {report['error']}")
    return [
        Finding(found["check"], found["impact"], _where(found["elements"]), found["description"])
        for found in report["results"].get("detectors", [])
    ]


def compare(findings: list[Finding], explained: list[dict[str, Any]]) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Findings nobody explained, and explanations of nothing. `where` of an entry is a list of places."""
    known = {(entry["check"], where) for entry in explained for where in entry["where"]}
    found = {(finding.check, finding.where) for finding in findings}
    stale = [
        {"check": entry["check"], "where": where}
        for entry in explained
        for where in entry["where"]
        if (entry["check"], where) not in found
    ]
    return [finding for finding in findings if (finding.check, finding.where) not in known], stale


def _where(elements: list[dict[str, Any]]) -> str:
    """The innermost function or else contract of the first element."""
    if not elements:
        return ""
    element, names = elements[0], []
    while element and element["type"] != "contract":
        if element["type"] == "function":
            names.append(element["name"])
        element = element.get("type_specific_fields", {}).get("parent", {})
    return ".".join([*([element["name"]] if element else []), *reversed(names)]) or elements[0]["name"]
