"""`ape run post_job` on a local market with real providers."""

from __future__ import annotations

from pathlib import Path

from assay.network import CLIENT, LocalNetwork, NetworkPlan
from market.chain import Chain
from market.contracts import Jobs
from market.deployment import Deployment
from market.views import JobState
from tests.ape.command import run_ape


def test_post_job_buys_an_answer_with_a_test_account(tiny_pack: Path, tmp_path: Path) -> None:
    with LocalNetwork(NetworkPlan(directory=tmp_path / "network", packs=(tiny_pack,), providers=2)) as network:
        info = network.start()
        run = run_ape(
            tmp_path / "ape", "run", "post_job", "Once upon a time", "--replicas", "2", "--max-output-tokens", "4",
            "--network", "ethereum:local:foundry", "--account", f"TEST::{CLIENT}", "--manifest", info.deployment,
            host=info.rpc_url,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        jobs = Jobs(Chain(info.rpc_url), Deployment.load(Path(info.deployment)).jobs)
        client = network.anvil.accounts[CLIENT].address
        assert jobs.client_nonce(client) == 1
        job = jobs.job(jobs.job_id_of(client, 0))
        assert (job.state, job.replicas, job.max_output_tokens) == (JobState.SETTLED, 2, 4)
