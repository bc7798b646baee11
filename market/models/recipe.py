"""A recipe: what a person or a calibration chose when a model was packed, under version control beside its
result.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

from market.inference.model import Config
from market.models import tables
from market.models.errors import RecipeError
from market.models.program import Fractions
from market.models.source import Shape


@dataclass(frozen=True)
class Recipe:
    """recipes/<name>.toml. Empty strings mean "not stated"."""

    name: str
    licence: str
    context: int  # positions to prove the pack for; at most what the model was trained for
    stop_tokens: tuple[int, ...]  # ascending; empty = what the source declares
    model_id: str  # 0x + 64 hex digits that packing must reproduce
    source_file: str
    source_sha256: str
    package: str  # name==version on PyPI whose wheel contains the source file
    package_sha256: str
    fractions: Fractions
    path: str = ""  # where it was read from, as given


def read(path: Path) -> Recipe:
    """Raises RecipeError when the file is missing, malformed or incomplete."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError("file", "a readable TOML file", f"{path.name}: {error}") from error
    source, bits = _table(data, "source"), _table(data, "fraction_bits")
    return Recipe(
        name=_text(data, "name", required=True),
        licence=_text(data, "licence", required=True),
        context=_integers([data.get("context")], "context")[0],
        stop_tokens=tuple(sorted(_integers(data.get("stop_tokens", []), "stop_tokens"))),
        model_id=_text(data, "model_id"),
        source_file=_text(source, "file"),
        source_sha256=_text(source, "sha256"),
        package=_text(source, "package"),
        package_sha256=_text(source, "package_sha256"),
        fractions=Fractions(
            *(_integers(bits.get(name), f"fraction_bits.{name}") for name in ("query", "key", "value"))
        ),
        path=str(path),
    )


def integer_config(shape: Shape, context: int) -> Config:
    """The constants of the integer program for a published shape."""
    return Config(
        vocabulary=shape.vocabulary,
        context=context,
        hidden=shape.hidden,
        feed_forward=shape.feed_forward,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        epsilon=floor(Fraction(shape.epsilon) * 2**32),
        score_multiplier=tables.score_multiplier(shape.head_size),
    )


def _table(data: dict[str, Any], name: str) -> dict[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise RecipeError(name, "a table", repr(table))
    return table


def _text(data: dict[str, Any], name: str, required: bool = False) -> str:
    value = data.get(name, "")
    if not isinstance(value, str) or (required and not value):
        raise RecipeError(name, "a text", repr(value))
    return value


def _integers(value: object, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(item) is not int or item < 0 for item in value):
        raise RecipeError(name, "non-negative integers", repr(value))
    return tuple(value)
