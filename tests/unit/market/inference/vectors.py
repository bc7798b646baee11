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


EDGES = [  # activations: both limits without a shift, a rounding up to 2^15, halves of either sign
    [32767, -32767, 32640, -32640],
    [32639, -32639, 32639, -32639],
    [2**40 - 1, 1 - 2**40, 2**39, 3],
    [1 - 2**51, 2**51 - 1, 1 - 2**51, 2**51 - 1],
    [65536, 2, -2, -6],
    [2**30, 0, 65536, 0],  # its sum with the second row of weights ends in a half
]
UPS = [0, 1, -1, 32768, -32768, 2**28, -(2**28) + 1]
TABLES: list[dict[str, Any]] = [  # embeddings: the narrowest shift, halves of either sign, the widest shift
    {"weight": [[127, -127, 1, 0], [-1, 3, -3, 64]], "multiplier": [2**24 - 1, 1], "exponent": 17},
    {"weight": [[1, -1, 3, -3], [127, -127, 5, 0]], "multiplier": [2**9, 2**24 - 1], "exponent": 26},
    {"weight": [[127, -127, 1, 0]], "multiplier": [2**24 - 1], "exponent": 78},
]
TOP = 32767
ATTENTION: list[tuple[list[int], list[list[int]], list[list[int]], tuple[int, int, int]]] = [
    (
        [300, -7, TOP, 0],
        [[5, 6, 7, 8], [TOP, 0, -TOP, 1], [-300, 7, TOP, 0]],
        [[1000, -1000, TOP, 0], [-TOP, 2, 5, 9], [4, 4, -4, -4]],
        (10, 9, 12),
    ),
    # one position; scores of the largest magnitude, of either sign; the widest value
    ([TOP] * 4, [[TOP] * 4], [[TOP, -TOP, 1, -1]], (5, 5, 0)),
    ([-TOP] * 4, [[TOP] * 4, [-TOP] * 4, [TOP] * 4], [[TOP] * 4, [-TOP, TOP, 1, 0], [5] * 4], (5, 5, 0)),
    ([TOP, -TOP, TOP, -TOP], [[TOP, -TOP, TOP, -TOP]] * 3, [[-TOP, TOP, -TOP, TOP]] * 3, (15, 15, 15)),
    # four equal weights: quotients of -1/2, 1/2, -3/2, and one without a fraction
    ([0] * 4, [[1, 2, 3, 4]] * 4, [[-1, 1, -3, -2], [0, 0, 0, -2], [0, 0, 0, -2], [0, 0, 0, -2]], (10, 10, 15)),
    # three equal ones: -2/3, 2/3, -4/3, -10/3
    ([0] * 4, [[1, 2, 3, 4]] * 3, [[-1, 1, -2, -5], [0] * 4, [0] * 4], (10, 10, 15)),
    # five: -2/5, 2/5, -6/5, -8/5
    ([0] * 4, [[1, 2, 3, 4]] * 5, [[-1, 1, -3, -4], [0] * 4, [0] * 4, [0] * 4, [0] * 4], (10, 10, 15)),
    # weights from 2^20 down to 1 and to 0
    (
        [1000, 0, 0, 0],
        [[0, 0, 0, 0], *([-step, 0, 0, 0] for step in (1, 3, 500, 577, 3000, 7200, TOP))],
        [[-7, 7, 300 * i - 1000, 1 - i] for i in range(8)],
        (9, 9, 4),
    ),
]
TIES = [  # of units of 32 rows in C, and beyond
    [3, 9, 9, -1],
    [0],
    [-5] * 70,
    [7, *range(6), *range(-20, 6), 7, 7, *range(7), 7],
    [*range(-40, 40), 39, 39],
    [2**40, -(2**40), 2**40 - 1, 2**40],
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
    activations = rows + EDGES
    weight = [[127, -127, 1, 0], [-3, 5, 127, 127], [127, -127, 127, -127], [-127, 127, -127, 127]]
    multiplier, exponent = [2**24 - 1, 8388608, 2**24 - 1, 2**24 - 1], 40
    quantised = [oracle.quantise(row) for row in activations]
    head = [32768, -5, 7, 2**30, -65536, 1, 0, -(2**30)]
    silu_inputs = [0, 1, -1, 65536, -65536, 2**25, -(2**25), 2**33 - 1, 1 - 2**33]
    distances = [0, 1, 255, 256, 65535, 65536, 1966080, 2031615, 2031616, 2**41]
    multiplier_of_4 = tables.score_multiplier(4)
    return {
        "shift_round": [[x, s, oracle.shift_round(x, s)] for x in (-5, -4, -1, 0, 1, 3, 2**52) for s in (-2, 0, 1, 3)],
        "exp2_negative": [[d, oracle.exp2_negative(d, high, low)] for d in distances],
        "silu": [[x, oracle.silu(x, high, low)] for x in silu_inputs],
        "activate": [[g, u, oracle.activate(g, u, high, low)] for g in [*silu_inputs, 2**25 + 1] for u in UPS],
        "embed": [
            {
                **table,
                "rows": [
                    oracle.embed(*row, table["exponent"])
                    for row in zip(table["weight"], table["multiplier"], strict=True)
                ],
            }
            for table in TABLES
        ],
        "normalise": {
            "gain": gain,
            "epsilon": epsilon,
            "rows": [[row, oracle.normalise(row, gain, epsilon)] for row in rows],
        },
        "quantise": [[row, *oracle.quantise(row)] for row in activations],
        "linear": {
            "weight": weight,
            "multiplier": multiplier,
            "exponent": exponent,
            "rows": [[q, s, oracle.linear(q, s, weight, multiplier, exponent)] for q, s in quantised],
        },
        "rotate": [[head, p, oracle.rotate(head, cos[p], sin[p])] for p in (0, 1, 299)],
        "to_cache": [[z, f, oracle.to_cache(z, f)] for z in (-(2**40), -65536, -1, 0, 3, 2**21) for f in (0, 9, 15)],
        "attend": [_attend(*case, multiplier_of_4, high, low) for case in ATTENTION],
        "argmax": [[logits, oracle.argmax(logits)] for logits in TIES],
        "tables": {
            name: _digest(table) for name, table in (("exp2_high", high), ("exp2_low", low), ("cos", cos), ("sin", sin))
        },
        "sampling": _sampling(high, low),
        "log_probabilities": _log_probabilities(high, low),
        "tiny": _tiny(),
    }


def _attend(
    query: list[int],
    keys: list[list[int]],
    values: list[list[int]],
    bits: tuple[int, int, int],
    multiplier: int,
    high: list[int],
    low: list[int],
) -> dict[str, Any]:
    return {
        "query": query,
        "keys": keys,
        "values": values,
        "fraction_bits": list(bits),
        "multiplier": multiplier,
        "result": oracle.attend(query, keys, values, bits, multiplier, high, low),
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
