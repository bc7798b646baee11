"""What the moves of a dispute take, for looking ahead: a watcher's budget, and what a person is told before the first.

The figures are measured (`python -m tests.gas.plan` writes dispute_gas.json; a test holds them against the contracts):
a 64-token answer to a 128-token prompt of a 135M-parameter model, the dearest proof of it, and what a token more costs
whoever opens. The gas of the very next move is never planned but asked of the chain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MARGIN = (115, 100)
"""Plans exceed what was measured: other models and longer texts have deeper trees and longer openings."""


REPLY = 100_000
"""What a reply in a dispute takes at most (the root's); the default fees are meant for half as much again."""


@dataclass(frozen=True)
class Measured:
    """Gas of one transaction each.

    Attributes:
        open: `dispute` about `open_ids` ids of prompt and output together; open_id: of each id more.
        request: the dearest on the way down.
        proof: `prove` with the dearest step, the slash included.
    """

    open: int
    open_ids: int
    open_id: int
    request: int
    proof: int


@cache
def measured() -> Measured:
    """What dispute_gas.json says."""
    return Measured(**json.loads(files("market").joinpath("dispute_gas.json").read_text(encoding="utf-8")))


def opening(ids: int) -> int:
    """Gas of opening a dispute about so many ids of prompt and output together, at most."""
    known = measured()
    return _more(known.open + max(ids - known.open_ids, 0) * known.open_id)


def moves(requests: int) -> int:
    """Gas of so many requests and the proof behind them, at most; 0 requests: of nothing."""
    return _more(requests * measured().request + measured().proof) if requests else 0


def _more(gas: int) -> int:
    return -(-gas * MARGIN[0] // MARGIN[1])
