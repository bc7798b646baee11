"""A deployment and its model, side by side: every call goes to both and must do the same in both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from eth_account.signers.local import LocalAccount

from market.hashing import ZERO32
from market.settlement import BURNT_ADDRESS
from market.types import ZERO_ADDRESS
from tests.stateful.ledger import Constants, Refused
from tests.stateful.model import Model
from tests.stateful.records import ModelJob, Post
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.draws import MODEL, MODEL_ID, enlist, mine, number, offer, publish
from tests.unit.contracts.world import (
    CAP,
    CLIENT,
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
    World,
    pack_permit,
)

T = TypeVar("T")
CLIENTS = (CLIENT, OTHER_CLIENT)
PROVIDERS = REPLICAS[:5]
ACTORS = (*CLIENTS, *PROVIDERS, STRANGER)
UNJUDGED = replace(MODEL, tables_root=ZERO32)
"""A model that the toy arbiter does not judge."""
HOSTILE = ("FeeToken", "FalseToken", "CallbackToken")


def prepare(world: World) -> None:
    """Makes the providers drawable, once per deployment."""
    if not world.registry.drawableLength(MODEL_ID):
        mine(world, 1_000)
        publish(world)
        world.registry.publishModel(UNJUDGED.values(), "", "", sender=CLIENT.address)
        enlist(world, *PROVIDERS)


class Pair:
    """Starts with every actor rich, every provider staked and no job."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs: list[bytes] = []
        self.model = Model(
            Constants(
                token=world.token.address,
                cap=CAP,
                guardian=GUARDIAN.address,
                vault=world.vault.address,
                jobs=world.jobs.address,
                domain=world.domain,
                unbonding_window=UNBONDING_WINDOW,
                dispute_window=DISPUTE_WINDOW,
                share_bps=SHARE_BPS,
                stake_cap=STAKE_CAP,
                demand_window=DEMAND_WINDOW,
                demand_fee=DEMAND_FEE,
            ),
            now=world.chain.now,
        )
        for actor in (*CLIENTS, STRANGER):
            self.model.wallet[actor.address] = self.model.allowance[actor.address] = MONEY
        for provider in REPLICAS:
            rest = MONEY - STAKE
            self.model.wallet[provider.address] = self.model.allowance[provider.address] = rest
            self.model.staked[provider.address] = STAKE
            self.model.staked_at[provider.address] = world.vault.stakeOf(provider.address)[2]
        self._list_providers()
        self._watch()

    def both(self, expect: Callable[[], T], act: Callable[[], Any]) -> T | None:
        """Runs the model, then the chain. Returns the model's result, None where both refused alike."""
        self.model.number = number(self.world)
        result: T | None = None
        refused: Refused | None = None
        try:
            result = expect()
        except Refused as error:
            refused = error
        reverted: Revert | None = None
        try:
            act()
        except Revert as error:
            reverted = error
        if refused is None:
            assert reverted is None, f"the chain refused what the model allows: {reverted}"
        else:
            assert reverted is not None, f"the chain allowed what the model refuses: {refused}"
            assert (reverted.name, reverted.values) == (refused.name, refused.values)
        return result

    def refuses(self, name: str, act: Callable[[], Any], **values: Any) -> None:
        """Both sides refuse, the model by definition."""

        def expect() -> None:
            raise Refused(name, **values)

        self.both(expect, act)

    def warp(self, timestamp: int) -> None:
        self.world.chain.now = self.model.now = timestamp

    def mine(self, blocks: int) -> None:
        mine(self.world, blocks)

    def _list_providers(self) -> None:
        """What `prepare` did, in the model."""
        registry = self.model.registry
        self.model.number = number(self.world) - 1
        registry.published |= {MODEL_ID, UNJUDGED.model_id}
        self.model.unjudged.add(UNJUDGED.model_id)
        for provider in PROVIDERS:
            registry.set_provider(provider.address, ("http://x", bytes(32)))
            registry.set_offer(provider.address, MODEL_ID, offer(self.world))

    def post(self, caller: LocalAccount, call: Post) -> ModelJob | None:
        world, permit = self.world, b""
        if call.permit is not None:
            permit = pack_permit(world.permit(caller, world.vault.address, call.permit))
        params = world.params(
            [world.signed(quote, signer) if signer else (quote.values(), b"") for quote, signer in call.quotes],
            mode=call.mode,
            quorum=call.quorum,
            max_escrow=call.max_escrow,
            commit_window=call.commit_window,
            reveal_window=call.reveal_window,
            asked=call.request,
            permit=permit[:159] if call.malformed else permit,
            inline=call.inline,
            draw=call.draw,
        )
        job = self.both(
            lambda: self.model.post(caller.address, call),
            lambda: world.jobs.post(params, sender=caller.address),
        )
        if job is not None:
            self.jobs.append(job.id)
        return job

    # --- comparing

    def _watch(self) -> None:
        """Prepares the calls of `compare_money`: they run after every step, so they skip the ABI's generality."""
        vault, token = self.world.vault, self.world.token.address
        accounts = [actor.address for actor in (*ACTORS, *REPLICAS[len(PROVIDERS) :], GUARDIAN)]
        self._accounts = [*accounts, BURNT_ADDRESS, self.world.arbiter.address]
        self._reads = {
            account: (
                vault.encode("credit", token, account),
                vault.encode("stakeOf", account),
                vault.encode("exits", account),
            )
            for account in self._accounts
        }
        self._read_held = vault.encode("held", self.world.jobs.address, token)
        self._read_total = vault.encode("total", token)
        self._read_balance = self.world.token.encode("balanceOf", vault.address)

    def _words(self, contract: Contract, data: bytes) -> list[int]:
        answer = self.world.chain.run_call(STRANGER.address, contract.address, data, static=True)
        return [int.from_bytes(answer[i : i + 32]) for i in range(0, len(answer), 32)]

    def _word(self, contract: Contract, data: bytes) -> int:
        return self._words(contract, data)[0]

    def compare_money(self) -> None:
        """Every balance of every party, and what the vault has and owes, to the unit; and how old each stake is."""
        vault, model = self.world.vault, self.model
        seen = 0
        for account, (read_credit, read_stake, read_exit) in self._reads.items():
            credit, exiting = self._word(vault, read_credit), self._word(vault, read_exit)
            staked, bonded, since = self._words(vault, read_stake)
            assert credit == model.credit[account], f"credit of {account}"
            assert staked == model.staked[account], f"stake of {account}"
            assert bonded == model.bonded[account], f"bonds of {account}"
            assert since == model.staked_at[account], f"block of the last stake of {account}"
            assert exiting == model.exits[account][0], f"exit of {account}"
            seen += credit + staked + exiting
        held, total = self._word(vault, self._read_held), self._word(vault, self._read_total)
        assert held == model.held
        assert total == seen + held == model.total
        assert self._word(self.world.token, self._read_balance) >= total

    def compare_job(self, identity: bytes) -> None:
        """Job and replicas as the views show them."""
        job = self.model.jobs[identity]
        view = self.world.jobs.job(identity)
        assert (view["state"], view["escrow"], view["finalAt"]) == (job.state, job.escrow, job.final_at)
        assert (view["committed"], view["revealed"]) == (job.committed, job.revealed)
        assert (view["commitDeadline"], view["revealDeadline"]) == (job.commit_deadline, job.reveal_deadline)
        assert view["outputHash"] == (job.agreed or bytes(32))
        assert (view["drawBlock"], view["drawFailed"]) == (job.draw_block, job.draw_failed)
        assert view["inlineInput"] == job.inline
        self.model.number = number(self.world)
        assert tuple(self.world.jobs.seedOf(identity)) == self.model.seed_of(job)
        for replica, seen in zip(job.replicas, self.world.jobs.replicas(identity), strict=True):
            expected = (replica.provider, replica.state, replica.bond_state, replica.digest, job.paid(replica))
            keys = ("provider", "state", "bondState", "digest", "paid")
            assert tuple(seen[key] for key in keys) == expected
            assert (seen["demandDeadline"], seen["demander"]) == (replica.demand_deadline, replica.demander)

    def held_by_records(self) -> int:
        """What the chain's own records of all jobs add up to: escrows not paid out, bonds not let go, open demands, and
        the prices of outputs that a demander paid for.
        """
        held = 0
        for identity in self.jobs:
            job = self.world.jobs.job(identity)
            held += 0 if job["finalAt"] else job["escrow"]
            replicas = self.world.jobs.replicas(identity)
            held += sum(r["bond"] for r in replicas if r["bondState"] in (1, 2))
            held += DEMAND_FEE * sum(r["demander"] != ZERO_ADDRESS for r in replicas)
            sold = [r["provider"] for r in replicas if r["demandDeadline"] and r["bondState"] in (1, 2)]
            held += sum(self.world.jobs.demandCostOf(identity, provider)[1] for provider in sold)
        return held
