"""Who gets what: the chain's payout arithmetic as pure functions (contracts/libraries/Payout.sol, docs/protocol.md §7).

Base units of the stake token, unix seconds; no chain, no float. A state machine holds this and the contracts together
to the unit (tests/stateful).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from market.types import Quote

MILLION = 1_000_000
BPS = 10_000
DRAW_FEE_BPS = 1_000
"""Least kill fee of a drawn job, in basis points of its price."""
DEMAND_FEE_TOKENS = 512
BURNT_ADDRESS = "0x000000000000000000000000000000000000dEaD"
"""Credit of this address belongs to nobody: slashed money that is neither refund nor reward."""


class JobState(enum.IntEnum):
    """IJobs.JobState."""

    NONE = 0
    DRAWING = 1
    OPEN = 2
    REVEALING = 3
    SETTLED = 4
    CANCELLED = 5
    EXPIRED = 6

    @property
    def is_final(self) -> bool:
        return self >= JobState.SETTLED


class ReplicaState(enum.IntEnum):
    """IJobs.ReplicaState."""

    NONE = 0
    UNDRAWN = 1
    ASSIGNED = 2
    COMMITTED = 3
    REVEALED = 4
    LATE = 5
    MISSED = 6


class BondState(enum.IntEnum):
    """IJobs.BondState."""

    NONE = 0
    LOCKED = 1
    DISPUTED = 2
    RELEASED = 3
    SLASHED = 4


@dataclass(frozen=True)
class Terms:
    """The part of a quote that money depends on. Prices are per million tokens."""

    base_fee: int
    price_per_m_input: int
    price_per_m_output: int
    kill_fee: int
    miss_fee: int
    bond: int

    @classmethod
    def of(cls, quote: Quote) -> Terms:
        return cls(
            base_fee=quote.base_fee,
            price_per_m_input=quote.price_per_m_input,
            price_per_m_output=quote.price_per_m_output,
            kill_fee=quote.kill_fee,
            miss_fee=quote.miss_fee,
            bond=quote.bond,
        )


@dataclass(frozen=True)
class ReplicaFacts:
    """What the chain knows of one replica when its job is closed. `output_hash` is None before a reveal."""

    provider: str
    state: ReplicaState
    terms: Terms
    output_tokens: int = 0
    output_hash: bytes | None = None


@dataclass(frozen=True)
class JobFacts:
    """What the chain knows of a job when it is closed. `agreed` is the agreed output hash, None without one."""

    client: str
    input_tokens: int
    max_output_tokens: int
    replicas: tuple[ReplicaFacts, ...]
    agreed: bytes | None = None


@dataclass(frozen=True)
class Payout:
    """Division of a closed job's money.

    Attributes:
        state: the final state.
        paid: provider → escrow paid to it (price or kill fee); all replicas are named.
        refunded: escrow back to the client.
        miss_fees: provider → taken out of its bond; only silent ones are named.
        returned: provider → bond that goes back to its stake at once; only those are named.
        miss_share: what each replica that revealed in time gets of the miss fees.
        burnt: what is left of the miss fees; where nobody was drawn, the draw fees.
        credit: address → what its credit grows by, everything summed (BURNT_ADDRESS included).
        stake: address → what its stake grows by.
    """

    state: JobState
    paid: Mapping[str, int]
    refunded: int
    miss_fees: Mapping[str, int]
    returned: Mapping[str, int]
    miss_share: int
    burnt: int
    credit: Mapping[str, int] = field(default_factory=dict)
    stake: Mapping[str, int] = field(default_factory=dict)


def price(terms: Terms, input_tokens: int, output_tokens: int) -> int:
    """baseFee + ⌈(in·pricePerMInput + out·pricePerMOutput) / 10⁶⌉ (docs/protocol.md, "price")."""
    metered = input_tokens * terms.price_per_m_input + output_tokens * terms.price_per_m_output
    return terms.base_fee + -(-metered // MILLION)


def kill_fee(terms: Terms, input_tokens: int, output_tokens: int) -> int:
    """The quoted kill fee, never more than the price of the same work."""
    return min(terms.kill_fee, price(terms, input_tokens, output_tokens))


def escrow(job: JobFacts) -> int:
    """What `post` takes from the client: each replica's price at its longest."""
    return sum(price(r.terms, job.input_tokens, job.max_output_tokens) for r in job.replicas)


