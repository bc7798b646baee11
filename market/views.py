"""What the contracts hold, as Python values: field for field the structs of contracts/interfaces, snake_case."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from market.hashing import ZERO32
from market.settlement import BondState as BondState
from market.settlement import JobState as JobState
from market.settlement import ReplicaState as ReplicaState
from market.settlement import Terms, price
from market.types import ZERO_ADDRESS, Mode, Quote, Request, WireStruct

WEIGHTS = 1 << 16
"""The weight of an entry of the drawable list that is always taken when its place is picked."""


class ProofJobState(IntEnum):
    """contracts/interfaces/IProofJobs.sol."""

    NONE = 0
    OPEN = 1
    SETTLED = 2
    EXPIRED = 3


@dataclass(frozen=True)
class JobView:
    """A job as the chain stores it: a deadline that passed shows only once somebody settles."""

    client: str
    state: JobState
    mode: Mode
    quorum: int
    replicas: int
    committed: int
    revealed: int
    input_tokens: int
    max_output_tokens: int
    reveal_window: int  # seconds
    commit_deadline: int  # unix seconds; while DRAWING, until when the replicas must be drawn
    reveal_deadline: int  # unix seconds; 0 while it is not fixed
    final_at: int  # unix seconds; 0 before it is final
    escrow: int  # base units
    model_id: bytes
    request_hash: bytes
    output_hash: bytes  # the agreed output; zero before agreement
    draw_block: int = 0  # the block whose hash draws the replicas; 0 where the client chose them
    draw_failed: bool = False  # a draw found too few that take the terms
    inline_input: bool = False  # the request is public, and so anyone may demand the output

    @property
    def is_drawn(self) -> bool:
        return self.draw_block != 0

    @property
    def is_agreed(self) -> bool:
        return self.output_hash != ZERO32


@dataclass(frozen=True)
class SeedView:
    """The seed that the chain gives a job (sampler 2).

    Attributes:
        seed: zero where there is none, not yet or no longer; until it is fixed, a reorganisation may change it.
        block: whose hash it comes from; 0 where the chain seeds nothing.
    """

    seed: bytes
    block: int
    is_fixed: bool

    @property
    def is_known(self) -> bool:
        return self.seed != ZERO32


@dataclass(frozen=True)
class ReplicaView:
    """One replica of a job: what it did, what it was promised, what became of its bond. Money in base units."""

    provider: str
    state: ReplicaState
    bond_state: BondState
    finish: int
    output_tokens: int
    base_fee: int
    price_per_m_input: int
    price_per_m_output: int
    kill_fee: int
    miss_fee: int
    bond: int
    paid: int  # price or kill fee, at settlement
    digest: bytes  # the commitment while COMMITTED or MISSED, the output hash once REVEALED or LATE
    demand_deadline: int = 0  # unix seconds until which the output that was demanded must be published; 0 = none was
    demander: str = ZERO_ADDRESS  # who demanded it and waits; zero once that is over

    @property
    def is_demanded(self) -> bool:
        return self.demander != ZERO_ADDRESS

    @property
    def is_held(self) -> bool:
        """Whether the bond is still there, disputed or not."""
        return self.bond_state in (BondState.LOCKED, BondState.DISPUTED)

    def dispute_end(self, job: JobView, dispute_window: int) -> int:
        """Last second (unix) in which the bond of a replica that revealed can be disputed; the job is final. An
        optimistic one is so only once that time is over."""
        if job.mode is Mode.OPTIMISTIC:
            return job.final_at
        return (self.demand_deadline or job.final_at) + dispute_window

    def bond_free_at(self, job: JobView, dispute_window: int, dispute_deadline: int) -> int:
        """First second (unix) in which anybody may release the bond of a replica that revealed, where no verdict comes
        first; the job is final. A dispute about it holds the bond for `dispute_deadline` seconds more, unless the job
        is an optimistic one: that was not settled before."""
        disputed = self.bond_state is BondState.DISPUTED and job.mode is not Mode.OPTIMISTIC
        return self.dispute_end(job, dispute_window) + (dispute_deadline if disputed else 0) + 1

    def charge(self, job: JobView) -> int:
        """Base units that the receipt of its answer states: what was paid, or what an optimistic one will be."""
        if job.mode is not Mode.OPTIMISTIC or job.state.is_final:
            return self.paid
        terms = Terms(self.base_fee, self.price_per_m_input, self.price_per_m_output, 0, 0, 0)
        return price(terms, job.input_tokens, self.output_tokens)


@dataclass(frozen=True)
class DemandCost:
    """What demanding an output costs, base units: the `fee` is the provider's that publishes; the `price` of an output
    that the client did not pay for (else 0) is held with the bond: then the provider's, or back where that is lost.
    """

    fee: int
    price: int

    @property
    def total(self) -> int:
        return self.fee + self.price


@dataclass(frozen=True)
class SignedQuote:
    """A quote with its provider's signature (65 bytes r‖s‖v, or what its ERC-1271 contract takes)."""

    quote: Quote
    signature: bytes

    def values(self) -> tuple[Any, ...]:
        return (self.quote.values(), self.signature)


