"""A chain and an engine small enough to read, for the node's step logic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from market.errors import ContractError
from market.hashing import ZERO32
from market.signing import Domain
from market.types import ZERO_ADDRESS, Mode, Output, Quote
from market.views import BondState, JobState, JobView, ReplicaState, ReplicaView, SeedView
from provider.executor import Answer, Failure, Work
from provider.seeds import JobSeed
from tests.unit.provider import samples

DOMAIN = Domain(31337, "0x" + "44" * 20)
OTHER = "0x" + "55" * 20


class FakeChain:
    """One job with two replicas; this provider is the first. Records every write with its key."""

    address = samples.PROVIDER
    domain: Domain = DOMAIN
    dispute_window = 100
    dispute_deadline = 1_000

    def __init__(self, quote: Quote) -> None:
        self.time = samples.NOW
        self.drift = 0  # by which this machine's clock is ahead of the chain
        self.blocks: int | None = None  # timestamp of the newest block, where it is not `time`
        self.below: tuple[JobState, int] | None = None  # the job's state and the time further down, where they differ
        self.staked = 10**6
        self.gas_price = 1
        self.sent: list[tuple[str, str]] = []  # (what, key)
        self.commitments: list[bytes] = []
        self.salts: list[bytes] = []
        self.refuse_next: ContractError | None = None
        self.crash_after: str = ""
        self.published: tuple[int, ...] | None = None
        self.seeded = JobSeed(SeedView(ZERO32, 0, False), 0)
        self.view: JobView | None = JobView(
            client=samples.CLIENT,
            state=JobState.OPEN,
            mode=Mode.QUORUM,
            quorum=2,
            replicas=2,
            committed=0,
            revealed=0,
            input_tokens=len(samples.IDS),
            max_output_tokens=16,
            reveal_window=60,
            commit_deadline=samples.NOW + 60,
            reveal_deadline=0,
            final_at=0,
            escrow=28,
            model_id=samples.MODEL_ID,
            request_hash=samples.request().request_hash,
            output_hash=ZERO32,
        )
        self.mine = ReplicaView(
            provider=samples.PROVIDER,
            state=ReplicaState.ASSIGNED,
            bond_state=BondState.NONE,
            finish=0,
            output_tokens=0,
            base_fee=quote.base_fee,
            price_per_m_input=quote.price_per_m_input,
            price_per_m_output=quote.price_per_m_output,
            kill_fee=quote.kill_fee,
            miss_fee=quote.miss_fee,
            bond=quote.bond,
            paid=0,
            digest=ZERO32,
        )

    def change(self, **fields: object) -> None:
        assert self.view is not None
        self.view = replace(self.view, **fields)  # type: ignore[arg-type]

    def now(self) -> int:
        return self.time + self.drift

    def seen(self, depth: int = 0) -> int:
        if depth and self.below is not None:
            return self.below[1]
        return self.time if self.blocks is None else self.blocks

    def job(self, job_id: bytes, depth: int = 0) -> JobView | None:
        if depth and self.below is not None and self.view is not None:
            return replace(self.view, state=self.below[0])
        return self.view

    def replicas(self, job_id: bytes) -> list[ReplicaView]:
        return [self.mine, replace(self.mine, provider=OTHER)]

    def stake(self) -> int:
        return self.staked

    def fee_per_gas(self) -> int:
        return self.gas_price

    def seed(self, job_id: bytes) -> JobSeed:
        return self.seeded

    def fix_seed(self, job_id: bytes, key: str) -> None:
        if self._send("fix", key):
            self.seeded = replace(self.seeded, view=replace(self.seeded.view, is_fixed=True))
        self._crash("fix")

    def commit(self, job_id: bytes, commitment: bytes, key: str) -> None:
        if self._send("commit", key):
            self.commitments.append(commitment)
            self.mine = replace(self.mine, state=ReplicaState.COMMITTED, bond_state=BondState.LOCKED, digest=commitment)
        self._crash("commit")

    def reveal(self, job_id: bytes, output: Output, salt: bytes, key: str) -> None:
        if self._send("reveal", key):
            self.salts.append(salt)
            self.mine = replace(self.mine, state=ReplicaState.REVEALED, digest=output.output_hash)
        self._crash("reveal")

    def settle(self, job_id: bytes, key: str) -> None:
        if self._send("settle", key):
            self.change(state=JobState.SETTLED, final_at=self.time)
            self.mine = replace(self.mine, paid=13)
        self._crash("settle")

    def publish_output(self, job_id: bytes, ids: Sequence[int], key: str) -> None:
        if self._send("publish", key):
            self.published = tuple(ids)
            self.mine = replace(self.mine, demander=ZERO_ADDRESS)
        self._crash("publish")

    def release_bond(self, job_id: bytes, key: str) -> None:
        if self._send("release", key):
            self.mine = replace(self.mine, bond_state=BondState.RELEASED)
        self._crash("release")

    def _send(self, what: str, key: str) -> bool:
        """False: this key was mined before, as market.transactions answers it."""
        if self.refuse_next is not None:
            error, self.refuse_next = self.refuse_next, None
            raise error
        if (what, key) in self.sent:
            return False
        self.sent.append((what, key))
        return True

    def _crash(self, what: str) -> None:
        if self.crash_after == what:
            self.crash_after = ""
            raise Crash


class Crash(BaseException):
    """kill -9, as far as a thread can tell."""


class FakeExecutor:
    """Answers when told to."""

    def __init__(self) -> None:
        self.work: dict[bytes, Work] = {}
        self.outcomes: dict[bytes, Answer | Failure] = {}
        self.full = False

    def submit(self, work: Work) -> bool:
        if self.full:
            return False
        self.work.setdefault(work.job_id, work)
        return True

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        return self.outcomes.get(job_id)

    def holds(self, job_id: bytes) -> bool:
        return job_id in self.work or job_id in self.outcomes

    def drop(self, job_id: bytes) -> None:
        self.work.pop(job_id, None)
        self.outcomes.pop(job_id, None)

    def load(self) -> int:
        return len(self.work)

    def stop(self) -> None:
        self.work.clear()
