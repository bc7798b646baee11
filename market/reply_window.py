"""How long a provider needs for a reply in a dispute, and so the shortest reply window in which silence proves guilt.

A provider that is honest must be able to rebuild its trace and to reach the chain although somebody keeps its
transactions out for a while: reply window ≥ 3 × the rebuild + the censorship budget of the chain (networks.toml). The
contracts take any window from 30 seconds, since they know neither machines nor chains; so whoever deploys checks here,
and so does a provider before it sells OPTIMISTIC.
"""

from __future__ import annotations

from market.deployment_steps import DeploymentParameters
from market.errors import ConfigError
from market.inference.model import Config
from market.networks import Kind, Network

REBUILDS = 3
"""Rebuilds that must fit: a machine busy with other work, one that is killed half-way and begins again."""
REBUILD_SECONDS = 60
"""Allowance for SmolLM2-135M and 2,048 tokens, on one processor (docs/disputes.md, section 3)."""
REFERENCE = Config(
    vocabulary=49_152,
    context=2_048,
    hidden=576,
    feed_forward=1_536,
    layers=30,
    heads=9,
    kv_heads=3,
    head_size=64,
    epsilon=0,
    score_multiplier=0,
)
"""The shapes that the allowance is for."""


def work(config: Config, tokens: int) -> int:
    """Multiplications of a trace of so many tokens, logits at every position: what its time grows with."""
    rows = config.heads * config.head_size
    narrow = config.kv_heads * config.head_size
    layer = config.hidden * (2 * rows + 2 * narrow + 3 * config.feed_forward)
    return tokens * (config.layers * (layer + rows * tokens) + config.hidden * config.vocabulary)


def rebuild_seconds(config: Config, tokens: int) -> int:
    """The allowance for a trace of so many tokens of a model: REBUILD_SECONDS in proportion to its work, at least 1."""
    return -(-REBUILD_SECONDS * work(config, tokens) // work(REFERENCE, REFERENCE.context))


def least_reply_window(network: Network, rebuild: int = REBUILD_SECONDS) -> int:
    """Seconds that a reply window on a chain must have where a trace takes `rebuild` seconds.

    On development chains, where nobody censors and nobody loses money, one rebuild: demonstrations are short.
    """
    if network.kind is Kind.DEVELOPMENT:
        return rebuild
    return REBUILDS * rebuild + network.censorship_budget


def require_reply_window(network: Network, parameters: DeploymentParameters) -> None:
    """Call it before a market is deployed. Development chains may have any window that the contracts take.

    Raises:
        ConfigError: code ReplyWindowTooShort: honest providers could be convicted by silence.
    """
    least = least_reply_window(network)
    if network.kind is Kind.DEVELOPMENT or parameters.reply_window >= least:
        return
    raise ConfigError(
        f"A reply window of {parameters.reply_window} s would convict honest providers by silence: on {network.name} "
        f"it must be at least {least} s, {REBUILDS} × {REBUILD_SECONDS} s to rebuild a trace and "
        f"{network.censorship_budget} s in which transactions may be kept out. Nothing was sent.",
        hint=f"Give --reply-window {least} or more (default {DeploymentParameters().reply_window}).",
        code="ReplyWindowTooShort",
        window=parameters.reply_window,
        least=least,
        network=network.name,
    )
