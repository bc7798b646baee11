"""Which models the market's judge knows: only their answers can be judged in a dispute, and so sold as OPTIMISTIC.

Anybody may teach it a model, once (`assay dispute accept`); this provider does not do it unasked, since it costs gas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from market.chain import Call
from market.judging import names_of
from market.models.pack import Pack
from market.networks import Kind, Network
from market.reply_window import least_reply_window, rebuild_seconds
from market.verification.limits import beyond_judge, beyond_leaves
from market.verification.structs import Shape
from provider.config import ProviderConfig


class Judged:
    """See the module.

    Args:
        missing: the calls that would make the judge accept a pack (market.judging.acceptances).
    """

    def __init__(self, missing: Callable[[Pack], list[Call]]) -> None:
        self._missing = missing
        self._known: set[bytes] = set()
        self._unknown: dict[bytes, list[Call]] = {}

    def look(self, packs: Iterable[Pack]) -> None:
        """Asks the judge about those of these models that it did not know; it forgets none. Raises ChainError."""
        for pack in packs:
            if pack.model_id in self._known:
                continue
            if missing := self._missing(pack):
                self._unknown[pack.model_id] = missing
            else:
                self._unknown.pop(pack.model_id, None)
                self._known.add(pack.model_id)

    def is_known(self, model_id: bytes) -> bool:
        """As far as the last look tells, and False before the first; no RPC call."""
        return model_id in self._known

    @property
    def waits(self) -> bool:
        """Whether the judge was asked about a model and did not know it."""
        return bool(self._unknown)

    def advice(self, pack: Pack) -> str:
        """What keeps a model from being sold as OPTIMISTIC and what to do about it, in words; "" where nothing does."""
        missing = self._unknown.get(pack.model_id)
        return "" if missing is None else advice(pack, missing)


def advice(pack: Pack, missing: list[Call]) -> str:
    """Why a model is not sold as OPTIMISTIC, where the judge lacks something of it, and what to do about it."""
    return (
        f"{pack.name} is not offered as optimistic: the market's judge does not know its {names_of(missing)}. "
        f"Anyone may teach it, once: assay dispute accept {pack.path}"
    )


def obstacle(pack: Pack, config: ProviderConfig, network: Network, reply_window: int) -> str | None:
    """Why this provider does not sell OPTIMISTIC answers of a model, whatever the judge knows; None where it may.

    Args:
        reply_window: seconds that the deployed disputes give for a reply.
    """
    try:
        beyond = beyond_leaves(pack.manifest.get("bounds", ()))
    except ValueError as error:
        return str(error)
    if beyond is not None:
        return f"no trace holds all its values: {beyond}"
    too_large = beyond_judge(Shape.of(pack.program))
    if too_large is not None:
        return f"the judge takes no model of its size: {too_large}"
    tokens = min(pack.limits.context, config.limits.max_input_tokens + config.limits.max_output_tokens)
    least = least_reply_window(network, rebuild_seconds(pack.model.config, tokens))
    if reply_window < least:
        return (
            f"this market gives {reply_window} s for a reply in a dispute, and {least} s may be needed on "
            f"{network.name} to rebuild a trace of {tokens:,} tokens and to have it taken; lower [limits] "
            "max_input_tokens and max_output_tokens, or sell it in other modes"
        )
    if network.kind is not Kind.DEVELOPMENT and not config.uri_of(pack.model_id, pack.name):
        return (
            "nobody is told where its weights can be fetched, so nobody could judge an answer; state that in "
            f'[model_uris], "{pack.name}" = "https://…"'
        )
    return None
