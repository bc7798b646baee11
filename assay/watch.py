"""A watcher: computes a chosen share of the public answers again, and disputes what is wrong, where that pays.

Which answers: drawn from the answer itself with a secret (market.audit), so nobody can tell beforehand, and a restart
draws the same. What it may cost: a budget of gas a day, and never more than the reward. That a watcher has worked shows
in its record: each audit leaves a root keyed to its address, which only whoever computed the trace can make; and every
so often it judges a canary, an answer with one token changed, which it must find wrong.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from assay.watch_disagreements import Disagreements
from assay.watch_store import Audit, WatchStore
from client.demands import Demand
from market.audit import AuditPolicy, is_audited
from market.chain import Chain, same_address
from market.contracts import Jobs, Registry
from market.dispute_evidence import Evidence, evidence_of
from market.dispute_gas import moves, opening
from market.dispute_play import Player, rewarded
from market.disputes import Dispute, DisputeState
from market.errors import AssayError, ContractError, MarketError, WireError
from market.events import Follower
from market.hashing import keccak256, tokens_root
from market.types import Output
from market.verification.challenger import Agrees, Over, Wait
from market.views import ReplicaView

DAY = 86_400
CANARY_EVERY = 20  # audits
WEI = 10**18


class CanaryMissed(MarketError):
    """This machine found a wrong answer right: nothing it says can be relied on."""


@dataclass(frozen=True)
class WatchRules:
    """What a watcher looks at and spends.

    Attributes:
        rate: share of answers to audit; None: what `policy` says for each answer's price and bond.
        budget: wei of gas a day.
        token_per_coin: base units that one coin of gas (10^18 wei) is worth; 0: gas costs nothing.
        margin_bps: how much the reward must exceed the cost, basis points of the cost.
    """

    rate: Fraction | None = None
    policy: AuditPolicy = field(default_factory=AuditPolicy)
    budget: int = 0
    token_per_coin: int = 0
    margin_bps: int = 2_000
    canary_every: int = CANARY_EVERY


def keyed_root(address: str, root: bytes) -> bytes:
    """What a watcher leaves of an audit: keccak256("assay watch" ‖ its address ‖ root of the trace). Another watcher's
    cannot be copied, and none can be made without the trace.
    """
    return keccak256(b"assay watch" + bytes.fromhex(address.removeprefix("0x")) + root)


class Watch:
    """See the module. Not for several threads at once.

    Args:
        demand: does the next thing about the output of a replica that keeps it back, as `client.demands.demand_next`.
        tell: told of everything that happened, as JSON-serialisable objects.
        now: unix seconds by the chain's clock.
    """

    def __init__(
        self,
        chain: Chain,
        jobs: Jobs,
        registry: Registry,
        player: Player,
        store: WatchStore,
        follower: Follower,
        rules: WatchRules,
        demand: Callable[[bytes, str], Demand],
        tell: Callable[[dict[str, Any]], None],
        now: Callable[[], int],
    ) -> None:
        self._chain, self._jobs, self._registry, self._player = chain, jobs, registry, player
        self._store, self._follower, self._rules, self._tell, self._now = store, follower, rules, tell, now
        self._share_bps = jobs.challenger_share_bps()
        self._told: dict[tuple[bytes, str], str] = {}
        self._disagreements = Disagreements(jobs, registry, player, store, demand, self._too_dear, self._say, now)

    def tick(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """One look: reads events, audits what is drawn, and does one thing in each dispute. Returns whether anything is
        still going on. Once `stopped`, it returns before the next thing.

        Raises:
            ChainError: the chain could not be asked or told; call again later.
            CanaryMissed: stop.
        """
        self._read()
        for job_id, provider, block in self._store.unseen():
            if stopped():
                return True
            self._audit(job_id, provider, block)
        self._disagreements.look()
        for state, work in (("wrong", self._open), ("disputed", self._go_on)):
            for audit in self._store.audits(state):
                if stopped():
                    return True
                work(audit)
        return bool(self._store.audits("disputed", "demanded"))

    def _read(self) -> None:
        while True:
            items, before = self._follower.poll(), self._store.load()
            with self._store.once():
                self._store.take(items)
                self._follower.commit()
            if self._store.load() == before:
                return

    # ---------------------------------------------------------------------------------------------------- auditing

    def _audit(self, job_id: bytes, provider: str, block: int) -> None:
        try:
            evidence = evidence_of(self._store, self._jobs, self._registry, job_id, provider)
            audit, wrong = self._judge(evidence)
        except (MarketError, WireError, ContractError) as error:
            # a stranger's job can be about anything: what cannot be judged must not stop the watcher
            if isinstance(error, CanaryMissed):
                raise
            audit, wrong = Audit(job_id, provider, "unknown"), error.code
        self._store.put(audit, block, self._now())
        if audit.state != "skipped":
            self._say(audit, **({} if wrong is None else {"fault": wrong}))

    def _judge(self, evidence: Evidence) -> tuple[Audit, str | None]:
        """What came of one answer, and what is wrong with it."""
        audit = Audit(evidence.subject_id, evidence.provider, self._state(evidence))
        if audit.state != "drawn":
            return audit, None
        wrong = self._player.fault(evidence)
        audit = replace(audit, state="right" if wrong is None else "wrong")
        vocabulary = self._player.traces.pack(evidence.claim()).limits.vocabulary
        if evidence.forbidden(vocabulary) is None:  # else there is nothing to compute
            challenger = self._player.challenger(evidence.claim(), evidence.input_ids, evidence.output_ids)
            audit = replace(audit, keyed_root=keyed_root(self._player.address, challenger.root()))
            self._judge_canary(evidence)
        return audit, wrong

    def _state(self, evidence: Evidence) -> str:
        replica = self._replica(evidence.subject_id, evidence.provider)
        # one that is disputed already is not left to whoever opened that: it may be the liar's friend, who does nothing
        if replica is None or not replica.is_held:
            return "safe"
        if not self._player.traces.knows(evidence.claim()):
            return "unknown"
        rate = self._rules.rate
        if rate is None:
            payment = replica.charge(self._jobs.job(evidence.subject_id))
            rate = self._rules.policy.rate(payment, replica.bond, self._share_bps)
        drawn = is_audited(self._store.secret, evidence.subject_id, evidence.output.output_hash, rate)
        return "drawn" if drawn else "skipped"

    def _judge_canary(self, evidence: Evidence) -> None:
        """Changes one token of an answer; it must come out wrong."""
        audited = len(self._store.audits("right", "wrong", "disputed", "guilty", "over"))
        if audited % self._rules.canary_every:
            return
        chance = hmac.digest(self._store.secret, b"canary" + evidence.subject_id, "sha256")
        position = int.from_bytes(chance, "big") % len(evidence.output_ids)
        ids = list(evidence.output_ids)
        judged = self._player.judged(evidence)
        # of an answer that is wrong already nothing can be learned behind its first wrong token
        position = position if judged is None else min(position, judged[0])
        right = ids[position] if judged is None or judged[0] != position else judged[2]
        ids[position] = right ^ 1 if right ^ 1 != right else right
        output = Output(tokens_root(ids), len(ids), evidence.output.finish)
        changed = replace(evidence, output_ids=tuple(ids), output=output)
        found = self._player.judged(changed)
        if found is None or found[0] != position or found[2] != right:
            raise CanaryMissed(
                f"A canary (output position {position} changed) was not found: this machine computes wrongly.",
                hint="Nothing more was judged or sent. Run `assay model verify`.",
            )
        self._tell({"event": "canary", "job_id": "0x" + evidence.subject_id.hex(), "position": position, "found": True})

    # --------------------------------------------------------------------------------------------------- disputing

    def _open(self, audit: Audit) -> None:
        """Opens the dispute, or joins the one that somebody opened, where that pays and the budget allows it."""
        evidence = evidence_of(self._store, self._jobs, self._registry, audit.job_id, audit.provider)
        found = self._player.look(evidence.dispute_id)
        if found is not None and not (isinstance(found, Dispute) and found.is_open):
            self._change(audit, "over", evidence.dispute_id)
            return
        reward = self._player.reward(audit.job_id, audit.provider)
        if not reward:
            self._change(audit, "safe")
            return
        why = self._obstacle(evidence, reward, is_open=found is not None)
        if why:
            if self._told.get((audit.job_id, audit.provider)) != why:
                self._told[audit.job_id, audit.provider] = why
                self._say(audit, not_disputed=why)
            return
        if found is None:
            # written first: a watcher that dies after sending must know that it did
            audit = replace(audit, state="disputed", dispute_id=evidence.dispute_id)
            self._store.change(audit)
            try:
                sent = self._player.open(evidence)
            except ContractError as error:
                if error.code != "AlreadyDisputed":
                    self._change(audit, "over", evidence.dispute_id, refused=error.code)
                    return
            else:
                audit = replace(audit, wei=audit.wei + sent.gas_used * sent.effective_gas_price)
                won = rewarded(sent, self._player.address)
                audit = replace(audit, reward=audit.reward + won)
        self._change(audit, "disputed", evidence.dispute_id)

    def _obstacle(self, evidence: Evidence, reward: int, *, is_open: bool) -> str:
        """Why a dispute is not opened, or one that is open not joined; "" where it pays."""
        gas = 0 if is_open else opening(len(evidence.input_ids) + len(evidence.output_ids))
        if evidence.forbidden(self._player.traces.pack(evidence.claim()).limits.vocabulary) is None:
            challenger = self._player.challenger(evidence.claim(), evidence.input_ids, evidence.output_ids)
            gas += moves(challenger.geometry.rounds() + 1)
        return self._too_dear(gas, 0, reward)

    def _too_dear(self, gas: int, fee: int, reward: int) -> str:
        """Why so much gas, and base units beside it, are not spent for a reward; "" where it pays."""
        wei = gas * self._player.gas_price()
        left = self._rules.budget - self._store.spent_since(self._now() - DAY)
        if wei > left:
            return f"over budget: it may cost {wei} wei, {max(left, 0)} are left for today"
        cost = fee - (-wei * self._rules.token_per_coin // WEI)
        if reward * 10_000 <= cost * (10_000 + self._rules.margin_bps) and cost:
            return f"unprofitable: it may cost {cost} base units and win {reward}"
        return ""

    def _go_on(self, audit: Audit) -> None:
        """The next move in a dispute, if it is ours to make."""
        dispute_id = audit.dispute_id or b""
        found = self._player.look(dispute_id)
        if found is None:  # the opening was taken back, or never sent
            self._change(audit, "wrong")
            return
        if not isinstance(found, Dispute) or not found.is_open:
            verdict = found.verdict if isinstance(found, Dispute) else found
            guilty = verdict is not None and verdict.state is DisputeState.GUILTY
            if guilty and verdict is not None:
                self._player.refund(dispute_id)
                won = self._player.won(audit.job_id, audit.provider, verdict)  # by another's proof, perhaps
                audit = replace(audit, reward=won)
            self._change(audit, "guilty" if guilty else "over", dispute_id)
            return
        move = self._player.next(found)
        if isinstance(move, Wait | Agrees | Over):
            return
        try:
            sent = self._player.play(found, move)
        except ContractError as error:  # somebody was faster: the next look tells
            self._say(audit, refused=error.code)
            return
        won = rewarded(sent, self._player.address)
        spent = sent.gas_used * sent.effective_gas_price
        audit = replace(audit, wei=audit.wei + spent, reward=audit.reward + won)
        self._store.change(audit)
        self._say(audit, move=type(move).__name__, reason=move.reason, transaction=sent.hash)

    def _replica(self, job_id: bytes, provider: str) -> ReplicaView | None:
        try:
            return next((r for r in self._jobs.replicas(job_id) if same_address(r.provider, provider)), None)
        except AssayError as error:
            if error.code == "UnknownJob":
                return None
            raise

    def _change(self, audit: Audit, state: str, dispute_id: bytes | None = None, **more: Any) -> None:
        audit = replace(audit, state=state, dispute_id=dispute_id)
        self._store.change(audit)
        self._say(audit, **more)

    def _say(self, audit: Audit, **more: Any) -> None:
        line: dict[str, Any] = {
            "event": "audit",
            "job_id": "0x" + audit.job_id.hex(),
            "provider": audit.provider.lower(),
            "state": audit.state,
        }
        if audit.keyed_root is not None:
            line["keyed_root"] = "0x" + audit.keyed_root.hex()
        if audit.dispute_id is not None:
            line["dispute_id"] = "0x" + audit.dispute_id.hex()
        if audit.wei or audit.reward:
            line |= {"wei": str(audit.wei), "reward": audit.reward}
        self._tell(line | more)
