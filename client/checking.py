"""Answers of one's own jobs, computed again: how often by the price and the bond (docs/auditing.md), and always where
replicas disagree. What is wrong is disputed to the end, a paid majority too: one honest outsider is enough.

An answer is judged from its ids. Those of the agreed output are known. A replica that disagreed was not paid and need
not show its own, but its hash is known, and a request has one answer: where the hash is another one, the replica is
asked for its ids, then made to publish them (for a fee and the answer's price, which comes back with the verdict), and
disputed. Who rather keeps them back loses its bond for that.
"""

from __future__ import annotations

import enum
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import sleep

from client.demands import cost_of, demand_next
from client.disputing import evidence_for, load_packs, player_of
from client.marketplace import Marketplace
from client.progress import Progress, Report, silent
from client.results import Checked
from client.store import JobRecord
from client.wallet import Wallet
from market.audit import AuditPolicy, is_audited
from market.contracts import Registry
from market.dispute_evidence import Evidence, NoEvidence, answers_of
from market.dispute_play import Player
from market.dispute_resolution import POLL_SECONDS, resolve
from market.disputes import Dispute
from market.errors import AssayError, ConfigError, MarketError
from market.models.pack import Pack
from market.types import Mode
from market.verification.challenger import Move
from market.views import BondState, JobView, ReplicaState, ReplicaView

Obtain = Callable[[ReplicaView], tuple[int, ...] | None]
"""Asks a replica for the ids of its output; None where it does not tell."""
SECRET_FILE = "audit.secret"  # noqa: S105 - a file's name


class Audit(enum.StrEnum):
    """When an answer is computed again: as often as deters, always, or never."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class CheckOptions:
    """When to compute again, whether to dispute what is wrong, what decides which (32 bytes), and local packs."""

    audit: Audit
    dispute: bool
    secret: bytes
    packs: tuple[Path, ...]


def is_due(job: JobView, replicas: Sequence[ReplicaView], job_id: bytes, share_bps: int, secret: bytes) -> bool:
    """Whether `auto` computes the answers of a job again: where replicas disagree, else as often as deters.

    A quorum whose replicas agree is its own check.
    """
    revealed = [replica for replica in replicas if replica.state is ReplicaState.REVEALED]
    if len({replica.digest for replica in revealed}) > 1:
        return True
    if job.mode is Mode.QUORUM:
        return False
    policy = AuditPolicy()
    rates = [policy.rate(replica.charge(job), replica.bond, share_bps) for replica in revealed]
    return any(is_audited(secret, job_id, job.output_hash, rate) for rate in rates or [Fraction(0)])


def check_result(
    place: Marketplace,
    wallet: Wallet,
    job_id: bytes,
    ids: tuple[int, ...],
    record: JobRecord | None,
    options: CheckOptions,
    report: Report = silent,
    obtain: Obtain = lambda _replica: None,
) -> list[Checked]:
    """As `check_answers`, where the options say so and a pack of the job's model is local; else nothing."""
    job, replicas = place.jobs.job(job_id), place.jobs.replicas(job_id)
    if options.audit is Audit.NEVER or not (job.is_agreed or job.state.is_final):
        return []
    if options.audit is Audit.AUTO and not is_due(job, replicas, job_id, place.share_bps, options.secret):
        return []
    packs = [pack for pack in load_packs(options.packs) if pack.model_id == job.model_id]
    if not packs:
        return []
    return check_answers(
        place, wallet, packs, job_id, ids, record, dispute=options.dispute, report=report, obtain=obtain
    )


def audit_secret(folder: Path) -> bytes:
    """Decides which of one's own answers are audited: drawn once, kept in `folder`. Raises ConfigError."""
    path = folder / SECRET_FILE
    try:
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
        return path.read_bytes()
    except FileExistsError:  # another process was faster
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {error.strerror}.", path=str(path)) from None


def check_answers(
    place: Marketplace,
    wallet: Wallet,
    packs: Sequence[Pack],
    job_id: bytes,
    ids: tuple[int, ...],
    record: JobRecord | None,
    *,
    dispute: bool = True,
    report: Report = silent,
    pause: Callable[[float], None] = sleep,
    obtain: Obtain = lambda _replica: None,
) -> list[Checked]:
    """Computes the answers of a job again and disputes what is wrong.

    Args:
        ids: of the agreed output; empty where none was agreed.
        dispute: False only says what is wrong.
        obtain: asks a replica for ids that are nowhere to be read.

    Raises:
        ChainError: the chain could not be asked; nothing is lost, disputes that were opened can be gone on with.
    """
    return _Check(place, wallet, packs, job_id, ids, record, dispute, report, pause, obtain).all()


