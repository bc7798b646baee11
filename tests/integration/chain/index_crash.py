"""An index that dies by SIGKILL in the middle of its first synchronisation; arguments: RPC URL, manifest, the
database's URL, point."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import market.index
from market.chain import Chain
from market.deployment import Deployment
from market.index import Index

POINTS = ("written", "committed")
"""written: the rows of a batch are in a transaction that is still open; committed: they stand, more is to be read."""
BATCH = 3
"""Blocks that are read at once, so that a short chain takes many."""
AT = 2
"""The batch in which it dies, from 1."""


class FatalIndex(Index):
    batches = 0

    def _apply(self, *what: Sequence[Any]) -> bool:
        self.batches += 1
        done = super()._apply(*what)
        if self.batches == AT:
            os.kill(os.getpid(), signal.SIGKILL)  # that of the other point has died by now
        return done


def main(rpc_url: str, manifest: Path, database: str, point: str) -> None:
    index = FatalIndex(database, Chain(rpc_url), Deployment.load(manifest))
    index._follower._blocks_per_poll = BATCH
    record = market.index.record

    def written(*what: Any) -> None:
        record(*what)
        if (point, index.batches) == ("written", AT):
            os.kill(os.getpid(), signal.SIGKILL)

    market.index.record = written  # type: ignore[attr-defined]
    index.sync()


if __name__ == "__main__":
    url, where, store, chosen = sys.argv[1:]
    assert chosen in POINTS
    main(url, Path(where), store, chosen)
