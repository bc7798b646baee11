"""kill -9 of an index in the middle of a synchronisation: the next one goes on from there and equals a fresh index."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.chain.index_crash import AT, BATCH, POINTS
from tests.integration.chain.test_index import assert_fresh, index
from tests.integration.chain.world import PROVIDERS, World


@pytest.mark.parametrize("point", POINTS)
def test_index_killed_in_the_middle_goes_on_from_the_last_whole_batch(
    world: World, database: str, tmp_path: Path, point: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("crash_point", f"index {point}")
    world.publish()
    for provider in PROVIDERS:
        world.open_provider(provider)
    manifest = tmp_path / "deployment.json"
    world.deployment.save(manifest)
    command = [sys.executable, "-m", "tests.integration.chain.index_crash", world.anvil.rpc_url, str(manifest)]
    done = subprocess.run([*command, database, point], timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr

    with index(world, database) as found:
        batches = AT if point == "committed" else AT - 1
        left_at = found._store.load()[-1].number
        assert left_at == world.deployment.block + batches * BATCH - 1
        assert left_at < world.chain.head().number
        assert found.sync() > 0
        assert_fresh(world, found)
        assert found.sync() == 0
