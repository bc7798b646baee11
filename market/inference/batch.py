"""The seam for serving many requests at once: slots that remember a sequence each, and steps that advance some of them.

An engine behind this seam is free to compute the parts of a step together; docs/numerics.md makes every answer the
same as if it were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from market.inference.model import Config, Int64Array
from market.inference.sampling import Picker


class Slot(Protocol):
    """Keys and values of one sequence, for as many positions as the slot was made for."""

    @property
    def length(self) -> int:
        """Positions held."""

    @property
    def capacity(self) -> int:
        """Positions there is room for."""

    def truncate(self, length: int) -> None:
        """Forgets all positions from ``length`` on, which is at most the present length."""


class Want(Enum):
    """What a step is to say of a part, after its last id."""

    NOTHING = 0
    TOKEN = 1  # the likeliest next id, the lowest of equal ones
    LOGITS = 2  # [V] in Q16


@dataclass(frozen=True)
class Part:
    """What a step appends to one slot."""

    slot: Slot
    ids: Sequence[int]  # at least one; length + ids fit the slot
    want: Want


Result = int | Int64Array | None


class BatchEngine(Protocol):
    """Advances several sequences in one step."""

    config: Config

    def new_slot(self, capacity: int) -> Slot:
        """An empty slot; its memory is reserved here, and used as positions come."""

    def step(self, parts: Sequence[Part]) -> list[Result]:
        """Appends each part's ids to its slot (no slot twice); what each part wants."""


def want_of(sampling: Picker | None, log_probabilities: int = 0) -> Want:
    """What the next id, and the log-probabilities that are told of it, are made from."""
    return Want.TOKEN if sampling is None and not log_probabilities else Want.LOGITS


def chosen(result: int | Int64Array, sampling: Picker | None, position: int) -> int:
    """The id for output position ``position``, out of what a step gave for ``want_of(sampling, …)``."""
    if sampling is not None:
        return sampling.pick(np.asarray(result), position)
    return int(result.argmax()) if isinstance(result, np.ndarray) else int(result)  # numpy promises the lowest
