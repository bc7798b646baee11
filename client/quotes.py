"""What must hold of a quote before money stands behind it: every rule of `Jobs.post`, checked before anything is sent.

The rules are those of contracts/libraries/QuoteRules.sol, and two of the client's own: the price cap, and a stake that
covers the bond at the moment of choosing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from client.matching import Candidate, LeftOut
from client.selection import VerifiedQuote
from client.signatures import SignatureChecker
from market.errors import BadSignature
from market.settlement import BPS, Terms, minimum_bond, price
from market.types import ZERO_ADDRESS, Quote, Request

EXPIRY_MARGIN = 10
"""Seconds a quote must still be valid for, so that the posting transaction can be mined in time."""


@dataclass(frozen=True)
class Wanted:
    """What every quote for one request is held against.

    Attributes:
        token: the only token jobs are paid in.
        share_bps: the challenger's share of a slashed bond.
        max_price: most that one replica may cost, base units; None = no cap.
        max_kill_fee_bps: most that a kill fee may be of the price, basis points.
        is_used: whether the chain has already accepted the quote with this digest from this client.
    """

    client: str
    request: Request
    mode: int
    token: str
    share_bps: int
    max_price: int | None
    max_kill_fee_bps: int
    signatures: SignatureChecker
    is_used: Callable[[bytes], bool]


class Refused(Exception):
    """A quote broke a rule; `constraint` and `details` as in LeftOut. Never leaves this module's callers."""

    def __init__(self, constraint: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.constraint = constraint
        self.details = details


def verify_quote(
    quote: Quote, signature: bytes, candidate: Candidate, wanted: Wanted, *, now: int, latency_ms: int
) -> VerifiedQuote | LeftOut:
    """Checks one quote in the order of the contract's rules. Returns it verified, or why it is left out.

    Args:
        now: unix seconds, not earlier than the chain's.
    """
    try:
        cost = _check(quote, candidate, wanted, now)
        digest = wanted.signatures.domain.digest(quote)
        _check_signature(quote, signature, wanted)
        if wanted.is_used(digest):
            raise Refused("quote_used", "its quote was used before")
    except Refused as refused:
        return LeftOut(
            candidate.provider,
            candidate.endpoint,
            "negotiation",
            refused.constraint,
            str(refused),
            refused.details,
        )
    return VerifiedQuote.of(candidate, quote, signature, digest=digest, price=cost, latency_ms=latency_ms)


def _check(quote: Quote, candidate: Candidate, wanted: Wanted, now: int) -> int:
    _check_subject(quote, candidate, wanted, now)
    request, terms = wanted.request, Terms.of(quote)
    for name, has, needs in (
        ("maxInputTokens", quote.max_input_tokens, request.input_tokens),
        ("maxOutputTokens", quote.max_output_tokens, request.max_output_tokens),
    ):
        if needs > has:
            raise Refused(
                "quote_limit", f"its quote allows {name} {has}, the request has {needs}", has=has, needs=needs
            )
    cost = price(terms, request.input_tokens, request.max_output_tokens)
    bond = minimum_bond(terms, quote.max_input_tokens, quote.max_output_tokens, wanted.share_bps)
    if quote.bond < bond:
        raise Refused("bond", f"its bond of {quote.bond} is below the {bond} that the price demands", bond=quote.bond)
    most = cost * wanted.max_kill_fee_bps // BPS
    if quote.kill_fee > most:
        raise Refused(
            "kill_fee",
            f"its kill fee of {quote.kill_fee} exceeds {most}, {wanted.max_kill_fee_bps / 100:g} % of its price",
            killFee=quote.kill_fee,
            cap=most,
        )
    if not cost <= quote.miss_fee <= quote.bond:
        raise Refused(
            "miss_fee",
            f"its miss fee of {quote.miss_fee} is not between the price of {cost} and the bond of {quote.bond}",
            missFee=quote.miss_fee,
        )
    if wanted.max_price is not None and cost > wanted.max_price:
        raise Refused(
            "max_price", f"it quotes {cost} base units, the cap is {wanted.max_price}", price=cost, cap=wanted.max_price
        )
    if candidate.stake < quote.bond:
        raise Refused(
            "stake",
            f"its stake of {candidate.stake} does not cover the quoted bond of {quote.bond}",
            stake=candidate.stake,
            bond=quote.bond,
        )
    return cost


def _check_subject(quote: Quote, candidate: Candidate, wanted: Wanted, now: int) -> None:
    if quote.provider.lower() != candidate.provider.lower():
        raise Refused("quote_provider", f"it sent a quote of {quote.provider.lower()}", provider=quote.provider.lower())
    if now + EXPIRY_MARGIN > quote.valid_until:
        raise Refused(
            "quote_expired",
            f"its quote ends at {quote.valid_until}, it is {now} and posting takes up to {EXPIRY_MARGIN} s",
            validUntil=quote.valid_until,
            now=now,
        )
    for name, has, needs in (
        ("client", quote.client.lower(), (wanted.client.lower(), ZERO_ADDRESS)),
        ("modelId", quote.model_id, (wanted.request.model_id,)),
        ("requestHash", quote.request_hash, (wanted.request.request_hash, bytes(32))),
        ("mode", quote.mode, (int(wanted.mode),)),
    ):
        if has not in needs:
            raise Refused("quote_mismatch", f"its quote is for another {name}", field=name)
    if quote.token.lower() != wanted.token.lower():
        raise Refused(
            "token",
            f"it quotes in token {quote.token.lower()}, jobs are paid in {wanted.token.lower()}",
            has=quote.token.lower(),
            needs=wanted.token.lower(),
        )


def _check_signature(quote: Quote, signature: bytes, wanted: Wanted) -> None:
    try:
        wanted.signatures.check(quote, signature, quote.provider)
    except BadSignature as error:
        domain = wanted.signatures.domain
        raise Refused(
            "signature",
            f"its quote is not signed by it for chain {domain.chain_id} and contract "
            f"{domain.verifying_contract.lower()} ({error.message.rstrip('.')})",
            chainId=domain.chain_id,
            contract=domain.verifying_contract.lower(),
        ) from None
