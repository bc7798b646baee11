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
REPEATS = 3  # looks, PAUSE apart, in which the transaction queue should have repeated what a reorganisation took back
LONG_PAUSE = 60  # until one is that cannot be answered at present
AFTER_THE_END = 2  # seconds after a dispute's end at which it is closed, and after its expiry at which it is expired
NO_VERDICT_ANY_MORE = frozenset({"TooLate", "WrongBondState"})
"""How the jobs contract refuses a verdict once the arbiter's time is over, and the bond released perhaps."""


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
        send: sends a call under an idempotency key, and returns once it is mined; told for how many seconds it may wait
            for cheaper gas, None: for ever.
        now: what `block.timestamp` would be about now; seen: that of the newest block.
        replied: told how many replies were given; disputed: how many disputes are not over.
        only: the one dispute to look after; None: all in the book.
    """

    def __init__(
        self,
        book: DisputeBook,
        contract: Disputes,
        traces: Traced,
        send: Callable[[Call, str, int | None], None],
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
        self._sent: dict[bytes, dict[str, int]] = {}  # how often what was mined, for each dispute
        self._unclosable: set[bytes] = set()
        self._expiry_window, self._reply_window = contract.expiry_window(), contract.reply_window()
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
            if now >= self._ends_at(dispute):
                return self._try(dispute, now, lambda d=dispute: self._end(d))  # type: ignore[misc]
        if not disputes:
            self._traces.forget()
        later = [at for at in map(self._ends_at, disputes) if at > now]
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
            self._unclosable.discard(dispute_id)
            self._sent.pop(dispute_id, None)
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

    def _can_close(self, dispute: Dispute) -> bool:
        return not dispute.unanswered and dispute.dispute_id not in self._unclosable

    def _ends_at(self, dispute: Dispute) -> int:
        """When this side can end the dispute. One in which a reply was missed waits for whoever says so: guilty. Where
        nobody did while the verdict was still taken, and where nobody closed it in time, it expires."""
        return dispute.end_at + AFTER_THE_END + (0 if self._can_close(dispute) else self._expiry_window)

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
        # silence costs the whole bond: what gas costs is waited out for half of the time, and then paid
        half = batch[0].deadline - self._reply_window // 2
        if self._send_once(dispute, self._contract.multicall(calls), key, max(half - self._now(), 0)):
            self._replied(len(batch))
            log.info("dispute_answered", **_about(dispute), nodes=names)

    def _send_once(self, dispute: Dispute, call: Call, key: str, waits: int | None = None) -> bool:
        """Sends a call, and says whether for the first time. One that was mined before and shows no effect was read too
        early, or taken back by a reorganisation: the transaction queue repeats it under its key, soon. If not, it is
        sent anew."""
        sent = self._sent.setdefault(dispute.dispute_id, {})
        tried = sent.get(key, 0)
        self._send(call, key if tried < REPEATS else f"{key}:{tried}", waits)
        sent[key] = tried + 1
        if tried:
            self._paused[dispute.dispute_id] = self._now() + PAUSE
        return not tried

    def _answer(self, dispute: Dispute, asked: Asked, trace: Trace) -> Call:
        if asked.node == ROOT:
            return self._contract.answer_root(dispute.claim, trace.reveal(ROOT))
        if asked.levels:
            return self._contract.answer_hashes(dispute.dispute_id, asked.node, trace.reveal(asked.node))
        place = trace.geometry.place_of(asked.node)
        if place is None:
            raise ValueError(f"{asked.node} lies outside the program; the contract lets nobody ask for it")
        return self._contract.answer_payload(dispute.dispute_id, asked.node, trace.payload(place))

    def _end(self, dispute: Dispute) -> None:
        if not self._can_close(dispute):
            call = self._contract.expire(dispute.dispute_id)
            if self._send_once(dispute, call, f"expire:{dispute.dispute_id.hex()}"):
                log.info("dispute_expired", **_about(dispute))
            return
        try:
            call = self._contract.close(dispute.claim)
            if self._send_once(dispute, call, f"close:{dispute.dispute_id.hex()}"):
                log.info("dispute_closed", **_about(dispute))
        except ContractError as error:
            if error.code not in NO_VERDICT_ANY_MORE:
                raise
            self._unclosable.add(dispute.dispute_id)
            log.warning("dispute_waits_for_its_expiry", **_about(dispute), at=self._ends_at(dispute))


def _about(dispute: Dispute) -> dict[str, str]:
    return {"dispute_id": "0x" + dispute.dispute_id.hex(), "subject_id": "0x" + dispute.claim.subject_id.hex()}
