"""Whether a pack's values fit the leaves of a trace (docs/disputes.md, section 2).

Packing proves bounds that suit engines (docs/numerics.md, section 6); the types of leaves are narrower. A provider that
sold OPTIMISTIC for a pack beyond them could meet a prompt whose honest trace it cannot even write down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
