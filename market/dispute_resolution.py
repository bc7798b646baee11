"""A dispute played to its end by an honest challenger: what `assay dispute auto`, `assay watch` and clients run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import sleep
from typing import Any

from market.dispute_play import Player, Prospects, rewarded
from market.disputes import Dispute, DisputeState, Verdict
from market.errors import ContractError
from market.verification.challenger import Agrees, Move, Over, RequestNode, Wait

POLL_SECONDS = 0.5
REFUSALS = 5
"""How many moves in a row may be refused because somebody was faster, before that is told."""

Before = Callable[[Dispute, Move, Prospects | None], None]
"""Sees each move, with its prospects where it is sent, before it is; raises to stop."""


@dataclass(frozen=True)
class Played:
    """A move that was sent. `prepaid` in base units."""

    move: str
    reason: str
    transaction: str
    gas: int
    wei: int
    prepaid: int

    def to_json(self) -> dict[str, Any]:
        return {
            "move": self.move,
            "reason": self.reason,
            "transaction": self.transaction,
            "gas": self.gas,
            "wei": str(self.wei),
            "prepaid": self.prepaid,
        }


@dataclass
class Resolution:
    """What came of it. `verdict` is None where the dispute goes on without us; `reason` says why we stopped."""

    dispute_id: bytes
    verdict: Verdict | None = None
    reason: str = ""
    reward: int = 0  # base units
    refunded: bool = False
    played: list[Played] = field(default_factory=list)

    @property
    def guilty(self) -> bool:
        return self.verdict is not None and self.verdict.state is DisputeState.GUILTY

    def to_json(self) -> dict[str, Any]:
        verdict = self.verdict
        fault = None if verdict is None or verdict.fault is None else verdict.fault.name
        return {
            "dispute_id": "0x" + self.dispute_id.hex(),
            "verdict": None if verdict is None else verdict.state.name,
            "fault": fault,
            "reason": self.reason,
            "reward": self.reward,
            "prepayment_refunded": self.refunded,
            "gas": sum(move.gas for move in self.played),
            "moves": [move.to_json() for move in self.played],
        }


def move_name(move: Move) -> str:
    """The contract's word for a move, or "wait", "agrees", "over"."""
    names = {
        "RequestNode": "request",
        "Prove": "prove",
        "ProveOutput": "proveOutput",
        "ProveOutside": "proveOutside",
        "SayMissed": "missed",
    }
    return names.get(type(move).__name__, type(move).__name__.lower())


def prospects_of(player: Player, dispute: Dispute, move: Move) -> Prospects | None:
    """What a move costs and can win; None for one that is not sent. Raises ContractError where it would be refused."""
    call = player.call(dispute, move)
    if call is None:
        return None
    challenger = player.challenger(dispute.claim, dispute.input_ids, dispute.output_ids)
    reveals = sum(1 for asked in dispute.asked.values() if asked.hashes)
    left = max(challenger.geometry.rounds() + 1 - reveals, 1) if isinstance(move, RequestNode) else 0
    reward = player.reward(dispute.claim.subject_id, dispute.claim.provider)
    return player.prospects(call, player.fee(move), left, reward)


def step(player: Player, dispute: Dispute, move: Move, prospects: Prospects | None, result: Resolution) -> None:
    """Sends one move and notes it. Raises as `Player.play`."""
    sent = player.play(dispute, move)
    prepaid = 0 if prospects is None else prospects.prepaid
    wei = sent.gas_used * sent.effective_gas_price
    result.played.append(Played(move_name(move), move.reason, sent.hash, sent.gas_used, wei, prepaid))
    result.reward += rewarded(sent, player.address)


def resolve(
    player: Player,
    dispute_id: bytes,
    *,
    before: Before = lambda _dispute, _move, _prospects: None,
    pause: Callable[[float], None] = sleep,
) -> Resolution:
    """Plays until there is a verdict, or nothing left to do. Safe to repeat after whatever stopped it.

    Args:
        before: see Before; it is told of waiting, too, again and again.
        pause: sleeps between looks while the provider is to reply.

    Raises:
        ModelNotHere, StepDisagrees: nothing was sent. ContractError: moves keep being refused.
        ChainError: the chain could not be asked or told.
    """
    result, refused = Resolution(dispute_id), 0
    while True:
        found = player.look(dispute_id)
        if not isinstance(found, Dispute):
            result.verdict, result.reason = found, "" if found else "There is no such dispute."
            return _ended(player, result)
        if not found.is_open:
            result.verdict = found.verdict
            return _ended(player, result)
        move = player.next(found)
        if isinstance(move, Over | Agrees):
            before(found, move, None)
            result.reason = move.reason
            return result
        if isinstance(move, Wait):
            before(found, move, None)
            pause(POLL_SECONDS)
            continue
        try:
            prospects = prospects_of(player, found, move)
            before(found, move, prospects)
            step(player, found, move, prospects, result)
            refused = 0
        except ContractError:
            refused += 1
            if refused >= REFUSALS:
                raise
            pause(POLL_SECONDS)  # somebody was faster, or a second is missing: the chain tells


def _ended(player: Player, result: Resolution) -> Resolution:
    if result.guilty:
        result.refunded = player.refund(result.dispute_id) is not None
    return result
