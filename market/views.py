"""What the contracts hold, as Python values: field for field the structs of contracts/interfaces, snake_case."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from market.hashing import ZERO32
from market.settlement import BondState as BondState
from market.settlement import JobState as JobState
from market.settlement import ReplicaState as ReplicaState
from market.types import Mode, Quote, Request, WireStruct


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
    commit_deadline: int  # unix seconds
    reveal_deadline: int  # unix seconds; 0 while it is not fixed
    final_at: int  # unix seconds; 0 before it is final
    escrow: int  # base units
    model_id: bytes
    request_hash: bytes
    output_hash: bytes  # the agreed output; zero before agreement

    @property
    def is_agreed(self) -> bool:
        return self.output_hash != ZERO32


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

    `permit` is b"" (credit or allowance pays) or `Token.permit`'s bytes; `inline_input` is b"" (delivered directly)
    or `market.hashing.pack_tokens` of the ids.
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
        )


def _member(name: str, kind: str) -> Any:
    return field(metadata={"name": name, "kind": kind})


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

    def offers(self, mode: Mode) -> bool:
        return bool(self.modes >> mode & 1)


def modes_mask(modes: tuple[Mode, ...]) -> int:
    """`Offer.modes` for a set of modes."""
    return sum(1 << mode for mode in set(modes))


@dataclass(frozen=True)
class Exit:
    """Stake on its way out: `amount` base units, credit from `ready_at` (unix seconds) on. Zeros if there is none."""

    amount: int
    ready_at: int


@dataclass(frozen=True)
class ProviderView:
    """A registered provider; `endpoint` is "" where there is none."""

    endpoint: str
    labels: bytes
