"""Whether a pack's values fit the leaves of a trace, and its program the judge (docs/disputes.md, section 2).

Packing proves bounds that suit engines (docs/numerics.md, section 6); the types of leaves are narrower. A provider that
sold OPTIMISTIC for a pack beyond them could meet a prompt whose honest trace it cannot even write down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from market.verification.structs import Shape

LIMITS: dict[tuple[str, str], int] = {
    ("residual", "value"): 47,
    ("query", "rotary product"): 31 + 16,  # twice the value, times 2^15
    ("key", "rotary product"): 31 + 16,
    ("scores", "value"): 39,
    ("mix", "sum of weighted values"): 47,
    ("gate", "value"): 31,
    ("up", "value"): 31,
    ("logits", "value"): 31,
}
"""(operation, quantity) of a bound → bits of magnitude that its leaf holds."""


MOST = {
    "context C": 4_096,
    "width D": 1_536,
    "feed-forward width F": 2_048,
    "layers L": 254,
    "heads H": 64,
    "head size S": 64,
    "heads times head size H·S": 2_048,
}
"""Number of a program → the most that the judge accepts (Judge.acceptProgram): beyond D, F and H·S, which are rows that
a step opens whole, a step takes more than 500,000 gas (ADR 34)."""


def beyond_judge(shape: Shape) -> str | None:
    """Which of a program's numbers are too large for the judge, in words; None if none is."""
    values = (shape.context, shape.hidden, shape.feed_forward, shape.layers, shape.heads, shape.head_size)
    found = zip(MOST, (*values, shape.heads * shape.head_size), strict=True)
    beyond = [f"{name} = {value:,} (at most {MOST[name]:,})" for name, value in found if value > MOST[name]]
    return ", ".join(beyond) or None


def beyond_leaves(bounds: Iterable[Mapping[str, Any]]) -> str | None:
    """What of a pack's proved bounds (its manifest's ``bounds``) does not fit its leaf, in words; None if all does.

    Raises:
        ValueError: a bound is missing.
    """
    bits = {(bound["operation"], bound["quantity"]): int(bound["bits"]) for bound in bounds if "quantity" in bound}
    for (operation, quantity), limit in LIMITS.items():
        try:
            proved = bits[operation, quantity]
        except KeyError:
            raise ValueError(f"the pack has no bound for {quantity} of {operation}") from None
        if proved > limit:
            return f"{quantity} of {operation} may need {proved} bits, a leaf holds {limit}"
    return None
