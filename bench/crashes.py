"""kill -9 at every named point: which tests do it, and how many points they tried and lost."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

from market.transactions import CHECKPOINTS
from tests.integration.chain.index_crash import POINTS as INDEX_POINTS
from tests.integration.client.crashing import ALL as CLIENT_POINTS
from tests.integration.provider.crashing import ALL as AGENT_POINTS

ROOT = Path(__file__).resolve().parent.parent
AGENT, CHAIN, CLIENT = "tests/integration/provider", "tests/integration/chain", "tests/integration/client"
TESTS = (
    f"{AGENT}/test_crash.py",
    f"{AGENT}/test_crash_afterwards.py",
    f"{AGENT}/test_crash_journal.py",
    f"{AGENT}/test_drawn.py::test_agent_killed_around_the_draw_makes_it_once_and_does_its_job",
    f"{AGENT}/test_dispute_faults.py::test_agent_killed_in_a_dispute_gives_every_reply_once_and_closes_it",
    f"{CHAIN}/test_crashes.py::test_send_killed_at_a_checkpoint_happens_exactly_once",
    f"{CHAIN}/test_index_crash.py",
    f"{CHAIN}/test_deployer.py::test_deployment_killed_at_every_checkpoint_in_turn_makes_nothing_twice",
    f"{CLIENT}/test_crash.py",
    f"{CLIENT}/test_crash_drawn.py",
)
PROPERTY = "crash_point"
"""What each of these tests records (pytest's record_property): the points at which it kills, one each."""
NAMED = (
    *(f"agent {point}" for point in AGENT_POINTS),
    *(f"queue {point}" for point in CHECKPOINTS),
    *(f"index {point}" for point in INDEX_POINTS),
    *(f"client {point}" for point in CLIENT_POINTS),
)
"""All but those of a deployment, which has a few at each of its steps."""
DEPLOYMENT = "deployment "
"""How those begin."""


def tried() -> dict[str, bool]:
    """Kills at every point. Returns point → whether all was well afterwards.

    Raises:
        AssertionError: a named point was not tried.
    """
    with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "slow or not slow", "-o", "junit_family=xunit1"]
        done = subprocess.run(
            [*command, f"--junitxml={report}", *TESTS], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert report.exists(), done.stdout[-2000:]
        found = points(report.read_text(encoding="utf-8"))
    missing = [point for point in NAMED if point not in found]
    assert not missing, f"not tried: {missing}\n{done.stdout[-2000:]}"
    return found


def points(report: str) -> dict[str, bool]:
    """Of a JUnit report: point → whether its test passed. A test that recorded none and failed counts as a point."""
    found: dict[str, bool] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        well = case.find("failure") is None and case.find("error") is None
        recorded = [str(item.get("value")) for item in case.iter("property") if item.get("name") == PROPERTY]
        for point in recorded or ([] if well else [str(case.get("name"))]):
            found[point] = found.get(point, True) and well
    return found


def lost(found: Mapping[str, bool]) -> list[str]:
    """Points after which something was not as it should be."""
    return [point for point, well in found.items() if not well]
