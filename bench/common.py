"""A row of a benchmark, and where rows go."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

BUILD = Path(__file__).parent.parent / "build" / "bench"


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure beside its peer from the same run.

    Attributes:
        key: stable name of the figure; figure: what it is, in words; value, unit: what was measured.
        peer, peer_value: what it is compared with and what that measured; ratio: value against peer_value, or the
            other way round where less is better (the figure says which).
        bar: the goal in words, e.g. "≤ 950"; holds: whether it is met, None where there is no bar.
    """

    key: str
    figure: str
    value: float | int | str
    unit: str
    peer: str = ""
    peer_value: float | int | None = None
    ratio: float | None = None
    bar: str = ""
    holds: bool | None = None


def write_rows(name: str, rows: list[Row]) -> Path:
    """Writes build/bench/<name>.json: a list of the rows as objects."""
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / f"{name}.json"
    path.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return path
