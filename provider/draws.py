"""Draws that are still to come: where their jobs were posted, and making the draw that nobody makes.

Once the draw block is over, whoever posted a job knows who will be drawn. To keep a client from letting a draw pass
because it hopes for another one, every provider that may be drawn makes it after a while, each after a time of its own,
so that one of them pays the gas. A draw that found too few is not made again: it costs its client nothing, and would
cost us gas as often as we tried. The journal remembers jobs until their draw is over, whatever happens to this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

import structlog

from market.chain import same_address
from market.errors import ContractError
from market.hashing import keccak256
from market.settlement import Terms as JobTerms
from market.views import JobState, JobView, ReplicaView
from provider.config import Timing
from provider.errors import Refusal
from provider.journal import Journal
from provider.keys import JobKey
from provider.node import IDLE, Next
from provider.pricing import Shop

log = structlog.get_logger(__name__)

MARK = "draw:"
SLOTS = 8  # times after `draw_grace` at which providers make a draw, `draw_stagger` apart
GAS_PATIENCE = 30  # seconds until a draw that is not worth its gas is looked at again
FORGOTTEN = 3_600  # seconds after its deadline at which a draw that nobody closed is forgotten


class DrawChain(Protocol):
    """What is asked of the chain (provider.chainside); raises as provider.job_chain.JobChain."""

    @property
    def address(self) -> str: ...
    def now(self) -> int: ...
    def seen(self, depth: int = 0) -> int: ...
    def job(self, job_id: bytes, depth: int = 0) -> JobView | None: ...
    def replicas(self, job_id: bytes) -> list[ReplicaView]: ...
    def stake(self) -> int: ...
    def fee_per_gas(self) -> int: ...
    def draw(self, job_id: bytes, key: str) -> None: ...


@dataclass(frozen=True)
class Pending:
    """A draw to come: the block its job was posted in, its draw block as last seen, and since when (unix seconds)."""

    posted_in: int
    draw_block: int
    since: int


class Draws:
    """See the module. Safe from any thread, but `step` of one job must not run twice at the same time.

    Args:
        may_be_drawn: whether this provider can be drawn for a model at present.

    Raises (every method): JournalError.
    """

    def __init__(
        self, chain: DrawChain, journal: Journal, shop: Shop, timing: Timing, may_be_drawn: Callable[[bytes], bool]
    ) -> None:
        self._chain = chain
        self._journal = journal
        self._shop = shop
        self._timing = timing
        self._may_be_drawn = may_be_drawn

    def opened(self, job_id: bytes, job: Mapping[str, Any], block: int) -> bool:
        """A job was posted: remembered (True) where it is to be drawn and this provider serves its model.

        Args:
            job: the values of JobPosted's `job`.
        """
        if not job["drawBlock"] or job["modelId"] not in self._shop.products:
            return False
        self._remember(job_id, Pending(block, job["drawBlock"], self._chain.now()))
        return True

    def over(self, job_id: bytes) -> None:
        """Its replicas are drawn, or never will be."""
        if self.pending(job_id) is not None:
            self._journal.drop_mark(MARK + job_id.hex())

    def pending(self, job_id: bytes) -> Pending | None:
        text = self._journal.mark(MARK + job_id.hex())
        return None if text is None else Pending(**json.loads(text))

    def open(self) -> list[bytes]:
        """Jobs whose draw is to come, for taking them up after a restart."""
        return [bytes.fromhex(name.removeprefix(MARK)) for name in self._journal.mark_names(MARK)]

    def step(self, job_id: bytes) -> Next | None:
        """Makes the draw where it is due and worth it. None: this job's draw is nothing to wait for.

        Raises:
            ChainError: call again later.
        """
        pending = self.pending(job_id)
        if pending is None:
            return None
        job, now = self._chain.job(job_id), self._chain.now()
        if job is not None and job.state is not JobState.DRAWING:
            return None  # the events that say so are still to be read; they make it `over`
        end = (pending.since if job is None else job.commit_deadline) + FORGOTTEN
        if self._chain.seen() > end:
            self.over(job_id)
            return IDLE
        if job is None or now > job.commit_deadline:  # a reorganisation took it, or anybody may settle it now
            return Next(at=end + 1)
        if job.draw_block != pending.draw_block:  # the former block's hash was out of reach
            pending = replace(pending, draw_block=job.draw_block, since=now)
            self._remember(job_id, pending)
        due = pending.since + self._wait(job_id, job, pending)
        if now < due:
            return Next(at=due)
        try:
            if not self._wants(job_id, job):
                return Next(at=end + 1)
        except Refusal as refusal:
            if refusal.code != "UNPROFITABLE":
                return Next(at=end + 1)
            return Next(at=now + GAS_PATIENCE)
        return self._draw(job_id, job, now)

    def _draw(self, job_id: bytes, job: JobView, now: int) -> Next:
        try:
            self._chain.draw(job_id, JobKey.DRAW.of(job_id, job.draw_block))
        except ContractError as error:  # somebody was faster, or a block is missing
            log.info("transaction_refused", job_id="0x" + job_id.hex(), call="draw", code=error.code)
        else:
            log.info("draw_made", job_id="0x" + job_id.hex(), draw_block=job.draw_block)
        return Next(at=now + 1)

    def _wait(self, job_id: bytes, job: JobView, pending: Pending) -> int:
        """Seconds this provider lets others be first; less where the job leaves less time, half of it at most."""
        slot = int.from_bytes(keccak256(job_id + bytes.fromhex(self._chain.address[2:]))) % SLOTS
        wait = self._timing.draw_grace + slot * self._timing.draw_stagger
        longest = self._timing.draw_grace + (SLOTS - 1) * self._timing.draw_stagger
        room = max(job.commit_deadline - pending.since, 0) // 2
        return wait if longest <= room else wait * room // longest

    def _wants(self, job_id: bytes, job: JobView) -> bool:
        """Whether this provider may be drawn, would do the job, and would be paid for the draw's gas, too.

        Raises:
            Refusal: the terms are not its own; UNPROFITABLE: not at the present gas price.
        """
        if job.draw_failed or same_address(job.client, self._chain.address):
            return False  # whoever wants a draw of terms that too few take may pay for it, again and again
        undrawn = self._chain.replicas(job_id)[0]
        terms = JobTerms(**{field.name: getattr(undrawn, field.name) for field in fields(JobTerms)})
        self._shop.check_drawn(job.model_id, job.mode, terms)
        self._shop.check_drawing(terms, job.input_tokens, job.max_output_tokens, self._chain.fee_per_gas())
        return self._chain.stake() >= terms.bond and self._may_be_drawn(job.model_id)

    def _remember(self, job_id: bytes, pending: Pending) -> None:
        self._journal.set_mark(MARK + job_id.hex(), json.dumps(asdict(pending)))
