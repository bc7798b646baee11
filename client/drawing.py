"""What a job offers to whoever the chain draws for it: pure, from the offers in the index to terms and who takes them.

Everybody drawn works on the same terms, so these are ceilings: each price is the highest among the offers that are to
fit. Offers are let in from the cheapest on. The terms are those that most providers take at SPREAD times the price of
the cheapest terms that enough of them take, at most: few cheap offers cannot keep all others out, and a single dear one
cannot make everybody dear. Kill fee, miss fee and bond are the least that `Jobs.post` accepts, unless more bond is
asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from client.errors import NotEnoughProviders, PriceAboveCap
from client.matching import Constraints, LeftOut, ListedOffer, failed_by_offer, offer_price, summarise
from market.chain import same_address
from market.hashing import ZERO32
from market.settlement import Terms, minimum_bond, minimum_kill_fee, price
from market.types import ZERO_ADDRESS, Mode, Quote, Request

SPREAD = 2
"""Most that the terms may cost, as a multiple of the cheapest terms that enough providers take."""
NAMED = 5
"""Providers left out that an error names; `details` has all of them."""


@dataclass(frozen=True)
class Drawable:
    """A provider that takes the terms. Base units; `weight` / 65,536 is the chance that it is taken when picked.

    Attributes:
        list_price: what its own offer asks for the request at its longest; the job pays it no less.
        max_bond: most that it locks in a job it is drawn for.
    """

    provider: str
    endpoint: str
    list_price: int
    stake: int
    weight: int
    max_bond: int
    jobs_paid: int
    jobs_missed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider.lower(),
            "endpoint": self.endpoint,
            "list_price": self.list_price,
            "stake": self.stake,
            "weight": self.weight,
            "max_bond": self.max_bond,
            "jobs_paid": self.jobs_paid,
            "jobs_missed": self.jobs_missed,
        }


@dataclass(frozen=True)
class DrawOffer:
    """What is offered to each drawn provider, and who can be drawn.

    Attributes:
        quote: the one unsigned quote of nobody that `post` takes; price: what it costs at its longest.
        eligible: who takes it, cheapest offer first.
    """

    quote: Quote
    price: int
    eligible: tuple[Drawable, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "price": self.price,
            "base_fee": self.quote.base_fee,
            "price_per_m_input": self.quote.price_per_m_input,
            "price_per_m_output": self.quote.price_per_m_output,
            "kill_fee": self.quote.kill_fee,
            "miss_fee": self.quote.miss_fee,
            "bond": self.quote.bond,
            "valid_until": self.quote.valid_until,
            "eligible": [provider.to_json() for provider in self.eligible],
        }


@dataclass(frozen=True)
class DrawWanted:
    """What the terms are made for. Money in base units, times in unix seconds.

    Attributes:
        client: who will post; the contract never draws it.
        share_bps: the challenger's share of a slashed bond, part of the bond rule.
        max_price: most that one replica may cost; max_escrow: most that all of them may. None = no cap.
        bond: least that each must lock; raised to what the contract demands.
        least_stake: below it nobody is drawn (Registry: drawStakeCap / 16).
    """

    client: str
    request: Request
    mode: Mode
    replicas: int
    token: str
    share_bps: int
    model_name: str
    valid_until: int
    nonce: int
    max_price: int | None = None
    max_escrow: int | None = None
    bond: int = 0
    least_stake: int = 0

    @property
    def cap(self) -> int | None:
        """Most that one replica may cost."""
        caps = [cap for cap in (self.max_price, _share(self.max_escrow, self.replicas)) if cap is not None]
        return min(caps, default=None)


def plan_draw(offers: Iterable[ListedOffer], wanted: DrawWanted) -> tuple[DrawOffer, list[LeftOut]]:
    """The terms, who takes them, and whoever does not with the first reason.

    Raises:
        NotEnoughProviders: no terms are taken by as many providers as replicas are wanted.
        PriceAboveCap: the cheapest that are cost more than the caller allows.
    """
    listed: list[ListedOffer] = []
    left_out: list[LeftOut] = []
    for offer in offers:
        failed = _never(offer, wanted)
        if failed is None:
            listed.append(offer)
        else:
            left_out.append(_left_out(offer, *failed))
    listed.sort(key=lambda offer: (_list_price(offer, wanted), offer.provider.lower()))
    cost, terms = _choose(listed, left_out, wanted)
    takers: list[Drawable] = []
    for offer in listed:
        reason = _refuses(offer, terms, wanted)
        if reason is None:
            takers.append(_drawable(offer, wanted))
        else:
            left_out.append(_left_out(offer, *reason))
    return DrawOffer(_quote(terms, wanted), cost, tuple(takers)), left_out


def _choose(listed: Sequence[ListedOffer], left_out: Sequence[LeftOut], wanted: DrawWanted) -> tuple[int, Terms]:
    """Price and terms: see the module."""
    best: tuple[int, int, Terms] | None = None  # takers, less the price: the most takers, then the cheapest
    ceiling: int | None = None
    ceilings = (0, 0, 0)
    for offer in listed:
        ceilings = _highest(ceilings, offer)
        terms = _terms(ceilings, wanted)
        cost = price(terms, wanted.request.input_tokens, wanted.request.max_output_tokens)
        if ceiling is not None and cost > ceiling:
            break
        takers = sum(_refuses(other, terms, wanted) is None for other in listed)
        if takers < wanted.replicas:
            continue
        if ceiling is None:
            cap = wanted.cap
            if cap is not None and cost > cap:
                raise _too_dear(cost, cap, wanted)
            ceiling = cost * SPREAD if cap is None else min(cost * SPREAD, cap)
        if best is None or takers > best[0]:
            best = (takers, cost, terms)
    if best is None:
        raise _too_few(listed, left_out, _terms(ceilings, wanted), wanted)
    return best[1], best[2]


def _never(offer: ListedOffer, wanted: DrawWanted) -> tuple[str, str, dict[str, Any]] | None:
    """Why no terms get this provider drawn; None where some may."""
    if same_address(offer.provider, wanted.client):
        return "client", "it is the job's client, which is never drawn", {}
    if not (offer.weight and offer.offer.max_bond):
        return "draw", "it is not on the drawable list: it works for its own quotes only", {}
    limits = Constraints(
        mode=wanted.mode,
        input_tokens=wanted.request.input_tokens,
        max_output_tokens=wanted.request.max_output_tokens,
        token=wanted.token,
        share_bps=wanted.share_bps,
    )
    failed = failed_by_offer(offer, limits)
    if failed is None and offer.stake < wanted.least_stake:
        message = f"its free stake of {offer.stake} is below {wanted.least_stake}, the least that is drawn"
        return "stake", message, {"stake": offer.stake, "needs": wanted.least_stake}
    return failed


def _refuses(offer: ListedOffer, terms: Terms, wanted: DrawWanted) -> tuple[str, str, dict[str, Any]] | None:
    """Why this provider is not drawn on these terms (Registry._takes); None where it may be."""
    if _highest((terms.base_fee, terms.price_per_m_input, terms.price_per_m_output), offer) != (
        terms.base_fee,
        terms.price_per_m_input,
        terms.price_per_m_output,
    ):
        asks = _list_price(offer, wanted)
        offered = price(terms, wanted.request.input_tokens, wanted.request.max_output_tokens)
        message = f"its offer asks more than the job pays: {asks} base units for this request, the job pays {offered}"
        return "price", message, {"asks": asks, "offered": offered}
    if offer.offer.max_bond < terms.bond:
        message = f"it locks {offer.offer.max_bond} at most, the job takes a bond of {terms.bond}"
        return "max_bond", message, {"has": offer.offer.max_bond, "needs": terms.bond}
    if offer.stake < terms.bond:
        message = f"its free stake of {offer.stake} does not cover the bond of {terms.bond}"
        return "stake", message, {"stake": offer.stake, "needs": terms.bond}
    return None


def _highest(ceilings: tuple[int, int, int], offer: ListedOffer) -> tuple[int, int, int]:
    asked = offer.offer
    return (
        max(ceilings[0], asked.base_fee),
        max(ceilings[1], asked.price_per_m_input),
        max(ceilings[2], asked.price_per_m_output),
    )


def _terms(ceilings: tuple[int, int, int], wanted: DrawWanted) -> Terms:
    """The least fees and bond that `post` accepts beside these prices (contracts/libraries/QuoteRules.sol)."""
    request = wanted.request
    plain = Terms(*ceilings, kill_fee=0, miss_fee=0, bond=0)
    tokens = request.input_tokens, request.max_output_tokens
    return Terms(
        *ceilings,
        kill_fee=minimum_kill_fee(plain, *tokens),
        miss_fee=price(plain, *tokens),
        bond=max(wanted.bond, minimum_bond(plain, *tokens, wanted.share_bps), 1),
    )


def _quote(terms: Terms, wanted: DrawWanted) -> Quote:
    return Quote(
        provider=ZERO_ADDRESS,
        client=ZERO_ADDRESS,
        model_id=wanted.request.model_id,
        request_hash=ZERO32,  # any request of this length, so that a contract can post on these terms, too
        mode=wanted.mode,
        token=wanted.token,
        base_fee=terms.base_fee,
        price_per_m_input=terms.price_per_m_input,
        price_per_m_output=terms.price_per_m_output,
        kill_fee=terms.kill_fee,
        miss_fee=terms.miss_fee,
        bond=terms.bond,
        max_input_tokens=wanted.request.input_tokens,
        max_output_tokens=wanted.request.max_output_tokens,
        valid_until=wanted.valid_until,
        nonce=wanted.nonce,
    )


def _list_price(offer: ListedOffer, wanted: DrawWanted) -> int:
    return offer_price(offer.offer, wanted.request.input_tokens, wanted.request.max_output_tokens)


def _drawable(offer: ListedOffer, wanted: DrawWanted) -> Drawable:
    return Drawable(
        provider=offer.provider,
        endpoint=offer.endpoint,
        list_price=_list_price(offer, wanted),
        stake=offer.stake,
        weight=offer.weight,
        max_bond=offer.offer.max_bond,
        jobs_paid=offer.jobs_paid,
        jobs_missed=offer.jobs_missed,
    )


def _left_out(offer: ListedOffer, constraint: str, message: str, details: dict[str, Any]) -> LeftOut:
    return LeftOut(offer.provider, offer.endpoint, "draw", constraint, message, details)


def _share(amount: int | None, replicas: int) -> int | None:
    return None if amount is None else amount // replicas


def _too_few(
    listed: Sequence[ListedOffer], left_out: Sequence[LeftOut], terms: Terms, wanted: DrawWanted
) -> NotEnoughProviders:
    reasons = list(left_out)
    for offer in listed:
        reason = _refuses(offer, terms, wanted)
        if reason is not None:
            reasons.append(_left_out(offer, *reason))
    got = len(listed) + len(left_out) - len(reasons)
    said = summarise(reasons[:NAMED]) or "nobody else offers it"
    return NotEnoughProviders(
        f"{wanted.replicas} providers of {wanted.model_name} are to be drawn, {got} can be. Left out: {said}.",
        hint="Nothing was spent. Ask for fewer replicas or a smaller bond, or leave out --draw: then providers are "
        "asked for quotes.",
        wanted=wanted.replicas,
        got=got,
        left_out=[item.to_json() for item in reasons],
    )


def _too_dear(cost: int, cap: int, wanted: DrawWanted) -> PriceAboveCap:
    return PriceAboveCap(
        f"The cheapest terms that {wanted.replicas} drawable providers take cost {cost} base units each, the cap is "
        f"{cap}.",
        hint="Nothing was spent. Raise --max-price or --max-escrow, or ask for fewer output tokens.",
        least=cost,
        cap=cap,
    )
