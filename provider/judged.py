"""Which models the market's judge knows: only their answers can be judged in a dispute, and so sold as OPTIMISTIC.

Anybody may teach it a model, once (`assay dispute accept`); this provider does not do it unasked, since it costs gas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from market.chain import Call
from market.judging import names_of
from market.models.pack import Pack


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
