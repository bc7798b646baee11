"""A node with everything around it, for the tests of its steps."""

from __future__ import annotations

from pathlib import Path

from market.hashing import keccak256, tokens_root
from market.types import Acceptance, Finish, Mode, Output
from provider.config import Timing
from provider.executor import Answer
from provider.journal import Journal
from provider.node import Next, Node
from provider.pricing import Ask
from provider.records import JobRow
from tests.unit.provider import samples
from tests.unit.provider.fakes import FakeChain, FakeExecutor

JOB = keccak256(b"job")
DIGEST = keccak256(b"quote")
NOW = samples.NOW
ANSWER = Answer((7, 8, 2), Finish.STOP, 12)
OUTPUT = Output(tokens_root(ANSWER.ids), 3, Finish.STOP)
SALT = keccak256(b"salt")
TIMING = Timing(settle_grace=10, settle_stagger=5, release_grace=2, min_commit_seconds=5, min_reveal_window=30)


class Desk:
    """A node with its fakes; `restart` builds it anew on the same journal, with an empty engine."""

    def __init__(self, path: Path) -> None:
        quote = samples.shop().quote(Ask(samples.CLIENT, Mode.QUORUM, samples.request()), samples.situation(), 7)
        self.path = path
        self.chain = FakeChain(quote)
        self.clock = float(NOW)
        self.shop = samples.shop()
        self.salts = [SALT, keccak256(b"second salt")]
        self.confirmations = 0
        self.restart()
        self.journal.add_quote(DIGEST, quote, b"s" * 65, NOW)
        self.assign()

    def restart(self) -> None:
        self.journal = Journal(self.path, samples.OWNER)
        self.executor = FakeExecutor()
        self.node = Node(
            self.chain,
            self.journal,
            self.executor,
            self.shop,
            TIMING,
            confirmations=self.confirmations,
            clock=lambda: self.clock,
            random_bytes=lambda count: self.salts.pop(0),
        )

    def assign(self, digest: bytes = DIGEST, job_id: bytes = JOB) -> None:
        self.journal.add_job(
            job_id,
            client=samples.CLIENT,
            model_id=samples.MODEL_ID,
            request_hash=samples.request().request_hash,
            quote_digest=digest,
            bond=1_000,
            commit_deadline=NOW + 60,
            now=NOW,
        )

    def deliver(self) -> None:
        self.accept(JOB)
        self.journal.put_request(samples.request(), samples.IDS, NOW + 600)

    def accept(self, job_id: bytes) -> None:
        self.journal.add_acceptance(Acceptance(job_id, samples.request().request_hash, NOW), b"a" * 65)

    def row(self) -> JobRow:
        row = self.journal.job(JOB)
        assert row is not None
        return row

    def run(self) -> Next:
        """Steps while there is something to do at once."""
        for _ in range(20):
            following = self.node.step(JOB)
            if not following.again:
                return following
        raise AssertionError("step never comes to rest")

    def answered(self) -> None:
        self.deliver()
        self.run()
        self.executor.outcomes[JOB] = ANSWER
