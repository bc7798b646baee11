"""Writes every mutant that slither's mutators make of the shipped contracts. Runs inside .venv-security:

    .venv-security/bin/python -P tools/security/generate_mutants.py OUTPUT.json

The mutators are slither-mutate's; its driver is not used, because it edits the sources in place, compiles with its own
compiler call and forgets everything when it is stopped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

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
                for file, patches in made._mutate().get("patches", {}).items():
                    path = Path(file).relative_to(root).as_posix()
                    found += [
                        {
                            "mutator": made.NAME,
                            "file": path,
                            "line": patch["line_number"],
                            "start": patch["start"],
                            "end": patch["end"],
                            "new": patch["new_string"],
                        }
                        for patch in patches
                    ]
    output.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
