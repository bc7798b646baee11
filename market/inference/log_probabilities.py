"""Log-probabilities in fixed point: docs/numerics.md, section 11, vectorised for serving. Integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market.inference.batch import BatchEngine, Part, Want
from market.inference.model import Int64Array
from market.inference.sampling import exp2_negative, minus_ln

TOP_LIMIT = 20
"""Most of the likeliest tokens that are told for each output token."""
ENTRIES_LIMIT = 2048 * (1 + TOP_LIMIT)
"""Most log-probabilities of one answer: as JSON they fit the body of an answer (market.api.BODY_LIMIT)."""

_LOG2_E_Q16 = 94548
_DISTANCE_CAP = 1 << 40  # so far below the best, a weight is 0
_EXPONENT_CAP = 31 << 16


@dataclass(frozen=True)
class LogProbability:
    """ln of the probability that the model itself gives a token, Q16, at most 0.

    The model's own: at temperature 1 and without top-k and top-p, whatever the sampler did.
    """

    token: int
    value_q16: int


@dataclass(frozen=True)
class PositionLogProbabilities:
    """Of one output token, and of the likeliest in its place."""

    chosen: LogProbability
    top: tuple[LogProbability, ...]


def fitting_top(top: int, max_output_tokens: int) -> int:
    """The most of ``top`` likeliest tokens that an answer of that length can have; 0 = no log-probabilities at all."""
    return max(0, min(top, TOP_LIMIT, ENTRIES_LIMIT // max_output_tokens - 1))


def at_position(logits: Int64Array, chosen: int, top: int) -> PositionLogProbabilities:
    """What an answer tells of one output token; see ``log_probabilities``."""
    own, likeliest = log_probabilities(logits, chosen, min(top, len(logits)))
    return PositionLogProbabilities(own, tuple(likeliest))


def recomputed(
    engine: BatchEngine, prompt: Sequence[int], output: Sequence[int], top: int
) -> tuple[PositionLogProbabilities, ...]:
    """The log-probabilities of an answer, computed here: what somebody said of them is true iff it equals this.

    Raises:
        PromptError: an id is outside the vocabulary, or prompt and output are longer than the context.
    """
    slot, told = engine.new_slot(len(prompt) + len(output)), []
    pending = list(prompt)
    for token in output:
        (logits,) = engine.step([Part(slot, pending, Want.LOGITS)])
        told.append(at_position(np.asarray(logits), token, top))
        pending = [token]
    return tuple(told)


def log_probabilities(logits: Int64Array, chosen: int, top: int = 0) -> tuple[LogProbability, list[LogProbability]]:
    """Of the chosen token, and of the ``top`` likeliest, likeliest first (of equal ones the lowest id).

    Args:
        logits: int64 [V], Q16.
        top: 0…V.

    Raises:
        ValueError: ``chosen`` or ``top`` is outside the vocabulary.
    """
    count = len(logits)
    if not 0 <= chosen < count or not 0 <= top <= count:
        raise ValueError(f"a vocabulary of {count} has no token {chosen}, or no {top} likeliest ones")
    distance = logits.max() - logits
    exponents = np.minimum(np.minimum(distance, _DISTANCE_CAP) * _LOG2_E_Q16 >> 16, _EXPONENT_CAP)
    total = int(exp2_negative(exponents).sum(dtype=np.int64))
    log_total = max((-minus_ln(total, 30) + (1 << 79)) >> 80, 0)

    def of(token: int) -> LogProbability:
        return LogProbability(token, -(int(distance[token]) + log_total))

    return of(chosen), [of(token) for token in _largest(distance, top)]


def _largest(distance: Int64Array, top: int) -> list[int]:
    if top == 0:
        return []
    limit = np.partition(distance, top - 1)[top - 1]
    near = np.flatnonzero(distance <= limit)
    ranked: list[int] = near[np.argsort(distance[near], kind="stable")][:top].tolist()
    return ranked
