"""What it costs a provider, while it serves, that its answers can be disputed.

The difference between an agent with disputes and one without, as long as nobody disputes anything, is one step of its
``Responder`` after each look at the chain: once a block, or every ``poll_seconds`` (``provider.agent``). Nothing of a
trace is computed or kept. A step takes milliseconds of a second, less than two runs of one inference differ by. So a
step is timed where it can be seen: beside a piece of inference that lasts little longer than itself, against the same
piece without it, by turns, many times. What it adds there, divided by the seconds between two of them, is what it adds
to inference that never pauses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn

from bench.timing import Took, took
from client.marketplace import Marketplace
from market.dispute_contracts import Disputes
from market.disputes import DisputeBook
from market.inference.engine import Engine
from market.models.pack import Pack
from market.verification.traces import Traces
from provider.config import Timing
from provider.disputes import Responder

PAIRS = 80
PIECE = 8  # tokens of a piece's prompt, and of its output


@dataclass(frozen=True)
class Look:
    """What one look adds to inference (seconds), and what looks at their usual distance multiply it by."""

    added: Took
    overhead: Took
    pairs: int


def look(place: Marketplace, pack: Pack, engine: Engine, ids: list[int]) -> Look:
    """Measures with a responder like an agent's, on a chain with disputes that are over; every look finds a new block.
    The engine computes on one thread: processor time is then no more than it and the look need.
    """
    chain, deployment = place.chain, place.deployment
    responder = Responder(
        DisputeBook(chain, deployment.disputes, start_block=deployment.block),
        Disputes(chain, deployment.disputes),
        Traces([pack]),
        _refuse,
        now=lambda: int(time.time()),
        seen=lambda: 0,
    )
    responder.step()
    added: list[Took] = []
    with ThreadPoolExecutor(1) as pool:

        def piece(beside: Callable[[], object]) -> Took:
            chain.rpc("evm_mine")
            cpu = time.process_time()
            future = pool.submit(beside)
            wall = took(lambda: engine.generate(ids[:PIECE], PIECE, ())).wall
            future.result()  # what the look needs after the piece is over counts, too
            return Took(wall, time.process_time() - cpu)

        for turn in range(PAIRS):
            if turn % 2:
                without, with_it = piece(_nothing), piece(responder.step)
            else:
                with_it, without = piece(responder.step), piece(_nothing)
            added.append(with_it.minus(without))
    each, distance = Took.median(added), Timing().poll_seconds
    return Look(each, Took(1 + each.wall / distance, 1 + each.cpu / distance), PAIRS)


def _nothing() -> None:
    """The other thread's part of a piece without a look."""


def _refuse(*_: object) -> NoReturn:
    raise AssertionError("there is no dispute to answer")
