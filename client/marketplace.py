"""The market a client is connected to: its chain, contracts, token and rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.endpoints import Reach
from client.job_options import ChainLimits
from client.results import TokenInfo
from client.wallet import ChainClock
from market.chain import DEVELOPMENT_CHAIN_IDS, Chain
from market.contracts import Jobs, Token, Vault
from market.deployment import Deployment


@dataclass(frozen=True)
class Marketplace:
    """Everything read once at connection; the contracts are checked against the manifest."""

    chain: Chain
    deployment: Deployment
    jobs: Jobs
    vault: Vault
    token: Token
    token_info: TokenInfo
    share_bps: int
    limits: ChainLimits
    clock: ChainClock

    @property
    def is_development(self) -> bool:
        return self.chain.chain_id in DEVELOPMENT_CHAIN_IDS

    def reach(self, allow_private: bool | None) -> Reach:
        """How far into its surroundings a client connects; None = on a development chain to this machine."""
        if allow_private:
            return Reach.PRIVATE
        return Reach.LOOPBACK if self.is_development and allow_private is None else Reach.PUBLIC


def open_marketplace(rpc_url: str, deployment: Deployment | Path, *, timeout: float = 10.0) -> Marketplace:
    """Connects and checks.

    Raises:
        ConfigError: the manifest is missing or malformed, or the URL is none.
        ChainUnreachable, WrongChain: the endpoint is dead, or serves another chain than the manifest names.
        ChainError: the contracts are not those of the manifest, or the vault is not sealed.
    """
    manifest = Deployment.load(deployment) if isinstance(deployment, Path) else deployment
    chain = Chain(rpc_url, expected_chain_id=manifest.chain_id, timeout=timeout)
    manifest.check(chain)
    jobs, token = Jobs(chain, manifest.jobs), Token(chain, manifest.token)
    return Marketplace(
        chain=chain,
        deployment=manifest,
        jobs=jobs,
        vault=Vault(chain, manifest.vault),
        token=token,
        token_info=TokenInfo(token.address, token.symbol(), token.decimals()),
        share_bps=jobs.challenger_share_bps(),
        limits=ChainLimits(jobs.min_window(), jobs.max_window(), jobs.max_replicas()),
        clock=ChainClock(chain),
    )
