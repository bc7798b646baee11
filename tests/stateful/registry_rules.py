"""The registry beside a dictionary."""

from __future__ import annotations

from functools import partial
from typing import Any

from eth_account.signers.local import LocalAccount
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from market.hashing import keccak256
from market.types import ZERO_ADDRESS, Model
from tests.stateful.ledger import require
from tests.stateful.pair import PROVIDERS, Pair
from tests.stateful.registry_model import NO_OFFER, RegistryModel
from tests.unit.contracts.draws import LIST_REST
from tests.unit.contracts.draws import MODEL as DRAWN_MODEL
from tests.unit.contracts.draws import offer as drawable
from tests.unit.contracts.world import STAKE_CAP, STRANGER

MODELS = tuple(Model(*(keccak256(bytes([i, j])) for j in range(5))) for i in range(2))
providers = st.sampled_from(PROVIDERS[:2])
models = st.sampled_from((*MODELS, DRAWN_MODEL))
GOOD_OFFER = (PROVIDERS[0].address, 1, 2, 3, 4, 5, 0b11, 0)
OFFERS = (
    GOOD_OFFER,
    (ZERO_ADDRESS, 1, 2, 3, 4, 5, 3, 0),
    (*GOOD_OFFER[:4], 0, 5, 3, 0),
    (*GOOD_OFFER[:5], 0, 3, 1),
    (*GOOD_OFFER[:6], 0, 1),
    (*GOOD_OFFER[:6], 15, 9),
    (*GOOD_OFFER[:6], 16, 0),
)
offers = st.sampled_from(OFFERS)


class RegistryRules(RuleBasedStateMachine):
    """Rules about providers, models and offers."""

    pair: Pair

    @property
    def registry(self) -> Any:
        return self.pair.world.registry

    @property
    def model(self) -> RegistryModel:
        return self.pair.model.registry

    @rule(caller=providers, length=st.sampled_from([0, 1, 20, 256, 257]))
    def set_provider(self, caller: LocalAccount, length: int) -> None:
        who, value = caller.address, ("h" * length, keccak256(bytes([length % 256])))

        self.pair.both(
            lambda: self.model.set_provider(who, value), lambda: self.registry.setProvider(*value, sender=who)
        )
        assert self.registry.providers(who) == self.model.endpoints.get(who, ("", bytes(32)))

    @rule(caller=providers)
    def remove_provider(self, caller: LocalAccount) -> None:
        self._remove_provider(caller.address)

    @rule(caller=providers, model=models, leaves=st.booleans())
    def sell(self, caller: LocalAccount, model: Model, leaves: bool) -> None:
        """All that takes an offer; a provider that leaves and comes back starts without any."""
        self.publish_model(caller, model, 0, 0)
        self.set_provider(caller, 1)
        for offer in OFFERS:
            self.set_offer(caller, model, offer)
        if leaves:
            self._remove_provider(caller.address)
            self.set_provider(caller, 20)
        self.read_registry(caller, model)

    def _remove_provider(self, who: str) -> None:
        self.pair.both(lambda: self.model.remove_provider(who), lambda: self.registry.removeProvider(sender=who))

    @rule(caller=providers, model=models, name=st.sampled_from([0, 64, 65]), uri=st.sampled_from([0, 256, 257]))
    def publish_model(self, caller: LocalAccount, model: Model, name: int, uri: int) -> None:
        def expect() -> None:
            require(name <= 64, "TextTooLong", length=name, limit=64)
            require(uri <= 256, "TextTooLong", length=uri, limit=256)
            require(model.model_id not in self.model.published, "ModelAlreadyPublished", modelId=model.model_id)
            self.model.published.add(model.model_id)

        arguments = (model.values(), "n" * name, "u" * uri)
        self.pair.both(expect, lambda: self.registry.publishModel(*arguments, sender=caller.address))

    @rule(caller=providers, model=models, offer=offers)
    def set_offer(self, caller: LocalAccount, model: Model, offer: tuple[Any, ...]) -> None:
        who, identity = caller.address, model.model_id

        self.pair.both(
            lambda: self.model.set_offer(who, identity, offer),
            lambda: self.registry.setOffer(identity, offer, sender=who),
        )

    @rule(caller=providers, model=models)
    def remove_offer(self, caller: LocalAccount, model: Model) -> None:
        who, identity = caller.address, model.model_id

        self.pair.both(
            lambda: self.model.remove_offer(who, identity), lambda: self.registry.removeOffer(identity, sender=who)
        )

    @rule(caller=st.sampled_from(PROVIDERS), model=models)
    def prune(self, caller: LocalAccount, model: Model) -> None:
        self._prune(caller.address, model.model_id)

    def _prune(self, who: str, identity: bytes) -> None:
        self.pair.both(
            lambda: self.model.prune(identity, who),
            lambda: self.registry.prune(identity, who, sender=STRANGER.address),
        )

    @rule(caller=st.sampled_from(PROVIDERS), rests=st.booleans(), comes_back=st.booleans())
    def leave_the_list(self, caller: LocalAccount, rests: bool, comes_back: bool) -> None:
        """A provider stops being drawn, is pruned where its place has rested, and may come back."""
        who = caller.address
        if rests:
            self.pair.mine(257)
        self.remove_offer(caller, DRAWN_MODEL)
        self._prune(who, DRAWN_MODEL.model_id)
        self._prune(who, DRAWN_MODEL.model_id)
        if comes_back:
            self.set_provider(caller, 20)
            self.set_offer(caller, DRAWN_MODEL, drawable(self.pair.world))

    @rule(model=models, caller=st.sampled_from([STRANGER, *PROVIDERS]), cap=st.sampled_from([0, 15]))
    def offer_without_a_stake(self, model: Model, caller: LocalAccount, cap: int) -> None:
        self.set_offer(caller, model, drawable(self.pair.world))
        self.set_provider(caller, 20)
        self.set_offer(caller, model, drawable(self.pair.world))
        deploy = partial(self.pair.world.deploy, "Registry", self.pair.world.vault.address, cap)
        self.pair.refuses("StakeCapTooSmall", deploy, cap=cap, minimum=16)

    @rule(caller=providers, model=models)
    def read_registry(self, caller: LocalAccount, model: Model) -> None:
        who, identity = caller.address, model.model_id
        assert tuple(self.registry.offers(who, identity).values()) == self.model.offers.get((who, identity), NO_OFFER)
        assert (self.registry.vault(), self.registry.drawStakeCap()) == (self.pair.world.vault.address, STAKE_CAP)
        assert (self.registry.DRAW_TRIES(), self.registry.LIST_REST()) == (64, LIST_REST)
        assert (self.registry.MAX_ENDPOINT(), self.registry.MAX_NAME(), self.registry.MAX_URI()) == (256, 64, 256)

        def expect() -> None:
            require(identity in self.model.published, "UnknownModel", modelId=identity)

        def read() -> None:
            assert tuple(self.registry.models(identity).values()) == model.values()

        self.pair.both(expect, read)
