"""A job in the model: the call that posts it, the job, its replicas."""

from __future__ import annotations

from dataclasses import dataclass

from eth_account.signers.local import LocalAccount

from market.hashing import ZERO32
from market.settlement import (
    BondState,
    JobFacts,
    JobState,
    ReplicaFacts,
    ReplicaState,
    Terms,
    payment,
)
from market.types import ZERO_ADDRESS, Output, Quote, Request, Sampler
from tests.stateful.ledger import Refused


@dataclass(frozen=True)
class Post:
    """A call of `post` in Python's types. Each quote comes with whoever signed it."""

    mode: int
    quorum: int
    max_escrow: int
    commit_window: int
    reveal_window: int
    request: Request
    quotes: tuple[tuple[Quote, LocalAccount | None], ...]  # None = unsigned
    inline: bytes = b""
    permit: int | None = None  # the value permitted, None without a permit
    malformed: bool = False  # the permit is cut short
    draw: int = 0


@dataclass
class ModelReplica:
    quote: Quote
    state: ReplicaState = ReplicaState.ASSIGNED
    bond_state: BondState = BondState.NONE
    digest: bytes = ZERO32
    output: Output | None = None
    provider: str = ""
    demand_deadline: int = 0
    demander: str = ZERO_ADDRESS
    buyer: str = ZERO_ADDRESS  # of an output that the client did not pay for
    bought_for: int = 0

    def __post_init__(self) -> None:
        self.provider = self.quote.provider

    @property
    def terms(self) -> Terms:
        return Terms.of(self.quote)

    @property
    def facts(self) -> ReplicaFacts:
        hashed = self.output.output_hash if self.output else None
        tokens = self.output.output_tokens if self.output else 0
        return ReplicaFacts(self.provider, self.state, self.terms, tokens, hashed)


@dataclass
class ModelJob:
    id: bytes
    client: str
    request: Request
    mode: int
    quorum: int
    commit_deadline: int
    reveal_window: int
    replicas: list[ModelReplica]
    escrow: int
    state: JobState = JobState.OPEN
    reveal_deadline: int = 0
    final_at: int = 0
    agreed: bytes | None = None
    refunded: int = 0
    slashed: int = 0
    inline: bool = False
    commit_window: int = 0
    draw_block: int = 0
    draw_length: int = 0
    draw_failed: bool = False
    revealed_at: int = 0  # optimistic jobs only
    seed_block: int = 0  # sampler 2 only
    seed: bytes = ZERO32

    @property
    def facts(self) -> JobFacts:
        return JobFacts(
            self.client,
            self.request.input_tokens,
            self.request.max_output_tokens,
            tuple(replica.facts for replica in self.replicas),
            self.agreed,
        )

    @property
    def is_seeded(self) -> bool:
        """By the chain."""
        return self.request.sampler == Sampler.SEEDED_BY_CHAIN

    @property
    def committed(self) -> int:
        return sum(r.bond_state is not BondState.NONE for r in self.replicas)

    @property
    def revealed(self) -> int:
        return sum(r.state is ReplicaState.REVEALED for r in self.replicas)

    @property
    def reveal_end(self) -> int:
        return self.commit_deadline + self.reveal_window if self.state is JobState.OPEN else self.reveal_deadline

    def replica(self, caller: str) -> ModelReplica:
        for replica in self.replicas:
            if replica.provider == caller:
                return replica
        raise Refused("NotReplica", jobId=self.id, caller=caller)

    def paid(self, replica: ModelReplica) -> int:
        return payment(self.facts, self.state, replica.facts)
