"""An answer that was revealed and is kept back: demanding it on chain, and what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from client.errors import BadRequest
from client.escrow import plan_escrow
from client.marketplace import Marketplace
from client.results import TokenInfo
from client.wallet import Wallet
from market.chain import Call, same_address
from market.dispute_play import rewarded
from market.errors import ContractError
from market.events import decode_logs
from market.hashing import unpack_tokens
from market.transactions import Sent
from market.views import BondState, DemandCost, ReplicaView

_REFUSED = frozenset(
    {
        "UnknownJob",
        "WrongState",
        "NotClient",
        "NotReplica",
        "NothingOwed",
        "AlreadyDemanded",
        "WrongBondState",
        "TooLate",
    }
)
"""What `Jobs.demandReveal` may say before it takes the fee (contracts/libraries/Demands.sol)."""


@dataclass(frozen=True)
class Demand:
    """How far a demand is. Money in base units, times in unix seconds.

    Attributes:
        state: "demanded" just now, "waiting" for the provider, "published", or "slashed" for its silence.
        fee: what the demand costs; it comes back where the provider stays silent.
        price: of an answer that the job did not pay for, else 0; comes back where the provider loses its bond.
        deadline: until when the provider must publish.
        ids, answer: what it published, and its text.
        wei: gas that this step paid; reward: base units that it won as a challenger.
    """

    job_id: bytes
    provider: str
    state: str
    fee: int
    price: int
    deadline: int
    token: TokenInfo
    ids: tuple[int, ...] | None = None
    answer: str | None = None
    wei: int = 0
    reward: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "job_id": "0x" + self.job_id.hex(),
            "provider": self.provider.lower(),
            "state": self.state,
            "fee": self.fee,
            "price": self.price,
            "deadline": self.deadline,
            "token": self.token.to_json(),
            "ids": None if self.ids is None else list(self.ids),
            "answer": self.answer,
            "wei": str(self.wei),
            "reward": self.reward,
        }


def cost_of(place: Marketplace, job_id: bytes, provider: str) -> DemandCost:
    """What demanding the output of `provider` costs. Raises BadRequest where it is no replica."""
    return place.jobs.demand_cost_of(job_id, _replica(place, job_id, provider).provider)


def demand_next(place: Marketplace, wallet: Wallet, job_id: bytes, provider: str) -> Demand:
    """Does the next thing about the output of `provider`. Raises as `Client.demand`."""
    replica = _replica(place, job_id, provider)
    cost = place.jobs.demand_cost_of(job_id, replica.provider)

    def outcome(state: str, *sent: Sent, ids: tuple[int, ...] | None = None) -> Demand:
        deadline = _replica(place, job_id, provider).demand_deadline
        wei = sum(each.gas_used * each.effective_gas_price for each in sent)
        won = sum(rewarded(each, wallet.account.address) for each in sent)
        said = (job_id, replica.provider, state, cost.fee, cost.price, deadline, place.token_info)
        return Demand(*said, ids=ids, wei=wei, reward=won)

    if replica.demand_deadline == 0:
        now = place.clock.now()
        _check(place, place.jobs.demand_reveal(job_id, replica.provider), wallet)
        with wallet.open() as transactions:
            money = plan_escrow(place.token, place.vault, wallet.account, cost.total, now=now)
            sent = [] if money.approval is None else [transactions.send(money.approval)]
            call = place.jobs.demand_reveal(job_id, replica.provider, money.permit)
            sent.append(transactions.send(call, key=f"demand:{job_id.hex()}:{replica.provider}"))
        return outcome("demanded", *sent)
    if replica.bond_state is BondState.SLASHED:
        return outcome("slashed")
    if not replica.is_demanded:
        return outcome("published", ids=_published(place, job_id, replica))
    if place.clock.now() <= replica.demand_deadline:
        return outcome("waiting")
    slashing = place.jobs.slash_withheld(job_id, replica.provider)
    return outcome("slashed", wallet.send(slashing, f"slash:{job_id.hex()}:{replica.provider}"))


def _check(place: Marketplace, call: Call, wallet: Wallet) -> None:
    """Raises ContractError where the contract refuses the demand itself, before anything is approved for it."""
    try:
        place.chain.call(call, sender=wallet.account.address)
    except ContractError as error:
        if error.code in _REFUSED:
            raise  # anything else is about the fee, which is not approved yet


def _replica(place: Marketplace, job_id: bytes, provider: str) -> ReplicaView:
    found = next((r for r in place.jobs.replicas(job_id) if same_address(r.provider, provider)), None)
    if found is None:
        raise BadRequest(f"{provider[:60]} is no replica of this job.", hint="`assay job show` names them.")
    return found


def _published(place: Marketplace, job_id: bytes, replica: ReplicaView) -> tuple[int, ...]:
    """The ids in the event; the contract checked that they hash to what was revealed."""
    chain = place.chain
    logs = chain.logs([place.jobs.address], place.deployment.block, chain.head().number)
    ids = next(
        event.args["ids"]
        for event in decode_logs(logs)
        if event.name == "OutputPublished"
        and event.args["jobId"] == job_id
        and same_address(event.args["provider"], replica.provider)
    )
    return tuple(unpack_tokens(ids, replica.output_tokens))
