"""The registry beside a dictionary."""

from __future__ import annotations

from typing import Any

from eth_account.signers.local import LocalAccount
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from market.hashing import keccak256
from market.types import ZERO_ADDRESS, Model
from tests.stateful.ledger import require
from tests.stateful.model import word
from tests.stateful.pair import PROVIDERS, Pair

MODELS = tuple(Model(*(keccak256(bytes([i, j])) for j in range(5))) for i in range(2))
NO_OFFER = (ZERO_ADDRESS, 0, 0, 0, 0, 0, 0)
providers = st.sampled_from(PROVIDERS[:2])
models = st.sampled_from(MODELS)
GOOD_OFFER = (PROVIDERS[0].address, 1, 2, 3, 4, 5, 0b11)
OFFERS = (
    GOOD_OFFER,
    (ZERO_ADDRESS, 1, 2, 3, 4, 5, 3),
    (*GOOD_OFFER[:4], 0, 5, 3),
    (*GOOD_OFFER[:5], 0, 3),
    (*GOOD_OFFER[:6], 0),
    (*GOOD_OFFER[:6], 15),
    (*GOOD_OFFER[:6], 16),
)
offers = st.sampled_from(OFFERS)


class RegistryRules(RuleBasedStateMachine):
    """Rules about providers, models and offers."""

    pair: Pair

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: dict[str, tuple[str, bytes]] = {}
        self.published: set[bytes] = set()
        self.offers: dict[tuple[str, bytes], tuple[Any, ...]] = {}

    @property
    def registry(self) -> Any:
        return self.pair.world.registry

    def _is_provider(self, caller: str) -> None:
        require(caller in self.endpoints, "UnknownProvider", provider=caller)

    @rule(caller=providers, length=st.sampled_from([0, 1, 20, 256, 257]))
    def set_provider(self, caller: LocalAccount, length: int) -> None:
        who, value = caller.address, ("h" * length, keccak256(bytes([length % 256])))

        def expect() -> None:
            require(0 < length <= 256, "EndpointLength", length=length, limit=256)
            self.endpoints[who] = value

        self.pair.both(expect, lambda: self.registry.setProvider(*value, sender=who))
        assert self.registry.providers(who) == self.endpoints.get(who, ("", bytes(32)))

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

        def expect() -> None:
            self._is_provider(who)
            del self.endpoints[who]
            self.offers = {key: offer for key, offer in self.offers.items() if key[0] != who}

        self.pair.both(expect, lambda: self.registry.removeProvider(sender=who))

    @rule(caller=providers, model=models, name=st.sampled_from([0, 64, 65]), uri=st.sampled_from([0, 256, 257]))
    def publish_model(self, caller: LocalAccount, model: Model, name: int, uri: int) -> None:
        def expect() -> None:
            require(name <= 64, "TextTooLong", length=name, limit=64)
            require(uri <= 256, "TextTooLong", length=uri, limit=256)
            require(model.model_id not in self.published, "ModelAlreadyPublished", modelId=model.model_id)
            self.published.add(model.model_id)

        arguments = (model.values(), "n" * name, "u" * uri)
        self.pair.both(expect, lambda: self.registry.publishModel(*arguments, sender=caller.address))

    @rule(caller=providers, model=models, offer=offers)
    def set_offer(self, caller: LocalAccount, model: Model, offer: tuple[Any, ...]) -> None:
        who, identity = caller.address, model.model_id

        def expect() -> None:
            self._is_provider(who)
            require(identity in self.published, "UnknownModel", modelId=identity)
            require(offer[0] != ZERO_ADDRESS, "BadOffer", field=word("token"))
            require(offer[4] > 0, "BadOffer", field=word("maxInputTokens"))
            require(offer[5] > 0, "BadOffer", field=word("maxOutputTokens"))
            require(0 < offer[6] < 16, "BadOffer", field=word("modes"))
            self.offers[who, identity] = offer

        self.pair.both(expect, lambda: self.registry.setOffer(identity, offer, sender=who))

    @rule(caller=providers, model=models)
    def remove_offer(self, caller: LocalAccount, model: Model) -> None:
        who, identity = caller.address, model.model_id

        def expect() -> None:
            require((who, identity) in self.offers, "UnknownOffer", provider=who, modelId=identity)
            del self.offers[who, identity]

        self.pair.both(expect, lambda: self.registry.removeOffer(identity, sender=who))

    @rule(caller=providers, model=models)
    def read_registry(self, caller: LocalAccount, model: Model) -> None:
        who, identity = caller.address, model.model_id
        assert tuple(self.registry.offers(who, identity).values()) == self.offers.get((who, identity), NO_OFFER)
        assert (self.registry.MAX_ENDPOINT(), self.registry.MAX_NAME(), self.registry.MAX_URI()) == (256, 64, 256)

        def expect() -> None:
            require(identity in self.published, "UnknownModel", modelId=identity)

        def read() -> None:
            assert tuple(self.registry.models(identity).values()) == model.values()

        self.pair.both(expect, read)
