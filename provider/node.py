"""The provider's part of a job. `step` looks at (chain, journal row, engine) and does the one next thing.

What matters is remembered in the journal alone (the engine's queue and a few waiting times die with the process):
recovering from a crash is calling `step` again. What a transaction needs is on disk before it is sent, and each
transaction has a key under which the transaction queue sends it at most once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import structlog

from market.api import LogProbabilitiesBody
from market.chain import DEVELOPMENT_CHAIN_IDS
from market.errors import ContractError
from market.hashing import tokens_root, unpack_stop_tokens
from market.settlement import Terms as JobTerms
from market.settlement import price
from market.types import ZERO_ADDRESS, Commitment, Mode, Output
from market.views import JobState, JobView, ReplicaState, ReplicaView
from provider.config import Timing
from provider.errors import Refusal
from provider.executor import Answer, Executor, Work
from provider.job_chain import JobChain
from provider.journal import Journal
from provider.keys import JobKey
from provider.pricing import Shop, check_request, takes_chain_seed, unknown_model
from provider.records import JobRow, Stage, StoredRequest
from provider.seeds import Seeds

log = structlog.get_logger(__name__)

GAS_PATIENCE = 600  # seconds until a settlement or release that was not worth its gas is looked at again
SETTLED_READS = 5  # seconds a freshly mined transaction may stay invisible to reads before it counts as taken back


@dataclass(frozen=True)
class Next:
    """When to call `step` again: at once, at a chain time (unix seconds), or (neither) when something happens."""

    again: bool = False
    at: int | None = None


AGAIN = Next(again=True)
IDLE = Next()


class Node:
    """See the module. `step` of one job must not run twice at the same time; of different jobs it may.

    Args:
        confirmations: blocks on top of the end of committing before this provider reveals.
    """

    def __init__(
        self,
        chain: JobChain,
        journal: Journal,
        executor: Executor,
        shop: Shop,
        timing: Timing,
        *,
        confirmations: int = 0,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._chain = chain
        self._journal = journal
        self._executor = executor
        self._shop = shop
        self._timing = timing
        self._confirmations = confirmations
        self._clock = clock
        self._random_bytes = random_bytes
        self._seeds = Seeds(chain, journal)
        self._settleable_since: dict[bytes, int] = {}
        self._sent_twice: set[tuple[bytes, Stage, int]] = set()

    def step(self, job_id: bytes) -> Next:
        """Does the one next thing for a job.

        Raises:
            ChainError: the chain could not be asked or told; nothing is lost, call again later.
            JournalError: nothing was sent; call again once the disk works.
        """
        row = self._journal.job(job_id)
        if row is None or row.stage in (Stage.CLOSED, Stage.REFUSED):
            return IDLE
        job = self._chain.job(job_id)
        now = self._chain.now()
        if job is None:  # not visible yet, or taken back by a reorganisation
            gone = self._chain.seen() > row.commit_deadline + 3_600
            return self._refuse(row, "JOB_VANISHED") if gone else Next(at=now + 1)
        replicas = self._chain.replicas(job_id)
        if job.state is JobState.DRAWING:  # a reorganisation took the draw back
            return Next(at=now + 1)
        index = next((i for i, r in enumerate(replicas) if r.provider.lower() == self._chain.address.lower()), None)
        if index is None:
            return self._refuse(row, "NotReplica")
        mine = replicas[index]
        if job.state.is_final:
            return self._after_the_end(row, job, mine, now)
        if mine.state is ReplicaState.ASSIGNED:
            return self._before_commit(row, job, mine, now)
        if mine.state is ReplicaState.COMMITTED:
            return self._before_reveal(row, job, mine, index, now)
        return self._before_settlement(row, job, mine, index, now)

    # ----------------------------------------------------------------------------------------- until committed

    def _before_commit(self, row: JobRow, job: JobView, mine: ReplicaView, now: int) -> Next:
        if job.state is not JobState.OPEN or self._chain.seen() > job.commit_deadline:
            return self._too_late(row, job)
        if self._seeds.has_changed(row.job_id):
            return self._start_again(row, now)
        if row.salt is not None:
            return self._commit(row, job, now)
        outcome = self._executor.outcome(row.job_id)
        if isinstance(outcome, Answer):
            return self._record(row, outcome)
        if outcome is not None:
            return self._refuse(row, "ENGINE_FAILED", f"{outcome.code}: {outcome.message}")
        if self._executor.holds(row.job_id):
            return self._wait(row, max(job.commit_deadline, now) + 1, now)
        if now > job.commit_deadline:  # nothing was computed yet: no need to wait for a block that says so
            return self._too_late(row, job)
        return self._start(row, job, mine, now)

    def _too_late(self, row: JobRow, job: JobView) -> Next:
        missing = row.salt is None and self._delivered(row, job) is None
        return self._refuse(row, "REQUEST_MISSING" if missing else "COMMIT_WINDOW_MISSED")

    def _start(self, row: JobRow, job: JobView, mine: ReplicaView, now: int) -> Next:
        stored = self._delivered(row, job)
        if stored is None:
            return Next(at=job.commit_deadline + 1)
        try:
            self._check(row, job, mine, stored, now)
            is_known, sampling = self._seeds.sampling(row.job_id, stored.request)
        except Refusal as refusal:
            return self._refuse(row, refusal.code, refusal.message)
        if not is_known:
            return Next(at=now + 1)
        work = Work(
            job_id=row.job_id,
            model_id=job.model_id,
            ids=stored.ids,
            max_output_tokens=stored.request.max_output_tokens,
            stop_tokens=unpack_stop_tokens(stored.request.stop_tokens),
            sampling=sampling,
            owner=bytes.fromhex(job.client[2:]),
            log_probabilities=self._journal.log_probabilities_wanted(row.job_id),
        )
        if not self._executor.submit(work):
            return self._wait(row, now + 1, now)
        if row.stage is not Stage.RUNNING:
            self._journal.advance(row.job_id, Stage.RUNNING, self._wall())
        return self._wait(row, job.commit_deadline + 1, now)

    def _wait(self, row: JobRow, until: int, now: int) -> Next:
        """Waits for the engine, and looks after a seed that the chain gives."""
        again = self._seeds.look(row.job_id, now)
        return Next(at=until if again is None else min(again, until))

    def _start_again(self, row: JobRow, now: int) -> Next:
        """A reorganisation gave the job another seed: what was computed answers nothing."""
        if not self._seeds.start_again(row, self._wall()):
            return self._refuse(row, "SEED_CHANGED", "An answer to the seed before is out: another contradicts it.")
        self._executor.drop(row.job_id)
        return Next(at=now + 1)

    def _delivered(self, row: JobRow, job: JobView) -> StoredRequest | None:
        """The prompt, where it was delivered for this very job or stands on chain.

        A request is public in the calldata of `post`: whoever else posts a job for the same hash must not be answered
        out of somebody's private prompt.
        """
        if not row.public and self._journal.acceptance(row.job_id, job.request_hash) is None:
            return None
        return self._journal.request(job.request_hash)

    def _check(self, row: JobRow, job: JobView, mine: ReplicaView, stored: StoredRequest, now: int) -> None:
        """Raises Refusal unless the job is one this provider promised to do, can do, and is paid for."""
        product = self._shop.products.get(job.model_id)
        if product is None:
            raise unknown_model(job.model_id)
        request = stored.request
        if (
            request.request_hash != job.request_hash
            or tokens_root(stored.ids) != request.input_root
            or len(stored.ids) != request.input_tokens
        ):
            raise Refusal("HashMismatch", "The delivered prompt does not hash to the request on chain.")
        check_request(request, product, self._shop.limits, self._shop.samplers)
        self._check_terms(row, job, mine)
        if job.reveal_window < self._timing.min_reveal_window:
            raise Refusal(
                "REVEAL_WINDOW_TOO_SHORT",
                f"The reveal window is {job.reveal_window} s, this provider needs {self._timing.min_reveal_window} s.",
            )
        left = job.commit_deadline - now
        if left < self._timing.min_commit_seconds:
            raise Refusal(
                "TOO_LITTLE_TIME",
                f"{left} s are left to commit, this provider needs {self._timing.min_commit_seconds} s.",
            )
        stake = self._chain.stake() - self._journal.promised(row.job_id)
        if stake < mine.bond:
            raise Refusal("InsufficientStake", f"The bond is {mine.bond}, {max(stake, 0)} of the stake is free.")
        earns = price(
            JobTerms(mine.base_fee, mine.price_per_m_input, mine.price_per_m_output, 0, 0, 0),
            job.input_tokens,
            job.max_output_tokens,
        )
        self._shop.check_profit(earns, self._chain.fee_per_gas(), seeds=takes_chain_seed(request))

    def _check_terms(self, row: JobRow, job: JobView, mine: ReplicaView) -> None:
        if job.is_drawn:
            offered = {field.name: getattr(mine, field.name) for field in fields(JobTerms)}
            self._shop.check_drawn(job.model_id, job.mode, JobTerms(**offered))
            return
        found = self._journal.quote(row.quote_digest)
        if found is None:
            raise Refusal("TERMS_NOT_OURS", "The job names a quote that is not in this provider's journal.")
        quote = found.quote
        on_chain = (
            mine.base_fee,
            mine.price_per_m_input,
            mine.price_per_m_output,
            mine.kill_fee,
            mine.miss_fee,
            mine.bond,
        )
        signed = (
            quote.base_fee,
            quote.price_per_m_input,
            quote.price_per_m_output,
            quote.kill_fee,
            quote.miss_fee,
            quote.bond,
        )
        if on_chain != signed or quote.mode != job.mode or quote.model_id != job.model_id:
            raise Refusal("TERMS_NOT_OURS", "The job's terms differ from the quote this provider signed.")
        if quote.client not in (ZERO_ADDRESS, job.client):
            raise Refusal("TERMS_NOT_OURS", f"The quote was made for {quote.client}, not for {job.client}.")

    def _record(self, row: JobRow, answer: Answer) -> Next:
        output = Output(tokens_root(answer.ids), len(answer.ids), int(answer.finish))
        told = LogProbabilitiesBody.of(answer.log_probabilities).model_dump_json() if answer.log_probabilities else None
        self._journal.record_answer(
            row.job_id, answer.ids, output, self._random_bytes(32), answer.milliseconds, self._wall(), told
        )
        self._executor.drop(row.job_id)
        return AGAIN

    def _commit(self, row: JobRow, job: JobView, now: int) -> Next:
        if row.stage not in (Stage.ANSWERED, Stage.COMMITTING):  # the journal is ahead of the chain
            return self._taken_back(row, Stage.ANSWERED, now)
        self._journal.advance(row.job_id, Stage.COMMITTING, self._wall())
        try:
            self._chain.commit(row.job_id, self._commitment(row), _key(JobKey.COMMIT, row))
        except ContractError as error:
            if error.code == "SeedOutOfReach":
                return self._refuse(row, "SeedOutOfReach", error.message)
            if error.code == "InsufficientStake":
                return self._refuse(row, "InsufficientStake", error.message)
            if error.code == "TooLate" and now > job.commit_deadline:  # the contract and the clock agree
                return self._refuse(row, "COMMIT_WINDOW_MISSED", error.message)
            return self._retry(row, "commit", error, now)
        self._journal.advance(row.job_id, Stage.COMMITTED, self._wall())
        return AGAIN

    def _commitment(self, row: JobRow) -> bytes:
        output, salt = _answered(row)
        return self._chain.domain.digest(Commitment(row.job_id, self._chain.address, output.output_hash, salt))

    # ------------------------------------------------------------------------------------------ until revealed

    def _before_reveal(self, row: JobRow, job: JobView, mine: ReplicaView, index: int, now: int) -> Next:
        output = row.output
        if row.salt is None or output is None or self._commitment(row) != mine.digest:
            return self._refuse(row, "JOURNAL_LOST", "The commitment on chain is not in this journal.")
        if self._seeds.has_changed(row.job_id):  # silence costs the miss fee, a wrong answer the bond
            return self._refuse(row, "SEED_CHANGED", "The commitment is to an answer to another seed.")
        if row.stage in (Stage.ANSWERED, Stage.COMMITTING):
            row = self._journal.advance(row.job_id, Stage.COMMITTED, self._wall())
        if job.state is JobState.OPEN:
            reveal_end = job.commit_deadline + job.reveal_window
        else:
            reveal_end = job.reveal_deadline
        if not self._committing_is_over(row, job, reveal_end, now):
            return Next(at=(max(job.commit_deadline, now) if job.state is JobState.OPEN else now) + 1)
        if job.state is JobState.OPEN and job.committed < job.quorum:
            return self._settle(row, index, now)
        if self._chain.seen() <= reveal_end:
            return self._reveal(row, index, JobKey.REVEAL, reveal_end, now)
        if job.output_hash == output.output_hash:  # late, but equal: the kill fee is better than the miss fee
            return self._reveal(row, index, JobKey.LATE_REVEAL, reveal_end, now)
        return self._settle(row, index, now)

    def _committing_is_over(self, row: JobRow, job: JobView, reveal_end: int, now: int) -> bool:
        """Whether no block can hold another commitment: what is revealed before could be copied into one.

        Commitments are legal in a block stamped with the deadline itself, so that only a later block proves the end,
        with `confirmations` more on top. These are waited for during half of the reveal window at most: silence is
        sure to cost the miss fee. A development chain may have blocks only when somebody sends something: there the
        clock counts, and `reveal_margin`.
        """
        hurry = 2 * (reveal_end - now) < job.reveal_window
        if job.state is not JobState.OPEN:
            if hurry or not self._confirmations:
                return True
            below = self._chain.job(row.job_id, self._confirmations)
            return below is not None and below.state is not JobState.OPEN
        by_clock = now > job.commit_deadline + self._timing.reveal_margin
        if by_clock and self._chain.domain.chain_id in DEVELOPMENT_CHAIN_IDS:
            return True
        return self._chain.seen(0 if hurry else self._confirmations) > job.commit_deadline

    def _reveal(self, row: JobRow, index: int, kind: JobKey, reveal_end: int, now: int) -> Next:
        if row.stage is Stage.REVEALED:
            return self._taken_back(row, Stage.COMMITTED, now)
        output, salt = _answered(row)
        self._journal.advance(row.job_id, Stage.REVEALING, self._wall())
        try:
            self._chain.reveal(row.job_id, output, salt, _key(kind, row))
        except ContractError as error:
            if now > reveal_end and error.code in ("TooLate", "LateAndNotAgreed"):
                self._settle(row, index, now)
            return self._retry(row, kind, error, now)  # and tries again until a block says that it is too late
        self._journal.advance(row.job_id, Stage.REVEALED, self._wall())
        return AGAIN

    # ----------------------------------------------------------------------------------- settling and releasing

    def _before_settlement(self, row: JobRow, job: JobView, mine: ReplicaView, index: int, now: int) -> Next:
        if row.stage in (Stage.COMMITTED, Stage.REVEALING):
            row = self._journal.advance(row.job_id, Stage.REVEALED, self._wall())
        if job.revealed < job.committed and now <= job.reveal_deadline:
            return Next(at=job.reveal_deadline + 1)
        # an answer that nobody can look at is not believed: a public one is published, as if it was demanded
        unseen = mine.is_demanded or (job.inline_input and mine.demand_deadline == 0)
        if job.mode is Mode.OPTIMISTIC and unseen:
            return self._publish(row, now)
        # one that is disputed settles after the verdict, whose event wakes us, or once the arbiter's time is over:
        # the contract says when that is
        return self._settle(row, index, now)

    def _settle(self, row: JobRow, index: int, now: int) -> Next:
        """Settles once others had their time to. Replicas wait one after the other, so that one pays the gas."""
        since = self._settleable_since.setdefault(row.job_id, now)
        due = since + self._timing.settle_grace + index * self._timing.settle_stagger
        if now < due:
            return Next(at=due)
        if not self._shop.pays_settling(self._brings(row), self._chain.fee_per_gas()):
            return Next(at=now + GAS_PATIENCE)  # anybody may settle; gas may get cheaper
        self._journal.advance(row.job_id, Stage.SETTLING, self._wall())
        try:
            self._chain.settle(row.job_id, _key(JobKey.SETTLE, row))
        except ContractError as error:
            opens_at = error.details.get("opensAt", 0)  # TooEarly: the window of an optimistic job
            if isinstance(opens_at, int) and opens_at > now:
                return Next(at=opens_at)
            return self._retry(row, "settle", error, now)
        return self._sent(row, Stage.SETTLING)

    def _after_the_end(self, row: JobRow, job: JobView, mine: ReplicaView, now: int) -> Next:
        self._executor.drop(row.job_id)
        self._seeds.forget(row.job_id)
        self._settleable_since.pop(row.job_id, None)
        release_at = mine.bond_free_at(job, self._chain.dispute_window, self._chain.dispute_deadline)
        locked = mine.is_held
        if row.stage not in (Stage.FINAL, Stage.RELEASING):
            row = self._journal.advance(
                row.job_id,
                Stage.FINAL,
                self._wall(),
                outcome=job.state.name,
                paid=mine.paid,
                final_at=job.final_at,
                release_at=release_at if locked else 0,
            )
            log.info("job_final", job_id="0x" + row.job_id.hex(), outcome=row.outcome, paid=str(row.paid))
        elif locked and row.release_at != release_at:  # a demand, or a dispute, made the wait longer or shorter
            row = self._journal.advance(row.job_id, row.stage, self._wall(), release_at=release_at)
        if mine.is_demanded:  # withheld for good, its bond is for whoever slashes it
            return self._publish(row, now) if self._chain.seen() <= mine.demand_deadline else IDLE
        if not locked:
            self._journal.advance(row.job_id, Stage.CLOSED, self._wall(), detail=f"bond {mine.bond_state.name}")
            return IDLE
        if now < release_at + self._timing.release_grace:
            return Next(at=release_at + self._timing.release_grace)
        if not self._shop.pays_release(mine.bond, self._chain.fee_per_gas()):
            return Next(at=now + GAS_PATIENCE)
        self._journal.advance(row.job_id, Stage.RELEASING, self._wall())
        try:
            self._chain.release_bond(row.job_id, _key(JobKey.RELEASE, row))
        except ContractError as error:
            return self._retry(row, "releaseBond", error, now)
        return self._sent(row, Stage.RELEASING)

    def _publish(self, row: JobRow, now: int) -> Next:
        """Somebody paid for seeing the answer on chain; whoever keeps it back loses its bond."""
        if row.ids is None:
            log.error("demanded_output_lost", job_id="0x" + row.job_id.hex())
            return Next(at=now + 60)
        try:
            self._chain.publish_output(row.job_id, row.ids, _key(JobKey.PUBLISH, row))
        except ContractError as error:
            return self._retry(row, "publishOutput", error, now)
        log.info("output_published", job_id="0x" + row.job_id.hex())
        return Next(at=now + 1)

    # ------------------------------------------------------------------------------------------------- helpers

    def _brings(self, row: JobRow) -> int:
        """What settling frees and pays at most: bond and price, base units."""
        found = self._journal.quote(row.quote_digest)
        if found is None:
            return row.bond
        quote = found.quote
        terms = JobTerms(quote.base_fee, quote.price_per_m_input, quote.price_per_m_output, 0, 0, 0)
        return row.bond + price(terms, quote.max_input_tokens, quote.max_output_tokens)

    def _refuse(self, row: JobRow, reason: str, detail: str = "") -> Next:
        self._executor.drop(row.job_id)
        self._seeds.forget(row.job_id)
        self._journal.advance(row.job_id, Stage.REFUSED, self._wall(), reason=reason, detail=detail)
        log.warning("job_refused", job_id="0x" + row.job_id.hex(), reason=reason, detail=detail)
        return IDLE

    def _retry(self, row: JobRow, what: str, error: ContractError, now: int) -> Next:
        """A contract refused: somebody was faster or a second is missing. The next step reads the chain again."""
        log.info("transaction_refused", job_id="0x" + row.job_id.hex(), call=what, code=error.code)
        return Next(at=now + 1)

    def _sent(self, row: JobRow, stage: Stage) -> Next:
        """Mined. Should a reorganisation take it back, the next attempt has a key of its own."""
        self._journal.advance(row.job_id, stage, self._wall(), attempts=row.attempts + 1)
        return AGAIN

    def _taken_back(self, row: JobRow, stage: Stage, now: int) -> Next:
        """The journal says mined, the chain says not: late reads, or a reorganisation.

        Waits for the reads, then sends under the same key: the transaction queue repeats what a reorganisation dropped,
        and is only awaited then. If that changed nothing, a new key sends anew.
        """
        if self._clock() < row.updated_at + SETTLED_READS:
            return Next(at=now + 1)
        log.warning("transaction_taken_back", job_id="0x" + row.job_id.hex(), stage=row.stage)
        tried = (row.job_id, row.stage, row.attempts)
        attempts = row.attempts + 1 if tried in self._sent_twice else row.attempts
        self._sent_twice.add(tried)
        self._journal.advance(row.job_id, stage, self._wall(), attempts=attempts)
        return AGAIN

    def _wall(self) -> int:
        return int(self._clock())


def _answered(row: JobRow) -> tuple[Output, bytes]:
    if row.output is None or row.salt is None:
        raise ValueError("the journal's row has no answer")
    return row.output, row.salt


def _key(kind: JobKey, row: JobRow) -> str:
    return kind.of(row.job_id, row.attempts)
