"""One chain for all of the provider's integration tests; agents per test or per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.provider.market import LocalAgent, Market


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = Market(tmp_path_factory.mktemp("market"))
    yield market
    market.close()


@pytest.fixture(scope="session")
def agents(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalAgent]]:
    """Three honest agents."""
    agents = [LocalAgent(*market.provider(tmp_path_factory.mktemp(f"p{index}"))) for index in range(3)]
    yield agents
    for agent in agents:
        agent.stop()


@pytest.fixture
def agent(agents: list[LocalAgent]) -> LocalAgent:
    """The first of them."""
    return agents[0]
