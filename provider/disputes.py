"""Answers disputes about this provider's answers: the root of its trace, then whatever node is asked for.

Everything is on chain: what is claimed, what was asked, what was answered already. So nothing of it is in the journal,
and an agent that starts again goes on where the chain stands. A trace is computed when its dispute asks for something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from market.chain import Call, same_address
from market.dispute_contracts import Disputes
from market.disputes import Asked, Dispute, DisputeBook
from market.errors import AssayError, ContractError
from market.hashing import keccak256
from market.verification.geometry import ROOT
from market.verification.structs import Claim
from market.verification.trace import Trace
from provider.node import AGAIN, IDLE, Next

log = structlog.get_logger(__name__)

CHORE = b"disputes"
"""The worklist's name for all disputes together: they are answered one after the other, the most urgent first."""
BATCH = 16  # replies in one transaction: 16 leaves or reveals stay below 2 million gas
PAUSE = 2  # seconds until a dispute whose transaction was refused is looked at again
LONG_PAUSE = 60  # until one is that cannot be answered at present
AFTER_THE_END = 2  # seconds after a dispute's end at which it is closed


class Traced(Protocol):
    """Where traces come from (market.verification.traces)."""

    def trace(self, claim: Claim, input_ids: Sequence[int], output_ids: Sequence[int]) -> Trace:
        """Raises AssayError where the model is not here."""

    def forget(self) -> None: ...


def concerns(claim: Claim, provider: str, jobs: str) -> bool:
    """Whether a dispute can cost the provider anything. A subject that somebody made up holds no bond, and by refusing
    the verdict it keeps the replies from being paid: nobody has to answer there.
    """
    return same_address(claim.provider, provider) and same_address(claim.subject, jobs)


