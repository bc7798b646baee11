"""What was measured on other contracts is not shown as a figure of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import adversity
from tools.security import branches, measured
from tools.security.instrument import Side
from tools.security.mutant_results import Results
from tools.security.mutants import Mutant

NOW = {"Vault": "1", "Jobs": "1"}
LATER = NOW | {"Jobs": "2"}
SAMPLE = {"size": 3, "seed": 7, "of": 9_000, "equivalent": 1}
UNMEASURED = "not measured since the contracts changed: make test-security"
SIDES = [Side("contracts/Jobs.sol", 1, "post", "if", "a", way, f"0x{way}") for way in ("true", "false")]
TAKEN = {side.address for side in SIDES}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(adversity, "SECURITY", tmp_path)
    monkeypatch.setattr(branches, "REPORT", tmp_path / "branch_coverage.json")
    monkeypatch.setattr(measured, "present", lambda: NOW)
    return tmp_path


def mutant(number: int) -> Mutant:
    return Mutant("ROR", "contracts/Jobs.sol", number, 0, 1, "a", "b", str(number))


def tried(folder: Path, of: list[str], **summary: Any) -> None:
    """Two mutants that were caught, with what `make test-security` writes about them."""
    results = Results(folder / "mutants.json", NOW | {"Harness": "1"}, "tests")
    for number in range(2):
        results.add(mutant(number), "caught", of, by="a test")
    results.summary = {"sample": SAMPLE, "tried": 2, "caught": 2, "survived": 0, **summary}
    results.write()


def test_branches_are_a_figure_of_the_contracts_they_were_counted_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert branches.report(SIDES, TAKEN, passed=True, unprobed=12)
    row = adversity.coverage_row()
    assert (row.value, row.holds) == (1.0, True)
    assert row.figure.endswith(": 12 conditions inside assembly are not counted")
    monkeypatch.setattr(measured, "present", lambda: LATER)
    row = adversity.coverage_row()
    assert (row.value, row.holds) == (UNMEASURED, None)


def test_branches_that_failing_tests_ran_hold_nothing(folder: Path) -> None:
    assert branches.report(SIDES, TAKEN, passed=False, unprobed=12)
    row = adversity.coverage_row()
    assert (row.value, row.holds) == ("not measured, its tests fail: make test-security", False)


@pytest.mark.parametrize("summary", [{measured.KEY: measured.digest(NOW)}, {}], ids=["digest", "entries alone"])
def test_mutants_are_a_figure_of_the_contracts_they_were_made_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, summary: dict[str, str]
) -> None:
    tried(folder, ["Jobs", "Harness"], **summary)
    row = adversity.mutants_row()
    assert (row.value, row.holds) == (1.0, True)
    assert row.figure.startswith("of 2 mutants")
    assert row.figure.endswith("a sample (seed 7) of the 9,000 there are; 1 that it drew are left out as equivalent")
    monkeypatch.setattr(measured, "present", lambda: LATER)
    row = adversity.mutants_row()
    assert (row.value, row.holds) == (UNMEASURED, None)


def test_report_without_a_digest_says_nothing_unless_its_entries_do(folder: Path) -> None:
    (folder / "branch_coverage.json").write_text(json.dumps({"covered": 9, "total": 9, "missing": []}))
    assert adversity.coverage_row().holds is None
    tried(folder, ["Harness"])  # of contracts that are not shipped
    assert adversity.mutants_row().holds is None


def test_a_smaller_sample_leaves_the_report_of_a_larger_one_on_the_same_contracts(folder: Path) -> None:
    tried(folder, ["Jobs"], **{measured.KEY: measured.digest(NOW)})
    one = {"sample": SAMPLE | {"size": 1, "seed": 8}, "tried": 1, "caught": 1, "survived": 0}

    def results() -> Results:
        return Results(folder / "mutants.json", NOW, "tests")

    assert not results().report(one, NOW)
    assert (results().summary["tried"], results().summary["sample"]) == (2, SAMPLE)
    results().add(mutant(2), "caught", ["Jobs"])  # one more of a run that is killed then
    assert results().summary["tried"] == 2
    assert results().report(one | {"tried": 2}, NOW)
    assert results().summary["sample"]["seed"] == 8
    assert results().report(one, LATER)
    assert (results().summary["tried"], results().summary[measured.KEY]) == (1, measured.digest(LATER))


def test_a_digest_is_of_names_and_bytecode() -> None:
    compiled = {"a.sol": {"A": {"bytecode": "0x00"}}, "b.sol": {"B": {"bytecode": "0x01"}}}
    before = measured.digests(compiled)
    assert set(before) == {"A", "B"}
    assert before["A"] != before["B"]
    compiled["b.sol"]["B"]["bytecode"] = "0x02"
    after = measured.digests(compiled)
    assert before["A"] == after["A"]
    assert measured.digest(before) != measured.digest(after)
