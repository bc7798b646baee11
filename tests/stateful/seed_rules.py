"""Jobs whose seed the chain gives: in the posting block, out of reach, drawn, and in between."""

from __future__ import annotations

from eth_account.signers.local import LocalAccount
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from market.hashing import ZERO32, keccak256
from market.types import Mode, Request
from tests.stateful.job_rules import RIGHT, JobRules, actors, clients, picks
from tests.stateful.optimistic_rules import OptimisticRules
from tests.stateful.records import ModelJob, Post
from tests.unit.contracts.draws import MODEL_ID, TERMS, drawn_request
from tests.unit.contracts.world import STRANGER, request

SAMPLED = {"sampler": 2, "temperature_q16": 65_536, "top_p_q16": 65_536}
kinds = st.sampled_from(["quorum", "quorum", "none", "optimistic", "drawn", "drawn"])
blocks = st.sampled_from([0, 1, 1, 1, 2, 256, 257])


class SeedRules(OptimisticRules):
    """Jobs with sampler 2; everything that other rules do happens to them, too."""

    def _post_seeded(self, client: LocalAccount, kind: str) -> ModelJob | None:
        mode = {"none": Mode.NONE, "optimistic": Mode.OPTIMISTIC}.get(kind, Mode.QUORUM)
        count, quorum = (3, 2) if mode is Mode.QUORUM else (1, 1)
        if kind == "drawn":
            quote = self.pair.world.quote(client, **{**TERMS, "mode": mode})
            call = Post(mode, quorum, 10**8, 60, 90, drawn_request(**SAMPLED), ((quote, None),), draw=count)
        else:
            asked: Request = request(model_id=MODEL_ID, **SAMPLED)
            quotes = tuple(self._quotes(count, {"mode": mode, "model_id": MODEL_ID}))
            call = Post(mode, quorum, 10**8, 60, 90, asked, quotes)
        return self.pair.post(client, call)

    def _fix(self, identity: bytes) -> None:
        self.pair.both(
            lambda: self.pair.model.fix_seed(identity), lambda: self.jobs.fixSeed(identity, sender=STRANGER.address)
        )

    @rule(client=clients, kind=kinds)
    def post_seeded(self, client: LocalAccount, kind: str) -> None:
        self._post_seeded(client, kind)

    @precondition(JobRules._has_jobs)
    @rule(pick=picks, after=blocks)
    def fix_seed(self, pick: int, after: int) -> None:
        seeded = [job for job in self.pair.model.jobs.values() if job.is_seeded]
        job = seeded[-1 - pick % len(seeded)] if seeded and pick % 5 else self._pick(pick)
        if after:
            self.pair.mine(after)
        self._fix(job.id)
        self.pair.compare_job(job.id)

    @rule(client=clients, kind=kinds, fixed=st.none() | blocks, after=blocks, caller=actors)
    def live_seeded(self, client: LocalAccount, kind: str, fixed: int | None, after: int, caller: LocalAccount) -> None:
        """From post to settlement. Somebody may fix the seed first, or try to; the first commit may come too late."""
        job = self._post_seeded(client, kind)
        if job is None:
            return
        self._commit(job, job.replicas[0].provider, RIGHT)
        if fixed is not None:
            if fixed:
                self.pair.mine(fixed)
            self._fix(job.id)
        if after:
            self.pair.mine(after)
        if kind == "drawn":
            self._draw(job.id)
            self.pair.mine(1)
            self._draw(job.id)
        self._commit(job, caller.address, RIGHT)
        for replica in job.replicas:
            self._commit(job, replica.provider, RIGHT)
        self.pair.compare_job(job.id)
        for replica in job.replicas:
            self._reveal(job, replica.provider, RIGHT)
        self._settle(job.id)
        provider = job.replicas[0].provider
        self._dispute(job, provider)
        if self._was_disputed(job, provider):
            *_, seed, _ = self.pair.world.arbiter.told(job.id, provider)
            assert seed == job.seed != ZERO32
        self._fix(job.id)

    live_seeded_again = live_seeded_more = live_seeded

    @rule(view=st.sampled_from(["fix", "seed"]))
    def seed_of_an_unknown_job(self, view: str) -> None:
        unknown = keccak256(view.encode())
        call = self.jobs.seedOf if view == "seed" else lambda i: self.jobs.fixSeed(i, sender=STRANGER.address)
        self.pair.refuses("UnknownJob", lambda: call(unknown), jobId=unknown)
