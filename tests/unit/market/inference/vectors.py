"""tests/vectors/numerics.json: worked examples for whoever writes another engine from docs/numerics.md.

`python -m tests.unit.market.inference.vectors` writes the file from the oracle (unbounded integers); the test reads it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from market.inference import reference, reference_sampling
from market.inference.model import Int64Array, IntegerModel
from market.inference.sampling import Sampling
from market.models import tables
from market.models.tiny import write_tiny_pack
from tests.unit.market.inference import oracle

FILE = Path(__file__).parents[3] / "vectors" / "numerics.json"
TINY_PROMPT = [1, 70, 80, 287, 0]
SEED = hashlib.sha256(b"seed").digest()
LOGITS = [65536 * 3, 65536 * 5, -(2**40), 65536 * 5, 65536 * 4 + 1, 0, 65536 * 5 - 1, -70000, 2**17, 65536, 65536, 1]
SAMPLINGS = [  # temperatureQ16, topK, topPQ16
    (65536, 0, 65536),
    (45875, 0, 58982),
    (65536, 3, 65536),
    (65536, 2, 65536),
    (131072, 5, 52429),
    (1, 0, 65536),
    (2**32 - 1, 0, 65535),
    (65536, 0, 1),
    (2**20, 100, 65536),
    (0, 0, 65536),
]


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
        "sampling": _sampling(high, low),
        "log_probabilities": _log_probabilities(high, low),
        "tiny": _tiny(),
    }


def _sampling(high: list[int], low: list[int]) -> dict[str, Any]:
    """Logits with ties; every kind of filter; temperatures from the lowest to the highest."""
    seed, number = "0x" + SEED.hex(), oracle.draw(SEED, 7)
    hashes = [1, 3, 2**32 + 1, 2**63 - 1, 2**63 + 1, 2**64 - 3, 2**64 - 1]
    chosen = []
    for temperature, top_k, top_p in SAMPLINGS:
        ids = [oracle.pick(LOGITS, t, temperature, top_k, top_p, SEED, high, low) for t in range(24)]
        order = None if temperature == 0 else oracle.kept(LOGITS, temperature, top_k, top_p, high, low)
        chosen.append([temperature, top_k, top_p, order, ids])
    return {
        "seed": seed,
        "draws": [[t, hex(oracle.draw(SEED, t))] for t in (0, 1, 7, 2047, 2**32 - 1)],
        "token_hash": [[j, str(oracle.token_hash(number, j))] for j in (0, 1, 2, 49151, 2**32 - 2)],
        "minus_ln": [
            [str(x), f, str(oracle.minus_ln(x, f))] for x, f in ((1, 64), (2**64 - 1, 64), (3, 30), (2**90, 96))
        ],
        "gumbel": [[str(h), oracle.gumbel(h)] for h in hashes],
        "logits": LOGITS,
        "chosen": chosen,
    }


def _log_probabilities(high: list[int], low: list[int]) -> list[Any]:
    rows = [LOGITS, [5], [-(2**61), 2**61], [0] * 300, [7 * i * i for i in range(100)]]
    return [[row, [oracle.log_probability(row, j, high, low) for j in range(len(row))]] for row in rows]


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
            "sampled": [_sampled(pack.model, *fields) for fields in SAMPLINGS[:5]],
        }


def _sampled(model: IntegerModel, temperature: int, top_k: int, top_p: int) -> list[Any]:
    sampling = Sampling(temperature, top_k, top_p, SEED)

    def pick(logits: Int64Array, position: int) -> int:
        return reference_sampling.pick(logits, position, sampling, model.tables)

    return [temperature, top_k, top_p, reference.generate(model, TINY_PROMPT, 16, [], pick)]


def _digest(table: object) -> str:
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


if __name__ == "__main__":
    FILE.write_text(json.dumps(cases(), indent=None, separators=(",", ":")).replace('],"', '],\n"') + "\n")
