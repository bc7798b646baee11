"""A deployment that is killed (SIGKILL) at one checkpoint after another, each time the first at which no earlier run
died, until a run gets through. Arguments: RPC URL, manifest, names of checkpoints. Prints where it died, one a line.

Each run is a fork of this process, which itself only waits: it has imported everything and started no thread.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import web3  # noqa: F401 (imported once, here, not by every run)

from market.anvil import development_accounts
from market.chain import Chain
from market.deployer import Deployer
from market.deployment_steps import DeploymentParameters
from market.networks import Kind, Network
from market.transactions import Transactions

NETWORK = Network(
    name="staging", chain_id=424242, kind=Kind.TEST, coin="XYZ", block_time_ms=0, confirmations=0, finality=0
)
SENDER = 6
OUTSIDE = ("began", "saved")
"""Checkpoints that belong to no step."""


def deploy(rpc_url: str, manifest: Path, points: Sequence[str], met: Path) -> None:
    account = development_accounts()[SENDER]

    def die(point: str) -> None:
        name = point if point in OUTSIDE else f"{point} {len(deployer.done)}"
        earlier = met.read_text(encoding="utf-8").splitlines() if met.exists() else []
        if point in points and name not in earlier:
            met.write_text("\n".join([*earlier, name]), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)

    chain = Chain(rpc_url)
    deployer = Deployer(chain, NETWORK, DeploymentParameters(), account.address, manifest, checkpoint=die)
    if deployer.is_finished:
        deployer.tidy_up()
        return
    with Transactions(chain, account, manifest.with_name("queue.sqlite"), checkpoint=die) as transactions:
        deployer.run(transactions)


def main(rpc_url: str, manifest: Path, points: Sequence[str]) -> None:
    met = manifest.with_name("met")
    while True:
        child = os.fork()
        if child == 0:
            deploy(rpc_url, manifest, points, met)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        print(met.read_text(encoding="utf-8").splitlines()[-1], flush=True)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
