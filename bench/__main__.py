"""`python -m bench [NAME …]`: runs benchmarks, writes build/bench/<name>.json and the tables in docs/benchmarks.md."""

from __future__ import annotations

import importlib
import platform
import re
import sys
import time
from pathlib import Path

from bench.common import Row, write_rows

NAMES = ("gas", "job", "engine", "cuda", "adversity", "audit", "disputes", "proofs")
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    missed = []
    for name in names or NAMES:
        print(f"# {name}", flush=True)
        rows: list[Row] = importlib.import_module(f"bench.{name}").run()
        if not rows:
            continue  # it said why
        write_rows(name, rows)
        text = table(rows)
        print(text, flush=True)
        write_table(name, text)
        missed += [f"{name}.{row.key}" for row in rows if row.holds is False]
    if missed:
        print(f"bars missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| key | figure | value | peer | ratio | bar | holds |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        peer = f"{row.peer}: {number(row.peer_value)} {row.unit}" if row.peer_value is not None else row.peer
        ratio = "" if row.ratio is None else f"{row.ratio:.4g} ×"
        holds = {None: "", True: "yes", False: "**no**"}[row.holds]
        lines.append(
            f"| `{row.key}` | {row.figure} | {number(row.value)} {row.unit} | {peer} | {ratio} | {row.bar} | {holds} |"
        )
    return "\n".join(lines)


def number(value: float | int | str | None) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def write_table(name: str, text: str) -> None:
    """Replaces the table between the page's markers for this benchmark."""
    stamp = f"Measured {time.strftime('%Y-%m-%d')} on {processor()}."
    block = f"<!-- bench:{name} -->\n{stamp}\n\n{text}\n<!-- /bench:{name} -->"
    page = PAGE.read_text(encoding="utf-8")
    changed, count = re.subn(rf"<!-- bench:{name} -->.*?<!-- /bench:{name} -->", lambda _: block, page, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"docs/benchmarks.md lacks the markers of {name}")
    PAGE.write_text(changed, encoding="utf-8")


def processor() -> str:
    """The processor's name and the number of cores, as /proc/cpuinfo tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = re.findall(r"^model name\s*: (.*)$", text, flags=re.MULTILINE)
    return f"{names[0] if names else platform.machine()}, {max(len(names), 1)} cores"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
