"""A dispute as its events tell it: what is claimed, what was asked, what the provider answered, how it ended.

`Dispute` and `with_event` are pure. `DisputeBook` reads a chain: its disputes are what the events of the chain as it
stands say, after a reorganisation too, and after a restart (nothing is stored, the chain has everything).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from eth_abi.abi import encode
from pydantic.alias_generators import to_camel

from market.chain import Chain
from market.events import MARKS_KEPT, Event, Follower, MemoryCursor, Rewind
from market.hashing import ZERO32, keccak256, unpack_tokens
from market.verification.geometry import ROOT, Node
from market.verification.structs import Claim
from market.verification.tree import fold


class DisputeState(enum.IntEnum):
    """OPEN → GUILTY | NOT_GUILTY | EXPIRED; no way back."""

    NONE = 0
    OPEN = 1
    GUILTY = 2
    NOT_GUILTY = 3
    EXPIRED = 4


class Fault(enum.IntEnum):
    """What a provider was found guilty of."""

    LENGTHS = 0
    CONTRADICTION = 1
    MISSED = 2
    ELEMENT = 3
    OUTPUT = 4
    OUTSIDE = 5


@dataclass(frozen=True)
class Asked:
    """A node that was requested, and its reply. The root is asked for by who opens the dispute; its hash is known once
    it is answered.
    """

    node: Node
    requester: str
    deadline: int  # unix seconds, the last in which it can be answered
    hash: bytes
    levels: int | None  # that a reply shows; 0 for a leaf, None of the root before its reply
    hashes: tuple[bytes, ...] = ()
    payload: bytes | None = None

    @property
    def answered(self) -> bool:
        return bool(self.hashes) or self.payload is not None


@dataclass(frozen=True)
class Verdict:
    """How a dispute ended. A fault has `requester` and `prover`; else the replies were `paid`, a part `burnt` (base
    units).
    """

    state: DisputeState
    block: int
    fault: Fault | None = None
    requester: str = ""
    prover: str = ""
    paid: int = 0
    burnt: int = 0


@dataclass(frozen=True)
class Dispute:
    """A dispute whose trace is played for. Deadlines that passed show only once somebody acts on them."""

    dispute_id: bytes
    claim: Claim
    opener: str
    input_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    end_at: int  # unix seconds, the last in which anything can be proved
    block: int  # it was opened in
    asked: Mapping[Node, Asked]
    verdict: Verdict | None = None

    @property
    def state(self) -> DisputeState:
        return DisputeState.OPEN if self.verdict is None else self.verdict.state

    @property
    def is_open(self) -> bool:
        return self.verdict is None

    @property
    def root(self) -> bytes | None:
        """Of the trace; None before the provider gave it."""
        asked = self.asked[ROOT]
        return asked.hash if asked.answered else None

    @property
    def unanswered(self) -> list[Asked]:
        """Requests without a reply, the most urgent first."""
        waiting = [asked for asked in self.asked.values() if not asked.answered]
        return sorted(waiting, key=lambda asked: (asked.deadline, asked.node))

    @cached_property
    def known(self) -> Mapping[Node, bytes]:
        """Hash of every node that the replies show, those between the levels of a reply too."""
        found: dict[Node, bytes] = {}
        for asked in self.asked.values():
            if not asked.hashes:
                continue
            levels = fold(asked.hashes)
            for height, hashes in enumerate(levels):
                up = len(levels) - 1 - height
                for index, node_hash in enumerate(hashes):
                    found[asked.node.child(up, index)] = node_hash
        return found

    @cached_property
    def payloads(self) -> Mapping[Node, bytes]:
        """Leaves that the provider showed."""
        return {node: asked.payload for node, asked in self.asked.items() if asked.payload is not None}

    def path_to_answered(self, node: Node) -> tuple[bytes, ...] | None:
        """Siblings from a node up to the first above it that was answered with hashes, lowest first; None where the
        replies do not lead there.
        """
        path: list[bytes] = []
        while node.depth > 0:
            sibling = self.known.get(Node(node.depth, node.index ^ 1))
            if sibling is None:
                return None
            path.append(sibling)
            node = node.parent()
            above = self.asked.get(node)
            if above is not None and above.hashes:
                return tuple(path)
        return None


def dispute_id_of(subject: str, subject_id: bytes, provider: str) -> bytes:
    """The id that the contract gives the one dispute about an answer."""
    return keccak256(encode(["address", "bytes32", "address"], [subject, subject_id, provider]))


def opened(event: Event) -> Dispute:
    """The dispute that a Disputed event opens."""
    args = event.args
    claim = claim_of(args["claim"])
    root = Asked(ROOT, args["opener"], args["deadline"], ZERO32, None)
    return Dispute(
        dispute_id=args["disputeId"],
        claim=claim,
        opener=args["opener"],
        input_ids=tuple(unpack_tokens(args["inputIds"], claim.input_tokens)),
        output_ids=tuple(unpack_tokens(args["outputIds"], claim.output_tokens)),
        end_at=args["endAt"],
        block=event.block_number,
        asked={ROOT: root},
    )


def claim_of(values: Mapping[str, Any]) -> Claim:
    """A Claim out of an event's argument."""
    return Claim(**{field.name: values[to_camel(field.name)] for field in fields(Claim)})


