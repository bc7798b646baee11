"""Registry: every function."""

from __future__ import annotations

from typing import Any

import pytest

from market.hashing import keccak256
from market.types import ZERO_ADDRESS, Model
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.world import REPLICAS, STRANGER, World

P, Q = REPLICAS[0].address, REPLICAS[1].address
URL = "https://provider.example:8443"
LABELS = keccak256(b"eu")
MODEL = Model(*(keccak256(bytes([i])) for i in range(5)))
UNKNOWN = keccak256(b"unknown")


def offer(world: World, **changes: Any) -> tuple[Any, ...]:
    values = {
        "token": world.token.address,
        "baseFee": 1,
        "pricePerMInput": 2,
        "pricePerMOutput": 3,
        "maxInputTokens": 4,
        "maxOutputTokens": 5,
        "modes": 0b11,
        "maxBond": 0,
    }
    return tuple((values | changes).values())


def listed(world: World) -> bytes:
    """The provider is announced and the model published."""
    world.registry.setProvider(URL, LABELS, sender=P)
    identity: bytes = world.registry.publishModel(MODEL.values(), "tiny", "ipfs://x", sender=STRANGER.address)
    return identity


def test_set_provider_announces_and_changes(world: World) -> None:
    world.registry.setProvider(URL, LABELS, sender=P)
    (event,) = world.logs("ProviderSet")
    assert event.values == {"provider": P, "endpoint": URL, "labels": LABELS}
    assert world.registry.providers(P) == (URL, LABELS)
    world.registry.setProvider("http://other", bytes(32), sender=P)
    assert world.registry.providers(P) == ("http://other", bytes(32))


@pytest.mark.parametrize("length", [0, 257])
def test_set_provider_with_a_bad_length_reverts(world: World, length: int) -> None:
    with reverts("EndpointLength", length=length, limit=256):
        world.registry.setProvider("x" * length, LABELS, sender=P)
    world.registry.setProvider("x" * 256, LABELS, sender=P)


def test_remove_provider_ends_its_offers_for_good(world: World) -> None:
    model = listed(world)
    world.registry.setOffer(model, offer(world), sender=P)
    world.registry.removeProvider(sender=P)
    assert [event.values for event in world.logs("ProviderRemoved")] == [{"provider": P}]
    assert world.registry.providers(P) == ("", bytes(32))
    assert world.registry.offers(P, model)["modes"] == 0
    world.registry.setProvider(URL, LABELS, sender=P)
    assert world.registry.offers(P, model)["modes"] == 0
    with reverts("UnknownOffer", provider=P, modelId=model):
        world.registry.removeOffer(model, sender=P)


def test_remove_provider_that_is_none_reverts(world: World) -> None:
    with reverts("UnknownProvider", provider=Q):
        world.registry.removeProvider(sender=Q)


def test_publish_model_names_it_by_its_hash(world: World) -> None:
    model = listed(world)
    (event,) = world.logs("ModelPublished")
    assert model == MODEL.model_id
    assert (event.values["modelId"], event.values["publisher"]) == (model, STRANGER.address)
    assert (event.values["name"], event.values["uri"]) == ("tiny", "ipfs://x")
    assert tuple(event.values["roots"].values()) == tuple(world.registry.models(model).values()) == MODEL.values()


def test_publish_model_twice_reverts(world: World) -> None:
    model = listed(world)
    with reverts("ModelAlreadyPublished", modelId=model):
        world.registry.publishModel(MODEL.values(), "other", "", sender=P)


@pytest.mark.parametrize(("name", "uri", "length", "limit"), [(65, 0, 65, 64), (64, 257, 257, 256)])
def test_publish_model_with_long_text_reverts(world: World, name: int, uri: int, length: int, limit: int) -> None:
    with reverts("TextTooLong", length=length, limit=limit):
        world.registry.publishModel(MODEL.values(), "n" * name, "u" * uri, sender=P)


def test_publish_model_takes_text_up_to_its_limits(world: World) -> None:
    world.registry.publishModel(MODEL.values(), "n" * 64, "u" * 256, sender=P)
    assert (world.registry.MAX_ENDPOINT(), world.registry.MAX_NAME(), world.registry.MAX_URI()) == (256, 64, 256)


def test_models_of_an_unknown_id_reverts(world: World) -> None:
    with reverts("UnknownModel", modelId=UNKNOWN):
        world.registry.models(UNKNOWN)


def test_set_offer_is_read_back(world: World) -> None:
    model = listed(world)
    world.registry.setOffer(model, offer(world), sender=P)
    (event,) = world.logs("OfferSet")
    assert (event.values["provider"], event.values["modelId"]) == (P, model)
    assert tuple(event.values["offer"].values()) == tuple(world.registry.offers(P, model).values()) == offer(world)
    assert world.registry.offers(Q, model)["modes"] == 0


def test_set_offer_by_no_provider_reverts(world: World) -> None:
    model = listed(world)
    with reverts("UnknownProvider", provider=Q):
        world.registry.setOffer(model, offer(world), sender=Q)


def test_set_offer_of_an_unknown_model_reverts(world: World) -> None:
    listed(world)
    with reverts("UnknownModel", modelId=UNKNOWN):
        world.registry.setOffer(UNKNOWN, offer(world), sender=P)


@pytest.mark.parametrize(
    ("field", "value"),
    [("token", ZERO_ADDRESS), ("maxInputTokens", 0), ("maxOutputTokens", 0), ("modes", 0), ("modes", 16)],
)
def test_set_offer_that_nobody_could_buy_reverts(world: World, field: str, value: Any) -> None:
    model = listed(world)
    with reverts("BadOffer", field=field.encode().ljust(32, b"\0")):
        world.registry.setOffer(model, offer(world, **{field: value}), sender=P)


def test_remove_offer_removes_only_the_callers(world: World) -> None:
    model = listed(world)
    world.registry.setProvider(URL, LABELS, sender=Q)
    for provider in (P, Q):
        world.registry.setOffer(model, offer(world), sender=provider)
    world.registry.removeOffer(model, sender=P)
    assert [event.values for event in world.logs("OfferRemoved")] == [{"provider": P, "modelId": model}]
    assert world.registry.offers(P, model)["modes"] == 0
    assert world.registry.offers(Q, model)["modes"] == 3
    with reverts("UnknownOffer", provider=P, modelId=model):
        world.registry.removeOffer(model, sender=P)
