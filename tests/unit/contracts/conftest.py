"""One deployment for all tests of contracts; each test's changes are undone. Coverage is counted over all of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.disputes import DisputeWorld, Game
from tests.unit.contracts.proofs import ProofWorld
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import World

HERE = Path(__file__).parent
COVERAGE_TEST = "test_coverage.py"
JUDGED = "judged"


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


@pytest.fixture
def judged(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Takes down how many accusations of a kind the EVM judged in a test; the run's end says how many in all."""
    return lambda kind, count: record_property(JUDGED, [kind, count])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == JUDGED:
                counts[value[0]] += value[1]
    if counts:
        terminalreporter.section("accusations judged in the EVM")
        for kind, count in sorted(counts.items()):
            terminalreporter.line(f"{kind:32}{count:>10,}")


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
