"""Log-probabilities beside an answer: asked for with the delivery, told with the output, proved by nobody.

They are no part of the output: not hashed on chain, not signed, not paid (docs/numerics.md, section 11). Whoever holds
the model's pack can compute them: `market.inference.log_probabilities.recomputed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from client.errors import BadRequest
from market.api import LogProbabilitiesBody
from market.errors import WireError
from market.inference.log_probabilities import ENTRIES_LIMIT, TOP_LIMIT


@dataclass(frozen=True)
class LikelyToken:
    """A token, the natural logarithm of its probability in Q16, and its text (None where there is no tokenizer)."""

    id: int
    ln_q16: int
    text: str | None = None

    @property
    def probability(self) -> float:
        """For people; what is exact is `ln_q16`."""
        return math.exp(self.ln_q16 / 65536)

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "ln_q16": self.ln_q16, "text": self.text}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(data["id"], data["ln_q16"], data["text"])


@dataclass(frozen=True)
class TokenLogProbabilities:
    """Of one token of the answer, and of the likeliest in its place, likeliest first.

    They are the model's own, whatever the sampler made of them: at temperature 1, without top-k and top-p.
    """

    chosen: LikelyToken
    top: tuple[LikelyToken, ...]

    def to_json(self) -> dict[str, Any]:
        return {"chosen": self.chosen.to_json(), "top": [token.to_json() for token in self.top]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(LikelyToken.from_json(data["chosen"]), tuple(map(LikelyToken.from_json, data["top"])))

    def with_texts(self, text_of: Callable[[int], str]) -> TokenLogProbabilities:
        def told(token: LikelyToken) -> LikelyToken:
            return replace(token, text=text_of(token.id))

        return TokenLogProbabilities(told(self.chosen), tuple(map(told, self.top)))


def check_wanted(top: int, max_output_tokens: int) -> None:
    """Raises BadRequest unless an answer of that length can come with so many."""
    if not 0 <= top <= TOP_LIMIT:
        raise BadRequest(f"Log-probabilities are told of up to {TOP_LIMIT} likeliest tokens, not of {top}.")
    if top and (top + 1) * max_output_tokens > ENTRIES_LIMIT:
        raise BadRequest(
            f"{top} likeliest tokens for each of up to {max_output_tokens} are {(top + 1) * max_output_tokens} "
            f"log-probabilities with their own; an answer holds {ENTRIES_LIMIT}.",
            hint="Nothing was sent. Ask for fewer, or for a shorter answer.",
            limit=ENTRIES_LIMIT,
        )


def read(body: LogProbabilitiesBody, ids: Sequence[int]) -> tuple[TokenLogProbabilities, ...]:
    """What a provider tells of its output's ids.

    Raises:
        WireError: not one entry for each id, or the likeliest are not in their order. That the numbers are right is
            not checked here.
    """
    if not len(body.chosen) == len(body.top_ids) == len(body.top) == len(ids):
        raise WireError(f"it told of {len(body.chosen)} tokens, the answer has {len(ids)}")
    told = []
    for token, ln, top_ids, top in zip(ids, body.chosen, body.top_ids, body.top, strict=True):
        if len(top_ids) != len(top) or top != sorted(top, reverse=True):
            raise WireError("its likeliest tokens are not in their order")
        likeliest = tuple(LikelyToken(*each) for each in zip(top_ids, top, strict=True))
        told.append(TokenLogProbabilities(LikelyToken(token, ln), likeliest))
    return tuple(told)
