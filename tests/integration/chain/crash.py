"""A sender that dies by SIGKILL at a named checkpoint; arguments: RPC URL, queue, token, checkpoint."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from market.anvil import development_accounts
from market.chain import Chain
from market.contracts import Token
from market.transactions import Transactions

SENDER = 5
KEY = "the one mint"


def main(rpc_url: str, queue: str, token: str, point: str) -> None:
    def die_at(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    chain = Chain(rpc_url)
    account = development_accounts()[SENDER]
    transactions = Transactions(chain, account, Path(queue), checkpoint=die_at)
    transactions.send(Token(chain, token).mint(account.address, 1), key=KEY)


if __name__ == "__main__":
    main(*sys.argv[1:])
