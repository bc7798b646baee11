"""How fast a new index reads a chain: events per second, from the first block to the head of a real anvil.

python -m bench.index_catch_up [DATABASE_URL]     prints the figure; SQLite in a temporary folder unless told otherwise
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from market.anvil import Anvil
from market.chain import Call
from market.config import index_url
from market.fees import GWEI
from market.index import Index
from tests.integration.chain.world import CLIENT, MODEL, PROVIDERS, World, build

EVENTS = 10_000
JOBS = 20
"""Whole jobs among them, with the widest events there are."""
BATCH = 500
OPTIONS = ("--gas-limit", "300000000", "--block-base-fee-per-gas", "1000000000")


def index_catch_up(url: str | None = None, events: int = EVENTS) -> float:
    """Events per second of the first `sync` of an index over at least `events` events of all kinds.

    Args:
        url: SQLAlchemy URL of a database that is empty; None: a SQLite file.
    """
    with tempfile.TemporaryDirectory() as folder, Anvil.start(options=OPTIONS) as anvil:
        world = build(anvil, Path(folder))
        _fill(world, events)
        found = Index(
            url or index_url(Path(folder), world.chain.chain_id, world.deployment.registry),
            world.chain,
            world.deployment,
        )
        started = time.perf_counter()
        taken = found.sync()
        seconds = time.perf_counter() - started
        found.close()
        assert taken >= events
        return taken / seconds


def _fill(world: World, events: int) -> None:
    world.publish()
    world.deposit(CLIENT)
    for provider in PROVIDERS:
        world.open_provider(provider)
    for _ in range(JOBS):
        world.play()
    registry, vault = world.registry, world.vault
    kinds = (
        lambda number: registry.set_offer(MODEL.model_id, world.offer(base_fee=number)),
        lambda number: vault.stake(number),
        lambda number: registry.set_provider(f"http://provider-{number}.example"),
        lambda number: vault.request_unstake(1 + number % 2),
    )
    calls = [(PROVIDERS[number % 3], kinds[number % 4](number + 1)) for number in range(events)]
    for start in range(0, len(calls), BATCH):
        _send(world, calls[start : start + BATCH])


def _send(world: World, calls: list[tuple[int, Call]]) -> None:
    """One block of many transactions, signed by anvil itself."""
    world.anvil.set_automine(False)
    nonces = {sender: count(world.chain.transaction_count(world.account(sender).address)) for sender in PROVIDERS}
    batch: list[dict[str, Any]] = [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "eth_sendTransaction",
            "params": [
                {
                    "from": world.account(sender).address,
                    "nonce": hex(next(nonces[sender])),  # a batch is taken in any order
                    "to": call.to,
                    "data": "0x" + call.data.hex(),
                    "gas": hex(300_000),
                    "maxFeePerGas": hex(100 * GWEI),
                }
            ],
        }
        for number, (sender, call) in enumerate(calls)
    ]
    answers = httpx.post(world.anvil.rpc_url, json=batch, timeout=120).json()
    refused = [answer["error"]["message"] for answer in answers if "error" in answer]
    assert not refused, refused[0]
    while int(world.anvil.rpc("txpool_status")["pending"], 16):
        world.anvil.mine()
    world.anvil.set_automine(True)


if __name__ == "__main__":
    rate = index_catch_up(sys.argv[1] if len(sys.argv) > 1 else None)
    print(f"{rate:,.0f} events per second")
