"""The rows of the journal, as frozen dataclasses, and the stages a job goes through."""

from __future__ import annotations

import enum
import sqlite3
from dataclasses import dataclass, replace

from market.types import Output, Quote, Request


class Stage(enum.StrEnum):
    """How far this provider is with a job. A stage that ends in -ING was written before its transaction was sent.

    SEEN → RUNNING → ANSWERED → COMMITTING → COMMITTED → REVEALING → REVEALED → SETTLING → FINAL → RELEASING → CLOSED,
    or REFUSED from SEEN and RUNNING, or from ANSWERED when the commit window is missed.
    """

    SEEN = "SEEN"  # assigned on chain; waits for the request or for the engine
    RUNNING = "RUNNING"  # with the engine
    ANSWERED = "ANSWERED"  # answer and salt are on disk
    COMMITTING = "COMMITTING"
    COMMITTED = "COMMITTED"
    REVEALING = "REVEALING"
    REVEALED = "REVEALED"
    SETTLING = "SETTLING"
    FINAL = "FINAL"  # settled, cancelled or expired on chain; the bond may still be locked
    RELEASING = "RELEASING"
    CLOSED = "CLOSED"  # nothing is left to do
    REFUSED = "REFUSED"  # not worked on; `reason` says why


BONDED = (Stage.COMMITTED, Stage.REVEALING, Stage.REVEALED, Stage.SETTLING, Stage.FINAL, Stage.RELEASING)
"""Stages in which the job's bond is locked in the vault."""


@dataclass(frozen=True)
class Answered:
    """An answer as the journal keeps it, encrypted; ids None where an older version had dropped them already."""

    ids: tuple[int, ...] | None
    output: Output
    salt: bytes


@dataclass(frozen=True)
class JobRow:
    """One job this provider was assigned to. Money in base units, times in unix seconds.

    Attributes:
        public: the request stands on chain, so anyone may read the answer.
        salt, ids, output, inference_ms: None until the answer is there; written once. The first three also where it was
            forgotten, the journal was opened without the provider's key, or many rows were asked for.
        attempts: how often a commit or reveal was given up after a chain reorganisation; part of idempotency keys.
        paid: escrow paid to this provider; outcome: the chain's final state in words.
    """

    job_id: bytes
    client: str
    model_id: bytes
    request_hash: bytes
    quote_digest: bytes
    bond: int
    commit_deadline: int
    public: bool
    stage: Stage
    reason: str
    detail: str
    salt: bytes | None
    ids: tuple[int, ...] | None
    output: Output | None
    inference_ms: int | None
    attempts: int
    outcome: str
    paid: int
    final_at: int
    release_at: int
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, row: sqlite3.Row, answered: Answered | None) -> JobRow:
        """A row of the journal's table; the answer is encrypted there, and given here."""
        return cls(
            job_id=row["job_id"],
            client=row["client"],
            model_id=row["model_id"],
            request_hash=row["request_hash"],
            quote_digest=row["quote_digest"],
            commit_deadline=row["commit_deadline"],
            reason=row["reason"],
            detail=row["detail"],
            salt=None if answered is None else answered.salt,
            inference_ms=row["inference_ms"],
            attempts=row["attempts"],
            outcome=row["outcome"],
            final_at=row["final_at"],
            release_at=row["release_at"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            stage=Stage(row["stage"]),
            ids=None if answered is None else answered.ids,
            output=None if answered is None else answered.output,
            bond=int(row["bond"]),
            paid=int(row["paid"]),
            public=bool(row["public"]),
        )

    def with_payment(self, *, paid: int, final_at: int) -> JobRow:
        """The row as it will be once the node has seen the job's settlement."""
        return replace(self, paid=paid, final_at=final_at)


@dataclass(frozen=True)
class QuoteRow:
    """A quote this provider signed; job_id None while no job used it."""

    digest: bytes
    quote: Quote
    signature: bytes
    issued_at: int
    job_id: bytes | None


@dataclass(frozen=True)
class StoredRequest:
    """A request with its prompt, as delivered."""

    request: Request
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Tally:
    """Counts of jobs: by stage, by outcome on chain, by reason of refusal; and bonds locked, base units."""

    stages: dict[str, int]
    outcomes: dict[str, int]
    refusals: dict[str, int]
    locked: int
