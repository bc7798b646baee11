"""The game of a dispute as plain Python: what each move changes, or the custom error it is refused with.

Written from docs/disputes.md, section 4, not from the contract. Where a move breaks several rules the first one in the
contract's order names the error. Nodes are (depth, index); money is in base units of the stake token.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass, field

from tests.stateful.ledger import Refused, require

NodeKey = tuple[int, int]
ROOT: NodeKey = (0, 0)
EXPIRY_WINDOW = 7 * 86_400


class State(enum.IntEnum):
    """IDisputes.DisputeState."""

    NONE = 0
    OPEN = 1
    GUILTY = 2
    NOT_GUILTY = 3
    EXPIRED = 4


@dataclass(frozen=True)
class Rules:
    """What the game was deployed with, and the bond that answers. `rounds` counts the payload's."""

    window: int
    root_fee: int
    request_fee: int
    rounds: int
    bond: int
    charged: int
    share_bps: int
    client: str
    provider: str


@dataclass
class ModelNode:
    requester: str
    deadline: int
    answered: bool = False


@dataclass
class ModelDispute:
    """One answer. `takes_verdicts` is False for a subject that refuses every one."""

    dispute_end: int
    takes_verdicts: bool = True
    state: State = State.NONE
    end_at: int = 0
    nodes: dict[NodeKey, ModelNode] = field(default_factory=dict)
    prepaid: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def pending(self) -> list[NodeKey]:
        return [key for key, node in self.nodes.items() if not node.answered]

    @property
    def held(self) -> int:
        return 0 if self.state is State.NOT_GUILTY else sum(self.prepaid.values())


