"""Answers of one's own jobs, computed again: how often by the price and the bond (docs/auditing.md), and always where
replicas disagree. What is wrong is disputed to the end, a paid majority too: one honest outsider is enough.

Only answers whose ids are known can be judged. Those of the agreed output are; a replica that disagreed was not paid,
and shows its ids only if it published them.
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

from client.disputing import evidence_for, load_packs, player_of
from client.marketplace import Marketplace
from client.progress import Progress, Report, silent
from client.results import Checked
from client.store import JobRecord
from client.wallet import Wallet
from market.audit import AuditPolicy, is_audited
from market.dispute_evidence import Evidence, NoEvidence
from market.dispute_play import Player
from market.dispute_resolution import resolve
from market.disputes import Dispute
from market.errors import AssayError, ConfigError
from market.models.pack import Pack
from market.types import Mode
from market.verification.challenger import Move
from market.views import JobView, ReplicaState, ReplicaView

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
) -> list[Checked]:
    """As `check_answers`, where the options say so and a pack of the job's model is local; else nothing."""
    job, replicas = place.jobs.job(job_id), place.jobs.replicas(job_id)
    if options.audit is Audit.NEVER or not job.is_agreed:
        return []
    if options.audit is Audit.AUTO and not is_due(job, replicas, job_id, place.share_bps, options.secret):
        return []
    packs = [pack for pack in load_packs(options.packs) if pack.model_id == job.model_id]
    if not packs:
        return []
    return check_answers(place, wallet, packs, job_id, ids, record, dispute=options.dispute, report=report)


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
) -> list[Checked]:
    """Computes the answers of a job again and disputes what is wrong.

    Args:
        ids: of the agreed output.
        dispute: False only says what is wrong.

    Raises:
        ChainError: the chain could not be asked; nothing is lost, disputes that were opened can be gone on with.
    """
    job, replicas = place.jobs.job(job_id), place.jobs.replicas(job_id)
    player = player_of(place, wallet, packs)
    found: list[Checked] = []
    for replica in replicas:
        if replica.state is not ReplicaState.REVEALED:
            continue
        known = ids if replica.digest == job.output_hash else None
        try:
            evidence = evidence_for(place, job_id, replica.provider, record, known)
        except NoEvidence:
            found.append(Checked(replica.provider, None, problem="its ids are not known; it was not paid"))
            continue
        report(Progress("audit", f"computing the answer of {replica.provider.lower()[:10]}… again"))
        right = player.fault(evidence) is None
        # a dispute that is open already is joined: whoever opened it may be the liar's friend, who does nothing
        if right or not dispute or not replica.is_held:
            problem = "" if right or dispute is False else "no bond is locked behind it any more"
            found.append(Checked(replica.provider, right, problem=problem))
            continue
        found.append(_dispute(player, evidence, report, pause))
    return found


def _dispute(player: Player, evidence: Evidence, report: Report, pause: Callable[[float], None]) -> Checked:
    who = evidence.provider.lower()[:10]
    report(Progress("dispute", f"the answer of {who}… is wrong: disputing it"))
    try:
        there = player.look(evidence.dispute_id)
        if there is None:
            player.open(evidence)
        elif not isinstance(there, Dispute):
            return Checked(evidence.provider, False, problem="it was judged before")

        def before(_dispute: Dispute, move: Move, _prospects: object) -> None:
            report(Progress("dispute", f"{who}…: {move.reason}"))

        return Checked(evidence.provider, False, resolve(player, evidence.dispute_id, before=before, pause=pause))
    except AssayError as error:
        hint = f"`assay dispute auto 0x{evidence.subject_id.hex()[:12]} {evidence.provider}` goes on with it"
        return Checked(evidence.provider, False, problem=f"{error.code}: {error.message} {hint}")
