"""Which offers fit a request: pure, local, and for every offer left out the first constraint that failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from client.endpoints import Reach, check_endpoint
from client.errors import UnsafeEndpoint
from market.settlement import BPS, Terms, minimum_bond, price
from market.types import Mode


class OfferTerms(Protocol):
    """The registry's Offer (market.contracts.Offer)."""

    @property
    def token(self) -> str: ...
    @property
    def base_fee(self) -> int: ...
    @property
    def price_per_m_input(self) -> int: ...
    @property
    def price_per_m_output(self) -> int: ...
    @property
    def max_input_tokens(self) -> int: ...
    @property
    def max_output_tokens(self) -> int: ...
    @property
    def modes(self) -> int: ...
    @property
    def max_bond(self) -> int: ...


class ListedOffer(Protocol):
    """What the index knows of one provider and one model (market.index.IndexedOffer)."""

    @property
    def provider(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def labels(self) -> bytes: ...
    @property
    def offer(self) -> OfferTerms: ...
    @property
    def stake(self) -> int: ...
    @property
    def jobs_paid(self) -> int: ...
    @property
    def jobs_missed(self) -> int: ...
    @property
    def weight(self) -> int: ...


@dataclass(frozen=True)
class LeftOut:
    """A provider that was not chosen, and the first constraint it failed.

    Attributes:
        stage: "matching" (its offer), "negotiation" (its quote), "selection", or "draw".
        constraint: stable name, e.g. "mode", "max_price", "stake", "timeout", or the code of its refusal.
        message: the same in words, with the numbers.
        details: the numbers.
    """

    provider: str
    endpoint: str
    stage: str
    constraint: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider.lower(),
            "endpoint": self.endpoint,
            "stage": self.stage,
            "constraint": self.constraint,
            "message": self.message,
            "details": self.details,
        }


@dataclass(frozen=True)
class Candidate:
    """A provider whose offer fits. Prices in base units for the request at its longest."""

    provider: str
    endpoint: str
    expected_price: int
    stake: int
    jobs_paid: int
    jobs_missed: int


@dataclass(frozen=True)
class Constraints:
    """What a request needs and what its client allows.

    Attributes:
        token: the only token jobs are paid in (the vault's stake token).
        share_bps: challenger's share of a slashed bond, part of the bond rule.
        max_price: most that one replica may cost, base units; None = no cap.
        allow: only these providers, where not empty; deny: never these. Lower-case addresses.
        labels: words that a provider's labels must contain.
        min_reliability_bps: least share of jobs paid among jobs paid or missed, of providers that have a record.
        reach: how far into this machine's surroundings endpoints may lie.
    """

    mode: Mode
    input_tokens: int
    max_output_tokens: int
    token: str
    share_bps: int
    max_price: int | None = None
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    min_reliability_bps: int = 0
    reach: Reach = Reach.PUBLIC


def label_words(labels: bytes) -> frozenset[str]:
    """The words of the registry's 32 label bytes: UTF-8, padded with zero bytes, parted by spaces or commas."""
    text = labels.rstrip(b"\0").decode("utf-8", "replace")
    return frozenset(text.replace(",", " ").split())


def offer_price(offer: OfferTerms, input_tokens: int, output_tokens: int) -> int:
    """What a job would cost by the list price; the quote may differ and is what binds."""
    return price(_terms(offer), input_tokens, output_tokens)


def _terms(offer: OfferTerms) -> Terms:
    return Terms(
        base_fee=offer.base_fee,
        price_per_m_input=offer.price_per_m_input,
        price_per_m_output=offer.price_per_m_output,
        kill_fee=0,
        miss_fee=0,
        bond=0,
    )


def match(offers: Iterable[ListedOffer], wanted: Constraints) -> tuple[list[Candidate], list[LeftOut]]:
    """Divides offers into candidates, cheapest first, and those left out with the reason."""
    candidates: list[Candidate] = []
    left_out: list[LeftOut] = []
    for offer in offers:
        failed = _first_failure(offer, wanted)
        if failed:
            constraint, message, details = failed
            left_out.append(LeftOut(offer.provider, offer.endpoint, "matching", constraint, message, details))
            continue
        candidates.append(
            Candidate(
                provider=offer.provider,
                endpoint=offer.endpoint,
                expected_price=offer_price(offer.offer, wanted.input_tokens, wanted.max_output_tokens),
                stake=offer.stake,
                jobs_paid=offer.jobs_paid,
                jobs_missed=offer.jobs_missed,
            )
        )
    return sorted(candidates, key=_rank), left_out


