"""The gas that a challenger plans with, out of what was measured. `python -m tests.gas.plan` writes it anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from market import dispute_gas
from market.dispute_gas import Measured
from tests.gas import snapshot
from tests.gas.disputes import ANSWER, LONG_PROMPT, OPEN_LONG, PROMPT
from tests.gas.steps import LENGTHS, Cost, measure

PATH = Path(dispute_gas.__file__).with_suffix(".json")
TRANSACTION = 21_000


def plan(gas: Mapping[str, int], costs: Mapping[str, Mapping[str, Cost]]) -> Measured:
    """`gas`: the snapshot's; `costs`: of the steps; counted are those of the real model, for each length of a text."""
    ids, long = len(PROMPT) + len(ANSWER), len(LONG_PROMPT) + len(ANSWER)
    step = max(cost.gas for tokens in LENGTHS for cost in costs[f"{tokens} tokens"].values())
    return Measured(
        open=gas["dispute: open"],
        open_ids=ids,
        open_id=-(-(gas[OPEN_LONG] - gas["dispute: open"]) // (long - ids)),
        request=max(used for name, used in gas.items() if name.startswith("dispute: request")),
        # `missed` convicts without a step: the rest of a proof is the step
        proof=step + gas["dispute: missed, guilty"] - TRANSACTION,
    )


if __name__ == "__main__":
    found = plan(snapshot.read(), measure())
    PATH.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
