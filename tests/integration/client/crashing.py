"""`python -m tests.integration.client.crashing ACTION POINT …`: a client that buys an answer, goes on with a job or
does something later about its job or money, and is killed on the way.

ACTION is one of ACTIONS, POINT one that it passes. More arguments: RPC URL, WebSocket URL, manifest, data folder, then
of one that buys the prompt and the addresses of providers (none: the chain draws), of another its job and a provider's
address.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import client.client
import client.conductor
import client.wallet
from assay.network import CLIENT
from client import Client
from client.following import Follow
from client.rfq import RfqPolicy
from client.store import FINAL, POSTED, PREPARED, JobRecord, JobStore
from client.watching import Step
from market.anvil import development_accounts
from market.contracts import Token
from market.errors import ChainError
from market.transactions import Transactions
from market.views import JobState, JobView

BEGINNING = ("unstored", "stored", "post-persisted", "post-broadcast", "post-mined", "posted")
"""unstored: nothing is on disk yet; stored: the record is, and nothing else; posted: the record says that the job is on
chain. The others are checkpoints of the transaction queue: the posting transaction is on disk, was handed out, is in a
block."""
ENDING = ("open", "settle-persisted", "settle-broadcast", "settle-mined", "settled", "answered")
"""open: the replicas are at work, and the client waits; settled: the job is, and the answer was not fetched; answered:
it was, and is not on disk."""
POINTS = (*BEGINNING, "delivered", *ENDING)
"""delivered: the record says who holds the prompt."""
DRAW = ("draw-persisted", "draw-broadcast", "draw-mined")
DRAWN_POINTS = (*BEGINNING, *DRAW, *ENDING)
APPROVAL_POINTS = ("approve-persisted", "approve-broadcast", "approve-mined")
"""Of a client that buys with a token that knows no permit: the vault's allowance is a transaction of its own."""
LATER_POINTS = ("cancel-persisted", "demandReveal-persisted", "withdraw-persisted")
"""The transaction that does it is on disk, and nowhere else."""
ALL = (*POINTS, *APPROVAL_POINTS, *LATER_POINTS, *(f"drawn {point}" for point in DRAWN_POINTS))
ACTIONS = ("run", "watch", "cancel", "demand", "withdraw")
WINDOW = 3_600
"""Seconds in which a draw and the commits after it must be made: long, so that no provider hurries to make the draw."""
TOKENS = 6

_point = ""


def die_at(name: str) -> None:
    if name == _point:
        os.kill(os.getpid(), signal.SIGKILL)


class FatalStore(JobStore):
    def put(self, record: JobRecord) -> None:
        die_at({PREPARED: "unstored", FINAL: "answered"}.get(record.state, ""))
        super().put(record)
        die_at({PREPARED: "stored", POSTED: "posted"}.get(record.state, ""))
        if record.acceptances:
            die_at("delivered")


class FatalTransactions(Transactions):
    """Passes `CALL-CHECKPOINT`, for instance draw-broadcast."""

    def __init__(self, *what: Any, **more: Any) -> None:
        super().__init__(*what, **more, checkpoint=self._reached)

    def _reached(self, name: str) -> None:
        (*_, newest) = self._queue.pending()  # a client sends one after the other
        die_at(f"{newest.call.label.rpartition('.')[2]}-{name}")


class FatalFollow(Follow):
    def _look(self, job_id: bytes) -> tuple[JobView, Step]:
        job, step = super()._look(job_id)
        if job.state.is_final:
            die_at("settled")
        elif job.state is not JobState.DRAWING:
            die_at("open")
        return job, step


def know_no_permit(*_: Any) -> bytes:
    raise ChainError("This token knows no permit.")


def main(
    action: str, rpc_url: str, ws_url: str, manifest: Path, data_dir: Path, what: str, providers: Sequence[str]
) -> None:
    client.client.JobStore = FatalStore  # type: ignore[attr-defined]
    client.conductor.Follow = FatalFollow  # type: ignore[attr-defined]
    client.wallet.Transactions = FatalTransactions  # type: ignore[attr-defined]
    if _point in APPROVAL_POINTS:
        Token.permit = know_no_permit  # type: ignore[assignment, method-assign]
    with Client.connect(
        rpc_url=rpc_url,
        ws_url=ws_url,
        deployment=manifest,
        data_dir=data_dir,
        account=development_accounts()[CLIENT],
        rfq=RfqPolicy(timeout=5.0, grace=2.0),
    ) as buyer:
        if action == "watch":
            buyer.watch(what)
        elif action == "cancel":
            buyer.cancel(what)
        elif action == "demand":
            buyer.demand(what, providers[0])
        elif action == "withdraw":
            buyer.withdraw()
        elif providers:
            buyer.run(what, allow=frozenset(providers), max_output_tokens=TOKENS)
        else:
            buyer.run(what, draw=True, commit_window=WINDOW, max_output_tokens=TOKENS)


if __name__ == "__main__":
    chosen, _point, rpc, ws, deployment, folder, text, *allowed = sys.argv[1:]
    assert chosen in ACTIONS
    main(chosen, rpc, ws, Path(deployment), Path(folder), text, allowed)
