"""Answers disputes about this provider's answers: the root of its trace, then whatever node is asked for.

Everything is on chain: what is claimed, what was asked, what was answered already. So nothing of it is in the journal,
and an agent that starts again goes on where the chain stands. A trace is computed when its dispute asks for something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from market.chain import Call, same_address
from market.dispute_contracts import Disputes
from market.disputes import Asked, Dispute, DisputeBook
from market.errors import AssayError, ChainError, ContractError
from market.hashing import keccak256
from market.verification.geometry import ROOT, Node
from market.verification.structs import Claim
from market.verification.trace import Trace
from provider.flights import Enqueue, Flights
from provider.node import AGAIN, IDLE, Next

log = structlog.get_logger(__name__)

CHORE = b"disputes"
"""The worklist's name for all disputes together: they are answered in rounds, the most urgent first."""
BATCH = 16  # replies in one transaction at most: 16 leaves or reveals stay below 2 million gas
AT_ONCE = 256
"""Replies on their way at most. As full transactions they are 16, as many of one account as the pools of nodes keep for
certain, and less gas than a block has; with one reply each they still are more than a block at its target can ask."""
ROUND = 8 * AT_ONCE
"""Replies between two looks at the chain at most: in the order of the tree, so that a layer is computed once."""
PAUSE = 2  # seconds until a dispute whose transaction was refused is looked at again
REPEATS = 3  # looks, PAUSE apart, in which the transaction queue should have repeated what a reorganisation took back
LONG_PAUSE = 60  # until one is that cannot be answered at present
AFTER_THE_END = 2  # seconds after a dispute's end at which it is closed, and after its expiry at which it is expired
DEEPEST = 64  # no node lies deeper (Disputes.MAX_DEPTH)
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
        enqueue: sends a call and does not wait (provider.flights.Enqueue).
        now: what `block.timestamp` would be about now; seen: that of the newest block.
        replied: told how many replies were given; disputed: how many disputes are not over.
        only: the one dispute to look after; None: all in the book.
    """

    def __init__(
        self,
        book: DisputeBook,
        contract: Disputes,
        traces: Traced,
        enqueue: Enqueue,
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
        self._enqueue = enqueue
        self._now = now
        self._seen = seen
        self._replied = replied
        self._disputed = disputed
        self._only = only
        self._paused: dict[bytes, int] = {}  # until when, chain time
        self._sizes: dict[bytes, int] = {}  # replies in a transaction, where fewer than BATCH
        self._batches: dict[bytes, dict[Node, _Batch]] = {}  # what was sent and not refused, by each of its nodes
        self._known: set[bytes] = set()
        self._sent: dict[bytes, dict[str, int]] = {}  # how often what was mined, for each dispute
        self._unclosable: set[bytes] = set()
        self._expiry_window, self._reply_window = contract.expiry_window(), contract.reply_window()
        self._lost: set[bytes] = set()

    def step(self, _: bytes = CHORE) -> Next:
        """Reads the chain and does what is next: a round of replies, and the ends of disputes that are over.

        Raises:
            ChainError: the chain could not be asked or told; nothing is lost, call again later.
        """
        self._book.poll()
        disputes = [d for d in self._book.open() if self._only in (None, d.dispute_id)]
        now = self._now()
        self._disputed(len(disputes))
        self._note(disputes)
        due = {dispute.dispute_id: self._due(dispute) for dispute in disputes}
        ready = [dispute for dispute in disputes if self._paused.get(dispute.dispute_id, 0) <= now]
        asked = sorted(
            ((d, due[d.dispute_id]) for d in ready if due[d.dispute_id]), key=lambda pair: pair[1][0].deadline
        )
        over = [d for d in ready if not due[d.dispute_id] and now >= self._ends_at(d)]
        if asked or over:
            self._round(asked, over)
            return AGAIN
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
            self._sizes.pop(dispute_id, None)
            self._batches.pop(dispute_id, None)
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

    def _round(self, asked: list[tuple[Dispute, list[Asked]]], over: list[Dispute]) -> None:
        """Sends what is due, as much at once as AT_ONCE allows, and waits for the last of it. A dispute whose trace is
        computed is answered to the end of the round's room, so that traces are not computed by turns."""
        round_ = _Round(Flights(self._enqueue, AT_ONCE), self._urgent_at(asked))
        flights, room = round_.flights, ROUND
        trouble: AssayError | None = None
        moves: list[tuple[Dispute, Callable[[], None]]] = []
        for dispute, due in asked:
            if room > 0:
                moves.append((dispute, lambda d=dispute, a=due, r=room: self._reply(d, a, r, round_)))  # type: ignore[misc]
                room -= len(due)
        moves += [(dispute, lambda d=dispute: self._end(d, flights)) for dispute in over[:AT_ONCE]]  # type: ignore[misc]
        for dispute, move in moves:
            try:
                move()
            except AssayError as error:
                if error.exit_code == ChainError.exit_code:  # it could not be asked or told: so for all of them
                    trouble = error
                    break
                # a model that is not here holds up no other dispute
                log.error("dispute_cannot_be_answered", **_about(dispute), code=error.code, error=error.message)
                self._paused[dispute.dispute_id] = self._now() + LONG_PAUSE
        flights.finish()
        if trouble is not None and not flights.landed:
            raise trouble
        if round_.refused:
            self._pause_where_nothing_changed(round_.refused)

    def _urgent_at(self, asked: list[tuple[Dispute, list[Asked]]]) -> int:
        """Silence costs the whole bond: what gas costs is waited out for half of the time, and then paid. By all of a
        round: transactions that may wait would otherwise hold up those behind them that may not."""
        return min((due[0].deadline for _, due in asked), default=0) - self._reply_window // 2

    def _pause_where_nothing_changed(self, refused: set[_Batch]) -> None:
        """Whoever was faster shows on chain, and the next round goes on with the others at once. Otherwise the endpoint
        is behind, or a second is missing."""
        self._book.poll()
        for batch in refused:
            dispute = self._book.dispute(batch.dispute_id)
            if dispute is None:
                continue
            now = [dispute.asked.get(node) for node in batch.nodes]
            if all(asked is not None and not asked.answered for asked in now):
                self._paused[batch.dispute_id] = self._now() + PAUSE

    def _reply(self, dispute: Dispute, due: list[Asked], room: int, round_: _Round) -> None:
        waiting = {asked.node: asked for asked in due}
        sent = self._batches.setdefault(dispute.dispute_id, {})
        # what is on its way, or was taken back by a reorganisation, is awaited as it was sent
        again = {sent[node] for node in waiting if node in sent and self._is_repeated(sent[node], waiting)}
        for batch in sorted(again, key=lambda batch: min(waiting[node].deadline for node in batch.nodes)):
            self._start(dispute, batch, waiting, round_)
        taken = {node for batch in again for node in batch.nodes}
        free = [asked.node for asked in due[: max(room - len(taken), 0)] if asked.node not in taken]
        free.sort(key=_place_in_tree)
        while free:
            round_.flights.collect()  # what became of earlier ones decides how many replies go together
            size = self._sizes.get(dispute.dispute_id, BATCH)
            batch = _Batch(dispute.dispute_id, tuple(free[:size]))
            del free[:size]
            self._start(dispute, batch, waiting, round_)
            if batch not in round_.refused:
                sent |= dict.fromkeys(batch.nodes, batch)

    def _is_repeated(self, batch: _Batch, waiting: Mapping[Node, Asked]) -> bool:
        tried = self._sent.get(batch.dispute_id, {}).get(batch.key, 0)
        return tried < REPEATS and all(node in waiting for node in batch.nodes)

    def _start(self, dispute: Dispute, batch: _Batch, waiting: Mapping[Node, Asked], round_: _Round) -> None:
        trace = self._traces.trace(dispute.claim, dispute.input_ids, dispute.output_ids)
        calls = [self._answer(dispute, waiting[node], trace) for node in batch.nodes]
        sent, sizes, count = self._batches[dispute.dispute_id], self._sizes, len(batch.nodes)

        def landed() -> None:
            size = sizes.get(dispute.dispute_id, BATCH)
            if count >= size and not any(other.dispute_id == dispute.dispute_id for other in round_.refused):
                sizes[dispute.dispute_id] = min(2 * size, BATCH)
            self._replied(count)
            log.info("dispute_answered", **_about(dispute), nodes=batch.names)

        def was_refused(error: ContractError) -> None:
            """Somebody was faster with one of them, and must be with twice as many now to spoil as much."""
            log.info("transaction_refused", **_about(dispute), code=error.code, nodes=batch.names)
            sizes[dispute.dispute_id] = min(sizes.get(dispute.dispute_id, BATCH), max(count // 2, 1))
            for node in batch.nodes:
                if sent.get(node) == batch:
                    del sent[node]
            round_.refused.add(batch)

        self._send_once(
            dispute,
            round_.flights,
            self._contract.multicall(calls),
            batch.key,
            max(round_.urgent_at - self._now(), 0),
            size=count,
            landed=landed,
            refused=was_refused,
        )

    def _send_once(
        self,
        dispute: Dispute,
        flights: Flights,
        call: Call,
        key: str,
        waits: int | None = None,
        *,
        size: int = 1,
        landed: Callable[[], None],
        refused: Callable[[ContractError], None],
    ) -> None:
        """Sends a call; `landed` is called where it is mined for the first time. One that was mined before and shows no
        effect was read too early, or taken back by a reorganisation: the transaction queue repeats it under its key,
        soon. If not, it is sent anew."""
        sent = self._sent.setdefault(dispute.dispute_id, {})
        tried = sent.get(key, 0)

        def mined() -> None:
            sent[key] = tried + 1
            if tried:
                self._paused[dispute.dispute_id] = self._now() + PAUSE
            else:
                landed()

        name = key if tried < REPEATS else f"{key}:{tried}"
        flights.start(call, name, waits, size=size, landed=mined, refused=refused)

    def _answer(self, dispute: Dispute, asked: Asked, trace: Trace) -> Call:
        if asked.node == ROOT:
            return self._contract.answer_root(dispute.claim, trace.reveal(ROOT))
        if asked.levels:
            return self._contract.answer_hashes(dispute.dispute_id, asked.node, trace.reveal(asked.node))
        place = trace.geometry.place_of(asked.node)
        if place is None:
            raise ValueError(f"{asked.node} lies outside the program; the contract lets nobody ask for it")
        return self._contract.answer_payload(dispute.dispute_id, asked.node, trace.payload(place))

    def _end(self, dispute: Dispute, flights: Flights) -> None:
        def refused(error: ContractError) -> None:
            if closes and error.code in NO_VERDICT_ANY_MORE:
                self._unclosable.add(dispute.dispute_id)
                log.warning("dispute_waits_for_its_expiry", **_about(dispute), at=self._ends_at(dispute))
                return
            log.info("transaction_refused", **_about(dispute), code=error.code)
            self._paused[dispute.dispute_id] = self._now() + PAUSE

        closes = self._can_close(dispute)
        call = self._contract.close(dispute.claim) if closes else self._contract.expire(dispute.dispute_id)
        self._send_once(
            dispute,
            flights,
            call,
            f"close:{dispute.dispute_id.hex()}" if closes else f"expire:{dispute.dispute_id.hex()}",
            landed=lambda: log.info("dispute_closed" if closes else "dispute_expired", **_about(dispute)),
            refused=refused,
        )


@dataclass(frozen=True)
class _Batch:
    """Replies of one dispute in one transaction."""

    dispute_id: bytes
    nodes: tuple[Node, ...]

    @property
    def names(self) -> str:
        return ",".join(f"{node.depth}.{node.index}" for node in self.nodes)

    @property
    def key(self) -> str:
        return f"reply:{self.dispute_id.hex()}:{keccak256(self.names.encode()).hex()[:32]}"


@dataclass(frozen=True)
class _Round:
    """What is sent between two looks at the chain; `urgent_at`: from when (unix seconds) gas is paid, dear or not."""

    flights: Flights
    urgent_at: int
    refused: set[_Batch] = field(default_factory=set)


def _place_in_tree(node: Node) -> tuple[int, int]:
    """Orders nodes from left to right, whatever their depths: a layer's beside each other."""
    return node.index << (DEEPEST - node.depth), node.depth


def _about(dispute: Dispute) -> dict[str, str]:
    return {"dispute_id": "0x" + dispute.dispute_id.hex(), "subject_id": "0x" + dispute.claim.subject_id.hex()}
