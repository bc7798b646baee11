"""Writes every mutant that slither's mutators make of the shipped contracts. Runs inside .venv-security:

    .venv-security/bin/python -P tools/security/generate_mutants.py OUTPUT.json

The mutators are slither-mutate's; its driver is not used, because it edits the sources in place, compiles with its own
compiler call and forgets everything when it is stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slither import Slither
from slither.tools.mutator.mutators import all_mutators

NOT_SHIPPED = ("contracts/test/", "contracts/examples/", "node_modules/")


def main(output: Path) -> None:
    root = Path.cwd()
    # every name in capitals in slither's list is a mutator
    mutators = [getattr(all_mutators, name) for name in sorted(vars(all_mutators)) if name.isupper()]
    found = []
    for unit in Slither(str(root)).compilation_units:
        for contract in sorted(unit.contracts, key=lambda c: c.name):
            home = Path(contract.source_mapping.filename.absolute).relative_to(root).as_posix()
            if contract.is_interface or home.startswith(NOT_SHIPPED):
                continue
            for mutator in mutators:
                made = mutator(unit, 0, "", "", contract, None, False, output.parent, [])
                for file, patch in _patches(made, contract):
                    found.append(
                        {
                            "mutator": made.NAME,
                            "file": Path(file).relative_to(root).as_posix(),
                            "line": patch["line_number"],
                            "start": patch["start"],
                            "end": patch["end"],
                            "new": patch["new_string"],
                        }
                    )
    output.write_text(json.dumps(found), encoding="utf-8")


def _patches(made: Any, contract: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file, patch) of one mutator in one contract.

    ROR looks for its operator in the text of the node, and fails where the text is a call's that the condition was
    taken out of. Then node by node, without those it fails at.
    """
    try:
        yield from _of(made._mutate())
        return
    except IndexError:
        pass
    nodes = [node for function in contract.functions_and_modifiers_declared for node in function.nodes]
    usual = made.should_mutate_node
    for node in nodes:
        made.should_mutate_node = lambda other, wanted=node: other is wanted and usual(other)
        try:
            yield from _of(made._mutate())
        except IndexError:
            line = node.source_mapping.lines[0]
            print(f"{made.NAME} fails at {node.source_mapping.filename.relative}:{line}", file=sys.stderr)


def _of(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for file, patches in result.get("patches", {}).items():
        yield from ((file, patch) for patch in patches)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
