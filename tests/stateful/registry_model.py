"""The registry as plain Python: providers, models, offers and drawable lists, with what their places held before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from market.types import ZERO_ADDRESS
from tests.stateful.ledger import require
from tests.unit.contracts.draws import LIST_REST, WEIGHTS, tries

NO_OFFER = (ZERO_ADDRESS, 0, 0, 0, 0, 0, 0, 0)
NOBODY = (ZERO_ADDRESS, 0, 0)


@dataclass
class Place:
    """(provider, block since which it stands there, weight), now and before."""

    current: tuple[str, int, int] = NOBODY
    former: tuple[str, int, int] = NOBODY


@dataclass
class DrawableList:
    """`order` is who stands at the places in use; `places` outlive their use."""

    order: list[str] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=lambda: defaultdict(Place))


@dataclass(frozen=True)
class Wanted:
    """What a draw looks for."""

    model_id: bytes
    seed: bytes
    count: int
    length: int
    draw_block: int
    client: str
    mode: int
    token: str
    base_fee: int
    price_per_m_input: int
    price_per_m_output: int
    bond: int
    input_tokens: int
    max_output_tokens: int


@dataclass
class RegistryModel:
    """`stake_of` gives free stake, bonds and the block of the last `stake`; `number` the block of the next call."""

    cap: int
    stake_of: Callable[[str], tuple[int, int, int]]
    number: Callable[[], int]
    endpoints: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    published: set[bytes] = field(default_factory=set)
    offers: dict[tuple[str, bytes], tuple[Any, ...]] = field(default_factory=dict)
    lists: dict[bytes, DrawableList] = field(default_factory=lambda: defaultdict(DrawableList))

    def set_provider(self, who: str, value: tuple[str, bytes]) -> None:
        length = len(value[0])
        require(0 < length <= 256, "EndpointLength", length=length, limit=256)
        self.endpoints[who] = value

    def remove_provider(self, who: str) -> None:
        self._provider(who)
        del self.endpoints[who]
        self.offers = {key: offer for key, offer in self.offers.items() if key[0] != who}

    def set_offer(self, who: str, model: bytes, offer: tuple[Any, ...]) -> None:
        self._provider(who)
        require(model in self.published, "UnknownModel", modelId=model)
        require(offer[0] != ZERO_ADDRESS, "BadOffer", field=_word("token"))
        require(offer[4] > 0, "BadOffer", field=_word("maxInputTokens"))
        require(offer[5] > 0, "BadOffer", field=_word("maxOutputTokens"))
        require(0 < offer[6] < 16, "BadOffer", field=_word("modes"))
        if offer[7]:
            self._enter(who, model)
        self.offers[who, model] = offer

    def remove_offer(self, who: str, model: bytes) -> None:
        require((who, model) in self.offers, "UnknownOffer", provider=who, modelId=model)
        del self.offers[who, model]

    def prune(self, model: bytes, who: str) -> None:
        found = self.lists[model]
        require(who in found.order, "NotListed", provider=who, modelId=model)
        require(not self.is_drawable(who, model), "StillDrawable", provider=who, modelId=model)
        index, last = found.order.index(who), len(found.order) - 1
        for changed in sorted({index, last}):
            self._check_rest(model, changed)
        if index != last:
            mover, _, weight = found.places[last].current
            self._put(model, index, mover, weight)
            found.order[index] = mover
        self._put(model, last, ZERO_ADDRESS, 0)
        found.order.pop()

    def is_drawable(self, who: str, model: bytes) -> bool:
        return bool(self.offers.get((who, model), NO_OFFER)[7]) and self._stake(who) >= self.cap // 16

    def _stake(self, who: str) -> int:
        free, bonded, _ = self.stake_of(who)
        return free + bonded

    def draw(self, wanted: Wanted) -> list[str]:
        found = self.lists[wanted.model_id]
        drawn: list[str] = []
        for index, toss in tries(wanted.seed, wanted.length):
            if len(drawn) == wanted.count:
                break
            place = found.places[index]
            who, _, weight = place.current if place.current[1] <= wanted.draw_block else place.former
            if who not in (ZERO_ADDRESS, wanted.client, *drawn) and toss < weight and self._can(who, toss, wanted):
                drawn.append(who)
        return drawn

    def _can(self, who: str, toss: int, wanted: Wanted) -> bool:
        free, _, since = self.stake_of(who)
        offer = self.offers.get((who, wanted.model_id), NO_OFFER)
        token, base_fee, per_input, per_output, max_input, max_output, modes, max_bond = offer
        old = since <= wanted.draw_block
        backed = toss * self.cap < self._stake(who) * WEIGHTS and free >= wanted.bond
        listed = self.is_drawable(who, wanted.model_id)
        fits = wanted.input_tokens <= max_input and wanted.max_output_tokens <= max_output and modes >> wanted.mode & 1
        enough = (wanted.base_fee, wanted.price_per_m_input, wanted.price_per_m_output)
        paid = all(has >= least for has, least in zip(enough, (base_fee, per_input, per_output), strict=True))
        return bool(old and backed and listed and fits and paid and wanted.bond <= max_bond and token == wanted.token)

    def _provider(self, who: str) -> None:
        require(who in self.endpoints, "UnknownProvider", provider=who)

    def _enter(self, who: str, model: bytes) -> None:
        least, stake = self.cap // 16, self._stake(who)
        require(stake >= least, "StakeTooSmall", provider=who, staked=stake, minimum=least)
        weight = min(stake, self.cap) * WEIGHTS // self.cap
        found = self.lists[model]
        if who not in found.order:
            self._check_rest(model, len(found.order))
            self._put(model, len(found.order), who, weight)
            found.order.append(who)
            return
        index = found.order.index(who)
        rested = self.number() >= self._ready(model, index)
        if rested and weight > found.places[index].current[2]:
            self._put(model, index, who, weight)

    def _ready(self, model: bytes, index: int) -> int:
        since = self.lists[model].places[index].current[1]
        return since + LIST_REST + 1 if since else 0

    def _check_rest(self, model: bytes, index: int) -> None:
        ready = self._ready(model, index)
        require(self.number() >= ready, "ListBusy", modelId=model, readyBlock=ready)

    def _put(self, model: bytes, index: int, who: str, weight: int) -> None:
        place = self.lists[model].places[index]
        place.current, place.former = (who, self.number(), weight), place.current


def _word(text: str) -> bytes:
    return text.encode().ljust(32, b"\0")
