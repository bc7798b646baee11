"""The torch engine on a GPU: whether its answers are the CPU's, and how fast they come.

Without a GPU nothing is measured. Nobody has run this on one yet.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path

import torch

from bench.common import Row
from market.inference.engine import Engine, kernels_in_use, load_engine
from market.models.fetch import ensure_pack

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "smollm2-135m-instruct.toml"
PACK = ROOT / "build" / "models" / "smollm2-135m-instruct"
ROUNDS = 7
PREFILL, PROMPT, DECODED = 512, 128, 96


def run() -> list[Row]:
    """Rows of one GPU, or none."""
    if not torch.cuda.is_available():
        print(
            "torch finds no CUDA device on this machine: nothing was measured, the table is left as it is", flush=True
        )
        return []
    pack = ensure_pack(RECIPE, PACK, ROOT / "build" / "downloads")
    here, there = load_engine(pack), load_engine(pack, device="cuda")
    ids = [7 + 97 * position % 40_000 for position in range(PREFILL)]
    same = [_answer(here, ids[:count]) == _answer(there, ids[:count]) for count in (1, 16, 17, 100, PREFILL)]
    words = f"{torch.cuda.get_device_name()}, {kernels_in_use(there)}, median of {ROUNDS} rounds"
    return [
        Row(
            key="cuda_equal",
            figure=f"answers of 32 tokens that are the CPU's, of {len(same)}",
            value=sum(same),
            unit="",
            bar=f"= {len(same)}",
            holds=all(same),
        ),
        _row("cuda_decode", f"greedy decoding of {DECODED} tokens after {PROMPT}, {words}", there, here, ids[:PROMPT]),
        _row("cuda_prefill", f"prompt of {PREFILL} tokens, {words}", there, here, ids),
    ]


def _row(key: str, words: str, gpu: Engine, cpu: Engine, ids: list[int]) -> Row:
    decodes = len(ids) < PREFILL
    took = partial(_decode_seconds if decodes else _prefill_seconds, ids=ids)
    both = [(took(gpu), took(cpu)) for _ in range(ROUNDS)]
    count = DECODED if decodes else len(ids)
    ours, theirs = (statistics.median(pair[side] for pair in both) for side in (0, 1))
    return Row(
        key=key,
        figure=words,
        value=count / ours,
        unit="tok/s",
        peer=kernels_in_use(cpu),
        peer_value=count / theirs,
        ratio=theirs / ours,
    )


def _answer(engine: Engine, ids: list[int]) -> tuple[int, ...]:
    return engine.generate(ids, 32, ()).ids


def _prefill_seconds(engine: Engine, ids: list[int]) -> float:
    started = time.perf_counter()
    engine.generate(ids, 1, ())  # the id that comes out was copied from the device: nothing is still under way
    return time.perf_counter() - started


def _decode_seconds(engine: Engine, ids: list[int]) -> float:
    moments: list[float] = []
    engine.generate(ids, DECODED + 1, (), on_token=lambda _: moments.append(time.perf_counter()))
    return moments[-1] - moments[0]
