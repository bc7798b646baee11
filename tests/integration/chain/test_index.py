"""The local index: what the chain says, quickly, through reorgs and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import insert, select

from market.contracts import Registry
from market.errors import ChainError
from market.index import Index, UnknownModel
from market.index_tables import AccountRow, Base, OfferRow
from market.types import Model
from tests.integration.chain.world import CLIENT, DEPLOYER, MODEL, PROVIDERS, World

OTHER = Model(*[bytes([number]) * 32 for number in range(11, 16)])


@contextmanager
def index(world: World, url: str = "sqlite://") -> Iterator[Index]:
    opened = Index(url, world.chain, world.deployment)
    yield opened
    opened.close()


def contents(found: Index) -> object:
    models = list(found.models())
    return models, [list(found.offers(model.model_id)) for model in models]


def rows(found: Index) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table but the marks, which say how it was read."""
    with found._database.reader.connect() as connection:
        return {
            name: sorted(tuple(row) for row in connection.execute(select(table)))
            for name, table in Base.metadata.tables.items()
            if name != "marks"
        }


def assert_fresh(world: World, found: Index) -> None:
    with index(world) as fresh:
        fresh.sync()
        assert contents(found) == contents(fresh)
        assert rows(found) == rows(fresh)


def test_index_equals_what_the_contracts_say(calm_world: World) -> None:
    world = calm_world
    with index(world) as found:
        assert found.sync() > 0
        offers = found.offers(MODEL.model_id)
        assert {offer.provider for offer in offers} == {world.account(i).address for i in PROVIDERS}
        for offer in offers:
            provider = world.registry.provider(offer.provider)
            assert (offer.endpoint, offer.labels) == (provider.endpoint, provider.labels)
            assert offer.offer == world.registry.offer(offer.provider, MODEL.model_id)
            assert offer.stake == world.vault.staked(offer.provider)
        assert found.find_model("toy").roots == world.registry.model(MODEL.model_id)
        assert found.find_model(MODEL.model_id) == found.find_model("0x" + MODEL.model_id.hex())
        assert found.sync() == 0


def test_index_after_a_job_knows_records_and_stake(world: World) -> None:
    world.publish()
    world.deposit(CLIENT)
    for provider in PROVIDERS:
        world.open_provider(provider)
    with index(world) as found:
        found.sync()
        job = world.play(silent=[PROVIDERS[2]])
        found.sync()
        by_provider = {offer.provider: offer for offer in found.offers(MODEL.model_id)}
        records = [
            (by_provider[world.account(i).address].jobs_paid, by_provider[world.account(i).address].jobs_missed)
            for i in PROVIDERS
        ]
        assert records == [(1, 0), (1, 0), (0, 1)]
        for offer in by_provider.values():
            assert offer.stake == world.vault.staked(offer.provider)
        world.anvil.increase_time(world.jobs.dispute_window() + 1)
        world.send(CLIENT, world.jobs.release_bond(job, world.account(PROVIDERS[0]).address))
        found.sync()
        for offer in found.offers(MODEL.model_id):
            assert offer.stake == world.vault.staked(offer.provider)
        assert_fresh(world, found)


def test_index_follows_changes_and_removals(world: World) -> None:
    world.publish()
    first, second = PROVIDERS[0], PROVIDERS[1]
    world.open_provider(first)
    world.open_provider(second)
    with index(world) as found:
        found.sync()
        assert [offer.offer.base_fee for offer in found.offers(MODEL.model_id)] == [1000, 1000]
        world.send(first, world.registry.set_offer(MODEL.model_id, world.offer(base_fee=7)))
        world.send(second, world.registry.remove_offer(MODEL.model_id))
        found.sync()
        assert [offer.offer.base_fee for offer in found.offers(MODEL.model_id)] == [7]
        world.send(first, world.registry.remove_provider())
        found.sync()
        assert list(found.offers(MODEL.model_id)) == []
        world.send(first, world.registry.set_provider("http://back.example"))
        found.sync()
        assert list(found.offers(MODEL.model_id)) == []  # old offers ended with the removal, as on chain
        assert_fresh(world, found)


