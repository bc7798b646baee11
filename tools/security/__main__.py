"""make test-security: the slow checks of the contracts.

    python -m tools.security              all of them
    python -m tools.security branches     one: slither, halmos, branches or mutants

Environment: MUTANTS, how many mutants to try (150); SEED, which ones (0). Results: build/security.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from tools.security import branches, findings, mutants, proofs

CHECKS: dict[str, Callable[[], bool]] = {
    "slither": findings.run,
    "halmos": proofs.run,
    "branches": branches.measure,
    "mutants": lambda: mutants.run(int(os.environ.get("MUTANTS") or 150), int(os.environ.get("SEED") or 0)),
}


def main(names: list[str]) -> int:
    """Exit code: 0 all hold, 1 one does not, 2 there is no such check."""
    if set(names) - set(CHECKS):
        print(__doc__)
        return 2
    failed = [name for name in names or CHECKS if not CHECKS[name]()]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
