"""Writes the table of audit rates in docs/auditing.md; `--check` only compares.

python -m tools.audit_table [--check]
"""

from __future__ import annotations

import re
import sys
from fractions import Fraction
from pathlib import Path

from market.audit import BPS, Stakes, break_even

PAGE = Path(__file__).parent.parent / "docs" / "auditing.md"
SHARE_BPS = 3_000
BONDS = (Fraction(3, 2), Fraction(2), Fraction(3), Fraction(5), Fraction(10), Fraction(20), Fraction(50), Fraction(100))
COLLUDING = (0, 25, 50, 75, 90)
BRIBES = (0, 1, 10)
_PRICE = 1_000_000
_MARKERS = re.compile(r"<!-- audit-rates -->.*?<!-- /audit-rates -->", re.DOTALL)


def table() -> str:
    """Break-even rates in percent, rounded up, for a cheater that saves its whole price."""
    lines = [
        "| bond, in prices | bribe, in prices | " + " | ".join(f"{share} % collude" for share in COLLUDING) + " |",
        "|---|---|" + "---|" * len(COLLUDING),
    ]
    for bond in BONDS:
        for bribe in BRIBES:
            stakes = Stakes(_PRICE, int(bond * _PRICE), SHARE_BPS, saved=_PRICE, bribe=bribe * _PRICE)
            cells = [_percent(break_even(stakes, Fraction(share, 100))) for share in COLLUDING]
            lines.append(f"| {float(bond):g} | {bribe} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(rate: Fraction | None) -> str:
    return "no rate" if rate is None else f"{-(-rate.numerator * BPS // rate.denominator) / 100:.2f} %"


def main(arguments: list[str]) -> int:
    page = PAGE.read_text(encoding="utf-8")
    block = f"<!-- audit-rates -->\n{table()}\n<!-- /audit-rates -->"
    changed, count = _MARKERS.subn(lambda _: block, page)
    if count != 1:
        print(f"{PAGE.name} lacks the markers of the table", file=sys.stderr)
        return 2
    if arguments == ["--check"]:
        if changed != page:
            print(f"{PAGE.name} is out of date: python -m tools.audit_table", file=sys.stderr)
        return int(changed != page)
    PAGE.write_text(changed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