def minimum_bond(terms: Terms, max_input_tokens: int, max_output_tokens: int, share_bps: int) -> int:
    """The least bond `post` accepts for a quote with these limits: bond·(1 − share) covers its highest price."""
    return -(-price(terms, max_input_tokens, max_output_tokens) * BPS // (BPS - share_bps))


def minimum_kill_fee(terms: Terms, input_tokens: int, max_output_tokens: int) -> int:
    """The least kill fee `post` accepts for a drawn job: DRAW_FEE_BPS of its price."""
    return -(-price(terms, input_tokens, max_output_tokens) * DRAW_FEE_BPS // BPS)


def demand_fee(fee: int, output_tokens: int) -> int:
    """What demanding an output costs: `fee` for every DEMAND_FEE_TOKENS tokens that it has or has begun."""
    return fee * -(-output_tokens // DEMAND_FEE_TOKENS)


def payment(job: JobFacts, state: JobState, replica: ReplicaFacts) -> int:
    """What one replica gets out of the escrow of a job whose final state is `state`."""
    if state is JobState.SETTLED and replica.state is ReplicaState.REVEALED:
        agreed = replica.output_hash == job.agreed
        return price(replica.terms, job.input_tokens, replica.output_tokens) if agreed else 0
    if state is JobState.SETTLED and replica.state is ReplicaState.LATE:
        return kill_fee(replica.terms, job.input_tokens, replica.output_tokens)
    unneeded = state is JobState.EXPIRED and replica.state is ReplicaState.COMMITTED
    if state is JobState.CANCELLED or unneeded:
        return kill_fee(replica.terms, job.input_tokens, job.max_output_tokens)
    return 0


def settle(job: JobFacts) -> Payout:
    """Closes a job whose reveal phase is over: agreed → SETTLED, else EXPIRED; who is still COMMITTED was silent."""
    replicas = tuple(
        dataclasses.replace(r, state=ReplicaState.MISSED) if r.state is ReplicaState.COMMITTED else r
        for r in job.replicas
    )
    state = JobState.EXPIRED if job.agreed is None else JobState.SETTLED
    return _divide(dataclasses.replace(job, replicas=replicas), state)


def lapse(job: JobFacts) -> Payout:
    """Closes a job whose commit window ended short of a quorum: those who committed get their kill fee."""
    return _divide(job, JobState.EXPIRED)


def lapse_draw(job: JobFacts, *, failed: bool) -> Payout:
    """Closes a job for which nobody was drawn in time: its kill fees are burnt, unless a draw failed for want of
    providers."""
    fee = 0 if failed else sum(kill_fee(r.terms, job.input_tokens, job.max_output_tokens) for r in job.replicas)
    refunded = escrow(job) - fee
    credit = _sum([(job.client, refunded), (BURNT_ADDRESS, fee)])
    return Payout(JobState.EXPIRED, {}, refunded, {}, {}, 0, fee, credit, {})


def cancel(job: JobFacts) -> Payout:
    """Closes a job its client took back before the first commit: every assigned replica gets its kill fee."""
    return _divide(job, JobState.CANCELLED)


def revoke(job: JobFacts) -> Payout:
    """Closes an optimistic job whose answer was proved wrong, or withheld, before it was paid: the escrow goes back
    whole, beside what `slash` makes of the bond."""
    return _divide(job, JobState.EXPIRED)


def _divide(job: JobFacts, state: JobState) -> Payout:
    paid = {r.provider: payment(job, state, r) for r in job.replicas}
    silent = [r for r in job.replicas if r.state is ReplicaState.MISSED]
    returned = {r.provider: r.terms.bond - r.terms.miss_fee for r in silent}
    returned |= {r.provider: r.terms.bond for r in job.replicas if r.state is ReplicaState.COMMITTED}
    in_time = [r.provider for r in job.replicas if r.state is ReplicaState.REVEALED]
    miss_fees = {r.provider: r.terms.miss_fee for r in silent}
    share = sum(miss_fees.values()) // len(in_time) if in_time else 0
    burnt = sum(miss_fees.values()) - share * len(in_time)
    refunded = escrow(job) - sum(paid.values())
    credit = _sum([*paid.items(), *((p, share) for p in in_time), (job.client, refunded), (BURNT_ADDRESS, burnt)])
    return Payout(state, paid, refunded, miss_fees, returned, share, burnt, credit, _sum(returned.items()))


@dataclass(frozen=True)
class Slash:
    """Division of the bond of a replica proved wrong: refund to the client, reward to the challenger, rest burnt."""

    refunded: int
    reward: int
    burnt: int


def slash(bond: int, refund: int, share_bps: int) -> Slash:
    """Divides a slashed bond. `refund` is what the replica had been paid; it comes first.

    Raises:
        ValueError: the refund exceeds the bond, which no accepted quote allows.
    """
    if refund > bond:
        raise ValueError(f"a refund of {refund} exceeds the bond of {bond}")
    reward = min(bond * share_bps // BPS, (bond - refund) // 2)
    return Slash(refund, reward, bond - refund - reward)


def _sum(deltas: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for account, amount in deltas:
        if amount:
            total[account] = total.get(account, 0) + amount
    return total
