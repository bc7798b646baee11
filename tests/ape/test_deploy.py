"""`ape run deploy` on a running anvil: its manifest is one that the rest of Assay accepts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from market.chain import Chain
from market.deployment import Contracts, Deployment, DeploymentParameters
from market.deployment_verify import verify
from market.networks import Networks
from tests.ape.command import run_ape
from tests.gas.anvil import anvil

DEFAULTS = DeploymentParameters()


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    with anvil() as url:
        yield url


def deploy(folder: Path, node: str, manifest: Path, *options: str) -> subprocess.CompletedProcess[str]:
    named = ("--network", "ethereum:local:foundry", "--account", "TEST::0", "--manifest", str(manifest))
    return run_ape(folder, "run", "deploy", *named, *options, host=node)


def test_deploy_writes_a_manifest_that_passes_the_check_of_every_other_command(tmp_path: Path, node: str) -> None:
    manifest = tmp_path / "deployment.json"
    run = deploy(tmp_path / "ape", node, manifest)
    assert run.returncode == 0, run.stdout + run.stderr
    chain, deployment = Chain(node), Deployment.load(manifest)
    deployment.check(chain)
    assert 0 < deployment.block <= chain.head().number
    assert [check.what for check in verify(chain, deployment, Networks()) if not check.ok] == []
    contracts = Contracts.of(chain, deployment)
    vault, jobs = contracts.vault, contracts.jobs
    assert vault.cap(deployment.token) == DEFAULTS.cap
    assert vault.unbonding_window() == DEFAULTS.unbonding_window
    assert jobs.dispute_window() == DEFAULTS.dispute_window
    assert jobs.arbiter() == deployment.disputes
    assert jobs.challenger_share_bps() == DEFAULTS.challenger_share_bps

    written = manifest.read_bytes()
    again = deploy(tmp_path / "ape", node, manifest)
    assert again.returncode == 2
    assert "nothing was sent" in again.stderr
    assert manifest.read_bytes() == written


def test_deploy_with_a_parameter_out_of_range_says_so_and_writes_nothing(tmp_path: Path, node: str) -> None:
    manifest = tmp_path / "deployment.json"
    run = deploy(tmp_path / "ape", node, manifest, "--challenger-share-bps", "9000")
    assert run.returncode == 1
    assert "9000 basis points is outside 1 … 3000" in run.stdout + run.stderr
    assert not manifest.exists()
