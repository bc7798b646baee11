"""`ape run deploy` on a running anvil: its manifest is one that the rest of Assay accepts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from market.anvil import Anvil
from market.chain import Chain
from market.deployment import Contracts, Deployment, DeploymentParameters
from market.deployment_verify import verify
from market.keystore import save_account
from market.networks import Networks
from tests.ape.command import run_ape
from tests.gas.anvil import ANVIL, anvil

DEFAULTS = DeploymentParameters()
SEPOLIA = 11155111
PASSWORD = "correct horse battery"


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


@pytest.mark.slow
def test_deploy_on_a_second_chain_with_an_imported_key_asks_before_it_signs(tmp_path: Path) -> None:
    """A test network's chain id, ape's own provider for any node, a keystore of `assay keys`: nothing of ape's test
    accounts and nothing of ethereum:local."""
    manifest, keystore = tmp_path / "deployment.json", tmp_path / "ape" / "accounts" / "imported.json"
    keystore.parent.mkdir(parents=True)
    options = ("--block-time", "0.1")  # ape awaits blocks on top of each transaction there
    hurried = {"APE_ETHEREUM_SEPOLIA": '{"block_time": 1}'}  # and sleeps for half of the time that one takes
    with Anvil.start(chain_id=SEPOLIA, accounts=4, binary=ANVIL, options=options) as second:
        account = second.accounts[3]
        save_account(keystore, account, PASSWORD, light=True)
        network = ("--network", f"ethereum:sepolia:{second.rpc_url}", "--account", "imported")
        arguments = ("run", "deploy", *network, "--manifest", str(manifest))
        refused = run_ape(tmp_path / "ape", *arguments, typed="n\n" * 3, **hurried)
        chain = Chain(second.rpc_url)
        assert refused.returncode != 0
        assert (chain.transaction_count(account.address), manifest.exists()) == (0, False)
        # sign, with what password, and leave the key unlocked; then each transaction is asked about
        run = run_ape(tmp_path / "ape", *arguments, typed=f"y\n{PASSWORD}\n" + "y\n" * 100, **hurried)
        assert run.returncode == 0, run.stdout + run.stderr
        deployment = Deployment.load(manifest)
        assert (deployment.chain_id, chain.chain_id) == (SEPOLIA, SEPOLIA)
        assert [check.what for check in verify(chain, deployment, Networks()) if not check.ok] == []
        assert Contracts.of(chain, deployment).vault.guardian() == account.address


def test_deploy_with_a_parameter_out_of_range_says_so_and_writes_nothing(tmp_path: Path, node: str) -> None:
    manifest = tmp_path / "deployment.json"
    run = deploy(tmp_path / "ape", node, manifest, "--challenger-share-bps", "9000")
    assert run.returncode == 1
    assert "9000 basis points is outside 1 … 3000" in run.stdout + run.stderr
    assert not manifest.exists()
