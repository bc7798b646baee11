"""A market whose judge knows the model, agents in it, and somebody who doubts their answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from eth_account.signers.local import LocalAccount

from market.contracts import Jobs
from market.dispute_contracts import Disputes
from market.dispute_evidence import Evidence, answers_of, evidence_of
from market.dispute_play import Player
from market.disputes import Dispute, DisputeBook
from market.judging import acceptances
from market.transactions import Sent, Transactions
from market.types import Mode, Request
from market.verification.challenger import Move, RequestNode, Wait
from market.verification.geometry import Node
from market.verification.traces import Traces
from market.views import BondState
from provider.config import Terms
from tests.integration.provider.market import TOKENS, LocalAgent, Market, until

BOND = 10_000_000
REPLY_WINDOW = 60


def judged_market(folder: Path, reply_window: int = REPLY_WINDOW) -> Market:
    """With a judge that accepted the model. `close` it."""
    market = Market(folder, reply_window=reply_window)
    for call in acceptances(market.chain, market.deployment.judge, market.pack):
        market.guardian.send(call)
    return market


@dataclass
class Arena:
    """A market whose judge knows the model, and somebody who doubts answers."""

    market: Market
    player: Player
    transactions: Transactions
    folder: Path

    @classmethod
    @contextmanager
    def of(cls, market: Market, folder: Path, account: int = 5) -> Iterator[Self]:
        """`account`: number of anvil's that doubts."""
        doubter: LocalAccount = market.anvil.accounts[account]
        contracts = market.contracts
        market.guardian.send(contracts.token.mint(doubter.address, TOKENS))
        with Transactions(market.chain, doubter, ":memory:") as transactions:
            player = Player(
                market.chain,
                contracts.jobs,
                contracts.vault,
                contracts.token,
                Disputes(market.chain, market.deployment.disputes),
                DisputeBook(market.chain, market.deployment.disputes),
                Traces([market.pack]),
                doubter,
                lambda call, key: transactions.send(call, key=key),
                lambda: market.chain.head().timestamp,
            )
            yield cls(market, player, transactions, folder)

    @property
    def jobs(self) -> Jobs:
        return self.market.contracts.jobs

    def agent(self, *, rpc_url: str = "", ws_url: str = "", **wiring: Any) -> LocalAgent:
        """A new provider's agent; `wiring` as `provider.agent.build` takes it."""
        self.folder.mkdir(exist_ok=True)
        endpoints = {"rpc_url": rpc_url, "ws_url": ws_url} if rpc_url else {}
        path, account = self.market.provider(self.folder, terms=Terms(bond=BOND), **endpoints)
        return LocalAgent(path, account, **wiring)

    def answer(self, agent: LocalAgent) -> Evidence:
        """A public job that the agent was paid for, and its answer."""
        request, ids = self.market.request(max_output_tokens=4)
        quote = self.market.quote(agent.url, request, Mode.NONE)
        job_id = self.market.post([quote], request, inline=ids)
        until(lambda: self.market.settled(job_id), 30)
        answer = until(lambda: self._output(agent, job_id))
        return self.evidence(agent, job_id, tuple(answer["ids"]), (request, tuple(ids)))

    def _output(self, agent: LocalAgent, job_id: bytes) -> Any:
        response = self.market.output(agent.url, job_id)
        return response.json() if response.status_code == 200 else None

    def evidence(
        self, agent: LocalAgent, job_id: bytes, ids: tuple[int, ...], request: tuple[Request, tuple[int, ...]]
    ) -> Evidence:
        contracts, provider = self.market.contracts, agent.agent.address
        answers = answers_of(self.market.chain, contracts.jobs, job_id, 0)
        assert answers.request(job_id) == request
        return evidence_of(answers, contracts.jobs, contracts.registry, job_id, provider, output_ids=ids)

    def dispute(self, evidence: Evidence) -> Dispute:
        found = self.player.look(evidence.dispute_id)
        assert isinstance(found, Dispute)
        return found

    def bond(self, evidence: Evidence) -> BondState:
        return self.jobs.replicas(evidence.subject_id)[0].bond_state

    def wait_for_replies(self, evidence: Evidence) -> None:
        until(lambda: not self.dispute(evidence).unanswered, 30)

    def win(self, evidence: Evidence) -> tuple[list[Move], Sent]:
        """Plays an honest challenger's game to its last move."""
        moves: list[Move] = []
        while True:
            dispute = self.dispute(evidence)
            move = self.player.next(dispute)
            if isinstance(move, Wait):
                self.wait_for_replies(evidence)
                continue
            moves.append(move)
            sent = self.player.play(dispute, move)
            if not isinstance(move, RequestNode):
                return moves, sent

    def ask(self, evidence: Evidence, *nodes: Node) -> None:
        """What a challenger asks that has nothing to ask."""
        for node in nodes:
            dispute = self.dispute(evidence)
            path = dispute.path_to_answered(node)
            assert path is not None
            self.player.play(dispute, RequestNode("", node, dispute.known[node], path))

    def warp_to(self, timestamp: int) -> None:
        """Mines a block at that time, unless it is over."""
        seconds = timestamp - self.market.chain.head().timestamp
        if seconds > 0:
            self.market.anvil.increase_time(seconds)
