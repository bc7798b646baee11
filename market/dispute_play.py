"""Playing a dispute from the challenger's side: each move as a transaction, with what it costs and can win.

`Player.next` looks (the chain, then the trace), `Player.play` sends one move. Everything about a dispute is read from
the chain again at each look, so a player that was killed goes on where the chain stands; a transaction has a key under
which the queue sends it at most once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from eth_account.signers.local import LocalAccount

from market.chain import Call, Chain, same_address
from market.contracts import Jobs, Token, Vault
from market.dispute_contracts import Disputes
from market.dispute_evidence import Evidence
from market.dispute_gas import moves
from market.disputes import Dispute, DisputeBook, Verdict
from market.errors import ChainError, MarketError
from market.events import Event, decode_logs
from market.fees import FeePolicy
from market.settlement import slash
from market.transactions import Sent
from market.verification.challenger import (
    Challenger,
    Move,
    Prove,
    ProveOutput,
    ProveOutside,
    RequestNode,
    SayMissed,
)
from market.verification.structs import Claim
from market.verification.traces import Traces
from market.views import BondState

PERMIT_SECONDS = 600


class NotDisputable(MarketError):
    """The answer cannot be disputed, or nothing can be won by it."""


@dataclass(frozen=True)
class Rules:
    """What the contract fixed for ever. Base units and seconds."""

    reply_window: int
    root_fee: int
    request_fee: int
    expiry_window: int

    @classmethod
    def of(cls, contract: Disputes) -> Rules:
        return cls(contract.reply_window(), contract.root_fee(), contract.request_fee(), contract.expiry_window())


@dataclass(frozen=True)
class Prospects:
    """What going on costs and can win. Base units of the stake token, gas and wei.

    Attributes:
        prepaid: what this move prepays; comes back with a verdict of guilty, else pays the provider for its reply.
        gas, wei: of this move.
        left_gas: of the moves after it, at most; left_prepaid: what they prepay.
        reward: what whoever asked for the decisive leaf and proves it gets.
    """

    prepaid: int
    gas: int
    wei: int
    left_gas: int
    left_prepaid: int
    reward: int

    def to_json(self) -> dict[str, Any]:
        return {
            "prepaid": self.prepaid,
            "gas": self.gas,
            "wei": str(self.wei),
            "left_gas": self.left_gas,
            "left_prepaid": self.left_prepaid,
            "reward": self.reward,
        }


class Player:
    """One account in disputes. Not for several threads at once.

    Args:
        send: sends a call under an idempotency key and returns once it is mined.
        now: unix seconds as the next block will have them.
    """

    def __init__(
        self,
        chain: Chain,
        jobs: Jobs,
        vault: Vault,
        token: Token,
        contract: Disputes,
        book: DisputeBook,
        traces: Traces,
        account: LocalAccount,
        send: Callable[[Call, str], Sent],
        now: Callable[[], int],
    ) -> None:
        self._chain, self._jobs, self._vault, self._token = chain, jobs, vault, token
        self._contract, self._account, self._send, self._now = contract, account, send, now
        self.book, self.traces, self.rules = book, traces, Rules.of(contract)
        self._challengers: dict[Claim, Challenger] = {}

    @property
    def address(self) -> str:
        return str(self._account.address)

    # ------------------------------------------------------------------------------------------------------ looking

    def challenger(self, claim: Claim, input_ids: tuple[int, ...], output_ids: tuple[int, ...]) -> Challenger:
        """Ours for a claim; its trace is computed when the first move needs it. Raises ModelNotHere."""
        if claim not in self._challengers:
            self._challengers.clear()  # each holds a trace
            self._challengers[claim] = self.traces.challenger(claim, input_ids, output_ids)
        return self._challengers[claim]

    def fault(self, evidence: Evidence) -> str | None:
        """What is wrong with an answer, in words: what its ids alone show, else what computing it again shows; None
        where it is right.

        Raises:
            ModelNotHere: see Traces. NotDisputable: code NoTrace: its prompt has none, so nobody can judge it.
        """
        limits, request = self.traces.pack(evidence.claim()).limits, evidence.request
        fits = 1 <= request.input_tokens <= limits.context - request.max_output_tokens
        if not fits or any(token >= limits.vocabulary for token in evidence.input_ids):
            raise NotDisputable("The request is none that the model can answer. Nothing was sent.", code="NoTrace")
        forbidden = evidence.forbidden(limits.vocabulary)
        if forbidden is not None:
            return forbidden
        wrong = self.judged(evidence)
        if wrong is None:
            return None
        return f"at output position {wrong[0]} it returned id {wrong[1]}; the model gives {wrong[2]}"

    def judged(self, evidence: Evidence) -> tuple[int, int, int] | None:
        """Computes an answer again: output position, id and right id of the first wrong one; None: it is right.

        Raises:
            ModelNotHere: see Traces.
        """
        return self.challenger(evidence.claim(), evidence.input_ids, evidence.output_ids).wrong_output()

    def look(self, dispute_id: bytes) -> Dispute | Verdict | None:
        """The dispute as the chain stands; only its end where it is long over or was judged at once."""
        self.book.poll()
        return self.book.dispute(dispute_id) or self.book.verdict(dispute_id)

    def next(self, dispute: Dispute) -> Move:
        """The next move of an honest challenger. Raises ModelNotHere, StepDisagrees."""
        challenger = self.challenger(dispute.claim, dispute.input_ids, dispute.output_ids)
        return challenger.next(dispute, self._now(), self.rules.reply_window)

    def reward(self, subject_id: bytes, provider: str) -> int:
        """Base units that challengers get where this replica is found guilty; half goes to who asked for the leaf."""
        replica = next((r for r in self._jobs.replicas(subject_id) if r.provider.lower() == provider.lower()), None)
        if replica is None or replica.bond_state not in (BondState.LOCKED, BondState.DISPUTED):
            return 0
        return slash(replica.bond, min(replica.paid, replica.bond), self._jobs.challenger_share_bps()).reward

    def gas_price(self) -> int:
        """Wei per gas that a move costs now: the base fee, and the least tip that is offered."""
        return self._chain.head().base_fee + FeePolicy().min_priority_fee

    def prospects(self, call: Call, prepaid: int, moves_left: int, reward: int) -> Prospects:
        """What a move costs and what it can win. `moves_left`: requests that may follow it, then a proof.

        Raises:
            ContractError: the contract would refuse it; nothing was sent.
        """
        gas = self._chain.estimate_gas(call, self.address)
        price = self.gas_price()
        left = moves_left * self.rules.request_fee
        return Prospects(prepaid, gas, gas * price, moves(moves_left), left, reward)

    # ------------------------------------------------------------------------------------------------------- moving

    def opening(self, evidence: Evidence) -> Call:
        """The move that opens a dispute."""
        return self._contract.dispute(evidence.params(self.permit(self.rules.root_fee)))

    def open(self, evidence: Evidence) -> Sent:
        """Opens a dispute. Raises ContractError (AlreadyDisputed, TooLate, ProgramNotAccepted, …)."""
        return self._send(self.opening(evidence), f"dispute:{evidence.dispute_id.hex()}")

    def call(self, dispute: Dispute, move: Move) -> Call | None:
        """A move as a transaction; None for one that is none."""
        claim, contract = dispute.claim, self._contract
        match move:
            case RequestNode():
                return contract.request(claim, move.node, move.hash, move.path, self.permit(self.rules.request_fee))
            case Prove():
                return contract.prove(claim, move.accusation)
            case ProveOutput():
                return contract.prove_output(claim, move.accusation)
            case ProveOutside():
                return contract.prove_outside(claim, move.node, move.hash, move.path)
            case SayMissed():
                return contract.missed(claim, move.node)
        return None

    def fee(self, move: Move) -> int:
        """Base units that a move prepays."""
        return self.rules.request_fee if isinstance(move, RequestNode) else 0

    def play(self, dispute: Dispute, move: Move) -> Sent:
        """Sends one move. Raises ContractError: somebody was faster, or it came too late; nothing was sent."""
        call = self.call(dispute, move)
        if call is None:
            raise ValueError(f"{type(move).__name__} is no move that is sent")
        kind = type(move).__name__
        where = f"{move.node.depth}.{move.node.index}" if isinstance(move, RequestNode | SayMissed) else ""
        return self._send(call, f"{kind}:{dispute.dispute_id.hex()}:{where}")

    def close(self, dispute: Dispute) -> Sent:
        """Ends a dispute in which nothing was proved. Raises ContractError (NotYet, Unanswered)."""
        return self._send(self._contract.close(dispute.claim), f"close:{dispute.dispute_id.hex()}")

    def refund(self, dispute_id: bytes) -> Sent | None:
        """Fetches back what this account prepaid, once the provider was guilty; None where nothing is left there."""
        if not self._contract.prepaid_by(dispute_id, self.address):
            return None
        return self._send(self._contract.refund(dispute_id, self.address), f"refund:{dispute_id.hex()}")

    def won(self, subject_id: bytes, provider: str, verdict: Verdict) -> int:
        """Base units that this account got by a verdict of guilty, whoever's transaction brought it."""
        events = decode_logs(self._chain.logs([self._jobs.address], verdict.block, verdict.block))
        slashed = [e for e in events if e.name == "BondSlashed" and e.args["jobId"] == subject_id]
        return _rewards([e for e in slashed if same_address(e.args["provider"], provider)], self.address)

    def permit(self, amount: int) -> bytes:
        """b"" where credit or an allowance pays, else an ERC-2612 permit for what is missing.

        Raises:
            NotDisputable: code InsufficientFunds: this account has not as much.
        """
        missing = amount - self._vault.credit(self._token.address, self.address)
        if missing <= 0 or self._token.allowance(self.address, self._vault.address) >= missing:
            return b""
        if self._token.balance_of(self.address) < missing:
            raise NotDisputable(
                f"{self.address} lacks {missing} base units for the prepayment of {amount}. Nothing was sent.",
                hint="Get more tokens.",
                code="InsufficientFunds",
                needs=amount,
            )
        try:
            return self._token.permit(self._account, self._vault.address, missing, self._now() + PERMIT_SECONDS)
        except ChainError:
            self._send(self._token.approve(self._vault.address, missing), f"approve:{self._now()}")
            return b""


def rewarded(sent: Sent, address: str) -> int:
    """Base units that a verdict's transaction paid to an account as a challenger."""
    return _rewards(decode_logs(sent.logs), address)


def _rewards(events: Iterable[Event], address: str) -> int:
    total = 0
    for event in events:
        if event.name == "BondSlashed":
            reward, mine = event.args["reward"], address.lower()
            asked, proved = event.args["requester"].lower() == mine, event.args["prover"].lower() == mine
            total += reward if asked and proved else reward // 2 if asked else reward - reward // 2 if proved else 0
    return total
