"""The seam between whoever has token ids and whatever computes them: ids in, ids out; no text, no chain."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from market.hashing import STOP_TOKENS_MAX
from market.inference.batch import BatchEngine, Part, Want, chosen, want_of
from market.inference.errors import BackendError, PromptError, SelfTestError
from market.inference.log_probabilities import PositionLogProbabilities
from market.inference.model import Config
from market.inference.sampling import Picker
from market.types import Finish

if TYPE_CHECKING:
    from market.models.pack import Pack

_LOG = logging.getLogger(__name__)

CHUNK = 256
"""Ids of a prompt between two looks at whether it is still wanted."""


@dataclass(frozen=True)
class Generation:
    """Output ids and why they end there: STOP (the last id is a stop token), LENGTH or CANCELLED; ERROR where a
    scheduler could not choose the next id. ``log_probabilities``: one entry for each id, where they were asked for.
    """

    ids: tuple[int, ...]
    finish: Finish
    log_probabilities: tuple[PositionLogProbabilities, ...] = ()


class Engine(BatchEngine, Protocol):
    """A deterministic function from token ids to token ids: every engine of one pack returns the same."""

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
        check_request(self.config, ids, max_output_tokens, stop_tokens)
        slot, output = self.new_slot(len(ids) + max_output_tokens), list[int]()
        pending = list(ids)
        while True:
            if cancelled is not None and cancelled():
                return Generation(tuple(output), Finish.CANCELLED)
            chunk, pending = pending[:CHUNK], pending[CHUNK:]
            (result,) = self.step([Part(slot, chunk, Want.NOTHING if pending else want_of(sampling))])
            if result is None:
                continue
            token = chosen(result, sampling, len(output))
            output.append(token)
            if on_token is not None:
                on_token(token)
            if token in stop_tokens:
                return Generation(tuple(output), Finish.STOP)
            if len(output) == max_output_tokens:
                return Generation(tuple(output), Finish.LENGTH)
            pending = [token]


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


#: what ``load_engine`` takes for ``kernels``; auto is the first of them that this machine runs exactly
KERNELS = ("auto", "avx512vnni", "avx2", "portable", "torch", "numpy")


def load_engine(
    pack: Pack, device: str = "cpu", threads: int | None = None, kernels: str | None = None, matmul: str = "auto"
) -> Engine:
    """An engine that serves ``pack``, proved exact on this machine by a self-test.

    Args:
        device: cpu, cuda or cuda:<n>. Everything but cpu needs torch, which is imported only then. cuda was never run
            on a GPU: only its parts were tested, on CPUs.
        threads: CPU threads, None = one on every processor that this process may use.
        kernels: one of KERNELS for the cpu; None = the environment's ASSAY_KERNELS, or auto.
        matmul: for torch: auto, int8 or float32.

    Raises:
        SelfTestError: the arithmetic asked for is not exact here; ``check`` names what differs. ``auto`` goes on to the
            next kernel, with a warning in the log.
        BackendError: this machine or installation lacks what was asked for.
    """
    kernels = kernels or os.environ.get("ASSAY_KERNELS") or "auto"
    if kernels not in KERNELS:
        raise BackendError(f"kernels {kernels}", f"known are {', '.join(KERNELS)}")
    if device != "cpu" or kernels == "torch":
        return _torch_engine(pack, device, threads, matmul)
    if kernels != "auto":
        return _cpu_engine(pack, kernels, threads)
    failure: SelfTestError | None = None
    for name in available_kernels():
        try:
            return _cpu_engine(pack, name, threads)
        except SelfTestError as error:
            _LOG.warning("kernels %s are not used: %s", name, error.message)
            failure = failure or error
    raise failure or BackendError("kernels auto", "there are none")


def available_kernels() -> tuple[str, ...]:
    """Those of KERNELS that this processor and this installation have, in the order that ``auto`` tries them."""
    from market.inference.native import library

    torch = ("torch",) if find_spec("torch") else ()
    return (*library.supported(), *torch, "numpy")


def kernels_in_use(engine: Engine) -> str:
    """What computes for this engine, in words for people."""
    return str(getattr(engine, "kernels", type(engine).__name__))


def threads_in_use(engine: Engine) -> int | None:
    """CPU threads of this engine; None where its library decides."""
    threads = getattr(engine, "threads", None)
    return threads if isinstance(threads, int) else None


def _cpu_engine(pack: Pack, kernels: str, threads: int | None) -> Engine:
    if kernels == "torch":
        return _torch_engine(pack, "cpu", threads, "auto")
    if kernels == "numpy":
        from market.inference.numpy_engine import NumpyEngine

        return NumpyEngine(pack.model)
    from market.inference.native import library, selftest

    kernel = library.Kernel(library.library(), kernels)
    if kernels not in library.supported():
        raise BackendError(f"kernels {kernels}", "this processor cannot run them")
    return selftest.proved(kernel, pack.model, threads)


def _torch_engine(pack: Pack, device: str, threads: int | None, matmul: str) -> Engine:
    try:
        from market.inference.torch_engine import TorchEngine
    except ModuleNotFoundError as error:
        raise BackendError(
            f"device {device}" if device != "cpu" else "kernels torch",
            f"it needs {error.name}, which is not installed (pip install 'assay[cuda]')",
        ) from None
    return TorchEngine(pack.model, device=device, product=matmul, threads=threads)
