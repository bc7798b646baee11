"""Jobs: right and wrong calls by everybody at any time, and rules that hurry a job along."""

from __future__ import annotations

import dataclasses
from typing import Any

from eth_abi import encode
from eth_account.signers.local import LocalAccount
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from market.hashing import ZERO32, job_id, keccak256, pack_tokens, tokens_root
from market.settlement import BondState, JobState, Payout, ReplicaState
from market.types import ZERO_ADDRESS, Commitment, Mode, Output, Quote, Request
from tests.stateful.pair import ACTORS, CLIENTS, PROVIDERS, Pair
from tests.stateful.records import ModelJob, Post
from tests.unit.contracts.abi import CHAIN_ID
from tests.unit.contracts.world import CLIENT, INPUT, MAX_OUTPUT, STRANGER, answer, request, salt_of

UINT128 = 2**128 - 1
RIGHT_IDS = [4, 5, 6, 7, 2]
RIGHT = Output(tokens_root(RIGHT_IDS), len(RIGHT_IDS), 1)
DISSENT_IDS = [4, 5, 8, 2]
DISSENT = Output(tokens_root(DISSENT_IDS), len(DISSENT_IDS), 1)
OUTPUTS = (
    RIGHT,
    answer("wrong"),
    answer(tokens=MAX_OUTPUT, finish=2),
    answer(tokens=1),
    answer(tokens=0),
    answer(tokens=7, finish=4),
)
outputs = st.sampled_from((RIGHT, RIGHT, RIGHT, RIGHT, *OUTPUTS))
clients = st.sampled_from(CLIENTS)
actors = st.sampled_from(ACTORS)
picks = st.integers(0, 63)
shapes = st.sampled_from([(2, 3), (1, 1), (2, 2), (2, 3), (3, 3), (3, 4), (3, 5)])
# A bond that barely covers the refund: here the challenger gets less than its share.
TIGHT = {
    "base_fee": 1_000,
    "price_per_m_input": 0,
    "price_per_m_output": 0,
    "kill_fee": 3,
    "miss_fee": 1_100,
    "bond": 1_250,
}
terms = st.just(TIGHT) | st.fixed_dictionaries(
    {
        "base_fee": st.sampled_from([0, 1, 700, 1_000]),
        "price_per_m_input": st.sampled_from([0, 1, 10**6]),
        "price_per_m_output": st.sampled_from([0, 1, 10**7]),
        "kill_fee": st.integers(0, 3),
        "miss_fee": st.sampled_from([1_300, 3_001, 4_500]),
        "bond": st.sampled_from([4_500, 9_000, 20_001]),
    }
)

POST_FAULTS: dict[str, dict[str, Any]] = {
    "optimistic": {"mode": 2},  # by three replicas
    "proof": {"mode": 3},
    "quorum": {"quorum": 1},
    "quorum of half": {"replicas": 4},
    "short commit": {"commit_window": 29},
    "long reveal": {"reveal_window": 86_401},
    "cap": {"max_escrow": 1},
    "no input": {"request": {"input_tokens": 0}},
    "no output": {"request": {"max_output_tokens": 0}},
    "sampler": {"request": {"sampler": 3}},
    "seeded by two": {"request": {"sampler": 2, "seed": keccak256(b"seed")}},
    "greedy with a seed": {"request": {"seed": keccak256(b"seed")}},
    "inline length": {"inline": pack_tokens(INPUT) + b"\xff" * 32},
    "inline filler": {"inline": pack_tokens([*INPUT, 4])},
    "inline other": {"inline": pack_tokens([9, 9, 9])},
    "expired": {"quote": {"valid_until": 1}},
    "client": {"quote": {"client": STRANGER.address}},
    "model": {"quote": {"model_id": keccak256(b"other")}},
    "request": {"quote": {"request_hash": keccak256(b"other")}},
    "mode": {"quote": {"mode": 0}},
    "token": {"quote": {"token": STRANGER.address}},
    "input limit": {"quote": {"max_input_tokens": 2}},
    "output limit": {"quote": {"max_output_tokens": MAX_OUTPUT - 1}},
    "bond": {"quote": {"bond": 1}},
    "kill fee": {"quote": {"kill_fee": 10_000}},
    "miss fee low": {"quote": {"base_fee": 500, "miss_fee": 400}},
    "miss fee high": {"quote": {"miss_fee": UINT128}},
    "permit": {"malformed": True, "permit": 5},
}


