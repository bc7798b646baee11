"""What the integers cost in quality: perplexity of the integer model beside the float one, on prose."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from bench.common import Row
from bench.float_llama import FloatLlama
from market.inference.engine import load_engine
from market.inference.native_engine import NativeEngine
from market.models.pack import Pack
from market.models.source import Source

PREDICTIONS = 6_000  # at least
CHUNK = 256  # positions whose logits are held at once
BAR = 1.006


def rows(pack: Pack, source: Source, ids: Sequence[int]) -> list[Row]:
    """Rows ``ppl_256``, ``ppl_1024`` and ``top1_agreement``."""
    ours, peer = load_engine(pack), FloatLlama(source, pack.limits.context)
    if not isinstance(ours, NativeEngine):
        raise SystemExit("this benchmark needs the native engine, and this machine or installation has none")
    made: list[Row] = []
    agreement: list[float] = []
    for window in (256, 1024):
        count = -(-PREDICTIONS // (window - 1))
        starts = [index * (len(ids) - window) // (count - 1) for index in range(count)]
        losses, agreed = zip(*(_window(ours, peer, ids[start : start + window]) for start in starts), strict=True)
        mine, theirs = (math.exp(statistics.fmean(pair[side] for pair in losses)) for side in (0, 1))
        agreement += agreed
        made.append(
            Row(
                key=f"ppl_{window}",
                figure=f"perplexity, {count * (window - 1):,} predictions in windows of {window}, Debian handbook",
                value=mine,
                unit="ppl",
                peer="torch float32",
                peer_value=theirs,
                ratio=mine / theirs,
                bar=f"≤ {BAR} ×",
                holds=mine / theirs <= BAR,
            )
        )
    return [
        *made,
        Row(
            key="top1_agreement",
            figure="predictions whose likeliest token is the float model's",
            value=round(100 * statistics.fmean(agreement), 2),
            unit="%",
        ),
    ]


def _window(ours: NativeEngine, peer: FloatLlama, ids: Sequence[int]) -> tuple[tuple[float, float], float]:
    """Mean loss of both over the predictions of one window, and the share in which they agree."""
    slot = ours.new_slot(len(ids))
    all_floats = peer.forward(torch.tensor([list(ids)]), peer.new_cache(1, len(ids)))[0]
    losses: list[tuple[float, float]] = []
    agreed = 0
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        targets = torch.tensor(ids[start + 1 : start + 1 + CHUNK])
        integer = torch.from_numpy(ours.forward(chunk, slot))[: len(targets)].double() / 65536
        floating = all_floats[start : start + len(targets)].double()
        both = [torch.nn.functional.cross_entropy(x, targets, reduction="sum") for x in (integer, floating)]
        losses.append((float(both[0]), float(both[1])))
        agreed += int((integer.argmax(-1) == floating.argmax(-1)).sum())
    count = len(ids) - 1
    mine, theirs = (sum(pair[side] for pair in losses) / count for side in (0, 1))
    return (mine, theirs), agreed / count
