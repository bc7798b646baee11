"""The vault: its users, its guardian, strangers who play module, hostile tokens, wrong deployments."""

from __future__ import annotations

from functools import partial
from typing import Any

from eth_account.signers.local import LocalAccount
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from market.types import ZERO_ADDRESS
from tests.stateful.pair import ACTORS, CLIENTS, HOSTILE, PROVIDERS, Pair
from tests.unit.contracts.world import (
    CAP,
    DEMAND_WINDOW,
    GUARDIAN,
    MONEY,
    STAKE,
    STRANGER,
    UNBONDING_WINDOW,
)

MAX_STAKE_CAP = 2**104 - 1
YEAR = 365 * 86_400
actors = st.sampled_from(ACTORS)
amounts = st.sampled_from([0, 1, 2, 999, 10_000, STAKE, STAKE + 1])
rarely = st.integers(0, 11).map(lambda draw: draw == 5)


class VaultRules(RuleBasedStateMachine):
    """Rules about money outside of jobs."""

    pair: Pair

    @property
    def vault(self) -> Any:
        return self.pair.world.vault

    @property
    def token(self) -> str:
        return self.pair.world.token.address

    @rule(caller=actors, to=actors, amount=amounts, nobody=rarely)
    def deposit(self, caller: LocalAccount, to: LocalAccount, amount: int, nobody: bool) -> None:
        who, target = caller.address, ZERO_ADDRESS if nobody else to.address
        self.pair.both(
            lambda: self.pair.model.deposit(who, target, amount),
            lambda: self.vault.deposit(self.token, target, amount, sender=who),
        )

    @rule(caller=actors)
    def deposit_above_the_cap(self, caller: LocalAccount) -> None:
        who, amount = caller.address, CAP + 1
        self.pair.both(
            lambda: self.pair.model.deposit(who, who, amount),
            lambda: self.vault.deposit(self.token, who, amount, sender=who),
        )

    @rule(caller=actors, to=actors, amount=amounts, everything=st.booleans(), nobody=rarely)
    def withdraw(self, caller: LocalAccount, to: LocalAccount, amount: int, everything: bool, nobody: bool) -> None:
        who, target = caller.address, ZERO_ADDRESS if nobody else to.address
        value = self.pair.model.credit[who] if everything else amount
        self.pair.both(
            lambda: self.pair.model.withdraw(who, target, value),
            lambda: self.vault.withdraw(self.token, target, value, sender=who),
        )

    @rule(caller=actors, amount=amounts)
    def stake(self, caller: LocalAccount, amount: int) -> None:
        who = caller.address
        self.pair.both(lambda: self.pair.model.stake(who, amount), lambda: self.vault.stake(amount, sender=who))

    @rule(caller=st.sampled_from(PROVIDERS), amount=amounts)
    def request_unstake(self, caller: LocalAccount, amount: int) -> None:
        who = caller.address
        self.pair.both(
            lambda: self.pair.model.request_unstake(who, amount),
            lambda: self.vault.requestUnstake(amount, sender=who),
        )

    @rule(caller=actors, owner=actors, leaving=st.booleans())
    def finish_unstake(self, caller: LocalAccount, owner: LocalAccount, leaving: bool) -> None:
        exits = [account for account, (amount, _) in self.pair.model.exits.items() if amount]
        who = exits[-1] if leaving and exits else owner.address
        self.pair.both(
            lambda: self.pair.model.finish_unstake(who),
            lambda: self.vault.finishUnstake(who, sender=caller.address),
        )

    @rule(caller=st.sampled_from(PROVIDERS), early=st.sampled_from([1, 3_600, 0]))
    def leave(self, caller: LocalAccount, early: int) -> None:
        """Unstakes a little and comes for it at the end of the window, or too early."""
        who = caller.address
        self.pair.both(
            lambda: self.pair.model.request_unstake(who, 1), lambda: self.vault.requestUnstake(1, sender=who)
        )
        self.pair.warp(self.pair.model.now + UNBONDING_WINDOW - early)
        self.pair.both(lambda: self.pair.model.finish_unstake(who), lambda: self.vault.finishUnstake(who, sender=who))

    @rule(caller=st.sampled_from(CLIENTS), amount=st.sampled_from([0, 3_000, MONEY]))
    def approve(self, caller: LocalAccount, amount: int) -> None:
        who = caller.address
        self.pair.world.token.approve(self.vault.address, amount, sender=who)
        self.pair.model.allowance[who] = amount

    @rule(
        caller=actors,
        victim=actors,
        function=st.sampled_from(["fund", "bond", "pay", "unbond", "forfeit"]),
        really=st.booleans(),
    )
    def play_module(self, caller: LocalAccount, victim: LocalAccount, function: str, really: bool) -> None:
        who, whose = caller.address, victim.address
        if really:
            self._ask_for_more_than_is_held(who)
            return
        arguments = {
            "fund": (self.token, whose, 1, b""),
            "bond": (whose, 1),
            "pay": (self.token, who, 1),
            "unbond": (who, 1),
            "forfeit": (whose, 1),
        }[function]
        call = getattr(self.vault, function)
        self.pair.refuses("NotModule", lambda: call(*arguments, sender=who), caller=who)

    def _ask_for_more_than_is_held(self, module: str) -> None:
        """As the module of another vault: Jobs never does."""
        guardian = GUARDIAN.address
        other = self.pair.world.deploy("Vault", guardian, self.token, 0, [(self.token, 1)])
        other.seal([module], sender=guardian)
        values = {"module": module, "token": self.token, "has": 0, "needs": 1}
        self.pair.refuses("InsufficientHeld", lambda: other.unbond(module, 1, sender=module), **values)
        self.pair.refuses("InsufficientHeld", lambda: other.pay(self.token, module, 1, sender=module), **values)
        act = partial(other.forfeit, module, 1, sender=module)
        self.pair.refuses("InsufficientBonds", act, owner=module, has=0, needs=1)

    @rule(stranger=st.booleans())
    def seal_again(self, stranger: bool) -> None:
        who = STRANGER.address if stranger else GUARDIAN.address
        self.pair.both(lambda: self.pair.model.seal(who), lambda: self.vault.seal([who], sender=who))

    @rule(really=rarely)
    def deprecate(self, really: bool) -> None:
        who = GUARDIAN.address if really or self.pair.model.deprecated else STRANGER.address
        for _ in range(2):
            self.pair.both(lambda: self.pair.model.deprecate(who), lambda: self.vault.deprecate(sender=who))

    @rule(really=rarely)
    def renounce_guardian(self, really: bool) -> None:
        who = GUARDIAN.address if really else STRANGER.address
        self.pair.both(lambda: self.pair.model.renounce(who), lambda: self.vault.renounceGuardian(sender=who))

    @rule(name=st.sampled_from([*HOSTILE, "unlisted"]))
    def deposit_of_a_hostile_token(self, name: str) -> None:
        who = STRANGER.address
        if self.pair.model.deprecated:
            self.pair.refuses("VaultDeprecated", lambda: self.vault.deposit(self.token, who, 1, sender=who))
            return
        if name == "unlisted":
            act = lambda: self.vault.deposit(who, who, 100, sender=who)  # noqa: E731
            self.pair.refuses("TokenNotAllowed", act, token=who)
            return
        token = self.pair.world.hostile[name]
        token.mint(who, 100, sender=who)
        token.approve(self.vault.address, 100, sender=who)
        if name == "CallbackToken":
            token.setCallback(self.vault.address, self.vault.encode("finishUnstake", who), sender=who)
        error, values = {
            "FeeToken": ("TokenAmountMismatch", {"token": token.address, "expected": 100, "received": 99}),
            "FalseToken": ("SafeERC20FailedOperation", {"token": token.address}),
            "CallbackToken": ("ReentrancyGuardReentrantCall", {}),
        }[name]
        self.pair.refuses(error, lambda: self.vault.deposit(token.address, who, 100, sender=who), **values)
        if name == "CallbackToken":
            token.setCallback(ZERO_ADDRESS, b"", sender=who)

    @rule(caller=actors)
    def deploy_wrongly(self, caller: LocalAccount) -> None:
        world, guardian = self.pair.world, GUARDIAN.address
        one = (self.token, 1)
        faults: list[tuple[tuple[Any, ...], str, dict[str, Any]]] = [
            ((ZERO_ADDRESS, self.token, 0, [one]), "ZeroAddress", {}),
            ((guardian, self.token, YEAR + 1, [one]), "UnbondingTooLong", {"window": YEAR + 1, "maximum": YEAR}),
            ((guardian, self.token, 0, [one] * 5), "TooManyTokens", {"count": 5, "limit": 4}),
            ((guardian, self.token, 0, [(ZERO_ADDRESS, 1)]), "ZeroAddress", {}),
            ((guardian, self.token, 0, [(self.token, 0)]), "ZeroAmount", {}),
            ((guardian, self.token, 0, [one, one]), "DuplicateToken", {"token": self.token}),
            ((guardian, guardian, 0, [one]), "TokenNotAllowed", {"token": guardian}),
            (
                (guardian, self.token, 0, [(self.token, MAX_STAKE_CAP + 1)]),
                "CapTooLarge",
                {"token": self.token, "cap": MAX_STAKE_CAP + 1, "maximum": MAX_STAKE_CAP},
            ),
        ]
        for arguments, name, values in faults:
            self.pair.refuses(name, partial(world.deploy, "Vault", *arguments), **values)
        for share in (0, 3_001):
            act = partial(world.deploy, "Jobs", *world.jobs_arguments(challengerShareBps=share))
            self.pair.refuses("ShareOutOfRange", act, shareBps=share, minimum=1, maximum=3_000)
        act = partial(world.deploy, "Jobs", *world.jobs_arguments(demandWindow=DEMAND_WINDOW + 1))
        self.pair.refuses("UnbondingTooShort", act, window=UNBONDING_WINDOW, minimum=UNBONDING_WINDOW + 1)
        act = partial(world.deploy, "Jobs", *world.jobs_arguments(demandFee=0))
        self.pair.refuses("NoDemandFee", act)
        unsealed, who = world.deploy("Vault", guardian, self.token, 0, [one]), caller.address
        self.pair.refuses("NotSealed", partial(unsealed.deposit, self.token, who, 1, sender=who))
        self.pair.refuses("NotSealed", partial(unsealed.renounceGuardian, sender=guardian))

    @rule(caller=actors)
    def read_vault(self, caller: LocalAccount) -> None:
        exits = self.vault.exits(caller.address)
        assert exits[0] == 0 or exits == self.pair.model.exits[caller.address]
        vault, model, world = self.vault, self.pair.model, self.pair.world
        assert (vault.guardian(), vault.stakeToken()) == (model.guardian, self.token)
        assert (vault.isSealed(), vault.isDeprecated()) == (True, model.deprecated)
        assert vault.modules() == [world.jobs.address]
        assert vault.isModule(world.jobs.address)
        assert not vault.isModule(STRANGER.address)
        assert (vault.cap(self.token), vault.tokens()[0]) == (CAP, self.token)
        assert vault.credit(self.token, caller.address) == model.credit[caller.address]
        assert vault.staked(caller.address) == model.staked[caller.address]
        assert vault.stakeOf(caller.address) == model.stake_of(caller.address)
        assert vault.held(world.jobs.address, self.token) == model.held
        assert vault.total(self.token) == model.total
        assert vault.unbondingWindow() == UNBONDING_WINDOW
        assert (vault.MAX_TOKENS(), vault.MAX_UNBONDING_WINDOW()) == (4, YEAR)
        assert vault.MAX_STAKE_CAP() == MAX_STAKE_CAP