@dataclass(frozen=True)
class JobParams:
    """Everything `Jobs.post` needs; quorum k of n = len(quotes), windows in seconds, max_escrow in base units.

    With `draw` = n the one quote is nobody's and unsigned: the terms that n drawn providers are offered. `permit` is
    b"" (credit or allowance pays) or `Token.permit`'s bytes; `inline_input` is b"" (delivered directly) or
    `market.hashing.pack_tokens` of the ids.
    """

    mode: Mode
    quorum: int
    max_escrow: int
    commit_window: int
    reveal_window: int
    request: Request
    quotes: tuple[SignedQuote, ...]
    permit: bytes = b""
    inline_input: bytes = b""
    draw: int = 0

    def values(self) -> tuple[Any, ...]:
        return (
            int(self.mode),
            self.quorum,
            self.max_escrow,
            self.commit_window,
            self.reveal_window,
            self.request.values(),
            [signed.values() for signed in self.quotes],
            self.permit,
            self.inline_input,
            self.draw,
        )


def _member(name: str, kind: str, **options: Any) -> Any:
    return field(metadata={"name": name, "kind": kind}, **options)


@dataclass(frozen=True)
class Offer(WireStruct):
    """A provider's standing list price for a model: it advertises, only a signed quote binds.

    Prices per million tokens in base units of `token`; bit i of `modes` = Mode(i) is offered.
    """

    token: str = _member("token", "address")
    base_fee: int = _member("baseFee", "uint128")
    price_per_m_input: int = _member("pricePerMInput", "uint128")
    price_per_m_output: int = _member("pricePerMOutput", "uint128")
    max_input_tokens: int = _member("maxInputTokens", "uint32")
    max_output_tokens: int = _member("maxOutputTokens", "uint32")
    modes: int = _member("modes", "uint8")
    max_bond: int = _member("maxBond", "uint128", default=0)  # 0 = never drawn

    def offers(self, mode: Mode) -> bool:
        return bool(self.modes >> mode & 1)


def modes_mask(modes: tuple[Mode, ...]) -> int:
    """`Offer.modes` for a set of modes."""
    return sum(1 << mode for mode in set(modes))


@dataclass(frozen=True)
class Stake:
    """An owner's collateral in base units: `free`, and `bonded` in jobs. `since`: the block of its last `stake`, 0 for
    none; a draw that an earlier block decides passes its owner by."""

    free: int
    bonded: int
    since: int


@dataclass(frozen=True)
class Exit:
    """Stake on its way out: `amount` base units, credit from `ready_at` (unix seconds) on. Zeros if there is none."""

    amount: int
    ready_at: int


@dataclass(frozen=True)
class DrawableEntry:
    """A place of the drawable list: `provider` stands there since block `since`; `weight` / 65,536 is the chance that
    it is taken when its place is picked."""

    provider: str
    since: int
    weight: int


@dataclass(frozen=True)
class ProviderView:
    """A registered provider; `endpoint` is "" where there is none."""

    endpoint: str
    labels: bytes