@dataclass
class _Check:
    """One job's answers; see `check_answers`."""

    place: Marketplace
    wallet: Wallet
    packs: Sequence[Pack]
    job_id: bytes
    ids: tuple[int, ...]
    record: JobRecord | None
    dispute: bool
    report: Report
    pause: Callable[[float], None]
    obtain: Obtain
    right: bytes | None = None  # hash of the output that the model gives, once that is known

    def __post_init__(self) -> None:
        self.player = player_of(self.place, self.wallet, self.packs)

    def all(self) -> list[Checked]:
        job, replicas = self.place.jobs.job(self.job_id), self.place.jobs.replicas(self.job_id)
        revealed = [replica for replica in replicas if replica.state is ReplicaState.REVEALED]
        found: dict[str, Checked] = {}
        for replica in revealed:
            known = self.ids if self.ids and replica.digest == job.output_hash else None
            try:
                evidence = self._evidence(replica, known)
            except NoEvidence:
                continue
            self.report(Progress("audit", f"computing the answer of {_short(replica.provider)} again"))
            is_right = self.player.fault(evidence) is None
            self.right = replica.digest if is_right else self.right
            found[replica.provider] = self._end(replica, is_right, evidence)
        for replica in revealed:
            if replica.provider not in found:
                found[replica.provider] = self._without_ids(replica)
        return [found[replica.provider] for replica in revealed]

    def _evidence(self, replica: ReplicaView, ids: tuple[int, ...] | None) -> Evidence:
        return evidence_for(self.place, self.job_id, replica.provider, self.record, ids)

    def _end(self, replica: ReplicaView, is_right: bool, evidence: Evidence) -> Checked:
        # a dispute that is open already is joined: whoever opened it may be the liar's friend, who does nothing
        if is_right or not self.dispute or not replica.is_held:
            problem = "" if is_right or not self.dispute else "no bond is locked behind it any more"
            return Checked(replica.provider, is_right, problem=problem)
        return _dispute(self.player, evidence, self.report, self.pause)

    # ------------------------------------------------------------------------------------------ ids that nobody told

    def _without_ids(self, replica: ReplicaView) -> Checked:
        try:
            right = self._right_output()
        except AssayError as error:
            return Checked(replica.provider, None, problem=f"its ids are not known; {error.code}: {error.message}")
        if right is None:
            return Checked(replica.provider, None, problem="its ids are not known, and neither is the prompt")
        if replica.digest == right:
            return Checked(replica.provider, True)
        if not self.dispute or replica.bond_state is not BondState.LOCKED:
            problem = "no bond is locked behind it any more" if self.dispute else "its ids are not known"
            return Checked(replica.provider, False, problem=problem)
        try:
            ids = self.obtain(replica) or self._demanded(replica)
            if ids is None:
                return Checked(replica.provider, False, problem="it kept its output back, and lost its bond for that")
            return self._end(replica, False, self._evidence(replica, ids))
        except AssayError as error:
            return Checked(replica.provider, False, problem=f"{error.code}: {error.message}")

    def _right_output(self) -> bytes | None:
        """Hash of the one right output; None where the prompt is not known here."""
        if self.right is None:
            asked = None if self.record is None else self.record.question
            if asked is None:
                public = answers_of(self.place.chain, self.place.jobs, self.job_id, self.place.deployment.block)
                asked = public.request(self.job_id)
            if asked is None:
                return None
            self.report(Progress("audit", "computing the model's own answer"))
            model = Registry(self.place.chain, self.place.deployment.registry).model(asked[0].model_id)
            seed = self.place.jobs.chain_seed(self.job_id, asked[0])
            self.right = self.player.traces.answer(model, *asked, seed)[0].output_hash
        return self.right

    def _demanded(self, replica: ReplicaView) -> tuple[int, ...] | None:
        """Ids that it was made to publish; None where it lost its bond instead. Raises AssayError: nothing was paid."""
        cost = cost_of(self.place, self.job_id, replica.provider)
        reward = self.player.reward(self.job_id, replica.provider)
        if reward <= cost.fee:
            raise NotWorthIt(
                f"Making it publish costs a fee of {cost.fee} base units, and proving it wrong wins {reward}.",
                hint="Nothing was sent. `assay job demand` does it all the same.",
            )
        while True:
            step = demand_next(self.place, self.wallet, self.job_id, replica.provider)
            self.report(Progress("demand", f"the output of {_short(replica.provider)}: {step.state}"))
            if step.state == "published":
                return step.ids
            if step.state == "slashed":
                return None
            self.pause(POLL_SECONDS)


class NotWorthIt(MarketError):
    """Proving an answer wrong costs more than it can win."""


def _short(address: str) -> str:
    return f"{address.lower()[:10]}…"


def _dispute(player: Player, evidence: Evidence, report: Report, pause: Callable[[float], None]) -> Checked:
    who = _short(evidence.provider)
    report(Progress("dispute", f"the answer of {who} is wrong: disputing it"))
    try:
        there = player.look(evidence.dispute_id)
        if there is None:
            player.open(evidence)
        elif not isinstance(there, Dispute):
            return Checked(evidence.provider, False, problem="it was judged before")

        def before(_dispute: Dispute, move: Move, _prospects: object) -> None:
            report(Progress("dispute", f"{who}: {move.reason}"))

        return Checked(evidence.provider, False, resolve(player, evidence.dispute_id, before=before, pause=pause))
    except AssayError as error:
        hint = f"`assay dispute auto 0x{evidence.subject_id.hex()[:12]} {evidence.provider}` goes on with it"
        return Checked(evidence.provider, False, problem=f"{error.code}: {error.message} {hint}")
