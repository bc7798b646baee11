"""Real chains for the chain layer's tests: anvil starts in 0.2 s, with a deployment too, so a test gets its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from market.anvil import Anvil
from market.chain import Chain
from market.deployment import Contracts, Deployment
from tests.integration.chain.world import CLIENT, PROVIDERS, World, build
from tests.postgres import cluster
from tests.rpc_proxy import FaultProxy


@dataclass(frozen=True)
class Deployed:
    """A chain with a deployment on it, written down."""

    state: Path
    deployment: Deployment


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """Deployed once: every test that wants a world of its own begins with it."""
    folder = tmp_path_factory.mktemp("deployed")
    state = folder / "chain.json"
    with Anvil.start(options=("--dump-state", str(state), "--preserve-historical-states")) as running:
        world = build(running, folder)
    return Deployed(state, world.deployment)


@pytest.fixture
def anvil(request: pytest.FixtureRequest) -> Iterator[Anvil]:
    """A fresh chain; with the deployment where the test has a world."""
    options: tuple[str, ...] = ()
    if "world" in request.fixturenames:
        options = ("--load-state", str(request.getfixturevalue("deployed").state), "--preserve-historical-states")
    with Anvil.start(options=options) as running:
        yield running


@pytest.fixture
def chain(anvil: Anvil) -> Chain:
    return Chain(anvil.rpc_url, expected_chain_id=anvil.chain_id)


@pytest.fixture
def world(anvil: Anvil, deployed: Deployed, tmp_path: Path) -> World:
    """A fresh deployment on a chain of its own."""
    chain = Chain(anvil.rpc_url, expected_chain_id=anvil.chain_id)
    return World(anvil, chain, deployed.deployment, Contracts.of(chain, deployed.deployment), tmp_path)


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
def postgres_cluster() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture
def postgres(postgres_cluster: str) -> str:
    """The URL of a database of the test's own: worlds have the same addresses, and so the same schema in a database."""
    name = f"test_{os.urandom(6).hex()}"
    with psycopg.connect(postgres_cluster, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return postgres_cluster.rpartition("/")[0] + "/" + name


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an index that nobody used yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'index.sqlite'}"
    url: str = request.getfixturevalue("postgres")
    return url
