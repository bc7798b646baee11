"""Chooses the fraction bits of a recipe: `python -m market.models.calibrate SOURCE --text FILE`.

Runs the published float model over a calibration text and prints the `[fraction_bits]` table. The floats used here
decide nothing at run time: their outcome is written into the recipe once, and packing takes it from there.

The text file is prose; after a line `%% chat` every line is a user's message, rendered with the model's chat template.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from market.models.errors import ModelError
from market.models.packer import open_source
from market.models.program import Fractions
from market.models.source import Shape, Source
from market.models.text import Text

CHAT_MARK = "%% chat"
WINDOW = 512  # positions run at once
MARGIN = 2.0  # the int16 range holds at least this multiple of the largest value seen

_LAYER_TENSORS: tuple[str, ...] = ("attention_norm", "query", "key", "value", "attention_output")
_LAYER_TENSORS += ("feed_forward_norm", "gate", "up", "down")

Floats = npt.NDArray[np.float32]


def windows(text: Text, content: str) -> Iterator[list[int]]:
    """Token ids of the prose in windows of 512, then of each chat prompt."""
    prose, _, chat = content.partition(f"\n{CHAT_MARK}\n")
    ids = text.encode(prose.strip())
    yield from (ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW))
    for line in filter(None, map(str.strip, chat.splitlines())):
        yield text.encode_chat([{"role": "user", "content": line}])


def fraction_bits(source: Source, content: str, margin: float = MARGIN) -> Fractions:
    """For each layer the most fraction bits (0..15) so that ``margin`` × the largest |q|, |k|, |v| fits int16."""
    maxima = np.zeros((3, source.shape.layers))
    runs = list(windows(Text(source.tokenizer, source.template), content))
    states = [_rows(source, "embedding")[ids] for ids in runs]
    for layer in range(source.shape.layers):  # layer by layer: only one layer's floats are in memory
        weights = {name: _rows(source, f"layers.{layer}.{name}") for name in _LAYER_TENSORS}
        for index, x in enumerate(states):
            states[index], seen = _layer(source.shape, weights, x)
            maxima[:, layer] = np.maximum(maxima[:, layer], seen)
    query, key, value = (tuple(_bits(float(top), margin) for top in row) for row in maxima)
    return Fractions(query, key, value)


def _bits(top: float, margin: float) -> int:
    return max(0, min(15, 15 - math.ceil(math.log2(max(top * margin, 2.0**-16)))))


def _layer(shape: Shape, weights: dict[str, Floats], x: Floats) -> tuple[Floats, list[float]]:
    """One float layer over a window [T, D]; the second result is the largest |q|, |k| and |v|."""
    count, size, group = len(x), shape.head_size, shape.heads // shape.kv_heads
    h = _norm(x, weights["attention_norm"], shape.epsilon)
    q = _rope((h @ weights["query"].T).reshape(count, shape.heads, size), shape.rope_base)
    k = _rope((h @ weights["key"].T).reshape(count, shape.kv_heads, size), shape.rope_base)
    v = (h @ weights["value"].T).reshape(count, shape.kv_heads, size)
    scores = np.einsum("thd,uhd->htu", q, k.repeat(group, axis=1)) / math.sqrt(size)
    scores[:, np.triu(np.ones((count, count), dtype=bool), 1)] = -np.inf
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    mixed = np.einsum("htu,uhd->thd", weight, v.repeat(group, axis=1)).reshape(count, -1)
    x = x + mixed @ weights["attention_output"].T
    h = _norm(x, weights["feed_forward_norm"], shape.epsilon)
    gate = h @ weights["gate"].T
    x = x + (gate / (1 + np.exp(-gate)) * (h @ weights["up"].T)) @ weights["down"].T
    return x, [float(np.abs(values).max()) for values in (q, k, v)]


def _norm(x: Floats, gain: Floats, epsilon: float) -> Floats:
    result: Floats = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(epsilon)) * gain[0]
    return result


def _rope(z: Floats, base: float) -> Floats:
    half = z.shape[-1] // 2
    angle = np.outer(np.arange(len(z)), base ** (-np.arange(half) / half))[:, None].astype(np.float32)
    a, b = z[..., :half], z[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def _rows(source: Source, name: str) -> Floats:
    return np.concatenate([block.astype(np.float32) for block in source.read(name)])


def main(
    source: Annotated[Path, typer.Argument(help="A .gguf file or a snapshot folder.")],
    text: Annotated[Path, typer.Option(help="The calibration text; not the text that quality is measured on.")],
    margin: Annotated[float, typer.Option(help="Room above the largest value seen.")] = MARGIN,
) -> None:
    """Prints the recipe's [calibration] and [fraction_bits] tables."""
    try:
        chosen = fraction_bits(open_source(source), text.read_text(encoding="utf-8"), margin)
    except (ModelError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    typer.echo(f'[calibration]\ntext = "{text.name}"')
    typer.echo(f'sha256 = "{hashlib.sha256(text.read_bytes()).hexdigest()}"\nmargin = {margin}\n\n[fraction_bits]')
    for name in ("query", "key", "value"):
        typer.echo(f"{name} = {list(getattr(chosen, name))}")


if __name__ == "__main__":
    typer.run(main)
