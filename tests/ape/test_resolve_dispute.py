"""`ape run resolve_dispute` against a provider that lies and stands by it."""

from __future__ import annotations

import sys
from pathlib import Path

from assay.demo import connect
from assay.network import CLIENT, LocalNetwork, NetworkPlan
from market.chain import Chain
from market.contracts import Jobs
from market.deployment import Deployment
from market.types import Mode
from market.views import BondState
from provider.config import Terms
from tests.ape.command import run_ape

ADVERSARIES = Path(__file__).resolve().parent.parent / "adversaries.py"


def test_resolve_dispute_slashes_a_liar_with_a_test_account(tiny_pack: Path, tmp_path: Path) -> None:
    plan = NetworkPlan(
        directory=tmp_path / "network",
        packs=(tiny_pack,),
        providers=1,
        terms=Terms(bond=20_000_000),
        substitutes={0: (sys.executable, str(ADVERSARIES), "stubborn")},
    )
    with LocalNetwork(plan) as network:
        info = network.start()
        jobs = Jobs(Chain(info.rpc_url), Deployment.load(Path(info.deployment)).jobs)
        with connect(network, info) as client:
            job_id = client.run("hello", max_output_tokens=4, mode=Mode.OPTIMISTIC, replicas=1, quorum=1).job_id
        run = run_ape(
            tmp_path / "ape", "run", "resolve_dispute", "0x" + job_id.hex(), "--pack", str(tiny_pack),
            "--network", "ethereum:local:foundry", "--account", f"TEST::{CLIENT}", "--manifest", info.deployment,
            host=info.rpc_url,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        assert "GUILTY" in run.stdout
        assert "prove" in run.stdout
        assert jobs.replicas(job_id)[0].bond_state is BondState.SLASHED
