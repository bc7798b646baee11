"""Brings the chain in line with the configuration: announcement, models, offers, stake. Sends only what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from market.chain import Call, Chain, same_address
from market.contracts import Registry
from market.deployment import Contracts
from market.errors import ConfigError, ContractError
from market.hashing import ZERO32
from market.transactions import Transactions
from market.types import Mode
from market.views import WEIGHTS, Offer, Stake, modes_mask
from provider.catalogue import Catalogue, Served
from provider.config import ProviderConfig
from provider.judged import Judged

NOT_NOW = frozenset({"ListBusy", "StakeTooSmall"})
"""Why the drawable list may not take an entry at present (IRegistry.setOffer)."""
Report = Callable[[str], None]
"""Told what was done, in one line."""


@dataclass(frozen=True)
class StakePlan:
    """How the stake reaches its target. Base units; `missing` is what neither credit nor wallet can give."""

    from_credit: int
    from_wallet: int
    missing: int

    @classmethod
    def of(cls, *, target: int, stake: Stake, credit: int, wallet: int) -> StakePlan:
        """Bonds count as stake: they come back."""
        wanted = max(target - stake.free - stake.bonded, 0)
        from_credit = min(wanted, credit)
        from_wallet = min(wanted - from_credit, wallet)
        return cls(from_credit, from_wallet, wanted - from_credit - from_wallet)


class Onboarding:
    """Every method sends what is missing and returns; a second call sends nothing.

    Raises (every method): ChainError; ContractError where a contract refuses.
    """

    def __init__(
        self,
        chain: Chain,
        contracts: Contracts,
        transactions: Transactions,
        config: ProviderConfig,
        report: Report,
        judged: Judged,
    ) -> None:
        self._chain = chain
        self._contracts = contracts
        self._transactions = transactions
        self._config = config
        self._report = report
        self._judged = judged
        self._advised: set[bytes] = set()
        self._address = transactions.address
        self.postponed: set[bytes] = set()  # models whose drawable list did not take this provider; `offer` tries again

    def check_gas(self) -> None:
        """Raises ConfigError when the account cannot pay for a single transaction."""
        if self._chain.balance(self._address) == 0:
            raise ConfigError(
                f"{self._address} has none of the gas coin of chain {self._chain.chain_id}. Nothing was sent.",
                hint="Send it some, then start again.",
                address=self._address,
            )

    def announce(self, endpoint: str) -> None:
        """Registers the provider under this endpoint and label."""
        labels = self._config.label.encode().ljust(32, b"\0")
        if len(labels) > len(ZERO32):
            raise ConfigError(f"label {self._config.label!r} takes more than 32 bytes.", field="label")
        view = self._contracts.registry.provider(self._address)
        if (view.endpoint, view.labels) != (endpoint, labels):
            self._send(self._contracts.registry.set_provider(endpoint, labels))
            self._report(f"announced {endpoint}")

    def offer(self, catalogue: Catalogue) -> None:
        """Publishes each model that nobody published and sets each offer.

        OPTIMISTIC is offered once the judge knows the model and nothing else forbids it (provider.judged.obstacle);
        else the report says what to do.
        """
        registry = self._contracts.registry
        if Mode.OPTIMISTIC in self._config.offered_modes:
            self._judged.look(served.pack for served in catalogue.values() if served.product.indisputable is None)
        for model_id, served in catalogue.items():
            if not _is_published(registry, model_id):
                self._publish(registry, served)
            advice = self._advice(served)
            if advice and model_id not in self._advised:
                self._advised.add(model_id)
                self._report(advice)
            offer = self._offer(served)
            if registry.offer(self._address, model_id) != offer or not self._is_well_listed(model_id, offer):
                self._set_offer(model_id, offer, served.product.name)

    def leave_draws(self, catalogue: Catalogue) -> int:
        """Takes the bond out of every offer, so that this provider is not drawn any more; `offer` puts it back. Its
        places on the drawable lists stay, unless somebody prunes them.

        Returns:
            the newest block that may have drawn it.
        """
        registry = self._contracts.registry
        for model_id, served in catalogue.items():
            offer = registry.offer(self._address, model_id)
            if offer.modes and offer.max_bond:
                self._send(registry.set_offer(model_id, replace(offer, max_bond=0)))
                self._report(f"is not drawn for {served.product.name} any more")
        return self._chain.head().number

    def stake(self) -> StakePlan:
        """Deposits and stakes up to the configured target. Returns what was done."""
        vault, token = self._contracts.vault, self._contracts.token
        plan = StakePlan.of(
            target=self._config.stake,
            stake=vault.stake_of(self._address),
            credit=vault.credit(token.address, self._address),
            wallet=token.balance_of(self._address),
        )
        if plan.from_wallet:
            if token.allowance(self._address, vault.address) < plan.from_wallet:
                self._send(token.approve(vault.address, plan.from_wallet))
            self._send(vault.deposit(token.address, self._address, plan.from_wallet))
            self._report(f"deposited {plan.from_wallet}")
        if plan.from_credit + plan.from_wallet:
            self._send(vault.stake(plan.from_credit + plan.from_wallet))
            self._report(f"staked {plan.from_credit + plan.from_wallet}")
        return plan

    def _is_well_listed(self, model_id: bytes, offer: Offer) -> bool:
        """Whether setting the offer again would change nothing on the drawable list: it has this provider, with the
        weight of its present stake or at a place that still rests. An offer that is not to be drawn needs no entry."""
        if not offer.max_bond:
            return True
        registry, stake = self._contracts.registry, self._contracts.vault.stake_of(self._address)
        cap = registry.draw_stake_cap()
        weight = min(stake.free + stake.bonded, cap) * WEIGHTS // cap
        rested = self._chain.head().number - registry.list_rest()
        return any(
            entry.weight >= weight or entry.since >= rested
            for entry in registry.drawable(model_id)
            if same_address(entry.provider, self._address)
        )

    def _set_offer(self, model_id: bytes, offer: Offer, name: str) -> None:
        registry = self._contracts.registry
        try:
            self._send(registry.set_offer(model_id, offer))
        except ContractError as error:
            if error.code not in NOT_NOW:
                raise
            if model_id not in self.postponed:
                self._report(f"cannot be drawn for {name} at present, and tries again: {error.message}")
            self.postponed.add(model_id)
            offer = replace(offer, max_bond=0)
            if registry.offer(self._address, model_id) == offer:
                return
            self._send(registry.set_offer(model_id, offer))
        else:
            self.postponed.discard(model_id)
        self._report(f"offers {name} (0x{model_id.hex()})")

    def _publish(self, registry: Registry, served: Served) -> None:
        try:
            self._send(registry.publish_model(served.roots, served.product.name, served.product.uri))
        except ContractError as error:
            if error.code != "ModelAlreadyPublished":  # another provider was faster: as good
                raise
        else:
            self._report(f"published {served.product.name} (0x{served.product.model_id.hex()})")

    def _advice(self, served: Served) -> str:
        """What keeps a model from being sold as OPTIMISTIC, in words; "" where nothing does or nobody means to."""
        if Mode.OPTIMISTIC not in self._config.offered_modes:
            return ""
        if served.product.indisputable is not None:
            return f"{served.product.name} is not offered as optimistic: {served.product.indisputable}"
        return self._judged.advice(served.pack)

    def _offer(self, served: Served) -> Offer:
        product, limits = served.product, self._config.limits
        return Offer(
            token=self._contracts.token.address,
            base_fee=product.prices.base_fee,
            price_per_m_input=product.prices.per_m_input,
            price_per_m_output=product.prices.per_m_output,
            max_input_tokens=min(limits.max_input_tokens, product.context - 1),
            max_output_tokens=min(limits.max_output_tokens, product.context - 1),
            modes=modes_mask(
                tuple(
                    mode
                    for mode in self._config.offered_modes
                    if mode is not Mode.OPTIMISTIC
                    or (product.indisputable is None and self._judged.is_known(product.model_id))
                )
            ),
            max_bond=self._config.max_bond,
        )

    def _send(self, call: Call) -> None:
        self._transactions.send(call, timeout=self._config.timing.transaction_seconds)


def _is_published(registry: Registry, model_id: bytes) -> bool:
    try:
        return registry.model(model_id).model_id == model_id
    except ContractError as error:
        if error.code != "UnknownModel":
            raise
        return False


def stake_problem(plan: StakePlan, target: int) -> str:
    """Why the target is not reached, or ""."""
    if not plan.missing:
        return ""
    return (
        f"{plan.missing} of the stake target {target} are missing in credit and wallet; "
        "jobs are taken as far as the stake goes."
    )
