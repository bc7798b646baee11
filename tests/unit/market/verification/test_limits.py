"""What a pack may promise: values that fit the leaves of a trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.errors import MarketError
from market.judging import require_judgeable
from market.models.pack import load_pack
from market.verification.limits import LIMITS, beyond_leaves


@pytest.fixture
def bounds(tiny_pack: Path) -> list[dict[str, Any]]:
    manifest = json.loads((tiny_pack / "manifest.json").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = manifest["bounds"]
    return found


def with_bits(bounds: list[dict[str, Any]], name: tuple[str, str], bits: int) -> list[dict[str, Any]]:
    return [b | {"bits": bits} if (b["operation"], b.get("quantity")) == name else b for b in bounds]


def test_values_of_the_tiny_pack_fit_their_leaves(bounds: list[dict[str, Any]]) -> None:
    assert beyond_leaves(bounds) is None


@pytest.mark.parametrize("name", LIMITS, ids=str)
def test_one_bit_more_than_a_leaf_holds_is_too_many(bounds: list[dict[str, Any]], name: tuple[str, str]) -> None:
    assert beyond_leaves(with_bits(bounds, name, LIMITS[name])) is None
    told = beyond_leaves(with_bits(bounds, name, LIMITS[name] + 1))
    assert told is not None
    assert f"{LIMITS[name] + 1} bits" in told


def test_pack_without_a_bound_is_refused(bounds: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="no bound for value of residual"):
        beyond_leaves([b for b in bounds if b["operation"] != "residual"])


def test_values_of_the_real_pack_fit_their_leaves(real_pack: Path) -> None:
    assert beyond_leaves(json.loads((real_pack / "manifest.json").read_text(encoding="utf-8"))["bounds"]) is None


def test_model_that_the_judge_would_refuse_for_its_size_is_refused_before_gas_is_spent(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    require_judgeable(pack)
    config = replace(pack.program.config, feed_forward=2_560)  # SmolLM2-360M's
    with pytest.raises(MarketError, match=r"feed-forward width F = 2,560 \(at most 2,048\)") as refused:
        require_judgeable(replace(pack, program=replace(pack.program, config=config)))
    assert refused.value.code == "ProgramBeyondLimits"
    assert "500,000 gas" in str(refused.value)
    assert "Nothing was sent" in str(refused.value)
