"""What a running job tells whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """One thing that happened.

    Attributes:
        step: discovery, matching, negotiation, distribution, inference, aggregation, settlement, output.
        text: in words; details: the values behind it.
    """

    step: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Reports to nobody."""