def with_event(dispute: Dispute, event: Event) -> Dispute:
    """The dispute after one more of its events."""
    args = event.args
    match event.name:
        case "RootGiven":
            return _answered(dispute, ROOT, hash=args["root"], hashes=tuple(args["hashes"]))
        case "NodeRequested":
            node = Node(args["depth"], args["index"])
            asked = Asked(node, args["requester"], args["deadline"], args["hash"], args["levels"])
            return replace(dispute, asked={**dispute.asked, node: asked})
        case "HashesGiven":
            return _answered(dispute, Node(args["depth"], args["index"]), hashes=tuple(args["hashes"]))
        case "PayloadGiven":
            return _answered(dispute, Node(args["depth"], args["index"]), payload=args["payload"])
    verdict = verdict_of(event)
    return dispute if verdict is None else replace(dispute, verdict=verdict)


def verdict_of(event: Event) -> Verdict | None:
    """The verdict that an event is, if it is one."""
    args, block = event.args, event.block_number
    match event.name:
        case "FaultFound":
            return Verdict(
                DisputeState.GUILTY, block, Fault(args["fault"]), requester=args["requester"], prover=args["prover"]
            )
        case "RepliesPaid":
            return Verdict(DisputeState.NOT_GUILTY, block, paid=args["paid"], burnt=args["burnt"])
        case "DisputeExpired":
            return Verdict(DisputeState.EXPIRED, block)
    return None


def _answered(dispute: Dispute, node: Node, **reply: Any) -> Dispute:
    if "hashes" in reply:
        reply["levels"] = (len(reply["hashes"]) - 1).bit_length()
    return replace(dispute, asked={**dispute.asked, node: replace(dispute.asked[node], **reply)})


