"""The integer engine beside torch float32 of the same model: speed on one thread, and quality on prose."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path

import torch

from bench import handbook
from bench.common import Row
from bench.float_llama import FloatLlama
from market.inference.torch_engine import TorchEngine
from market.models import recipe
from market.models.fetch import ensure_pack, fetch_source
from market.models.packer import open_source
from market.models.text import load_text

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "smollm2-135m-instruct.toml"
PACK = ROOT / "build" / "models" / "smollm2-135m-instruct"
DOWNLOADS = ROOT / "build" / "downloads"

PROMPT_TOKENS = 256
DECODED_TOKENS = 48
ROUNDS = 5
WINDOW = 256  # tokens; 255 predictions each
WINDOWS = 24
QUALITY_BAR = 1.006


def run() -> list[Row]:
    """Rows ``decode_vs_torch``, ``prefill_vs_torch``, ``ppl_256`` and ``top1_agreement``; about two minutes."""
    pack = ensure_pack(RECIPE, PACK, DOWNLOADS)
    source = open_source(fetch_source(recipe.read(RECIPE), DOWNLOADS))
    ids = torch.tensor(load_text(pack).encode(handbook.text(DOWNLOADS)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, peer = TorchEngine(pack.model), FloatLlama(source, pack.limits.context)
        return [*_speed(ours, peer, ids), *_quality(ours, peer, ids)]
    finally:
        torch.set_num_threads(threads)


def _speed(ours: TorchEngine, peer: FloatLlama, ids: torch.Tensor) -> list[Row]:
    prompt = ids[None, :PROMPT_TOKENS]
    rates: dict[str, list[list[float]]] = {"decode": [], "prefill": []}
    for _ in range(ROUNDS):  # one after the other, so that both see the same moods of the machine
        (our_prefill, our_decode), (peer_prefill, peer_decode) = _rates(ours, prompt), _rates(peer, prompt)
        rates["prefill"].append([our_prefill, peer_prefill])
        rates["decode"].append([our_decode, peer_decode])
    words = {"decode": f"greedy decoding after {PROMPT_TOKENS} tokens", "prefill": f"prompt of {PROMPT_TOKENS} tokens"}
    return [
        Row(
            key=f"{name}_vs_torch",
            figure=f"{words[name]}, 1 thread, median of {ROUNDS} rounds",
            value=statistics.median(mine for mine, _ in pairs),
            unit="tok/s",
            peer="torch float32",
            peer_value=statistics.median(theirs for _, theirs in pairs),
            ratio=statistics.median(mine / theirs for mine, theirs in pairs),
        )
        for name, pairs in rates.items()
    ]


def _rates(model: TorchEngine | FloatLlama, prompt: torch.Tensor) -> tuple[float, float]:
    """Tokens per second of the prompt and of the tokens after it."""
    cache = model.new_cache(1, PROMPT_TOKENS + DECODED_TOKENS)
    started = time.perf_counter()
    logits = model.forward(prompt, cache, last_only=True)  # type: ignore[arg-type]
    prefilled = time.perf_counter()
    for _ in range(DECODED_TOKENS):
        logits = model.forward(logits[:, -1].argmax(-1, keepdim=True), cache, last_only=True)  # type: ignore[arg-type]
    decoded = time.perf_counter()
    return PROMPT_TOKENS / (prefilled - started), DECODED_TOKENS / (decoded - prefilled)


def _quality(ours: TorchEngine, peer: FloatLlama, ids: torch.Tensor) -> list[Row]:
    """Perplexity over windows spread evenly over the text, and how often both find the same token likeliest."""
    starts = [index * (len(ids) - WINDOW) // (WINDOWS - 1) for index in range(WINDOWS)]
    losses: list[list[float]] = []
    agreed = 0
    for start in starts:
        window = ids[None, start : start + WINDOW]
        integer = ours.forward(window, ours.new_cache(1, WINDOW))[0, :-1].double() / 65536
        floating = peer.forward(window, peer.new_cache(1, WINDOW))[0, :-1].double()
        targets = window[0, 1:]
        losses.append([float(torch.nn.functional.cross_entropy(x, targets)) for x in (integer, floating)])
        agreed += int((integer.argmax(-1) == floating.argmax(-1)).sum())
    predictions = WINDOWS * (WINDOW - 1)
    mine, theirs = (math.exp(statistics.fmean(pair[side] for pair in losses)) for side in (0, 1))
    ratio = mine / theirs
    return [
        Row(
            key="ppl_256",
            figure=f"perplexity, {predictions:,} predictions in windows of {WINDOW}, Debian handbook",
            value=mine,
            unit="ppl",
            peer="torch float32",
            peer_value=theirs,
            ratio=ratio,
            bar=f"≤ {QUALITY_BAR} ×",
            holds=ratio <= QUALITY_BAR,
        ),
        Row(
            key="top1_agreement",
            figure="predictions whose likeliest token is the float model's",
            value=round(100 * agreed / predictions, 2),
            unit="%",
        ),
    ]
