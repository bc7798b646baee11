"""Jobs that pay once nobody can doubt the answer any more, and give the escrow back where somebody was right to."""

from __future__ import annotations

from typing import Any

from eth_account.signers.local import LocalAccount
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from market.hashing import pack_tokens, tokens_root
from market.settlement import BondState
from market.types import Mode, Output
from tests.stateful.draw_rules import DrawRules
from tests.stateful.job_rules import RIGHT_IDS, JobRules, clients, outputs, picks, terms
from tests.stateful.pair import UNJUDGED
from tests.stateful.records import ModelJob, Post
from tests.unit.contracts.draws import MODEL_ID
from tests.unit.contracts.world import STRANGER, request

WEEK = 7 * 86_400
moves = st.sampled_from(["nothing", "dispute", "demand", "publish", "withhold", "demand and dispute"])


class OptimisticRules(DrawRules):
    """One replica each; the client or a stranger doubts."""

    def _post_optimistic(
        self, client: LocalAccount, changes: dict[str, Any], inline: bool, model_id: bytes = MODEL_ID
    ) -> ModelJob | None:
        ids = list(range(3, 13))
        asked = request(model_id=model_id)
        if inline:
            asked = request(model_id=model_id, input_root=tokens_root(ids), input_tokens=len(ids))
        return self.pair.post(
            client,
            Post(
                mode=Mode.OPTIMISTIC,
                quorum=1,
                max_escrow=10**8,
                commit_window=60,
                reveal_window=90,
                request=asked,
                quotes=tuple(self._quotes(1, {**changes, "mode": Mode.OPTIMISTIC, "model_id": model_id})),
                inline=pack_tokens(ids) if inline else b"",
            ),
        )

    @rule(client=clients, model_id=st.sampled_from([request().model_id, UNJUDGED.model_id]))
    def post_what_nobody_judges(self, client: LocalAccount, model_id: bytes) -> None:
        self._post_optimistic(client, {}, False, model_id)

    @rule(
        client=clients,
        changes=terms,
        inline=st.booleans(),
        output=outputs,
        move=moves,
        guilty=st.booleans(),
        late=st.sampled_from([0, 1, 3_601]),
    )
    def live_optimistic(
        self,
        client: LocalAccount,
        changes: dict[str, Any],
        inline: bool,
        output: Output,
        move: str,
        guilty: bool,
        late: int,
    ) -> None:
        """From post to verdict, with calls that come too early or too late."""
        job = self._post_optimistic(client, changes, inline)
        if job is None:
            return
        provider = job.replicas[0].provider
        self._publish(job, provider, RIGHT_IDS)
        self._commit(job, provider, output)
        self._dispute(job, provider)
        self._reveal_committed(job, provider)
        self._settle(job.id)
        if move in ("demand", "withhold", "demand and dispute"):
            self._demand(job, provider, (client if late else STRANGER).address)
        if move.endswith("dispute"):
            self._dispute(job, provider)
        if move in ("demand", "publish"):
            self._publish(job, provider, RIGHT_IDS)
            self._publish(job, provider, RIGHT_IDS)
        self.pair.warp(self.pair.model.now + late)
        if move == "withhold":
            self._slash_withheld(job, provider)
        if move.endswith("dispute"):
            self._settle(job.id)
            self._decide(job, provider, guilty)
        self._release(job.id, provider)
        self._end_optimistic(job, 0)
        self._end_optimistic(job, 1)

    live_optimistic_again = live_optimistic

    def _end_optimistic(self, job: ModelJob, extra: int) -> None:
        """To the last second in which the answer can be doubted, or the first after it."""
        replica = job.replicas[0]
        later = WEEK if replica.bond_state is BondState.DISPUTED else 0
        self.pair.warp(max(self.pair.model.now, self.pair.model.dispute_end(job, replica) + later + extra))
        self._settle(job.id)
        self._release(job.id, replica.provider)

    @precondition(JobRules._has_jobs)
    @rule(pick=picks, extra=st.integers(0, 1))
    def wait_until_nobody_can_doubt(self, pick: int, extra: int) -> None:
        waiting = [job for job in self.pair.model.jobs.values() if job.revealed_at and not job.final_at]
        if waiting:
            self._end_optimistic(waiting[pick % len(waiting)], extra)