class Responder:
    """See the module. `step` must not run twice at the same time.

    Args:
        book: of the disputes about this provider's answers.
        send: sends a call under an idempotency key, and returns once it is mined.
        now: what `block.timestamp` would be about now; seen: that of the newest block.
        replied: told how many replies were given; disputed: how many disputes are not over.
        only: the one dispute to look after; None: all in the book.
    """

    def __init__(
        self,
        book: DisputeBook,
        contract: Disputes,
        traces: Traced,
        send: Callable[[Call, str], None],
        *,
        now: Callable[[], int],
        seen: Callable[[], int],
        replied: Callable[[int], None] = lambda _: None,
        disputed: Callable[[int], None] = lambda _: None,
        only: bytes | None = None,
    ) -> None:
        self._book = book
        self._contract = contract
        self._traces = traces
        self._send = send
        self._now = now
        self._seen = seen
        self._replied = replied
        self._disputed = disputed
        self._only = only
        self._paused: dict[bytes, int] = {}  # until when, chain time
        self._one_by_one: set[bytes] = set()
        self._known: set[bytes] = set()
        self._lost: set[bytes] = set()

    def step(self, _: bytes = CHORE) -> Next:
        """Reads the chain and does the one next thing.

        Raises:
            ChainError: the chain could not be asked or told; nothing is lost, call again later.
        """
        self._book.poll()
        disputes = [d for d in self._book.open() if self._only in (None, d.dispute_id)]
        now = self._now()
        self._disputed(len(disputes))
        self._note(disputes)
        for dispute, due in sorted(
            ((d, self._due(d)) for d in disputes), key=lambda pair: pair[1][0].deadline if pair[1] else 0
        ):
            if self._paused.get(dispute.dispute_id, 0) > now:
                continue
            if due:
                return self._try(dispute, now, lambda d=dispute, a=due: self._reply(d, a))  # type: ignore[misc]
            if now >= dispute.end_at + AFTER_THE_END and not dispute.unanswered:
                return self._try(dispute, now, lambda d=dispute: self._close(d))  # type: ignore[misc]
        if not disputes:
            self._traces.forget()
        later = [d.end_at + AFTER_THE_END for d in disputes if d.end_at + AFTER_THE_END > now]
        later += [until for until in self._paused.values() if until > now]
        return Next(at=min(later)) if later else IDLE

    def _note(self, disputes: list[Dispute]) -> None:
        ids = {dispute.dispute_id for dispute in disputes}
        for dispute in disputes:
            if dispute.dispute_id not in self._known:
                log.warning("disputed", **_about(dispute), opener=dispute.opener, ends_at=dispute.end_at)
        for dispute_id in self._known - ids:
            verdict = self._book.verdict(dispute_id)
            self._paused.pop(dispute_id, None)
            self._one_by_one.discard(dispute_id)
            if verdict is not None:
                fault = "" if verdict.fault is None else verdict.fault.name
                details = {"verdict": verdict.state.name, "fault": fault, "paid": str(verdict.paid)}
                log.warning("dispute_over", dispute_id="0x" + dispute_id.hex(), **details)
        self._known = ids

    def _due(self, dispute: Dispute) -> list[Asked]:
        """What can still be answered, the most urgent first."""
        seen = self._seen()
        due = [asked for asked in dispute.unanswered if asked.deadline >= seen]
        if len(due) < len(dispute.unanswered) and dispute.dispute_id not in self._lost:
            self._lost.add(dispute.dispute_id)
            log.error("dispute_reply_missed", **_about(dispute))
        return due

    def _try(self, dispute: Dispute, now: int, work: Callable[[], None]) -> Next:
        """A contract that refuses, and a model that is not here, hold up no other dispute."""
        try:
            work()
        except ContractError as error:  # somebody was faster, or a second is missing
            log.info("transaction_refused", **_about(dispute), code=error.code)
            self._paused[dispute.dispute_id] = now + PAUSE
            # whoever answers one node of every batch before us would keep us from ever answering the others
            self._one_by_one.add(dispute.dispute_id)
        except AssayError as error:
            if error.exit_code == 3:  # the chain could not be asked or told: so for all of them
                raise
            log.error("dispute_cannot_be_answered", **_about(dispute), code=error.code, error=error.message)
            self._paused[dispute.dispute_id] = now + LONG_PAUSE
        return AGAIN

    def _reply(self, dispute: Dispute, due: list[Asked]) -> None:
        batch = due[: 1 if dispute.dispute_id in self._one_by_one else BATCH]
        trace = self._traces.trace(dispute.claim, dispute.input_ids, dispute.output_ids)
        calls = [self._answer(dispute, asked, trace) for asked in batch]
        names = ",".join(f"{asked.node.depth}.{asked.node.index}" for asked in batch)
        key = f"reply:{dispute.dispute_id.hex()}:{keccak256(names.encode()).hex()[:32]}"
        self._send(self._contract.multicall(calls), key)
        self._replied(len(batch))
        log.info("dispute_answered", **_about(dispute), nodes=names)

    def _answer(self, dispute: Dispute, asked: Asked, trace: Trace) -> Call:
        if asked.node == ROOT:
            return self._contract.answer_root(dispute.claim, trace.reveal(ROOT))
        if asked.levels:
            return self._contract.answer_hashes(dispute.dispute_id, asked.node, trace.reveal(asked.node))
        place = trace.geometry.place_of(asked.node)
        if place is None:
            raise ValueError(f"{asked.node} lies outside the program; the contract lets nobody ask for it")
        return self._contract.answer_payload(dispute.dispute_id, asked.node, trace.payload(place))

    def _close(self, dispute: Dispute) -> None:
        self._send(self._contract.close(dispute.claim), f"close:{dispute.dispute_id.hex()}")
        log.info("dispute_closed", **_about(dispute))


def _about(dispute: Dispute) -> dict[str, str]:
    return {"dispute_id": "0x" + dispute.dispute_id.hex(), "subject_id": "0x" + dispute.claim.subject_id.hex()}
