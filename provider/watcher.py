"""Reads the events of the Jobs contract, notes what concerns this provider, and wakes the jobs they speak of."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from eth_utils.address import to_checksum_address

from market.errors import AssayError
from market.events import Event, Follower, HeadWaker, Mark, Rewind, struct_of
from market.hashing import ZERO32, unpack_tokens
from market.types import Request
from provider.chainside import ChainSide
from provider.draws import Draws
from provider.journal import Journal
from provider.threads import on_thread

log = structlog.get_logger(__name__)


class Watcher:
    """See the module. `run` belongs to one event loop; `poll` may be called from any one thread at a time.

    Args:
        purge_seconds: between clean-ups of the journal.
        failed: told the code of each look that failed; looked: called after each one that did not.
    """

    def __init__(
        self,
        follower: Follower,
        side: ChainSide,
        journal: Journal,
        draws: Draws,
        kick: Callable[[bytes], None],
        *,
        keep_requests: int,
        keep_outputs: int,
        poll_seconds: float,
        purge_seconds: float = 60.0,
        failed: Callable[[str], None] = lambda _: None,
        looked: Callable[[], None] = lambda: None,
    ) -> None:
        self._follower = follower
        self._side = side
        self._journal = journal
        self._draws = draws
        self._kick = kick
        self._keep_requests = keep_requests
        self._keep_outputs = keep_outputs
        self._poll_seconds = poll_seconds
        self._purge_seconds = purge_seconds
        self._failed = failed
        self._after_each_look = looked
        self._forgotten = 0.0
        self._looked = False
        self.failure: AssayError | None = None  # of the last look at the chain

    @property
    def is_abreast(self) -> bool:
        """Whether the last look at the chain succeeded, and there was one."""
        return self._looked and self.failure is None

    async def run(self, waker: HeadWaker) -> None:
        """Looks at the chain at every new block, or every poll_seconds, until cancelled."""
        async with waker:
            while True:
                try:
                    await on_thread(self.poll)
                except AssayError as error:
                    if self.failure is None:
                        # the code alone: a message may carry what an endpoint answered, and its URL an access key
                        log.warning("chain_unreadable", code=error.code)
                    self.failure = error
                    self._failed(error.code)
                    await asyncio.sleep(self._poll_seconds)
                else:
                    if self.failure is not None:
                        log.info("chain_readable_again")
                    self.failure, self._looked = None, True
                await waker.wait(self._poll_seconds)

    def poll(self) -> None:
        """One look: new events into the journal, jobs woken, the outlook renewed.

        Raises:
            ChainError: the chain could not be read; the next look starts where this one did.
            JournalError: nothing of this look counts as seen.
        """
        concerned = self._take_events()
        for job_id in concerned:
            self._kick(job_id)
        self._side.look()
        self._after_each_look()
        if time.monotonic() > self._forgotten + self._purge_seconds:
            self._forgotten = time.monotonic()
            now = self._side.now()
            self._journal.forget(now, now - self._keep_outputs)

    def has_read(self, block: int) -> bool:
        """Whether every event up to this block is in the journal."""
        marks = JournalCursor(self._journal).load()
        return bool(marks) and marks[-1].number >= block

    def _take_events(self) -> set[bytes]:
        """Jobs that may go on. Everything is in the journal before the cursor moves past it."""
        concerned: set[bytes] = set()
        posted: dict[bytes, Mapping[str, Any]] = {}
        to_draw: dict[bytes, Event] = {}  # posted in this look: most draws of an old chain are over in it, too
        for item in self._follower.poll():
            if isinstance(item, Rewind):
                log.warning("chain_reorganised", to_block=item.to_block)
                concerned.update(row.job_id for row in self._journal.open_jobs())
                continue
            job_id = item.args.get("jobId")
            if not isinstance(job_id, bytes):
                continue
            if item.name == "JobPosted":
                posted[job_id] = item.args["job"]
                to_draw[job_id] = item
            elif item.name == "ReplicaAssigned":
                self._assigned(job_id, item, posted[job_id])
            elif item.name == "ReplicaDrawn":
                self._drawn(job_id, item, to_draw.get(job_id))
            elif item.name in ("Drawn", "DrawLapsed"):  # its replicas, if any, were told before
                to_draw.pop(job_id, None)
                self._draws.over(job_id)
            elif item.name == "RequestPublished":
                self._published(job_id, item)
            if self._journal.job(job_id) is not None or self._draws.pending(job_id) is not None:
                concerned.add(job_id)
        for job_id, item in to_draw.items():
            if self._draws.opened(job_id, item.args["job"], item.block_number):
                concerned.add(job_id)
        self._follower.commit()
        return concerned

    def _assigned(self, job_id: bytes, event: Event, job: Mapping[str, Any]) -> None:
        if event.args["provider"].lower() != self._side.address.lower():
            return
        new = self._journal.add_job(
            job_id,
            client=to_checksum_address(job["client"]),
            model_id=job["modelId"],
            request_hash=job["requestHash"],
            quote_digest=event.args["quoteDigest"],
            bond=event.args["terms"]["bond"],
            commit_deadline=job["commitDeadline"],
            now=int(time.time()),
        )
        if new:
            log.info("job_assigned", job_id="0x" + job_id.hex(), block=event.block_number)

    def _drawn(self, job_id: bytes, event: Event, posted: Event | None) -> None:
        """The contract chose this provider: what it is to do stands in the job, whose posting lies further back."""
        mine = event.args["provider"].lower() == self._side.address.lower()
        job = self._side.job(job_id) if mine else None
        if job is None:  # or taken back since: the follower will say so
            return
        bond = next(r.bond for r in self._side.replicas(job_id) if r.provider.lower() == self._side.address.lower())
        new = self._journal.add_job(
            job_id,
            client=job.client,
            model_id=job.model_id,
            request_hash=job.request_hash,
            quote_digest=ZERO32,
            bond=bond,
            commit_deadline=job.commit_deadline,
            now=int(time.time()),
        )
        if new:
            log.info("job_drawn", job_id="0x" + job_id.hex(), block=event.block_number)
        if job.inline_input:
            pending = self._draws.pending(job_id)
            since = job.draw_block if pending is None else pending.posted_in  # a draw block may lie behind the post
            since = since if posted is None else posted.block_number
            published = self._side.published_request(job_id, since)
            if published is not None:
                self._published(job_id, published)

    def _published(self, job_id: bytes, event: Event) -> None:
        """An inline request: the contract checked that the ids hash to its root."""
        if self._journal.job(job_id) is None:
            return
        request = struct_of(Request, event.args["request"])
        ids = unpack_tokens(event.args["ids"], request.input_tokens)
        self._journal.put_request(request, ids, self._side.now() + self._keep_requests)
        self._journal.mark_public(job_id)


class JournalCursor:
    """Keeps a follower's marks in the journal, so that both are saved or lost together."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def load(self) -> Sequence[Mark]:
        text = self._journal.mark("cursor")
        return [Mark(number, block_hash) for number, block_hash in json.loads(text)] if text else []

    def save(self, marks: Sequence[Mark]) -> None:
        self._journal.set_mark("cursor", json.dumps([(mark.number, mark.hash) for mark in marks]))
