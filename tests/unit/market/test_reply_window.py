"""A reply window must leave an honest provider the time to answer: rule 4 of the design of disputes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from market.deployment_steps import DeploymentParameters
from market.errors import ConfigError
from market.models.pack import read_program
from market.networks import Kind, Networks, shipped
from market.reply_window import (
    REBUILD_SECONDS,
    REBUILDS,
    REFERENCE,
    least_reply_window,
    rebuild_seconds,
    require_reply_window,
)

LONGEST = 6 * 86_400 // 25  # Disputes: more is refused by the contract
SEPOLIA, LOCAL = shipped()["sepolia"], shipped()["local"]


def test_every_network_states_a_budget_that_fits_the_default_window_and_the_contracts_longest() -> None:
    assert REBUILDS >= 3
    for network in [*shipped().values(), Networks().of(999_999)]:
        least = least_reply_window(network)
        assert least <= DeploymentParameters().reply_window <= LONGEST, network.name
        if network.kind is not Kind.DEVELOPMENT:
            assert network.censorship_budget >= 1_200, network.name
            assert least == 3 * REBUILD_SECONDS + network.censorship_budget
            require_reply_window(network, DeploymentParameters(reply_window=least))


@pytest.mark.parametrize("window", [30, 179, 1_379])
def test_shorter_window_is_refused_with_the_least(window: int) -> None:
    with pytest.raises(ConfigError, match="1380 s") as refused:
        require_reply_window(SEPOLIA, DeploymentParameters(reply_window=window))
    assert refused.value.code == "ReplyWindowTooShort"
    assert "Nothing was sent" in str(refused.value)
    assert refused.value.details["least"] == 1_380


def test_development_chain_takes_any_window() -> None:
    require_reply_window(LOCAL, DeploymentParameters(reply_window=30))
    assert least_reply_window(LOCAL, 7) == 7


def test_allowance_grows_with_the_model_and_faster_than_its_context() -> None:
    assert rebuild_seconds(REFERENCE, 2_048) == REBUILD_SECONDS
    assert rebuild_seconds(REFERENCE, 4_096) > 2 * REBUILD_SECONDS
    deeper = replace(REFERENCE, layers=2 * REFERENCE.layers)
    assert REBUILD_SECONDS < rebuild_seconds(deeper, 2_048) <= 2 * REBUILD_SECONDS
    assert rebuild_seconds(REFERENCE, 1) == 1


def test_allowance_is_for_the_published_model(real_pack: Path) -> None:
    limits = json.loads((real_pack / "manifest.json").read_text(encoding="utf-8"))["limits"]
    config = read_program(real_pack).config
    assert replace(config, epsilon=0, score_multiplier=0) == REFERENCE
    assert limits["context"] == REFERENCE.context