class JobRules(RuleBasedStateMachine):
    """Rules about jobs, bonds and disputes."""

    pair: Pair

    @property
    def jobs(self) -> Any:
        return self.pair.world.jobs

    def _has_jobs(self) -> bool:
        return bool(self.pair.jobs)

    def _pick(self, pick: int) -> ModelJob:
        """A recent job, more often than an old one."""
        recent = self.pair.jobs[-3:] if pick % 4 else self.pair.jobs
        return self.pair.model.jobs[recent[pick % len(recent)]]

    def _pick_final(self, pick: int) -> ModelJob:
        """The last job that is final, mostly, where there is one."""
        final = [i for i in self.pair.jobs if self.pair.model.jobs[i].state.is_final]
        return self.pair.model.jobs[final[-1]] if final and pick % 5 else self._pick(pick)

    def _pick_disputable(self, pick: int, which: int, state: BondState = BondState.LOCKED) -> tuple[ModelJob, str]:
        """A replica that can be disputed, or is, mostly, where there is one."""
        now = self.pair.model.now
        found = [
            (job, replica.provider)
            for job in self.pair.model.jobs.values()
            for replica in job.replicas
            if (job.final_at or job.revealed_at)
            and now <= self.pair.model.dispute_end(job, replica)
            and replica.bond_state is state
        ]
        if found and pick % 5:
            return found[which % len(found)]
        job = self._pick_final(pick)
        return job, job.replicas[which % len(job.replicas)].provider

    # --- post

    def _quotes(self, count: int, changes: dict[str, Any]) -> list[tuple[Quote, LocalAccount]]:
        return [(self.pair.world.quote(p, **changes), p) for p in PROVIDERS[:count]]

    @initialize(
        client=clients,
        shape=st.just((2, 3)),
        changes=terms,
        inline=st.just(False),
        permit=st.none(),
        windows=st.just((60, 90)),
    )
    def post_first(self, **arguments: Any) -> None:
        self._post(**arguments)

    @rule(
        client=clients,
        shape=shapes,
        changes=terms,
        inline=st.booleans(),
        permit=st.sampled_from([None, None, 10**6]),
        windows=st.sampled_from([(30, 30), (60, 90), (86_400, 86_400)]),
    )
    def post(self, **arguments: Any) -> None:
        self._post(**arguments)

    def _post(
        self,
        client: LocalAccount,
        shape: tuple[int, int],
        changes: dict[str, Any],
        inline: bool,
        permit: int | None,
        windows: tuple[int, int],
    ) -> ModelJob | None:
        quorum, count = shape
        mode = Mode.NONE if count == 1 else Mode.QUORUM
        ids = list(range(3, 13))
        asked = request(input_root=tokens_root(ids), input_tokens=len(ids)) if inline else request()
        call = Post(
            mode=mode,
            quorum=quorum,
            max_escrow=10**8,
            commit_window=windows[0],
            reveal_window=windows[1],
            request=asked,
            quotes=tuple(self._quotes(count, {**changes, "mode": mode})),
            inline=pack_tokens(ids) if inline else b"",
            permit=permit,
        )
        job = self.pair.post(client, call)
        if job is not None:
            assert len(self.pair.world.logs("RequestPublished")) == inline
        return job

    @rule(client=clients, faults=st.lists(st.sampled_from(sorted(POST_FAULTS)), min_size=6, max_size=6))
    def post_with_faults(self, client: LocalAccount, faults: list[str]) -> None:
        for fault in faults:
            self._post_with_a_fault(client, fault)

    def _post_with_a_fault(self, client: LocalAccount, fault: str) -> None:
        changes = dict(POST_FAULTS[fault])
        quotes = self._quotes(changes.pop("replicas", 3), {})
        wrong, signer = quotes[1]
        quotes[1] = (dataclasses.replace(wrong, **changes.pop("quote", {})), signer)
        plain = Post(
            mode=Mode.QUORUM,
            quorum=2,
            max_escrow=10**8,
            commit_window=60,
            reveal_window=90,
            request=request(**changes.pop("request", {})),
            quotes=tuple(quotes),
        )
        if "mode" in changes:
            changes["quotes"] = tuple(self._quotes(3, {"mode": changes["mode"]}))
        self.pair.post(client, dataclasses.replace(plain, **changes))

    @rule(client=clients, fault=st.sampled_from(["twice", "forged", "used"]))
    def post_with_a_wrong_signature(self, client: LocalAccount, fault: str) -> None:
        quotes = self._quotes(3, {})
        if fault == "twice":
            quotes[2] = quotes[0]
        if fault == "forged":
            quotes[1] = (quotes[1][0], STRANGER)
        call = Post(Mode.QUORUM, 2, 10**8, 60, 90, request(), tuple(quotes))
        self.pair.post(client, call)
        if fault == "used":
            self.pair.post(client, call)

    # --- one step of a job, whoever's turn it is

    @precondition(_has_jobs)
    @rule(pick=picks, output=outputs)
    def advance(self, pick: int, output: Output) -> None:
        job = self._pick(pick)
        waiting = [r for r in job.replicas if r.state is ReplicaState.ASSIGNED]
        hidden = [r for r in job.replicas if r.state is ReplicaState.COMMITTED]
        if job.state is JobState.OPEN and waiting and self.pair.model.now <= job.commit_deadline:
            self._commit(job, waiting[0].provider, output)
        elif hidden and not job.state.is_final:
            self._reveal_committed(job, hidden[0].provider)
        elif not job.state.is_final:
            self._settle(job.id)
        else:
            self._release(job.id, job.replicas[pick % len(job.replicas)].provider)

    advance_again = advance
    advance_more = advance

    @rule(
        client=clients,
        shape=shapes,
        changes=terms,
        answers=st.lists(outputs, min_size=5, max_size=5),
        silent=st.integers(0, 3),
        late=st.sampled_from(["never", "same", "other"]),
        last_second=st.booleans(),
        accused=st.integers(0, 6),
        guilty=st.booleans(),
    )
    def live(
        self,
        client: LocalAccount,
        shape: tuple[int, int],
        changes: dict[str, Any],
        answers: list[Output],
        silent: int,
        late: str,
        last_second: bool,
        accused: int,
        guilty: bool,
    ) -> None:
        """A job from post to verdict, with calls that come too late or are forged.

        The first `silent` of those who committed do not reveal, or do so late, with the answer of the rest or another.
        """
        if late != "never":
            answers = [RIGHT if late == "same" else OUTPUTS[1]] * silent + [RIGHT] * (len(answers) - silent)
        job = self._post(client, shape, changes, False, None, (60, 90))
        if job is None:
            return
        if last_second:
            self.pair.warp(max(self.pair.model.now, job.commit_deadline))
        self._commit(job, job.replicas[0].provider, None)
        for replica, output in zip(job.replicas, answers, strict=False):
            self._commit(job, replica.provider, output)
            self._cancel(job, job.client)
        if job.state is JobState.OPEN:
            self.pair.warp(max(self.pair.model.now, job.commit_deadline + 1))
        hidden = [r.provider for r in job.replicas if r.state is ReplicaState.COMMITTED]
        if last_second:
            self.pair.warp(max(self.pair.model.now, job.reveal_end))
        for provider in hidden[silent:]:
            self._reveal(job, provider, OUTPUTS[3])
            self._reveal_committed(job, provider)
        self._settle(job.id)
        if not job.state.is_final:
            self.pair.warp(max(self.pair.model.now, job.reveal_end + 1))
            for provider in hidden[:silent] if late != "never" else ():
                self._reveal_committed(job, provider)
            self._settle(job.id)
        if accused < len(job.replicas):
            self._dispute(job, job.replicas[accused].provider, honest=False)
            self._dispute(job, job.replicas[accused].provider)
            self._decide(job, job.replicas[accused].provider, guilty)

    live_again = live

    @precondition(_has_jobs)
    @rule(pick=picks, extra=st.integers(0, 1), after=st.integers(0, 3))
    def wait_for_a_deadline(self, pick: int, extra: int, after: int) -> None:
        """To the last second of a deadline, or the first after it."""
        job, model = self._pick(pick), self.pair.model
        final = (job.final_at or model.now) + model.constants.dispute_window
        deadlines = (job.commit_deadline, job.reveal_end, final, final + 7 * 86_400)
        self.pair.warp(max(model.now, deadlines[after] + extra))

    @rule(seconds=st.sampled_from([1, 30, 61, 3_600, 86_401, 11 * 86_400]))
    def wait(self, seconds: int) -> None:
        self.pair.warp(self.pair.model.now + seconds)

    # --- single calls by anybody

    def _commitment(self, job: ModelJob, provider: str, output: Output) -> bytes:
        value = Commitment(job.id, provider, output.output_hash, self._salt(provider))
        return self.pair.world.domain.digest(value)

    def _salt(self, provider: str) -> bytes:
        return salt_of(next((actor for actor in ACTORS if actor.address == provider), STRANGER))

    def _commit(self, job: ModelJob, who: str, output: Output | None) -> None:
        commitment = ZERO32 if output is None else self._commitment(job, who, output)
        self.pair.both(
            lambda: self.pair.model.commit(who, job.id, commitment),
            lambda: self.jobs.commit(job.id, commitment, sender=who),
        )

    def _reveal(self, job: ModelJob, who: str, output: Output) -> None:
        salt = self._salt(who)
        self.pair.both(
            lambda: self.pair.model.reveal(who, job.id, output, salt),
            lambda: self.jobs.reveal(job.id, output.values(), salt, sender=who),
        )

    def _reveal_committed(self, job: ModelJob, who: str) -> None:
        """Reveals whichever output the provider had committed to."""
        digest = job.replica(who).digest
        known = [output for output in (*OUTPUTS, DISSENT) if self._commitment(job, who, output) == digest]
        self._reveal(job, who, known[0] if known else RIGHT)

    def _settle(self, identity: bytes) -> None:
        payout = self.pair.both(
            lambda: self.pair.model.settle(identity),
            lambda: self.jobs.settle(identity, sender=STRANGER.address),
        )
        if payout is None:
            return
        if not payout.paid:
            (event,) = self.pair.world.logs("DrawLapsed")
            assert (event.values["refunded"], event.values["burnt"]) == (payout.refunded, payout.burnt)
        else:
            self._check_summary("Expired" if payout.state is JobState.EXPIRED else "Settled", payout)

    def _check_summary(self, name: str, payout: Payout) -> None:
        (event,) = self.pair.world.logs(name)
        assert (event.values["paid"], event.values["refunded"]) == (sum(payout.paid.values()), payout.refunded)
        assert event.values.get("missFees", 0) == sum(payout.miss_fees.values())

    def _release(self, identity: bytes, provider: str) -> None:
        self.pair.both(
            lambda: self.pair.model.release(identity, provider),
            lambda: self.jobs.releaseBond(identity, provider, sender=STRANGER.address),
        )

    @precondition(_has_jobs)
    @rule(pick=picks, caller=actors, output=st.none() | outputs)
    def commit(self, pick: int, caller: LocalAccount, output: Output | None) -> None:
        self._commit(self._pick(pick), caller.address, output)

    @precondition(_has_jobs)
    @rule(pick=picks, caller=actors, output=outputs)
    def reveal(self, pick: int, caller: LocalAccount, output: Output) -> None:
        self._reveal(self._pick(pick), caller.address, output)

    @precondition(_has_jobs)
    @rule(pick=picks)
    def settle(self, pick: int) -> None:
        self._settle(self._pick(pick).id)

    @precondition(_has_jobs)
    @rule(pick=picks, caller=st.sampled_from([None, STRANGER]))
    def cancel(self, pick: int, caller: LocalAccount | None) -> None:
        job = self._pick(pick)
        self._cancel(job, caller.address if caller else job.client)

    def _cancel(self, job: ModelJob, who: str) -> None:
        payout = self.pair.both(
            lambda: self.pair.model.cancel(who, job.id), lambda: self.jobs.cancel(job.id, sender=who)
        )
        if payout is not None:
            self._check_summary("Cancelled", payout)

    @precondition(_has_jobs)
    @rule(pick=picks, provider=actors)
    def release_bond(self, pick: int, provider: LocalAccount) -> None:
        self._release(self._pick(pick).id, provider.address)

    @precondition(_has_jobs)
    @rule(pick=picks, output=outputs)
    def reveal_something_else(self, pick: int, output: Output) -> None:
        """By a replica whose turn it is, where there is one."""
        job = self._pick(pick)
        hidden = [r.provider for r in job.replicas if r.state is ReplicaState.COMMITTED]
        self._reveal(job, hidden[0] if hidden else STRANGER.address, output)

    reveal_something_else_again = reveal_something_else

    # --- disputes

    @precondition(_has_jobs)
    @rule(pick=picks, which=st.integers(0, 4), honest=st.booleans())
    def dispute(self, pick: int, which: int, honest: bool) -> None:
        job, provider = self._pick_disputable(pick, which)
        self._dispute(job, provider, honest)

    @precondition(_has_jobs)
    @rule(pick=picks, which=st.integers(0, 4), guilty=st.booleans())
    def decide(self, pick: int, which: int, guilty: bool) -> None:
        self._decide(*self._pick_disputable(pick, which, BondState.DISPUTED), guilty)

    def _dispute(self, job: ModelJob, provider: str, honest: bool = True) -> None:
        kinds = [kind for _, _, kind in Request.members()]
        evidence = encode(kinds, list(job.request.values())) if honest else b"forged"
        arbiter, who = self.pair.world.arbiter, STRANGER.address
        self.pair.both(
            lambda: self.pair.model.freeze(job.id, provider, evidence),
            lambda: arbiter.dispute(self.jobs.address, job.id, provider, evidence, sender=who),
        )

    def _decide(self, job: ModelJob, provider: str, guilty: bool) -> None:
        arbiter, who = self.pair.world.arbiter, STRANGER.address
        challenger = who if self._was_disputed(job, provider) else ZERO_ADDRESS
        self.pair.both(
            lambda: self.pair.model.resolve(job.id, provider, guilty, challenger, CLIENT.address),
            lambda: arbiter.decide(self.jobs.address, job.id, provider, guilty, CLIENT.address, sender=who),
        )

    def _was_disputed(self, job: ModelJob, provider: str) -> bool:
        return any(r.provider == provider and r.bond_state is BondState.DISPUTED for r in job.replicas)

    @rule(caller=actors, function=st.sampled_from(["freeze", "resolve"]))
    def play_arbiter(self, caller: LocalAccount, function: str) -> None:
        who = caller.address
        arguments: tuple[Any, ...] = (ZERO32, who, b"") if function == "freeze" else (ZERO32, who, True, who, who)
        call = getattr(self.jobs, function)
        self.pair.refuses("NotArbiter", lambda: call(*arguments, sender=who), caller=who)
        self.pair.refuses("UnknownJob", lambda: self.jobs.contradicts(ZERO32, who, b"", sender=who), jobId=ZERO32)

    # --- reading

    @rule(caller=actors, view=st.sampled_from(["job", "replicas", "settle", "cancel"]))
    def ask_for_an_unknown_job(self, caller: LocalAccount, view: str) -> None:
        unknown = keccak256(view.encode())
        call = getattr(self.jobs, view)
        self.pair.refuses("UnknownJob", lambda: call(unknown, sender=caller.address), jobId=unknown)

    @rule(client=clients, output=outputs)
    def read_jobs(self, client: LocalAccount, output: Output) -> None:
        jobs, model, world = self.jobs, self.pair.model, self.pair.world
        nonce = jobs.clientNonce(client.address)
        assert nonce == model.nonces[client.address]
        assert jobs.jobIdOf(client.address, nonce) == job_id(CHAIN_ID, jobs.address, client.address, nonce)
        quote = world.quote(PROVIDERS[0])
        commitment = Commitment(ZERO32, client.address, output.output_hash, ZERO32)
        assert jobs.hashQuote(quote.values()) == world.domain.digest(quote)
        assert not jobs.quoteUsed(world.domain.digest(quote), CLIENT.address)
        assert jobs.hashCommitment(*commitment.values()) == world.domain.digest(commitment)
        assert jobs.hashOutput(output.values()) == output.output_hash
        assert jobs.hashRequest(request().values()) == request().request_hash
        assert jobs.eip712Domain()[1:3] == ("Assay Jobs", "1")
        assert (jobs.vault(), jobs.stakeToken()) == (world.vault.address, world.token.address)
        assert (jobs.arbiter(), jobs.disputeWindow()) == (world.arbiter.address, model.constants.dispute_window)
        assert jobs.challengerShareBps() == model.constants.share_bps
        assert (jobs.MAX_REPLICAS(), jobs.MIN_WINDOW(), jobs.MAX_WINDOW()) == (7, 30, 86_400)
        assert (jobs.DISPUTE_DEADLINE(), jobs.MAX_CHALLENGER_SHARE_BPS()) == (7 * 86_400, 3_000)