def _rank(candidate: Candidate) -> tuple[int, int, str]:
    missed_share = candidate.jobs_missed * BPS // max(1, candidate.jobs_paid + candidate.jobs_missed)
    return candidate.expected_price, missed_share, candidate.provider.lower()


Failure = tuple[str, str, dict[str, Any]]


def _first_failure(listed: ListedOffer, wanted: Constraints) -> Failure | None:
    return _failed_by_policy(listed, wanted) or failed_by_offer(listed, wanted) or _failed_by_standing(listed, wanted)


def _failed_by_policy(listed: ListedOffer, wanted: Constraints) -> Failure | None:
    provider = listed.provider.lower()
    if provider in wanted.deny:
        return "deny", "it is on the deny list", {}
    if wanted.allow and provider not in wanted.allow:
        return "allow", "it is not on the allow list", {}
    missing = wanted.labels - label_words(listed.labels)
    if missing:
        return "labels", f"it lacks the labels {', '.join(sorted(missing))}", {"missing": sorted(missing)}
    try:
        check_endpoint(listed.endpoint, wanted.reach)
    except UnsafeEndpoint as error:
        return "endpoint", error.message, {}
    return None


def failed_by_offer(listed: ListedOffer, wanted: Constraints) -> Failure | None:
    """Mode, token, token limits and price cap: the first that does not fit, in words and numbers."""
    offer = listed.offer
    if not offer.modes >> wanted.mode & 1:
        offered = [mode.name.lower() for mode in Mode if offer.modes >> mode & 1]
        return (
            "mode",
            f"it does not sell mode {wanted.mode.name.lower()}, only {', '.join(offered) or 'none that is known'}",
            {"wanted": wanted.mode.name.lower(), "offered": offered},
        )
    if offer.token.lower() != wanted.token.lower():
        return (
            "token",
            f"it asks for token {offer.token.lower()}, jobs are paid in {wanted.token.lower()}",
            {"has": offer.token.lower(), "needs": wanted.token.lower()},
        )
    for name, has, needs, what in (
        ("max_input_tokens", offer.max_input_tokens, wanted.input_tokens, "prompt tokens"),
        ("max_output_tokens", offer.max_output_tokens, wanted.max_output_tokens, "output tokens"),
    ):
        if needs > has:
            return name, f"it takes at most {has} {what}, the request has {needs}", {"has": has, "needs": needs}
    expected = offer_price(offer, wanted.input_tokens, wanted.max_output_tokens)
    if wanted.max_price is not None and expected > wanted.max_price:
        return (
            "max_price",
            f"its list price is {expected} base units, the cap is {wanted.max_price}",
            {"price": expected, "cap": wanted.max_price},
        )
    return None


def _failed_by_standing(listed: ListedOffer, wanted: Constraints) -> Failure | None:
    terms = _terms(listed.offer)
    bond = minimum_bond(terms, wanted.input_tokens, wanted.max_output_tokens, wanted.share_bps)
    if wanted.mode == Mode.PROOF:
        bond = 0  # what is proved needs nothing behind it
    if listed.stake < bond:
        return (
            "stake",
            f"its stake of {listed.stake} does not cover the bond of {bond}",
            {"stake": listed.stake, "bond": bond},
        )
    jobs = listed.jobs_paid + listed.jobs_missed
    reliability = listed.jobs_paid * BPS // jobs if jobs else BPS
    if reliability < wanted.min_reliability_bps:
        return (
            "record",
            f"it was paid for {listed.jobs_paid} of {jobs} jobs, below {wanted.min_reliability_bps / 100:g} %",
            {"paid": listed.jobs_paid, "jobs": jobs, "neededBps": wanted.min_reliability_bps},
        )
    return None


def summarise(left_out: Sequence[LeftOut]) -> str:
    """One line naming each provider left out and why."""
    return "; ".join(f"{item.provider.lower()[:10]}…: {item.message}" for item in left_out)