class DisputeModel:
    """All disputes of one provider whose one bond answers for every receipt."""

    def __init__(self, rules: Rules, now: int, dispute_end: int) -> None:
        self.rules = rules
        self.now = now
        self.session_end = dispute_end
        self.bond = rules.bond
        self.deprecated = False
        self.credit: dict[str, int] = defaultdict(int)
        self.wallet: dict[str, int] = defaultdict(int)  # what was taken out of it
        self.burnt = 0
        self.disputes: list[ModelDispute] = []

    # --- moves

    def open(self, number: int, who: str, *, overruns: bool = False) -> None:
        dispute = self.disputes[number]
        require(dispute.state is State.NONE, "AlreadyDisputed")
        if dispute.takes_verdicts:
            require(self.bond > 0 and self.now <= self.session_end, "NotNow")
        if overruns:
            self._convict(dispute, who, who)
            return
        require(self.now <= dispute.dispute_end, "DisputeEndOutOfRange")
        dispute.state = State.OPEN
        dispute.end_at = dispute.dispute_end + (2 * self.rules.rounds + 3) * self.rules.window
        dispute.nodes[ROOT] = ModelNode(who, self.now + self.rules.window)
        self._prepay(dispute, who, self.rules.root_fee)

    def contradict(self, number: int, who: str, *, signed: bool, second: bool) -> None:
        """`signed`: by the provider; `second`: another output for the same request."""
        dispute = self.disputes[number]
        if dispute.state is not State.OPEN:
            require(dispute.state is State.NONE, "AlreadyDisputed")
            if dispute.takes_verdicts:
                require(self.bond > 0 and self.now <= self.session_end, "NotNow")
        require(signed or not dispute.takes_verdicts, "BadReceipt")
        require(second and dispute.takes_verdicts, "NoContradiction")
        self._convict(dispute, who, who)

    def request(
        self, number: int, who: str, key: NodeKey, up: int, outside: bool = False, nowhere: bool = False
    ) -> None:
        dispute = self._opened(number)
        require(self.now <= dispute.end_at - 2 * self.rules.window, "PastDeadline")
        require(key not in dispute.nodes, "AlreadyRequested")
        above = dispute.nodes.get((key[0] - up, key[1] >> up))
        require(above is not None and above.answered, "NotAnswered")
        require(not nowhere, "BadPath")  # nothing hangs below what is outside as a whole
        require(not outside, "NodeOutside")
        dispute.nodes[key] = ModelNode(who, self.now + self.rules.window)
        self._prepay(dispute, who, self.rules.request_fee)

    def request_forged(self, number: int, key: NodeKey, error: str) -> None:
        """Of a place that is none, or by a path that leads elsewhere; it would lead to the root."""
        dispute = self._opened(number)
        require(self.now <= dispute.end_at - 2 * self.rules.window, "PastDeadline")
        require(error != "NoSuchPlace", error)
        require(key not in dispute.nodes, "AlreadyRequested")
        require(dispute.nodes[ROOT].answered, "NotAnswered")
        raise Refused(error)

    def answer(self, number: int, who: str, key: NodeKey, *, right: bool = True, padded: bool = False) -> None:
        dispute = self._opened(number)
        if key == ROOT:
            require(who == self.rules.provider, "NotProvider")
        node = self._asked(dispute, key)
        require(self.now <= node.deadline, "PastDeadline")
        require(not padded, "BadPadding")
        require(right, "BadReply")
        node.answered = True

    def answer_confused(self, number: int, key: NodeKey, error: str) -> None:
        """A leaf's answer to a node above the leaves, or the other way round."""
        dispute = self._opened(number)
        node = self._asked(dispute, key)
        require(self.now <= node.deadline, "PastDeadline")
        raise Refused(error)

    def prove(self, number: int, who: str, leaf: NodeKey, *, wrong: bool) -> None:
        """An element of the leaf, or an id by the rival's logits in it."""
        dispute = self.provable(number)
        require(wrong, "NothingWrong")
        node = dispute.nodes.get(leaf)
        paid_for_it = node is not None and node.answered
        self._convict(dispute, dispute.nodes[leaf if paid_for_it else ROOT].requester, who)

    def prove_outside(self, number: int, who: str, key: NodeKey, up: int, *, hidden: bool) -> None:
        dispute = self.provable(number)
        above = dispute.nodes.get((key[0] - up, key[1] >> up))
        if above is None or not above.answered:
            raise Refused("NotAnswered")
        require(hidden, "NothingWrong")
        self._convict(dispute, above.requester, who)

    def prove_forged(self, number: int, error: str) -> None:
        self.provable(number)
        raise Refused(error)

    def missed(self, number: int, who: str, key: NodeKey) -> None:
        dispute = self._opened(number)
        node = self._asked(dispute, key)
        require(self.now > node.deadline, "NotYet")
        self._convict(dispute, node.requester, who)

    def close(self, number: int) -> None:
        dispute = self._opened(number)
        require(self.now > dispute.end_at, "NotYet")
        require(not dispute.pending, "Unanswered")
        require(dispute.takes_verdicts, "")
        total = sum(dispute.prepaid.values())
        self.credit[self.rules.provider] += total * 9 // 10
        self.burnt += total - total * 9 // 10
        dispute.state = State.NOT_GUILTY

    def expire(self, number: int) -> None:
        dispute = self._opened(number)
        require(self.now > dispute.end_at + EXPIRY_WINDOW, "NotYet")
        dispute.state = State.EXPIRED

    def refund(self, number: int, payer: str) -> None:
        dispute = self.disputes[number]
        require(dispute.state in (State.GUILTY, State.EXPIRED), "WrongDisputeState")
        amount = dispute.prepaid[payer]
        require(amount > 0, "NothingToRefund")
        dispute.prepaid[payer] = 0
        self.credit[payer] += amount

    # --- helpers

    def provable(self, number: int) -> ModelDispute:
        """What holds before anything is proved."""
        dispute = self._opened(number)
        require(self.now <= dispute.end_at, "PastDeadline")
        require(dispute.nodes[ROOT].answered, "NotAnswered")
        return dispute

    def _opened(self, number: int) -> ModelDispute:
        dispute = self.disputes[number]
        require(dispute.state is State.OPEN, "WrongDisputeState")
        return dispute

    def _asked(self, dispute: ModelDispute, key: NodeKey) -> ModelNode:
        node = dispute.nodes.get(key)
        if node is None:
            raise Refused("NotRequested")
        require(not node.answered, "AlreadyAnswered")
        return node

    def _prepay(self, dispute: ModelDispute, who: str, fee: int) -> None:
        if self.deprecated:
            return
        from_credit = min(fee, self.credit[who])
        self.credit[who] -= from_credit
        self.wallet[who] += fee - from_credit
        dispute.prepaid[who] += fee

    def _convict(self, dispute: ModelDispute, requester: str, prover: str) -> None:
        require(dispute.takes_verdicts, "")
        dispute.state = State.GUILTY
        rules, bond = self.rules, self.bond
        refund = min(rules.charged, bond)
        reward = min(bond * rules.share_bps // 10_000, (bond - refund) // 2)
        self.credit[rules.client] += refund
        self.credit[requester] += reward // 2
        self.credit[prover] += reward - reward // 2
        self.burnt += bond - refund - reward
        self.bond = 0
