"""`python -m tests.integration.client.crashing POINT …`: a client that buys an answer or does something later about its
job or money, and is killed on the way.

POINT is one of ALL. More arguments: RPC URL, WebSocket URL, manifest, data folder, then of one that buys the prompt and
the addresses of providers, of another its job and a provider's address.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import client.wallet
from assay.network import CLIENT
from client import Client
from client.rfq import RfqPolicy
from client.store import PREPARED, JobRecord, JobStore
from market.anvil import development_accounts
from market.transactions import Transactions

POINTS = ("stored", "persisted", "broadcast", "mined", "posted")
"""stored: the record is on disk, and nothing else; posted: the record says that the job is on chain. The others are
checkpoints of the transaction queue: the posting transaction is on disk, was handed out, is in a block."""
LATER_POINTS = ("cancel-persisted", "demand-persisted", "withdraw-persisted")
"""The transaction that does it is on disk, and nowhere else."""
ALL = (*POINTS, *LATER_POINTS)


def die_at(wanted: str, name: str) -> None:
    if name == wanted:
        os.kill(os.getpid(), signal.SIGKILL)


class FatalStore(JobStore):
    point = ""

    def put(self, record: JobRecord) -> None:
        super().put(record)
        die_at(self.point, "stored" if record.state == PREPARED else record.state)


def main(
    point: str, rpc_url: str, ws_url: str, manifest: Path, data_dir: Path, what: str, providers: Sequence[str]
) -> None:
    action, _, at = point.rpartition("-")
    FatalStore.point = at
    client.client.JobStore = FatalStore  # type: ignore[attr-defined]
    client.wallet.Transactions = functools.partial(  # type: ignore[attr-defined]
        Transactions, checkpoint=functools.partial(die_at, at)
    )
    with Client.connect(
        rpc_url=rpc_url,
        ws_url=ws_url,
        deployment=manifest,
        data_dir=data_dir,
        account=development_accounts()[CLIENT],
        rfq=RfqPolicy(timeout=5.0, grace=2.0),
    ) as buyer:
        if action == "cancel":
            buyer.cancel(what)
        elif action == "demand":
            buyer.demand(what, providers[0])
        elif action == "withdraw":
            buyer.withdraw()
        else:
            buyer.run(what, allow=frozenset(providers), max_output_tokens=6)


if __name__ == "__main__":
    chosen, rpc, ws, deployment, folder, text, *allowed = sys.argv[1:]
    assert chosen in ALL
    main(chosen, rpc, ws, Path(deployment), Path(folder), text, allowed)
