"""How often an answer must be re-executed so that cheating does not pay, and which answers that hits.

A provider that cheats on a job saves C and may be offered B from outside. It is caught if the answer is audited
(share p) by somebody who does not collude (share 1 - r); then it loses its payment R and what its bond loses for
certain, S = bond less the challengers' share, which a cheater that challenges itself gets back. So cheating changes its
income by C + B - p (1 - r) (R + S), and honesty is the best reply iff p > (C + B) / ((1 - r) (R + S)).

Base units of the stake token, rates as exact fractions; no float comes near money.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from fractions import Fraction

BPS = 10_000


@dataclass(frozen=True)
class Stakes:
    """What a provider has to win and to lose by cheating on one job.

    Attributes:
        payment: R, what the job pays, base units.
        bond: the whole bond of the job, base units.
        challenger_share_bps: part of the bond that challengers get; it deters nobody who challenges himself.
        saved: C, what cheating saves, base units; `payment` is the most that it can be worth to a provider that does
            not work at a loss.
        bribe: B, what somebody outside pays for the wrong answer, base units.
    """

    payment: int
    bond: int
    challenger_share_bps: int
    saved: int
    bribe: int = 0

    def __post_init__(self) -> None:
        amounts = (self.payment, self.bond, self.saved, self.bribe)
        if any(amount < 0 for amount in amounts) or not 0 <= self.challenger_share_bps <= BPS:
            raise ValueError("amounts are not negative, and a share is 0 … 10,000 basis points")

    @property
    def at_risk(self) -> int:
        """R + S, rounded down: what a caught cheater loses."""
        return self.payment + self.bond * (BPS - self.challenger_share_bps) // BPS

    @property
    def gain(self) -> int:
        """C + B."""
        return self.saved + self.bribe


def break_even(stakes: Stakes, colluding: Fraction = Fraction(0)) -> Fraction | None:
    """The rate at which cheating and honesty pay the same: any higher rate deters.

    Args:
        colluding: r, the share of audits that are made by friends of the provider.

    Returns:
        A fraction of at most 1, or None where no rate deters.

    Raises:
        ValueError: `colluding` is no share below 1.
    """
    if not 0 <= colluding < 1:
        raise ValueError(f"the colluding share is at least 0 and below 1, not {colluding}")
    if stakes.at_risk == 0:
        return None if stakes.gain else Fraction(0)
    rate = Fraction(stakes.gain, stakes.at_risk) / (1 - colluding)
    return rate if rate < 1 else None


@dataclass(frozen=True)
class AuditPolicy:
    """What a client or watcher assumes of strangers, and how far above the break-even rate it stays.

    Attributes:
        colluding_bps: share of the other audits that it does not trust, basis points.
        bribe: what it believes a wrong answer is worth to somebody else, base units.
        margin_bps: how much higher than break-even, basis points of the rate.
        least_bps: rate below which it never goes, so that a wrong estimate of a provider's costs does not open a door.
    """

    colluding_bps: int = 0
    bribe: int = 0
    margin_bps: int = 2_000
    least_bps: int = 100

    def rate(self, payment: int, bond: int, challenger_share_bps: int) -> Fraction:
        """Share of such answers to re-execute. Cheating is taken to save the whole payment. 1 where nothing deters:
        then only looking at every answer does.
        """
        stakes = Stakes(payment, bond, challenger_share_bps, saved=payment, bribe=self.bribe)
        even = break_even(stakes, Fraction(self.colluding_bps, BPS))
        if even is None:
            return Fraction(1)
        return min(Fraction(1), max(even * (BPS + self.margin_bps) / BPS, Fraction(self.least_bps, BPS)))


def is_audited(secret: bytes, subject_id: bytes, output_hash: bytes, rate: Fraction) -> bool:
    """Whether this answer is among those to be re-executed: HMAC-SHA256 of subject and output, below rate · 2^256.

    A function of the answer, so that it is drawn after the provider committed to it and comes out the same after a
    restart; nobody without the secret can tell beforehand.

    Raises:
        ValueError: the secret is shorter than 32 bytes.
    """
    if len(secret) < 32:
        raise ValueError("an audit secret has at least 32 bytes")
    drawn = int.from_bytes(hmac.digest(secret, subject_id + output_hash, "sha256"), "big")
    return drawn * rate.denominator < rate.numerator << 256
