"""Whether accounts left a nonce out: what waits behind the hole, or what filled it, is still to be seen.

The difference of an account's pending and latest counts tells nothing: a node counts only up to the first hole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from market.chain import Chain

PATIENCE = 5.0
"""Seconds that a transaction may be on its way into a block; a queue fills its holes after ten (transaction_watch)."""


def holes(chain: Chain, accounts: Sequence[str], patience: float = PATIENCE) -> list[str]:
    """Signs of nonces that were left out, for people; none: the list is empty.

    A transaction that stays in the pool, in any account; and a filler: nothing, sent by one of `accounts` to itself.
    """
    until = time.monotonic() + patience
    while (waiting := _waiting(chain)) and time.monotonic() < until:
        time.sleep(0.05)
    return [*waiting, *_fillers(chain, {account.lower() for account in accounts})]


def _waiting(chain: Chain) -> list[str]:
    status = {kind: int(count, 16) for kind, count in chain.rpc("txpool_status").items()}
    return [f"{status[kind]} transactions are {kind}" for kind in ("pending", "queued") if status[kind]]


def _fillers(chain: Chain, accounts: set[str]) -> list[str]:
    found = []
    for number in range(chain.head().number + 1):
        for sent in chain.rpc("eth_getBlockByNumber", hex(number), True)["transactions"]:
            if sent["from"] in accounts and sent["to"] == sent["from"] and sent["input"] == "0x":
                found.append(f"nonce {int(sent['nonce'], 16)} of {sent['from']} was filled in block {number}")
    return found
