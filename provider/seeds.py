"""The seed of a job that the chain seeds (sampler 2): known from the posting block's hash, and the same until the end?

Until somebody commits, a reorganisation can put another block in the place of the posting block, and another seed in
the place of the one that was computed with. So the journal remembers with which one that was; before anything is sent
it is compared. And the hash of a block is out of the contract's reach after a while: whoever waits or computes for long
has the seed stored, so that its work is not lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import structlog

from market.errors import ContractError
from market.inference.sampling import Sampling
from market.types import Request, Sampler
from market.views import SeedView
from provider.errors import Refusal
from provider.journal import Journal
from provider.keys import JobKey
from provider.records import JobRow, Stage

log = structlog.get_logger(__name__)

MARK = "seed:"
REACH = 256  # blocks whose hash a contract can read on any chain
FIX_AFTER = 64  # blocks after the posting at which an agent that still waits or computes has the seed stored
LOOK = 10  # seconds between looks at how old the posting block is
LATEST = (Stage.SEEN, Stage.RUNNING, Stage.ANSWERED, Stage.COMMITTING, Stage.COMMITTED)
"""Stages in which nobody has seen an answer of ours: one with another seed contradicts nothing."""


@dataclass(frozen=True)
class JobSeed:
    """What the chain says of a job's seed, and how many blocks ago the block was whose hash it comes from."""

    view: SeedView
    age: int

    @property
    def is_gone(self) -> bool:
        """No contract can read that hash any more, and nobody had the seed stored."""
        return not self.view.is_known and self.age > REACH


class SeedChain(Protocol):
    """What is asked of the chain (provider.chainside); raises as provider.job_chain.JobChain."""

    def seed(self, job_id: bytes) -> JobSeed:
        """The seed as the newest block has it, or as the next one will."""

    def fix_seed(self, job_id: bytes, key: str) -> None: ...


class Seeds:
    """See the module.

    Raises (every method): ChainError: call again later. JournalError: nothing was sent.
    """

    def __init__(self, chain: SeedChain, journal: Journal) -> None:
        self._chain = chain
        self._journal = journal

    def sampling(self, job_id: bytes, request: Request) -> tuple[bool, Sampling | None]:
        """Whether a job's answer can be computed now, and how its tokens are chosen (None: greedily). The seed is
        remembered as the one that the answer is computed with.

        Raises:
            Refusal: SeedOutOfReach: nobody can compute it any more.
        """
        if request.sampler != Sampler.SEEDED_BY_CHAIN:
            return True, Sampling.of(request)
        found = self._chain.seed(job_id)
        if found.is_gone:
            raise Refusal(
                "SeedOutOfReach",
                f"Block {found.view.block}, whose hash seeds the answer, is {found.age} blocks old, and nobody had the "
                "seed stored.",
                hint="Nothing is lost. Post the job again.",
                seedBlock=found.view.block,
            )
        if not found.view.is_known:
            return False, None
        self._journal.set_mark(_mark(job_id), found.view.seed.hex())
        return True, Sampling.of(request, found.view.seed)

    def has_changed(self, job_id: bytes) -> bool:
        """Whether the answer was computed, or is, with a seed that is not the job's any more."""
        used = self._used(job_id)
        if used is None:
            return False
        found = self._chain.seed(job_id).view
        return found.is_known and found.seed != used

    def look(self, job_id: bytes, now: int) -> int | None:
        """Has the seed stored where its block gets old. When to look again (unix seconds); None: there is no need."""
        if self._used(job_id) is None:
            return None
        found = self._chain.seed(job_id)
        if found.view.is_fixed or found.is_gone:
            return None
        if found.age <= FIX_AFTER:
            return now + LOOK
        try:
            self._chain.fix_seed(job_id, JobKey.FIX_SEED.of(job_id, found.view.block))
        except ContractError as error:  # somebody was faster, or the job is over
            log.info("transaction_refused", job_id="0x" + job_id.hex(), call="fixSeed", code=error.code)
            return now + LOOK
        log.info("seed_fixed", job_id="0x" + job_id.hex(), seed_block=found.view.block)
        return None

    def start_again(self, row: JobRow, now: int) -> bool:
        """Forgets the answer to the seed that was. False, and nothing is done, where somebody may have seen it."""
        if row.stage not in LATEST:
            return False
        log.warning("seed_changed", job_id="0x" + row.job_id.hex(), stage=row.stage)
        self._journal.forget_answer(row.job_id, now)
        self.forget(row.job_id)
        return True

    def forget(self, job_id: bytes) -> None:
        """The job is over for this provider."""
        if self._used(job_id) is not None:
            self._journal.drop_mark(_mark(job_id))

    def _used(self, job_id: bytes) -> bytes | None:
        text = self._journal.mark(_mark(job_id))
        return None if text is None else bytes.fromhex(text)


def _mark(job_id: bytes) -> str:
    return MARK + job_id.hex()
