"""The security tools: what counts as a branch, which mutants count, which findings are open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.revm import RevmChain
from tools.compiler import ROOT, CompilationFailed, compile_sources, recompile, syntax_trees
from tools.security.findings import Finding, compare, read
from tools.security.instrument import Side, assembly_conditions, instrument
from tools.security.mutant_results import Results
from tools.security.mutant_runner import NEAREST, imported, importers, rounds
from tools.security.mutants import Mutant, is_explained, is_unused_increment, placed
from tools.security.proofs import written

PATH = "contracts/Sample.sol"
SAMPLE = {
    PATH: """// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

contract Sample {
    error No(uint256 value);

    uint256 public count;

    modifier small(uint256 value) {
        if (value > 9) revert No(value);
        _;
    }

    function plain(uint256 value) external pure small(value) returns (uint256) {
        return value == 3 ? 1 : 2;
    }

    function writes(uint256 value) external small(value) {
        for (uint256 i; i < value && value != 7; ++i) ++count;
        if (value == 8) revert No(value);
    }

    function tries(uint256 value) external returns (bool) {
        try this.writes(value) {
            return true;
        } catch {}
        return false;
    }
}
"""
}


@pytest.fixture(scope="module")
def sample() -> tuple[RevmChain, Contract, list[Side]]:
    changed, sides = instrument(SAMPLE, syntax_trees(SAMPLE), SAMPLE)
    artefact = compile_sources(changed, strict=False)[PATH]["Sample"]
    chain = RevmChain([artefact])
    return chain, chain.deploy(artefact, sender="0x" + "aa" * 20), sides


def taken(sample: tuple[RevmChain, Contract, list[Side]]) -> set[str]:
    chain, _, sides = sample
    asked = chain.asked()
    return {f"{s.line} {s.function} {s.text} {s.outcome}" for s in sides if s.address in asked}


def test_sides_are_every_condition_twice_a_modifiers_for_each_function_and_every_clause(
    sample: tuple[RevmChain, Contract, list[Side]],
) -> None:
    found = [f"{s.line} {s.function}: {s.kind} {s.text} {s.outcome}" for s in sample[2]]
    assert sorted(found) == sorted(
        [
            *(f"10 small for {f}: if value > 9 {o}" for f in ("plain", "writes") for o in ("true", "false")),
            *(f"15 plain: ?: value == 3 {o}" for o in ("true", "false")),
            *(f"19 writes: for i < value {o}" for o in ("true", "false")),
            *(f"19 writes: for value != 7 {o}" for o in ("true", "false")),
            *(f"20 writes: if value == 8 {o}" for o in ("true", "false")),
            "24 tries: try  success",
            "26 tries: try  catch",
        ]
    )


def test_side_is_taken_once_it_ran_also_in_a_static_call_and_in_one_that_reverts(
    sample: tuple[RevmChain, Contract, list[Side]],
) -> None:
    chain, contract, _ = sample
    assert taken(sample) == set()
    assert contract.plain(3) == 1
    assert taken(sample) == {"10 small for plain value > 9 false", "15 plain value == 3 true"}
    with chain.undone(), pytest.raises(Revert):
        contract.writes(8)
    assert {"20 writes value == 8 true", "19 writes i < value false"} <= taken(sample)
    assert contract.tries(12) is False
    assert {"10 small for writes value > 9 true", "26 tries  catch"} <= taken(sample)
    assert "10 small for plain value > 9 true" not in taken(sample)
    assert "24 tries  success" not in taken(sample)
    assert contract.count() == 0


# --- mutants


def test_conditions_inside_assembly_are_counted_and_have_no_side() -> None:
    text = SAMPLE[PATH].replace(
        "if (value == 8) revert No(value);",
        "assembly { if value { for {} lt(value, 9) {} { value := add(value, 1) } } }",
    )
    tree = syntax_trees({PATH: text})[PATH]
    assert assembly_conditions(tree) == 2
    assert assembly_conditions(syntax_trees(SAMPLE)[PATH]) == 0
    _, sides = instrument({PATH: text}, {PATH: tree}, {PATH: text})
    assert all("lt(value" not in side.text and side.line != 20 for side in sides)


def mutant(**changes: Any) -> Mutant:
    text = SAMPLE[PATH]
    old = changes.pop("old", "value == 3")
    start = text.encode().index(old.encode())
    values = {
        "mutator": "ROR",
        "file": PATH,
        "line": 15,
        "start": start,
        "end": start + len(old),
        "new": "value != 3",
        "place": "",
    }
    return Mutant(old=old, **(values | changes))


def test_mutant_replaces_bytes_of_one_file_and_nothing_else() -> None:
    sources = SAMPLE | {"contracts/Other.sol": "ß"}
    changed = mutant().applied(sources)
    assert changed[PATH] == SAMPLE[PATH].replace("value == 3", "value != 3")
    assert changed["contracts/Other.sol"] == "ß"


def test_increment_whose_value_nobody_sees_changes_nothing_by_its_place() -> None:
    assert is_unused_increment(mutant(old="++count", new="count++"), SAMPLE)
    assert is_unused_increment(mutant(old="++i", new="i++"), SAMPLE)
    assert not is_unused_increment(mutant(old="++count", new="--count"), SAMPLE)
    assert not is_unused_increment(mutant(), SAMPLE)
    used = {PATH: "uint256 a = ++count;"}
    assert not is_unused_increment(Mutant("UOR", PATH, 1, 12, 19, "++count", "count++", ""), used)


def test_explained_mutant_is_one_of_that_file_that_text_and_that_change() -> None:
    entry = {"file": "contracts/*", "change": r"(\w+) == 3 => \1 != 3", "reason": "for the test"}
    assert is_explained(mutant(), [entry])
    assert not is_explained(mutant(new="value < 3"), [entry])
    assert not is_explained(mutant(), [entry | {"file": "contracts/Other.sol"}])


def test_importers_are_found_over_any_number_of_steps() -> None:
    sources = {
        "contracts/A.sol": 'import {B} from "./libraries/B.sol";',
        "contracts/libraries/B.sol": 'import {\n    C\n} from "../interfaces/C.sol";',
        "contracts/interfaces/C.sol": "",
        "contracts/D.sol": "",
    }
    assert importers(sources, "contracts/interfaces/C.sol") == sorted(set(sources) - {"contracts/D.sol"})
    assert importers(sources, "contracts/D.sol") == ["contracts/D.sol"]


def test_nearest_tests_are_asked_first_and_each_once() -> None:
    near, rest, last = rounds("contracts/Vault.sol")
    assert near
    assert all("test_vault" in file for file in near)
    assert not set(near) & set(rest)
    assert "tests/unit/contracts/test_jobs_post.py" in rest
    assert all((ROOT / file).is_file() for file in (*near, *rest, *last))


def test_every_shipped_source_has_tests_that_are_asked_first() -> None:
    contracts = ROOT / "contracts"
    shipped = {p.stem for folder in (".", "libraries", "steps") for p in (contracts / folder).glob("*.sol")}
    assert set(NEAREST) == shipped
    for name in shipped:
        assert len(rounds(f"contracts/{name}.sol")[0]) < len(rounds("")[0])


def test_compiler_is_given_what_the_affected_files_import_and_nothing_else() -> None:
    sources = {
        "contracts/A.sol": 'import {B} from "./libraries/B.sol";\nimport {M} from "@openzeppelin/M.sol";',
        "contracts/libraries/B.sol": 'import {C} from "../interfaces/C.sol";',
        "contracts/interfaces/C.sol": "",
        "contracts/D.sol": "",
    }
    assert imported(sources, ["contracts/A.sol"]) == set(sources) - {"contracts/D.sol"}


def test_recompiled_contract_is_the_one_that_a_whole_compilation_makes() -> None:
    before = compile_sources(SAMPLE)
    assert recompile(SAMPLE, [PATH], before) == before
    changed = mutant().applied(SAMPLE)
    assert recompile(changed, [PATH], before) == compile_sources(changed) != before
    with pytest.raises(CompilationFailed):
        recompile(mutant(new="value ===").applied(SAMPLE), [PATH], before)


def found_at(text: str, old: str, after: str = "") -> dict[str, Any]:
    start = text.encode().index(old.encode(), text.encode().index(after.encode()))
    place = {"start": start, "end": start + len(old), "line": text.count("\n", 0, start) + 1}
    return {"mutator": "ROR", "file": PATH, "new": "value != 3", **place}


def test_mutant_stays_the_same_when_others_move_it() -> None:
    text = "// SPDX\nif (value == 3) a();\nif (value == 3) a();\n"
    moved = text.replace("// SPDX\n", "// SPDX\nuint256 more;\n    ")
    before = placed([found_at(text, "value == 3"), found_at(text, "value == 3", "a();")], {PATH: text})
    after = placed([found_at(moved, "value == 3"), found_at(moved, "value == 3", "a();")], {PATH: moved})
    assert [m.id for m in before] == [m.id for m in after]
    assert before[0].start != after[0].start
    assert before[0].id != before[1].id
    assert before[0].rank(0) != before[0].rank(1)


def test_results_survive_a_stop_and_forget_what_no_longer_holds(tmp_path: Path) -> None:
    path = tmp_path / "mutants.json"
    caught, survived = mutant(), mutant(new="value > 3")
    now = {"Sample": "1", "Other": "1"}
    first = Results(path, now, "tests")
    first.add(caught, "caught", ["Sample"], by="a test")
    first.add(survived, "survived", ["Sample"])
    again = Results(path, now, "tests")
    assert (again.of(caught) or {})["by"] == "a test"
    assert (again.of(survived) or {})["result"] == "survived"
    more_tests = Results(path, now, "more tests")
    assert more_tests.of(caught) is not None
    assert more_tests.of(survived) is None
    other_contract = Results(path, now | {"Other": "2"}, "tests")
    assert other_contract.of(caught) is not None
    assert other_contract.of(survived) is None
    assert Results(path, now | {"Sample": "2"}, "tests").of(caught) is None
    assert Results(path, {"Other": "1"}, "tests").of(caught) is None


def test_tests_that_caught_a_mutant_and_its_neighbours_are_asked_first(tmp_path: Path) -> None:
    path = tmp_path / "mutants.json"
    results = Results(path, {"Sample": "1"}, "tests")
    assert results.likely(mutant(), 3) == []
    for line, by in ((90, "far"), (16, "near"), (17, "near"), (14, "own")):
        results.add(mutant(line=line, new=str(line)), "caught", ["Sample"], by=by)
    results.add(mutant(file="contracts/Other.sol", new="5"), "caught", ["Sample"], by="of another file")
    assert results.likely(mutant(), 3) == ["near", "own", "far"]
    changed = Results(path, {"Sample": "2"}, "tests")
    assert changed.likely(mutant(line=90, new="90"), 2) == ["far", "near"]
    changed.keep_only(set())
    assert changed.likely(mutant(), 3) == []


# --- findings


def found(check: str, function: str) -> dict[str, Any]:
    parent = {"type": "contract", "name": "Vault"}
    element = {"type": "function", "name": function, "type_specific_fields": {"parent": parent}}
    return {"check": check, "impact": "Medium", "description": "text", "elements": [element]}


def test_finding_is_open_until_explained_and_an_explanation_stale_once_it_is_gone() -> None:
    findings = read({"success": True, "results": {"detectors": [found("a", "pay"), found("b", "fund")]}})
    assert findings[0] == Finding("a", "Medium", "Vault.pay", "text")
    open_, stale = compare(findings, [{"check": "a", "where": ["Vault.pay", "Vault.bond"], "reason": "r"}])
    assert [finding.check for finding in open_] == ["b"]
    assert stale == [{"check": "a", "where": "Vault.bond"}]


def test_slither_that_failed_is_no_clean_bill() -> None:
    with pytest.raises(ValueError, match="no compiler"):
        read({"success": False, "error": "no compiler", "results": {}})


def test_specifications_are_counted_so_that_none_is_forgotten() -> None:
    assert {"check_deposit", "check_quoteBindsEveryField", "check_commitBondsTheCallerAlone"} <= written()
