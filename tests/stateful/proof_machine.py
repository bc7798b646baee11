"""Proof jobs beside their model: clients and providers doing anything, proofs of every kind, a vault that closes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from eth_account.signers.local import LocalAccount
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, get_state_machine_test, initialize, invariant, rule

from market.hashing import ZERO32, keccak256, pack_tokens, tokens_root
from market.proofs.backend import EzklProgram
from market.signing import sign
from market.types import Mode
from market.views import ProofJobState
from tests.stateful.ledger import Constants, Refused
from tests.stateful.proof_model import MAX_WINDOW, MIN_WINDOW, Claim, ProofModel, ProofPost
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.proofs import INPUT, OUTPUT, PROGRAM, PostedProofJob, ProofWorld, pack
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import (
    CAP,
    CLIENT,
    DAY,
    DEMAND_FEE,
    DEMAND_WINDOW,
    DISPUTE_WINDOW,
    GUARDIAN,
    MONEY,
    OTHER_CLIENT,
    REPLICAS,
    SHARE_BPS,
    STAKE,
    STAKE_CAP,
    STRANGER,
    UNBONDING_WINDOW,
)

T = TypeVar("T")
CLIENTS, PROVIDERS = (CLIENT, OTHER_CLIENT), REPLICAS[:3]
ACTORS = (*CLIENTS, *PROVIDERS, STRANGER)
PROOF = bytes(range(96))
BAD_PROGRAMS = tuple(EzklProgram(*shape) for shape in ((0, 2, 0), (4_097, 2, 0), (3, 0, 0), (3, 4_097, 0)))
clients, providers, actors = (st.sampled_from(group) for group in (CLIENTS, PROVIDERS, ACTORS))
picks = st.integers(0, 1_000)
windows = st.sampled_from((30, 60, 60, 600, DAY))
prices = st.fixed_dictionaries(
    {
        "base_fee": st.sampled_from((0, 1, 1_000, MONEY // 3)),
        "price_per_m_input": st.sampled_from((0, 1, 500_000)),
        "price_per_m_output": st.sampled_from((0, 2_000_001)),
    }
)
POST_FAULTS: dict[str, dict[str, Any]] = {
    "short": {"window": 29},
    "long": {"window": DAY + 1},
    "cap": {"max_escrow": 1},
    "no input": {"request": {"input_tokens": 0}},
    "no output": {"request": {"max_output_tokens": 0}},
    "sampler": {"request": {"sampler": 1}},
    "longer": {"request": {"input_tokens": 4}},
    "wider": {"request": {"max_output_tokens": 3}},
    "no verifier": {"request": {"model_id": keccak256(b"nothing")}},
    "input length": {"given": pack_tokens(INPUT) + b"\xff" * 32},
    "input filler": {"given": pack_tokens([*INPUT, 4])},
    "input other": {"given": pack_tokens([9, 9, 9])},
    "expired": {"quote": {"valid_until": 1}},
    "client": {"quote": {"client": STRANGER.address}},
    "model": {"quote": {"model_id": keccak256(b"other")}},
    "request": {"quote": {"request_hash": keccak256(b"other")}},
    "mode": {"quote": {"mode": Mode.QUORUM}},
    "token": {"quote": {"token": STRANGER.address}},
    "input limit": {"quote": {"max_input_tokens": 2}},
    "output limit": {"quote": {"max_output_tokens": 1}},
    "bond": {"quote": {"bond": 1}},
    "miss fee": {"quote": {"miss_fee": 1}},
    "kill fee": {"quote": {"kill_fee": 1}},
    "signer": {"signer": STRANGER},
    "domain": {"domain": "jobs"},
}
PROOF_FAULTS = (
    "none",
    "none",
    "no",
    "revert",
    "output",
    "input",
    "job",
    "tag in",
    "tag out",
    "id",
    "malformed",
    "model",
)


class ProofMachine(RuleBasedStateMachine):
    """Market and model start anew for each example; the deployment is undone, not repeated."""

    world: ProofWorld

    @initialize()
    def begin(self) -> None:
        world = self.world
        chain = world.chain
        assert isinstance(chain, RevmChain)
        self._undo = ExitStack()
        self._undo.enter_context(chain.undone())
        world.restart_nonces()
        self.model = ProofModel(
            Constants(
                token=world.token.address,
                cap=CAP,
                guardian=GUARDIAN.address,
                vault=world.vault.address,
                jobs=world.proofs.address,
                domain=world.domain,
                unbonding_window=UNBONDING_WINDOW,
                dispute_window=DISPUTE_WINDOW,
                share_bps=SHARE_BPS,
                stake_cap=STAKE_CAP,
                demand_window=DEMAND_WINDOW,
                demand_fee=DEMAND_FEE,
            ),
            now=chain.now,
            domain=world.proof_domain,
        )
        for actor in (*CLIENTS, STRANGER):
            self.model.wallet[actor.address] = self.model.allowance[actor.address] = MONEY
        for provider in REPLICAS:
            self.model.wallet[provider.address] = self.model.allowance[provider.address] = MONEY - STAKE
            self.model.staked[provider.address] = STAKE
        self.posted: list[tuple[bytes, ProofPost]] = []
        self.model_id = self._publish(PROGRAM)
        self._register(self.model_id, world.halo2.address, PROGRAM)

    def both(self, expect: Callable[[], T], act: Callable[[], Any]) -> T | None:
        """Runs the model, then the chain; both refuse with the same error or neither. The model's result."""
        result: T | None = None
        refused: Refused | None = None
        reverted: Revert | None = None
        try:
            result = expect()
        except Refused as error:
            refused = error
        try:
            act()
        except Revert as error:
            reverted = error
        assert (reverted is None) == (refused is None), f"chain: {reverted}, model: {refused}"
        if reverted is not None and refused is not None:
            assert (reverted.name, reverted.values) == (refused.name, refused.values)
        return result

    # --- models

    def _publish(self, program: EzklProgram, **roots: bytes) -> bytes:
        model_id = self.world.publish(program, **roots)
        self.model.roots[model_id] = (roots.get("weights_root", keccak256(self.world.toy_code)), program.hash_struct())
        return model_id

    def _register(self, model_id: bytes, verifier: str, program: EzklProgram) -> None:
        code = self.world.toy_code if verifier == self.world.halo2.address else b""
        self.both(
            lambda: self.model.register(model_id, keccak256(code) if code else ZERO32, bool(code), program),
            lambda: self.world.verifier.register(model_id, verifier, program.values(), sender=STRANGER.address),
        )

    @rule(other=st.sampled_from(BAD_PROGRAMS))
    def register_what_is_wrong(self, other: EzklProgram) -> None:
        if (keccak256(self.world.toy_code), other.hash_struct()) in self.model.roots.values():
            return
        halo2 = self.world.halo2.address
        self._register(self.model_id, halo2, PROGRAM)
        self._register(ZERO32, halo2, PROGRAM)
        bad = self._publish(other)
        self._register(bad, halo2, PROGRAM)
        self._register(bad, halo2, other)
        if other == BAD_PROGRAMS[0]:
            # an account that nobody used has no code and the hash 0, which a model may name
            nobody = self._publish(dataclasses.replace(PROGRAM, outputs=5), weights_root=ZERO32)
            self._register(nobody, STRANGER.address, dataclasses.replace(PROGRAM, outputs=5))

    @rule(shape=st.sampled_from(((1, 1), (9, 8))))
    def register_another_model(self, shape: tuple[int, int]) -> None:
        program = EzklProgram(*shape, 0)
        if (keccak256(self.world.toy_code), program.hash_struct()) not in self.model.roots.values():
            model_id = self._publish(program)
            self._register(model_id, self.world.halo2.address, program)
        verifier, proofs = self.world.verifier, self.world.proofs
        assert verifier.verifierOf(self.model_id)[0] == self.world.halo2.address
        assert verifier.shapeOf(self.model_id) == self.model.shapes[self.model_id]
        assert verifier.registry() == self.world.registry.address
        assert verifier.hashProgram(program.values()) == program.hash_struct()
        assert verifier.tagOf(self.model_id) == int.from_bytes(self.model_id) >> 8
        assert (proofs.vault(), proofs.verifier()) == (self.world.vault.address, verifier.address)
        assert proofs.stakeToken() == self.world.token.address
        assert (proofs.MIN_WINDOW(), proofs.MAX_WINDOW()) == (MIN_WINDOW, MAX_WINDOW)
        assert proofs.eip712Domain()[1] == self.model.domain.name
        assert proofs.jobIdOf(CLIENT.address, 7) == self.model.job_id(CLIENT.address, 7)

    # --- jobs

    def _post(
        self, client: LocalAccount, provider: LocalAccount, terms: dict[str, Any], **changes: Any
    ) -> bytes | None:
        world = self.world
        asked = dataclasses.replace(world.proof_request(self.model_id), **changes.get("request", {}))
        plain = world.proof_quote(asked.model_id, provider, **terms)
        quote = dataclasses.replace(plain, **changes.get("quote", {}))
        signer: LocalAccount = changes.get("signer", provider)
        domain = world.domain if changes.get("domain") else world.proof_domain
        call = ProofPost(
            request=asked,
            quote=quote,
            signer=signer.address,
            signed_for=domain,
            max_escrow=changes.get("max_escrow", MONEY),
            window=changes.get("window", 60),
            given=changes.get("given", b""),
        )
        return self._send(client, call, sign(domain, quote, signer))

    def _send(self, client: LocalAccount, call: ProofPost, signature: bytes) -> bytes | None:
        signed = (call.quote.values(), signature)
        params = (call.max_escrow, call.window, call.request.values(), signed, b"", call.given)
        identity = self.both(
            lambda: self.model.post(client.address, call),
            lambda: self.world.proofs.post(params, sender=client.address),
        )
        if identity is not None:
            self.posted.append((identity, call))
        return identity

    @rule(
        client=clients, provider=providers, terms=prices, window=windows, inline=st.booleans(), times=st.integers(1, 3)
    )
    def post(
        self,
        client: LocalAccount,
        provider: LocalAccount,
        terms: dict[str, Any],
        window: int,
        inline: bool,
        times: int,
    ) -> None:
        given = pack_tokens(INPUT) if inline else b""
        for _ in range(times):
            self._post(client, provider, terms, window=window, given=given)

    @rule(client=clients, faults=st.lists(st.sampled_from(sorted(POST_FAULTS)), min_size=5, max_size=5))
    def post_with_faults(self, client: LocalAccount, faults: list[str]) -> None:
        for fault in faults:
            self._post(client, PROVIDERS[0], {}, **POST_FAULTS[fault])

    @rule(client=clients, pick=picks)
    def post_with_a_quote_once_more(self, client: LocalAccount, pick: int) -> None:
        """Each client may, once."""
        if self.posted:
            _, call = self.posted[pick % len(self.posted)]
            signer = next(provider for provider in PROVIDERS if provider.address == call.quote.provider)
            self._send(client, call, sign(self.world.proof_domain, call.quote, signer))

    def _pick(self, pick: int) -> tuple[bytes, ProofPost] | None:
        """Mostly an open one."""
        still = [item for item in self.posted if self.model.jobs[item[0]].state == ProofJobState.OPEN]
        found = still if still and pick % 4 else self.posted
        return found[pick % len(found)] if found else None

    @rule(
        pick=picks,
        faults=st.lists(st.sampled_from(PROOF_FAULTS), min_size=4, max_size=8),
        other=st.none() | st.none() | st.none() | actors,
        swapped=st.sampled_from((False, False, False, True)),
    )
    def settle(self, pick: int, faults: list[str], other: LocalAccount | None, swapped: bool) -> None:
        picked = self._pick(pick)
        for fault in faults if picked is not None else ():
            self._settle(*picked, fault, other, swapped)

    def _settle(self, identity: bytes, call: ProofPost, fault: str, other: LocalAccount | None, swapped: bool) -> None:
        asked = call.request
        if swapped:
            asked = dataclasses.replace(asked, nonce=keccak256(b"another"))
        job = PostedProofJob(identity, asked)
        instances, output, claim = self.world.instances(job), list(OUTPUT), Claim(asked, tuple(OUTPUT))
        data = None
        if fault in ("no", "revert"):
            claim = dataclasses.replace(claim, holds=False)
        elif fault == "output":
            output = [OUTPUT[0], 0]
        elif fault == "input":
            instances[0] += 1
        elif fault == "job":
            instances = self.world.instances(PostedProofJob(keccak256(identity), asked))
        elif fault in ("tag in", "tag out"):
            instances[len(INPUT) if fault == "tag in" else -1] += 1
        elif fault == "id":
            instances[len(INPUT) + 1] = 2**31
        elif fault == "malformed":
            data = pack(PROOF, instances)[:-32]
        named = {"output": "output", "input": "input", "job": "jobId", "tag in": "jobId", "tag out": "jobId"}.get(fault)
        if named is not None:
            mismatch = ("StatementMismatch", {"field": named.encode().ljust(32, b"\0")})
            claim = dataclasses.replace(claim, fault=mismatch)
        elif fault == "id":
            claim = dataclasses.replace(claim, fault=("NotAnId", {"instance": 2**31}))
        elif fault == "malformed":
            claim = dataclasses.replace(claim, fault=("MalformedProof", {"modelId": asked.model_id}))
        elif fault == "model":
            instances, data = [*instances, 0], None  # the shape of another model
            claim = dataclasses.replace(claim, fault=("MalformedProof", {"modelId": asked.model_id}))
        proof = pack(PROOF, instances) if data is None else data
        who = (other if other is not None else self._provider_of(call)).address
        halo2 = self.world.halo2
        answer = {"no": halo2.NO, "revert": halo2.REVERT}.get(fault, halo2.YES)()
        halo2.setAnswer(answer, sender=STRANGER.address)
        self.both(
            lambda: self.model.settle(who, identity, claim),
            lambda: self.world.proofs.settle(identity, asked.values(), pack_tokens(output), proof, sender=who),
        )
        halo2.setAnswer(halo2.YES(), sender=STRANGER.address)

    @staticmethod
    def _provider_of(call: ProofPost) -> LocalAccount:
        return next(provider for provider in PROVIDERS if provider.address == call.quote.provider)

    @rule(pick=picks, caller=actors)
    def expire(self, pick: int, caller: LocalAccount) -> None:
        picked = self._pick(pick)
        if picked is not None:
            self._expire(picked[0], caller)

    def _expire(self, identity: bytes, caller: LocalAccount) -> None:
        self.both(
            lambda: self.model.expire(identity),
            lambda: self.world.proofs.expire(identity, sender=caller.address),
        )

    @rule(caller=actors)
    def touch_what_nobody_posted(self, caller: LocalAccount) -> None:
        unknown, who = keccak256(b"unknown"), caller.address
        asked = self.world.proof_request(self.model_id)
        self._expire(unknown, caller)
        self.both(
            lambda: self.model.settle(who, unknown, Claim(asked, tuple(OUTPUT))),
            lambda: self.world.proofs.settle(unknown, asked.values(), b"", b"", sender=who),
        )
        statement = (unknown, unknown, tokens_root(INPUT), len(INPUT))
        self.both(lambda: self._refuse("NoVerifier", modelId=unknown), lambda: self._verify(statement))

    def _verify(self, statement: tuple[Any, ...]) -> None:
        self.world.verifier.verify(statement, b"", b"")

    @staticmethod
    def _refuse(name: str, **values: Any) -> None:
        raise Refused(name, **values)

    # --- time and money

    @rule(seconds=st.sampled_from((1, 29, 30, 31, 60, 61, 600, DAY)))
    def warp(self, seconds: int) -> None:
        self.world.chain.now = self.model.now = self.model.now + seconds

    @rule(pick=picks, beyond=st.integers(0, 1), caller=actors, proved_first=st.booleans())
    def end_at_a_deadline(self, pick: int, beyond: int, caller: LocalAccount, proved_first: bool) -> None:
        """In its last second, or one further, both sides want the money."""
        picked = self._pick(pick)
        if picked is None or self.model.jobs[picked[0]].deadline < self.model.now:
            return
        self.world.chain.now = self.model.now = self.model.jobs[picked[0]].deadline + beyond
        if proved_first:
            self._settle(*picked, "none", None, False)
        self._expire(picked[0], caller)
        self._settle(*picked, "none", None, False)

    @rule(caller=actors, to=actors, amount=st.sampled_from((1, 1_000, MONEY // 2)))
    def deposit(self, caller: LocalAccount, to: LocalAccount, amount: int) -> None:
        token, who = self.world.token.address, caller.address
        self.both(
            lambda: self.model.deposit(who, to.address, amount),
            lambda: self.world.vault.deposit(token, to.address, amount, sender=who),
        )

    @rule(caller=actors, to=actors)
    def withdraw_everything(self, caller: LocalAccount, to: LocalAccount) -> None:
        token, who = self.world.token.address, caller.address
        value = self.model.credit[who]
        self.both(
            lambda: self.model.withdraw(who, to.address, value),
            lambda: self.world.vault.withdraw(token, to.address, value, sender=who),
        )

    @rule(odds=st.integers(0, 30))
    def close_the_vault(self, odds: int) -> None:
        """No new money; what is open still ends."""
        if odds == 0:
            self.both(
                lambda: self.model.deprecate(GUARDIAN.address),
                lambda: self.world.vault.deprecate(sender=GUARDIAN.address),
            )

    # --- what always holds

    @invariant()
    def money_is_where_the_model_says(self) -> None:
        world, model = self.world, self.model
        token, vault, seen = world.token.address, world.vault, 0
        for actor in ACTORS:
            credit = vault.credit(token, actor.address)
            assert credit == model.credit[actor.address]
            assert world.token.balanceOf(actor.address) == model.wallet[actor.address]
            seen += credit
        seen += STAKE * len(REPLICAS)  # nobody touches it here
        assert world.proof_held() == model.held == self._escrows()
        assert vault.total(token) == seen + model.held == model.total
        assert world.token.balanceOf(vault.address) == model.total

    def _escrows(self) -> int:
        """Of the jobs that are open: nothing else is held."""
        return sum(job.escrow for job in self.model.jobs.values() if job.state == ProofJobState.OPEN)

    @invariant()
    def jobs_are_what_the_model_says(self) -> None:
        for identity, call in self.posted[-3:]:
            self._compare(identity, call)

    def _compare(self, identity: bytes, call: ProofPost) -> None:
        job, seen = self.model.jobs[identity], self.world.proofs.job(identity)
        assert seen == {
            "client": job.client,
            "state": job.state,
            "provider": job.provider,
            "proofDeadline": job.deadline,
            "escrow": job.escrow,
            "requestHash": job.request_hash,
            "outputHash": job.output_hash,
        }
        assert self.world.proofs.quoteUsed(self.world.proof_domain.digest(call.quote), job.client)

    def teardown(self) -> None:
        """Whoever is silent, every escrow leaves: all that is open expires, and nothing is held any more."""
        try:
            self.world.chain.now = self.model.now = self.model.now + 2 * DAY
            for identity, call in self.posted:
                if self.model.jobs[identity].state == ProofJobState.OPEN:
                    self._expire(identity, STRANGER)
                self._compare(identity, call)
            for client in CLIENTS:
                assert self.world.proofs.clientNonce(client.address) == self.model.nonces[client.address]
            assert self.world.proof_held() == self.model.held == 0
        finally:
            self._undo.close()


def run_proof_machine(world: ProofWorld, *, examples: int, steps: int, start: int, shrink: bool = True) -> None:
    """Runs the machine against one deployment; the same `start` gives the same run.

    Raises:
        AssertionError: contracts and model differ (with the shortest sequence of calls found, where shrinking).
    """
    machine: type[RuleBasedStateMachine] = type("ProofMachineOf", (ProofMachine,), {"world": world})
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    seed(start)(get_state_machine_test(machine, settings=chosen))()
