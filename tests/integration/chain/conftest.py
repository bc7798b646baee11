"""Real chains for the chain layer's tests: anvil starts in 0.2 s, so a test that bends time gets one of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from market.anvil import Anvil
from market.chain import Chain
from tests.integration.chain.world import CLIENT, PROVIDERS, World, build
from tests.postgres import cluster
from tests.rpc_proxy import FaultProxy


@pytest.fixture
def anvil() -> Iterator[Anvil]:
    with Anvil.start() as running:
        yield running


@pytest.fixture
def chain(anvil: Anvil) -> Chain:
    return Chain(anvil.rpc_url, expected_chain_id=anvil.chain_id)


@pytest.fixture
def world(anvil: Anvil, tmp_path: Path) -> World:
    """A fresh deployment on a chain of its own."""
    return build(anvil, tmp_path)


@pytest.fixture
def proxy(anvil: Anvil) -> Iterator[FaultProxy]:
    with FaultProxy(anvil.rpc_url) as running:
        yield running


@pytest.fixture(scope="session")
def calm_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One deployment for tests that only add to it: a funded client, three staked providers, a model."""
    with Anvil.start() as running:
        world = build(running, tmp_path_factory.mktemp("calm"))
        world.publish()
        world.deposit(CLIENT)
        for index in PROVIDERS:
            world.open_provider(index)
        yield world


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an index that nobody used yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'index.sqlite'}"
    url: str = request.getfixturevalue("postgres")
    name = f"test_{os.urandom(6).hex()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return url.rpartition("/")[0] + "/" + name
