"""What the integers cost in quality: perplexity of the integer model beside the float one, on prose.

Rounding moves each prediction's loss up or down by about a tenth, and the mean by a few thousandths: of 6,000
predictions the ratio has a standard error of 0.0012. It is told with the figure; so are two figures with less chance in
them, the divergence between both models' distributions and how often they agree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.common import Row
from bench.float_llama import FloatLlama
from market.inference.engine import load_engine
from market.inference.native_engine import NativeEngine
from market.models.pack import Pack
from market.models.source import Source

PREDICTIONS = 24_000  # at least
CHUNK = 256  # positions whose logits are held at once
BAR = 1.006


def rows(pack: Pack, source: Source, ids: Sequence[int]) -> list[Row]:
    """Rows ``ppl_256``, ``ppl_1024``, ``divergence`` and ``top1_agreement``."""
    ours, peer = load_engine(pack), FloatLlama(source, pack.limits.context)
    if not isinstance(ours, NativeEngine):
        raise SystemExit("this benchmark needs the native engine, and this machine or installation has none")
    made: list[Row] = []
    agreement: list[float] = []
    divergence: list[float] = []
    for window in (256, 1024):
        count = -(-PREDICTIONS // (window - 1))
        starts = [index * (len(ids) - window) // (count - 1) for index in range(count)]
        found = [_window(ours, peer, ids[start : start + window]) for start in starts]
        mine = math.exp(statistics.fmean(w.ours for w in found))
        theirs = math.exp(statistics.fmean(w.floats for w in found))
        ratio = mine / theirs
        error = ratio * statistics.stdev(w.ours - w.floats for w in found) / math.sqrt(count)
        agreement += [w.agreed for w in found]
        divergence += [w.divergence for w in found]
        made.append(
            Row(
                key=f"ppl_{window}",
                figure=f"perplexity, {count * (window - 1):,} predictions in windows of {window}, Debian handbook; "
                f"standard error of the ratio {error:.4f}",
                value=mine,
                unit="ppl",
                peer="torch float32",
                peer_value=theirs,
                ratio=ratio,
                bar=f"≤ {BAR} ×",
                holds=ratio <= BAR,
            )
        )
    return [
        *made,
        Row(
            key="divergence",
            figure="mean divergence (Kullback-Leibler) of our distribution from the float model's, in 1/1000 nat",
            value=1000 * statistics.fmean(divergence),
            unit="",
        ),
        Row(
            key="top1_agreement",
            figure="predictions whose likeliest token is the float model's",
            value=round(100 * statistics.fmean(agreement), 2),
            unit="%",
        ),
    ]


@dataclass(frozen=True)
class _Window:
    """Means over the predictions of one window: losses and divergence in nats, share with the same likeliest token."""

    ours: float
    floats: float
    divergence: float
    agreed: float


def _window(ours: NativeEngine, peer: FloatLlama, ids: Sequence[int]) -> _Window:
    slot = ours.new_slot(len(ids))
    all_floats = peer.forward(torch.tensor([list(ids)]), peer.new_cache(1, len(ids)))[0]
    sums = torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        targets = torch.tensor(ids[start + 1 : start + 1 + CHUNK])
        integer = torch.from_numpy(ours.forward(chunk, slot))[: len(targets)].double() / 65536
        floating = all_floats[start : start + len(targets)].double()
        mine, theirs = (torch.log_softmax(logits, -1) for logits in (integer, floating))
        losses = [-told.gather(1, targets[:, None]).sum() for told in (mine, theirs)]
        divergence = (theirs.exp() * (theirs - mine)).sum()
        sums += torch.stack([*losses, divergence, (integer.argmax(-1) == floating.argmax(-1)).sum()])
    return _Window(*(sums / (len(ids) - 1)).tolist())
