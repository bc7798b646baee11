"""Jobs whose replicas are drawn, and outputs that are demanded: right and wrong calls by everybody at any time."""

from __future__ import annotations

import dataclasses
from typing import Any

from eth_account.signers.local import LocalAccount
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from market.hashing import keccak256, pack_tokens, tokens_root
from market.settlement import BondState, JobState, ReplicaState, demand_fee
from market.types import ZERO_ADDRESS, Mode
from tests.stateful.job_rules import DISSENT, DISSENT_IDS, RIGHT, RIGHT_IDS, JobRules, actors, clients, picks
from tests.stateful.pair import ACTORS, PROVIDERS
from tests.stateful.records import ModelJob, Post
from tests.stateful.registry_model import Wanted
from tests.unit.contracts.draws import MODEL_ID, TERMS, drawn_request, offer
from tests.unit.contracts.world import STRANGER

shapes = st.sampled_from([(2, 3), (2, 3), (1, 1), (2, 2), (3, 5), (4, 7)])
ids = st.sampled_from([RIGHT_IDS, RIGHT_IDS, RIGHT_IDS, [*RIGHT_IDS[:-1], 3], RIGHT_IDS[:3], [*RIGHT_IDS, *RIGHT_IDS]])
offers = st.sampled_from([{}, {}, {}, {"base_fee": 1_500, "kill_fee": 150}, {"base_fee": 900, "kill_fee": 900}])
DRAW_FAULTS: dict[str, dict[str, Any]] = {
    "two quotes": {"count": 2},
    "no quote": {"count": 0},
    "named": {"quote": {"provider": PROVIDERS[0].address}},
    "signed": {"signer": PROVIDERS[0]},
    "no draw fee": {"quote": {"kill_fee": 102}},
    "no quorum": {"draw": 4},
    "too many": {"draw": 8},
    "expired": {"quote": {"valid_until": 1}},
    "cap": {"max_escrow": 1},
    "mode": {"mode": 2},
}


