"""The seam between whoever has token ids and whatever computes them: ids in, ids out; no text, no chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from market.hashing import STOP_TOKENS_MAX
from market.inference.errors import PromptError
from market.inference.model import Config
from market.inference.sampling import Picker
from market.types import Finish

if TYPE_CHECKING:
    from market.models.pack import Pack


@dataclass(frozen=True)
class Generation:
    """Output ids and why they end there: STOP (the last id is a stop token), LENGTH or CANCELLED."""

    ids: tuple[int, ...]
    finish: Finish


class Engine(Protocol):
    """A deterministic function from token ids to token ids: every engine of one pack returns the same."""

    config: Config

    def generate(
        self,
        ids: Sequence[int],
        max_output_tokens: int,
        stop_tokens: Sequence[int],
        cancelled: Callable[[], bool] | None = None,
        on_token: Callable[[int], None] | None = None,
        sampling: Picker | None = None,
    ) -> Generation:
        """Continuation of ``ids``: greedy, or with the tokens that ``sampling`` picks.

        ``cancelled`` is asked before each step; ``on_token`` hears each id as soon as it is known. Raises
        PromptError (nothing computed) for an empty prompt, ids outside the vocabulary, more positions than
        the context, or a bad stop list.
        """


def check_request(config: Config, ids: Sequence[int], max_output_tokens: int, stop_tokens: Sequence[int]) -> None:
    """Raises PromptError unless the request fits the limits that the pack was proved for."""
    if not ids:
        raise PromptError("empty", 0, 1, "The prompt has no tokens.", "Send at least one.")
    if max_output_tokens < 1:
        raise PromptError("outputTokens", max_output_tokens, 1, "At least one output token must be asked for.")
    total = len(ids) + max_output_tokens
    if total > config.context:
        raise PromptError(
            "context",
            total,
            config.context,
            f"{len(ids)} prompt tokens and {max_output_tokens} output tokens need {total} positions, the model has "
            f"{config.context}.",
            "Shorten the prompt or ask for fewer tokens.",
        )
    for token in [*ids, *stop_tokens]:
        if not 0 <= token < config.vocabulary:
            top = config.vocabulary - 1
            raise PromptError("vocabulary", token, top, f"Token id {token} is outside 0..{top}.")
    if len(stop_tokens) > STOP_TOKENS_MAX:
        count = len(stop_tokens)
        raise PromptError(
            "stopTokens", count, STOP_TOKENS_MAX, f"{count} stop tokens, but {STOP_TOKENS_MAX} fit a request."
        )


def greedy(
    config: Config,
    ids: Sequence[int],
    max_output_tokens: int,
    stop_tokens: Sequence[int],
    advance: Callable[[Sequence[int]], int],
    chunk: int,
    cancelled: Callable[[], bool] | None = None,
    on_token: Callable[[int], None] | None = None,
) -> Generation:
    """What ``Engine.generate`` is for any engine that can ``advance``: append ids to a sequence of its own, at most
    ``chunk`` at once, and name the likeliest next one.
    """
    check_request(config, ids, max_output_tokens, stop_tokens)
    output: list[int] = []
    for start in range(0, len(ids), chunk):
        if cancelled is not None and cancelled():
            return Generation((), Finish.CANCELLED)
        token = advance(ids[start : start + chunk])
    while True:
        output.append(token)
        if on_token is not None:
            on_token(token)
        if token in stop_tokens:
            return Generation(tuple(output), Finish.STOP)
        if len(output) == max_output_tokens:
            return Generation(tuple(output), Finish.LENGTH)
        if cancelled is not None and cancelled():
            return Generation(tuple(output), Finish.CANCELLED)
        token = advance([token])


def load_engine(pack: Pack, device: str = "cpu", threads: int | None = None, matmul: str = "auto") -> Engine:
    """An engine that serves ``pack``; torch is imported here and not before.

    ``device``: cpu, cuda or cuda:<n>. ``threads``: CPU threads of the whole process, None = torch's choice.
    ``matmul``: auto, int8 or float32. Raises SelfTestError when this machine's fast products are not exact,
    BackendError for an unknown setting.
    """
    from market.inference.torch_engine import TorchEngine

    return TorchEngine(pack.model, device=device, product=matmul, threads=threads)
