"""Jobs whose replicas revealed different outputs: at most one output is right, so somebody is wrong.

Who it is, hashes tell: the model's own answer is computed. To dispute another one its ids are needed, which a replica
that was not paid has not shown. In a public job anybody may demand them, for a fee and the answer's price; the price
comes back with the verdict. Whoever keeps them back loses its bond for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from assay.watch_store import Audit, WatchStore
from client.demands import Demand
from market.chain import same_address
from market.contracts import Jobs, Registry
from market.dispute_gas import moves, opening
from market.dispute_play import Player
from market.errors import AssayError, ChainError, ContractError
from market.types import Model, Request
from market.verification.geometry import Geometry
from market.verification.structs import Shape
from market.views import BondState, ReplicaState, ReplicaView

DEMAND_GAS = 250_000
"""What a demand takes at most, an approval with it."""


class Disagreements:
    """See the module. Audits go "hidden" (wrong, its ids not shown) → "demanded" → "wrong" or "guilty".

    Args:
        demand: does the next thing about a replica's output, as `client.demands.demand_next`.
        obstacle: of gas, base units that are lost beside it, and the reward: why spending them is not allowed, or "".
        say: told of an audit that changed, with more to tell.
    """

    def __init__(
        self,
        jobs: Jobs,
        registry: Registry,
        player: Player,
        store: WatchStore,
        demand: Callable[[bytes, str], Demand],
        obstacle: Callable[[int, int, int], str],
        say: Callable[..., None],
        now: Callable[[], int],
    ) -> None:
        self._jobs, self._registry, self._player, self._store = jobs, registry, player, store
        self._demand, self._obstacle, self._say, self._now = demand, obstacle, say, now
        self._told: dict[tuple[bytes, str], str] = {}

    def look(self) -> None:
        """Judges what is new, and goes on with every demand. Raises ChainError."""
        for job_id, block in self._store.disagreements():
            self._judge(job_id, block)
        for audit in self._store.audits("hidden"):
            self._ask(audit)
        for audit in self._store.audits("demanded"):
            self._go_on(audit)

    # ------------------------------------------------------------------------------------------------------ judging

    def _judge(self, job_id: bytes, block: int) -> None:
        asked = self._store.request(job_id)
        try:
            if asked is None or not self._jobs.job(job_id).state.is_final:
                return
        except ContractError:  # taken back by a reorganisation: the next look tells
            return
        try:
            right = self._right_output(job_id, *asked)
        except AssayError as error:  # a stranger's request can be anything
            right, why = None, refusal(error).code
        else:
            why = ""
        for replica in self._jobs.replicas(job_id):
            if replica.state in (ReplicaState.REVEALED, ReplicaState.LATE):
                self._note(job_id, replica, right, why, block)

    def _right_output(self, job_id: bytes, request: Request, input_ids: tuple[int, ...]) -> bytes | None:
        """Hash of what the model answers; None where the model is not here."""
        model: Model = self._registry.model(request.model_id)
        if not self._player.traces.knows(model):
            return None
        seed = self._jobs.chain_seed(job_id, request)
        return self._player.traces.answer(model, request, input_ids, seed)[0].output_hash

    def _note(self, job_id: bytes, replica: ReplicaView, right: bytes | None, why: str, block: int) -> None:
        known = self._store.audit(job_id, replica.provider)
        if known is not None and known.state != "skipped":
            return
        if right is None:
            state = "unknown"
        elif replica.digest == right:
            state = "right"
        elif replica.bond_state is not BondState.LOCKED:
            state = "safe"
        else:
            state = "hidden" if self._store.ids(job_id, replica.provider) is None else "wrong"
        audit = Audit(job_id, replica.provider, state)
        self._store.put(audit, block, self._now())
        self._say(audit, disagreed=True, **({"fault": why} if why else {}))

    # ---------------------------------------------------------------------------------------------------- demanding

    def _ask(self, audit: Audit) -> None:
        """Demands the ids, where what a dispute then costs and can win allows it."""
        replica = self._replica(audit)
        if replica is None or replica.bond_state is not BondState.LOCKED:
            self._change(audit, "safe")
            return
        if self._store.ids(audit.job_id, audit.provider) is not None:  # somebody else made it publish
            self._change(audit, "wrong")
            return
        cost = self._jobs.demand_cost_of(audit.job_id, audit.provider)
        reward = self._player.reward(audit.job_id, audit.provider)
        why = self._obstacle(self._gas(audit, replica), cost.fee, reward)
        if not why:
            try:
                self._step(replace(audit, state="demanded"))
            except AssayError as error:  # no money for it, or too late
                why = f"{refusal(error).code}: {error.message}"
        if why and self._told.get((audit.job_id, audit.provider)) != why:
            self._told[audit.job_id, audit.provider] = why
            self._say(audit, not_demanded=why)

    def _go_on(self, audit: Audit) -> None:
        if self._store.ids(audit.job_id, audit.provider) is not None:
            self._change(audit, "wrong")
            return
        try:
            self._step(audit)
        except AssayError as error:
            code, replica = refusal(error).code, self._replica(audit)
            if replica is None or replica.bond_state is not BondState.LOCKED:
                self._change(audit, "over", refused=code)

    def _step(self, audit: Audit) -> None:
        """The next thing about a demand: what it cost and won is written down."""
        done = self._demand(audit.job_id, audit.provider)
        known = self._store.audit(audit.job_id, audit.provider)
        audit = replace(audit, wei=audit.wei + done.wei, reward=audit.reward + done.reward)
        if done.state == "slashed":
            audit = replace(audit, state="guilty" if done.reward else "over")
        if known is None or audit != known:
            self._store.change(audit)
        if known is None or audit.state != known.state:
            self._say(audit, demand=done.state)

    def _gas(self, audit: Audit, replica: ReplicaView) -> int:
        """Of the demand, and of the whole dispute that may follow it."""
        asked = self._store.request(audit.job_id)
        if asked is None:
            return DEMAND_GAS + opening(0) + moves(1)
        pack = self._player.traces.pack(self._registry.model(asked[0].model_id))
        rounds = Geometry(Shape.of(pack.program), asked[0].input_tokens, replica.output_tokens).rounds() + 1
        ids = asked[0].input_tokens + replica.output_tokens
        return DEMAND_GAS + opening(ids) + moves(rounds)

    def _replica(self, audit: Audit) -> ReplicaView | None:
        """None where a reorganisation took the job back."""
        try:
            replicas = self._jobs.replicas(audit.job_id)
        except ContractError:
            return None
        return next((r for r in replicas if same_address(r.provider, audit.provider)), None)

    def _change(self, audit: Audit, state: str, **more: object) -> None:
        audit = replace(audit, state=state)
        self._store.change(audit)
        self._say(audit, **more)


def refusal(error: AssayError) -> AssayError:
    """Lets errors through that are no refusals: a chain that cannot be asked for a while. Raises ChainError."""
    if isinstance(error, ChainError) and not isinstance(error, ContractError):
        raise error
    return error