@pytest.mark.parametrize("depth", [1, 3, 9])
def test_index_after_a_reorg_equals_a_fresh_one(world: World, database: str, depth: int) -> None:
    with index(world, database) as found:
        world.publish()
        for provider in PROVIDERS:
            world.open_provider(provider)
            found.sync()
        world.anvil.reorg(depth)
        found.sync()
        assert_fresh(world, found)
        world.anvil.mine(2)
        found.sync()
        assert_fresh(world, found)


def test_index_resumes_from_its_file_without_reading_again(world: World, database: str) -> None:
    world.publish()
    with index(world, database) as found:
        assert found.sync() > 0
        before = contents(found)
    with index(world, database) as found:
        assert contents(found) == before
        assert found.sync() == 0


def test_index_shared_by_two_sees_what_either_read(world: World, database: str) -> None:
    with index(world, database) as one, index(world, database) as two:
        one.sync()
        two.sync()
        world.publish()
        assert one.sync() == 1
        assert two.sync() == 0
        assert contents(one) == contents(two)
        assert len(two.models()) == 1


def test_index_of_another_market_is_read_anew(world: World, database: str) -> None:
    from market.deployment import DeploymentParameters, deploy

    world.publish()
    with index(world, database) as found:
        found.sync()
        assert len(found.models()) == 1
    with world.as_(DEPLOYER) as transactions:
        other = deploy(world.chain, transactions, parameters=DeploymentParameters(token=world.token.address))
    found = Index(database, world.chain, other)
    found.sync()
    assert list(found.models()) == []
    found.close()


def test_index_in_memory_is_shared_by_threads(world: World) -> None:
    world.publish()
    with index(world) as found, ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: found.sync(), range(8))) > 0
        assert {len(models) for models in pool.map(lambda _: found.models(), range(8))} == {1}


def test_index_while_the_chain_is_dead_still_answers(world: World) -> None:
    world.publish()
    with index(world) as found:
        found.sync()
        world.anvil.stop()
        with pytest.raises(ChainError):
            found.sync()
        assert found.find_model("toy").model_id == MODEL.model_id


def test_model_that_nobody_published_is_told_with_those_there_are(calm_world: World) -> None:
    with index(calm_world) as found:
        found.sync()
        for wanted in ("nothing", "0x" + "00" * 32, "0x" + "zz" * 32, b"\0" * 32):
            with pytest.raises(UnknownModel, match="toy"):
                found.find_model(wanted)


def test_model_name_that_two_published_is_ambiguous(world: World) -> None:
    world.publish()
    registry: Registry = world.registry
    world.send(CLIENT, registry.publish_model(OTHER, "toy"))
    with index(world) as found:
        found.sync()
        with pytest.raises(UnknownModel) as ambiguous:
            found.find_model("toy")
        assert ambiguous.value.code == "AmbiguousModel"
        assert len(ambiguous.value.details["candidates"]) == 2
        assert found.find_model(OTHER.model_id).roots == OTHER


def test_lookup_among_five_thousand_offers_finds_each_models_own(world: World, database: str) -> None:
    models = [bytes([number]) * 32 for number in range(1, 101)]
    with index(world, database) as found:
        found.sync()
        _fill(found, models, offers_each=50, token=world.token.address)
        for _ in range(2):  # for the first time, from the database; then from memory
            for model in models:
                assert len(found.offers(model)) == 50


def _fill(found: Index, models: list[bytes], *, offers_each: int, token: str) -> None:
    providers = [f"0x{number:040x}" for number in range(offers_each)]
    account = {"endpoint": "http://x", "labels": bytes(32), "stake": 1 << 100, "jobs_paid": 0, "jobs_missed": 0}
    offer = {"token": token, "base_fee": 1 << 100, "price_per_m_input": 1, "price_per_m_output": 1}
    limits = {"max_input_tokens": (1 << 32) - 1, "max_output_tokens": 1, "modes": 3, "max_bond": 0}
    with found._database.writing() as connection:
        connection.execute(insert(AccountRow), [{"address": provider, **account} for provider in providers])
        rows = [
            {"model_id": model, "provider": provider, **offer, **limits} for model in models for provider in providers
        ]
        connection.execute(insert(OfferRow), rows)