class DisputeBook:
    """The disputes of one contract, as the chain stands. Not for several threads at once.

    Kept in memory: the events of open disputes and of those that ended in the last blocks; of older ones the end.

    Args:
        address: of the Disputes contract; start_block: nothing of it is older.
        keep: which disputes are followed; of the others only the end is kept.
        forget: the moves of disputes that are long over.
    """

    def __init__(
        self,
        chain: Chain,
        address: str,
        *,
        start_block: int = 0,
        confirmations: int = 0,
        keep: Callable[[Claim], bool] = lambda _: True,
        forget: bool = True,
    ) -> None:
        self._cursor = MemoryCursor()
        self._follower = Follower(chain, [address], self._cursor, confirmations=confirmations, start_block=start_block)
        self._keep = keep
        self._forget = forget
        self._events: dict[bytes, list[Event]] = {}
        self._disputes: dict[bytes, Dispute] = {}
        self._verdicts: dict[bytes, Verdict] = {}
        self._forgotten = -1  # events of disputes that ended in this block or before are gone

    def poll(self) -> set[bytes]:
        """Reads what is new. Returns ids of disputes that changed.

        Raises:
            ChainError: the chain could not be read; the next look starts where this one did.
        """
        changed: set[bytes] = set()
        while True:
            before = self._cursor.load()
            items = self._follower.poll()
            if items and isinstance(items[0], Rewind) and items[0].to_block <= self._forgotten:
                self._start_again()
                continue
            changed |= self._take(items)
            self._follower.commit()
            if self._cursor.load() == before:
                return changed
            if self._forget:
                self._forget_ended()
            if self._follower.is_abreast:
                return changed

    def dispute(self, dispute_id: bytes) -> Dispute | None:
        """A dispute that is followed, with all its moves while it is open and for a while after."""
        return self._disputes.get(dispute_id)

    def verdict(self, dispute_id: bytes) -> Verdict | None:
        """How a dispute ended, whoever's it was; None while it is open, and where there is none."""
        return self._verdicts.get(dispute_id)

    def open(self) -> list[Dispute]:
        """Disputes that are not over, oldest first."""
        return sorted((d for d in self._disputes.values() if d.is_open), key=lambda d: (d.block, d.dispute_id))

    def all(self) -> list[Dispute]:
        """Disputes whose moves are still known, oldest first."""
        return sorted(self._disputes.values(), key=lambda d: (d.block, d.dispute_id))

    def find(self, prefix: str) -> list[bytes]:
        """Ids that begin with these hex digits (0x or not): of the dispute, or of what it is about."""
        digits = prefix.lower().removeprefix("0x")
        return [
            dispute.dispute_id
            for dispute in self.all()
            if dispute.dispute_id.hex().startswith(digits) or dispute.claim.subject_id.hex().startswith(digits)
        ]

    def _take(self, items: Iterable[Event | Rewind]) -> set[bytes]:
        changed: set[bytes] = set()
        for item in items:
            if isinstance(item, Rewind):
                changed |= self._rewind(item.to_block)
                continue
            dispute_id = item.args.get("disputeId")
            if not isinstance(dispute_id, bytes):
                continue
            verdict = verdict_of(item)
            if verdict is not None:
                self._verdicts[dispute_id] = verdict
            if item.name == "Disputed":
                found = opened(item)
                if not self._keep(found.claim):
                    continue
                self._disputes[dispute_id], self._events[dispute_id] = found, [item]
            elif dispute_id in self._disputes:
                self._disputes[dispute_id] = with_event(self._disputes[dispute_id], item)
                self._events[dispute_id].append(item)
            else:
                continue
            changed.add(dispute_id)
        return changed

    def _rewind(self, to_block: int) -> set[bytes]:
        """Everything above the block never happened."""
        changed: set[bytes] = set()
        self._verdicts = {key: verdict for key, verdict in self._verdicts.items() if verdict.block <= to_block}
        for dispute_id, events in list(self._events.items()):
            if events[-1].block_number <= to_block:
                continue
            changed.add(dispute_id)
            left = [event for event in events if event.block_number <= to_block]
            if not left:
                del self._events[dispute_id], self._disputes[dispute_id]
                continue
            dispute = opened(left[0])
            for event in left[1:]:
                dispute = with_event(dispute, event)
            self._events[dispute_id], self._disputes[dispute_id] = left, dispute
        return changed

    def _forget_ended(self) -> None:
        """What ended further back than any rewind goes needs no events any more."""
        horizon = self._cursor.load()[-1].number - 4 * MARKS_KEPT
        for dispute_id, dispute in list(self._disputes.items()):
            if dispute.verdict is not None and dispute.verdict.block <= horizon:
                self._forgotten = max(self._forgotten, dispute.verdict.block)
                del self._events[dispute_id], self._disputes[dispute_id]

    def _start_again(self) -> None:
        self._cursor.save(())
        self._events, self._disputes, self._verdicts, self._forgotten = {}, {}, {}, -1
