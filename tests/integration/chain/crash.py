"""A sender that dies by SIGKILL at a named checkpoint; arguments: RPC URL, queue, token, checkpoint."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from market.anvil import development_accounts
from market.chain import Chain
from market.contracts import Token
from market.transaction_watch import Timing
from market.transactions import Transactions

SENDER = 5
KEY = "the one mint"
TIMING = Timing(poll_max=0.02, rebroadcast_after=0.2, replace_after=0.3, gap_after=0.2, watch_interval=0.05)
PATIENCE = 60.0
"""Seconds after which it ends by itself, so that a test that waits for it fails."""


def main(rpc_url: str, queue: str, token: str, point: str) -> None:
    def die_at(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    chain = Chain(rpc_url)
    account = development_accounts()[SENDER]
    transactions = Transactions(chain, account, Path(queue), timing=TIMING, checkpoint=die_at)
    transactions.send(Token(chain, token).mint(account.address, 1), key=KEY, timeout=PATIENCE)
    print("sent", flush=True)
    time.sleep(PATIENCE)  # the watcher goes on


if __name__ == "__main__":
    main(*sys.argv[1:])