class DrawRules(JobRules):
    """Rules about draws and demands; ACTORS includes every provider that can be drawn."""

    # --- post and draw

    def _post_drawn(
        self, client: LocalAccount, shape: tuple[int, int], changes: dict[str, Any], inline: bool
    ) -> ModelJob | None:
        quorum, count = shape
        mode = Mode.NONE if count == 1 else Mode.QUORUM
        tokens = [1, 2, 3]
        asked = drawn_request(input_root=tokens_root(tokens), input_tokens=len(tokens))
        quote = self.pair.world.quote(client, **{**TERMS, "mode": mode, **changes})
        packed = pack_tokens(tokens) if inline else b""
        return self.pair.post(client, Post(mode, quorum, 10**8, 60, 90, asked, ((quote, None),), packed, draw=count))

    @rule(client=clients | st.sampled_from(PROVIDERS), shape=shapes, changes=offers, inline=st.booleans())
    def post_drawn(self, client: LocalAccount, shape: tuple[int, int], changes: dict[str, Any], inline: bool) -> None:
        self._post_drawn(client, shape, changes, inline)

    @rule(client=clients, faults=st.lists(st.sampled_from(sorted(DRAW_FAULTS)), min_size=4, max_size=4))
    def post_drawn_with_faults(self, client: LocalAccount, faults: list[str]) -> None:
        for fault in faults:
            changes = dict(DRAW_FAULTS[fault])
            quote = self.pair.world.quote(client, **{**TERMS, **changes.pop("quote", {})})
            signer = changes.pop("signer", None)
            quotes = ((quote, signer),) * changes.pop("count", 1)
            plain = Post(Mode.QUORUM, 2, 10**8, 60, 90, drawn_request(), quotes, draw=3)
            self.pair.post(client, dataclasses.replace(plain, **changes))

    def _draw(self, identity: bytes) -> list[str]:
        drawn = self.pair.both(
            lambda: self.pair.model.draw(identity), lambda: self.jobs.draw(identity, sender=STRANGER.address)
        )
        if drawn is not None:
            assert [event.values["provider"] for event in self.pair.world.logs("ReplicaDrawn")] == drawn
            assert len(self.pair.world.logs("DrawArmed")) == (not drawn)
        return drawn or []

    def _pick_drawing(self, pick: int) -> ModelJob:
        """A job that waits for its draw, mostly, where there is one."""
        found = [job for job in self.pair.model.jobs.values() if job.state is JobState.DRAWING]
        return found[-1] if found and pick % 5 else self._pick(pick)

    @precondition(JobRules._has_jobs)
    @rule(pick=picks, blocks=st.sampled_from([0, 1, 1, 1, 256, 257]))
    def draw(self, pick: int, blocks: int) -> None:
        if blocks:
            self.pair.mine(blocks)
        self._draw(self._pick_drawing(pick).id)

    draw_again = draw

    @rule(client=clients, shape=shapes, draws=st.booleans(), extra=st.integers(0, 1))
    def let_a_draw_lapse(self, client: LocalAccount, shape: tuple[int, int], draws: bool, extra: int) -> None:
        """To the deadline's last second or the first after it; a draw before it may have found too few."""
        job = self._post_drawn(client, shape, {"base_fee": 900} if draws else {}, False)
        if job is None:
            return
        self.pair.mine(1)
        if draws:
            self._draw(job.id)
        self.pair.warp(max(self.pair.model.now, job.commit_deadline + extra))
        self._settle(job.id)

    let_another_draw_lapse = let_a_draw_lapse

    @rule(client=clients, leaver=st.sampled_from(PROVIDERS), comes_back=st.booleans())
    def change_the_list_once_the_draw_is_known(
        self, client: LocalAccount, leaver: LocalAccount, comes_back: bool
    ) -> None:
        """Pruning moves the last entry, and somebody may take the place at the end: the draw sees neither."""
        who, world, registry = leaver.address, self.pair.world, self.pair.model.registry
        self.pair.mine(600)
        job = self._post_drawn(client, (2, 3), {}, False)
        if job is None:
            return
        self.pair.mine(1)
        self.pair.both(
            lambda: registry.remove_offer(who, MODEL_ID), lambda: world.registry.removeOffer(MODEL_ID, sender=who)
        )
        self.pair.both(lambda: registry.prune(MODEL_ID, who), lambda: world.registry.prune(MODEL_ID, who, sender=who))
        if comes_back:
            self.pair.both(
                lambda: registry.set_offer(who, MODEL_ID, offer(world)),
                lambda: world.registry.setOffer(MODEL_ID, offer(world), sender=who),
            )
        self._draw(job.id)

    change_the_list_again = change_the_list_once_the_draw_is_known

    @rule(client=clients, richer=st.sampled_from(PROVIDERS), known=st.booleans())
    def stake_more_once_the_draw_is_known(self, client: LocalAccount, richer: LocalAccount, known: bool) -> None:
        """Or in the posting's own block, when nobody knows the hash: then it counts."""
        who, world, model = richer.address, self.pair.world, self.pair.model
        job = self._post_drawn(client, (2, 3), {}, False)
        if job is None:
            return
        if known:
            self.pair.mine(1)
        self.pair.both(
            lambda: model.deposit(who, who, 1), lambda: world.vault.deposit(world.token.address, who, 1, sender=who)
        )
        self.pair.both(lambda: model.stake(who, 1), lambda: world.vault.stake(1, sender=who))
        self.pair.mine(1)
        self._draw(job.id)

    @rule(blocks=st.sampled_from([1, 255, 257]))
    def mine(self, blocks: int) -> None:
        self.pair.mine(blocks)

    # --- demand

    def _pick_demandable(self, pick: int, which: int) -> tuple[ModelJob, str]:
        """A replica that revealed, mostly, where there is one; paid or not."""
        found = [
            (job, replica.provider)
            for job in self.pair.model.jobs.values()
            for replica in job.replicas
            if job.state.is_final and replica.state in (ReplicaState.REVEALED, ReplicaState.LATE)
        ]
        if found and pick % 6:
            return found[-1 - which % len(found)]
        return self._pick_disputable(pick, which)

    def _pick_demanded(self, pick: int, which: int) -> tuple[ModelJob, str]:
        """A replica whose output somebody waits for, mostly, where there is one."""
        found = [
            (job, replica.provider)
            for job in self.pair.model.jobs.values()
            for replica in job.replicas
            if replica.demander != ZERO_ADDRESS
        ]
        return found[which % len(found)] if found and pick % 6 else self._pick_demandable(pick, which)

    def _demand(self, job: ModelJob, provider: str, who: str) -> None:
        replica = next((r for r in job.replicas if r.provider == provider), None)
        if replica is not None and provider != ZERO_ADDRESS and replica.output is not None:
            fee = demand_fee(self.pair.model.constants.demand_fee, replica.output.output_tokens)
            cost = (fee, self.pair.model.demand_price(job, replica))
            assert self.jobs.demandCostOf(job.id, provider) == cost
        self.pair.both(
            lambda: self.pair.model.demand(who, job.id, provider),
            lambda: self.jobs.demandReveal(job.id, provider, b"", sender=who),
        )

    def _publish(self, job: ModelJob, who: str, tokens: list[int]) -> None:
        packed = pack_tokens(tokens)
        self.pair.both(
            lambda: self.pair.model.publish(who, job.id, packed),
            lambda: self.jobs.publishOutput(job.id, packed, sender=who),
        )

    def _slash_withheld(self, job: ModelJob, provider: str) -> None:
        self.pair.both(
            lambda: self.pair.model.slash_withheld(job.id, provider),
            lambda: self.jobs.slashWithheld(job.id, provider, sender=STRANGER.address),
        )

    @precondition(JobRules._has_jobs)
    @rule(pick=picks, which=st.integers(0, 4), caller=st.none() | actors)
    def demand(self, pick: int, which: int, caller: LocalAccount | None) -> None:
        job, provider = self._pick_demandable(pick, which)
        self._demand(job, provider, caller.address if caller else job.client)

    demand_again = demand

    @precondition(JobRules._has_jobs)
    @rule(pick=picks, which=st.integers(0, 4), tokens=ids)
    def publish(self, pick: int, which: int, tokens: list[int]) -> None:
        job, provider = self._pick_demanded(pick, which)
        self._publish(job, provider, tokens)

    @precondition(JobRules._has_jobs)
    @rule(pick=picks, which=st.integers(0, 4), wait=st.sampled_from([0, 0, 3_600, 3_601]))
    def slash_withheld(self, pick: int, which: int, wait: int) -> None:
        job, provider = self._pick_demanded(pick, which)
        self.pair.warp(self.pair.model.now + wait)
        self._slash_withheld(job, provider)

    # --- a drawn job whose outputs are demanded, to its end

    @rule(
        client=clients | st.sampled_from(PROVIDERS),
        shape=st.sampled_from([(2, 3), (2, 3), (1, 1)]),
        inline=st.booleans(),
        wrong=st.integers(0, 3),
        demander=st.none() | actors,
        then=st.sampled_from(["publish", "wrong ids", "nothing", "dispute", "dispute first"]),
        guilty=st.booleans(),
        wait=st.sampled_from([0, 3_600, 3_601, 100_000]),
    )
    def live_drawn(
        self,
        client: LocalAccount,
        shape: tuple[int, int],
        inline: bool,
        wrong: int,
        demander: LocalAccount | None,
        then: str,
        guilty: bool,
        wait: int,
    ) -> None:
        job = self._post_drawn(client, shape, {}, inline)
        if job is None:
            return
        self._draw(job.id)
        self.pair.mine(1)
        for index, provider in enumerate(self._draw(job.id)):
            self._commit(job, provider, DISSENT if index == wrong else RIGHT)
        for replica in job.replicas:
            if replica.state is ReplicaState.COMMITTED:
                self._reveal_committed(job, replica.provider)
        self._settle(job.id)
        # whoever disagreed was not paid, and can be asked all the same: first, while it is in time
        for replica in sorted(job.replicas, key=lambda replica: replica.output != DISSENT):
            self._end_demand(job, replica.provider, demander or client, then, guilty, wait)

    live_drawn_again = live_drawn_more = live_drawn_once_more = live_drawn

    def _end_demand(
        self, job: ModelJob, provider: str, demander: LocalAccount, then: str, guilty: bool, wait: int
    ) -> None:
        own = DISSENT_IDS if job.replica(provider).output == DISSENT else RIGHT_IDS
        if then == "dispute first":
            self._dispute(job, provider)
        self._demand(job, provider, demander.address)
        if then == "dispute":
            self._dispute(job, provider)
        if then in ("publish", "wrong ids"):
            self._publish(job, provider, [*own, *own])
            self._publish(job, provider, own if then == "publish" else [*own[:-1], 3])
        self.pair.warp(self.pair.model.now + wait)
        self._publish(job, provider, own)
        if then.startswith("dispute"):
            self._slash_withheld(job, provider)
            self._decide(job, provider, guilty)
        self._release(job.id, provider)
        self._slash_withheld(job, provider)
        self._release(job.id, provider)
        if wait and job.replica(provider).bought_for:  # to where its price is somebody's for good
            end = self.pair.model.dispute_end(job, job.replica(provider)) + 1
            self.pair.warp(max(self.pair.model.now, end))
            self._release(job.id, provider)

    @precondition(JobRules._has_jobs)
    @rule(pick=picks, which=st.integers(0, 4), extra=st.integers(0, 1))
    def wait_for_the_end_of_a_demand(self, pick: int, which: int, extra: int) -> None:
        """To the last second of the windows that a demand lengthened, or the first after it."""
        job, provider = self._pick_demanded(pick, which)
        replica = next(r for r in job.replicas if r.provider == provider)
        end = self.pair.model.dispute_end(job, replica)
        later = 7 * 86_400 if replica.bond_state is BondState.DISPUTED else 0
        self.pair.warp(max(self.pair.model.now, end + later + extra))
        self._release(job.id, provider)
        self._slash_withheld(job, provider)
        self._release(job.id, provider)

    # --- reading

    @rule(view=st.sampled_from(["draw", "demand", "publish", "slash"]))
    def draw_or_demand_of_an_unknown_job(self, view: str) -> None:
        unknown = keccak256(view.encode())
        who, one = STRANGER.address, PROVIDERS[0].address
        call = {
            "draw": lambda: self.jobs.draw(unknown, sender=who),
            "demand": lambda: self.jobs.demandReveal(unknown, one, b"", sender=who),
            "publish": lambda: self.jobs.publishOutput(unknown, b"", sender=one),
            "slash": lambda: self.jobs.slashWithheld(unknown, one, sender=who),
        }[view]
        self.pair.refuses("UnknownJob", call, jobId=unknown)

    @rule()
    def read_draws_and_demands(self) -> None:
        constants, registry = self.pair.model.constants, self.pair.world.registry
        assert self.jobs.registry() == registry.address
        assert (self.jobs.demandFee(), self.jobs.demandWindow()) == (constants.demand_fee, constants.demand_window)
        assert (self.jobs.DRAW_FEE_BPS(), self.jobs.DEMAND_FEE_TOKENS()) == (1_000, 512)
        found = self.pair.model.registry.lists[MODEL_ID]
        assert registry.drawableLength(MODEL_ID) == len(found.order)
        for index in range(len(found.order)):
            assert registry.drawableAt(MODEL_ID, index) == found.places[index].current
        wanted = Wanted(
            MODEL_ID, MODEL_ID, 3, len(found.order), self.pair.model.number, ZERO_ADDRESS, 1, constants.token,
            1_000, 500_000, 2_000_001, 10_000, 3, 16,
        )  # fmt: skip
        assert registry.draw(dataclasses.astuple(wanted)) == self.pair.model.registry.draw(wanted)
        for actor in ACTORS:
            expected = self.pair.model.registry.is_drawable(actor.address, MODEL_ID)
            assert registry.isDrawable(actor.address, MODEL_ID) == expected
