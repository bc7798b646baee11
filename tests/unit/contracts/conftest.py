"""One deployment for all tests of contracts; each test's changes are undone. Coverage is counted over all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.disputes import DisputeWorld, Game
from tests.unit.contracts.proofs import ProofWorld
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import World

HERE = Path(__file__).parent
COVERAGE_TEST = "test_coverage.py"


@pytest.fixture(scope="session")
def deployed() -> World:
    return World()


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    assert isinstance(deployed.chain, RevmChain)
    with deployed.chain.undone():
        yield deployed


@pytest.fixture(scope="session")
def judge_chain(deployed: World) -> RevmChain:
    """A chain for judges alone; what they do counts as covered."""
    return RevmChain(list(artefacts().values()), deployed.chain.coverage)


@pytest.fixture(scope="session")
def deployed_disputes(deployed: World) -> DisputeWorld:
    return DisputeWorld(chain=RevmChain(list(artefacts().values()), deployed.chain.coverage))


@pytest.fixture
def arena(deployed_disputes: DisputeWorld) -> Iterator[DisputeWorld]:
    """A market whose arbiter is the game."""
    assert isinstance(deployed_disputes.chain, RevmChain)
    with deployed_disputes.chain.undone():
        yield deployed_disputes


@pytest.fixture(scope="session")
def deployed_proofs(deployed: World) -> ProofWorld:
    return ProofWorld(chain=RevmChain(list(artefacts().values()), deployed.chain.coverage))


@pytest.fixture
def proving(deployed_proofs: ProofWorld) -> Iterator[ProofWorld]:
    """A market with proof jobs."""
    assert isinstance(deployed_proofs.chain, RevmChain)
    with deployed_proofs.chain.undone():
        yield deployed_proofs


@pytest.fixture
def game(arena: DisputeWorld) -> Game:
    """A receipt with a bond behind it; nobody has disputed it yet."""
    return Game(arena).session()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Runs the coverage test after all others of this folder, and only in a run that has all of them."""
    mine = [item for item in items if item.path.parent == HERE]
    last = [item for item in mine if item.path.name == COVERAGE_TEST]
    collected = {(item.path.name, item.originalname) for item in mine if isinstance(item, pytest.Function)}
    written = {
        (path.name, name)
        for path in HERE.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    rest = [item for item in items if item not in last]
    whole = written <= collected and "PYTEST_XDIST_WORKER" not in os.environ
    if last and not whole:
        config.hook.pytest_deselected(items=last)
    items[:] = rest + (last if whole else [])
