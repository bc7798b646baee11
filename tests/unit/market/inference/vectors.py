"""tests/vectors/numerics.json: worked examples for whoever writes another engine from docs/numerics.md.

`python -m tests.unit.market.inference.vectors` writes the file from the oracle (unbounded integers); the test reads it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from market.inference import reference
from market.models import tables
from market.models.tiny import write_tiny_pack
from tests.unit.market.inference import oracle

FILE = Path(__file__).parents[3] / "vectors" / "numerics.json"
TINY_PROMPT = [1, 70, 80, 287, 0]


def cases() -> dict[str, Any]:
    """Every example, from the oracle; ``tiny`` from the reference engine."""
    high, low = tables.exp2(8).tolist(), tables.exp2(16).tolist()
    cos, sin = (table.tolist() for table in tables.rope(300, 8, 10000.0))
    rows = [
        [0, 0, 0, 0],
        [1, -1, 0, 2],
        [65536, -32768, 3, 99999],
        [-(2**21), 2**22, 5, 7],
        [2**39, -(2**51), 2**30, 1],
    ]
    gain, epsilon = [4096, -2048, 131072, 1], 42949
    weight, multiplier, exponent = [[127, -127, 1, 0], [-3, 5, 127, 127]], [2**24 - 1, 8388608], 40
    quantised = [oracle.quantise(row) for row in rows]
    head = [32768, -5, 7, 2**30, -65536, 1, 0, -(2**30)]
    query, keys = [300, -7, 32767, 0], [[5, 6, 7, 8], [32767, 0, -32767, 1], [-300, 7, 32767, 0]]
    values = [[1000, -1000, 32767, 0], [-32767, 2, 5, 9], [4, 4, -4, -4]]
    silu_inputs = [0, 1, -1, 65536, -65536, 2**25, -(2**25), 2**33 - 1, 1 - 2**33]
    distances = [0, 1, 255, 256, 65535, 65536, 1966080, 2031615, 2031616, 2**41]
    multiplier_of_4 = tables.score_multiplier(4)
    return {
        "shift_round": [[x, s, oracle.shift_round(x, s)] for x in (-5, -4, -1, 0, 1, 3, 2**52) for s in (-2, 0, 1, 3)],
        "exp2_negative": [[d, oracle.exp2_negative(d, high, low)] for d in distances],
        "silu": [[x, oracle.silu(x, high, low)] for x in silu_inputs],
        "normalise": {
            "gain": gain,
            "epsilon": epsilon,
            "rows": [[row, oracle.normalise(row, gain, epsilon)] for row in rows],
        },
        "quantise": [[row, *oracle.quantise(row)] for row in rows],
        "linear": {
            "weight": weight,
            "multiplier": multiplier,
            "exponent": exponent,
            "rows": [[q, s, oracle.linear(q, s, weight, multiplier, exponent)] for q, s in quantised],
        },
        "rotate": [[head, p, oracle.rotate(head, cos[p], sin[p])] for p in (0, 1, 299)],
        "to_cache": [[z, f, oracle.to_cache(z, f)] for z in (-(2**40), -65536, -1, 0, 3, 2**21) for f in (0, 9, 15)],
        "attend": {
            "query": query,
            "keys": keys,
            "values": values,
            "fraction_bits": [10, 9, 12],
            "multiplier": multiplier_of_4,
            "result": oracle.attend(query, keys, values, (10, 9, 12), multiplier_of_4, high, low),
        },
        "tables": {
            name: _digest(table) for name, table in (("exp2_high", high), ("exp2_low", low), ("cos", cos), ("sin", sin))
        },
        "tiny": _tiny(),
    }


def _tiny() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        pack = write_tiny_pack(Path(folder) / "pack")
        logits = reference.forward(pack.model, TINY_PROMPT)
        return {
            "model_id": "0x" + pack.model_id.hex(),
            "roots": pack.roots.to_json(),
            "prompt": TINY_PROMPT,
            "last_logits": logits[-1].tolist(),
            "logits_sha256": hashlib.sha256(logits.astype("<i8").tobytes()).hexdigest(),
            "output": reference.greedy(pack.model, TINY_PROMPT, 16, []),
        }


def _digest(table: object) -> str:
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


if __name__ == "__main__":
    FILE.write_text(json.dumps(cases(), indent=None, separators=(",", ":")).replace('],"', '],\n"') + "\n")
