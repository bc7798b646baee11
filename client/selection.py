"""Which quotes to take: a pure function, the same answer for the same quotes, policy and seed.

The score is in points, fewer are better; 1,000 points = the cheapest price. Quotes whose scores fall in one step of
`Weights.step` points count as equal, and the seed decides their order: equally good providers share the work, and the
jitter of a few milliseconds decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from client.errors import NotEnoughProviders, PriceAboveCap
from client.matching import Candidate, LeftOut
from market.hashing import keccak256
from market.types import Quote


@dataclass(frozen=True)
class VerifiedQuote:
    """A quote that binds its provider and that `post` will accept.

    Attributes:
        price: base units for the request at its longest: what this replica adds to the escrow.
        latency_ms: from asking to the quote.
        digest: EIP-712 digest, by which the chain knows a used quote.
    """

    quote: Quote
    signature: bytes
    digest: bytes
    endpoint: str
    price: int
    latency_ms: int
    stake: int
    jobs_paid: int
    jobs_missed: int

    @property
    def provider(self) -> str:
        return self.quote.provider

    @classmethod
    def of(
        cls, candidate: Candidate, quote: Quote, signature: bytes, *, digest: bytes, price: int, latency_ms: int
    ) -> Self:
        """A candidate's quote that was checked, with what the index says of who gave it. Units: see the attributes."""
        return cls(
            quote=quote,
            signature=signature,
            digest=digest,
            endpoint=candidate.endpoint,
            price=price,
            latency_ms=latency_ms,
            stake=candidate.stake,
            jobs_paid=candidate.jobs_paid,
            jobs_missed=candidate.jobs_missed,
        )


@dataclass(frozen=True)
class Weights:
    """Points for each quality.

    Attributes:
        price: per 1,000 = the cheapest price itself, so a quote twice as dear has 1,000 more.
        latency: per second, counted up to one second.
        record: for a provider that missed every job; 0 for a perfect one, half for one without a record.
        stake: taken off for each doubling of the stake over the bond, up to eight.
    """

    price: int = 1000
    latency: int = 200
    record: int = 500
    stake: int = 10
    step: int = 25


@dataclass(frozen=True)
class Selection:
    """`chosen` in order of score; `alternatives` are the quotes not taken, best first."""

    chosen: tuple[VerifiedQuote, ...]
    alternatives: tuple[VerifiedQuote, ...]
    left_out: tuple[LeftOut, ...]
    escrow: int
    seed: bytes


def points(quote: VerifiedQuote, cheapest: int, weights: Weights) -> int:
    """The score of one quote beside the cheapest price on the table."""
    price = weights.price * quote.price // max(1, cheapest)
    latency = weights.latency * min(quote.latency_ms, 1000) // 1000
    jobs = quote.jobs_paid + quote.jobs_missed
    record = weights.record * (quote.jobs_missed + 1) // (jobs + 2)
    doublings = (quote.stake // max(1, quote.quote.bond)).bit_length() - 1
    return price + latency + record - weights.stake * max(0, min(doublings, 8))


def select(
    quotes: Sequence[VerifiedQuote],
    *,
    replicas: int,
    seed: bytes,
    max_escrow: int | None = None,
    weights: Weights | None = None,
) -> Selection:
    """Chooses `replicas` quotes of as many providers.

    A second quote of one provider is never taken: n replicas are n staking accounts. Where the best n together cost
    more than `max_escrow`, the dearest of them give way to cheaper ones, one by one.

    Raises:
        NotEnoughProviders: fewer providers than replicas.
        PriceAboveCap: even the cheapest n cost more than `max_escrow`.
    """
    weights = weights or Weights()
    cheapest = min((quote.price for quote in quotes), default=0)

    def rank(quote: VerifiedQuote) -> tuple[int, bytes]:
        return points(quote, cheapest, weights) // weights.step, keccak256(seed + bytes.fromhex(quote.provider[2:]))

    best: dict[str, VerifiedQuote] = {}
    left_out: list[LeftOut] = []
    for quote in sorted(quotes, key=lambda q: (rank(q), q.price, q.digest)):
        if quote.provider.lower() in best:
            message = "it is a second quote of one provider: replicas must be independent"
            left_out.append(LeftOut(quote.provider, quote.endpoint, "selection", "independence", message))
        else:
            best[quote.provider.lower()] = quote
    ordered = list(best.values())
    if len(ordered) < replicas:
        raise NotEnoughProviders(
            f"{replicas} replicas are wanted, {len(ordered)} providers are left.", wanted=replicas, got=len(ordered)
        )
    chosen = _fit(ordered, replicas, max_escrow)
    taken = {quote.digest for quote in chosen}
    alternatives = [quote for quote in ordered if quote.digest not in taken]
    for quote in alternatives:
        left_out.append(_not_taken(quote, chosen))
    escrow = sum(quote.price for quote in chosen)
    return Selection(tuple(chosen), tuple(alternatives), tuple(left_out), escrow, seed)


def _fit(ordered: list[VerifiedQuote], replicas: int, max_escrow: int | None) -> list[VerifiedQuote]:
    """The best `replicas` quotes, dearest replaced by cheapest until they fit the cap."""
    position = {quote.digest: index for index, quote in enumerate(ordered)}
    chosen = ordered[:replicas]
    rest = sorted(ordered[replicas:], key=lambda quote: (quote.price, position[quote.digest]))
    while max_escrow is not None and sum(quote.price for quote in chosen) > max_escrow:
        dearest = max(chosen, key=lambda quote: (quote.price, position[quote.digest]))
        if not rest or rest[0].price >= dearest.price:
            least = sum(quote.price for quote in chosen)
            raise PriceAboveCap(
                f"The cheapest {replicas} quotes cost {least} base units together, the cap is {max_escrow}.",
                hint="Nothing was spent. Raise --max-escrow, ask for fewer output tokens or fewer replicas.",
                least=least,
                cap=max_escrow,
            )
        chosen = [quote for quote in chosen if quote is not dearest] + [rest.pop(0)]
    return sorted(chosen, key=lambda quote: position[quote.digest])


def _not_taken(quote: VerifiedQuote, chosen: Sequence[VerifiedQuote]) -> LeftOut:
    dearest = max(item.price for item in chosen)
    message = (
        f"others were better: it asks {quote.price} and answered in {quote.latency_ms} ms, the chosen ask ≤ {dearest}"
    )
    details = {"price": quote.price, "latencyMs": quote.latency_ms, "dearestChosen": dearest}
    return LeftOut(quote.provider, quote.endpoint, "selection", "score", message, details)
