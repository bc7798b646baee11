"""Providers that break the protocol, for tests and the demo. Run: `python tests/adversaries.py BEHAVIOUR --config …`.

The agent's own wiring cannot reach any of this, and nothing here runs on a chain that is not a development one.

    liar     answers with one token changed, consistently: commitment, reveal and receipt agree with each other
    mute     commits and never reveals
    absent   accepts the request and never commits
    held     honest, but commits only once the file named by --until exists
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from market.chain import DEVELOPMENT_CHAIN_IDS, Chain
from market.contracts import Jobs, Vault
from market.deployment import Deployment
from market.errors import ChainError, ConfigError
from market.inference.engine import Engine
from market.keystore import load_account
from market.transactions import Transactions
from market.types import Output
from provider.agent import SideFactory, chain_side
from provider.chainside import ChainSide
from provider.config import ProviderConfig
from provider.executor import Answer, EngineExecutor, ExecutorFactory, Failure
from provider.program import serve
from provider.signals import Signals

BEHAVIOURS = ("liar", "mute", "absent", "held")
POLL_SECONDS = 0.02


class Liar(EngineExecutor):
    """Changes the first token of every answer to its neighbour."""

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        truth = super().outcome(job_id)
        if not isinstance(truth, Answer):
            return truth
        return dataclasses.replace(truth, ids=(truth.ids[0] ^ 1, *truth.ids[1:]))


class Held(EngineExecutor):
    """Keeps every answer back until a file appears."""

    def __init__(
        self, engines: Mapping[bytes, Engine], limit: int, on_done: Callable[[bytes], None], *, until: Path
    ) -> None:
        self._until = until
        super().__init__(engines, limit, self._tell_later(on_done))

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        return super().outcome(job_id) if self._until.exists() else None

    def _tell_later(self, on_done: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def wait(job_id: bytes) -> None:
            while not self._until.exists():
                time.sleep(POLL_SECONDS)
            on_done(job_id)

        return lambda job_id: threading.Thread(target=wait, args=[job_id], daemon=True).start()


class Mute(ChainSide):
    """Never reveals."""

    def reveal(self, job_id: bytes, output: Output, salt: bytes, key: str) -> None:
        raise ChainError("This provider reveals nothing.", code="MUTE")


class Absent(ChainSide):
    """Never commits."""

    def commit(self, job_id: bytes, commitment: bytes, key: str) -> None:
        raise ChainError("This provider commits to nothing.", code="ABSENT")


def side(kind: type[ChainSide]) -> SideFactory:
    def make(chain: Chain, jobs: Jobs, vault: Vault, transactions: Transactions, timeout: float) -> ChainSide:
        return kind(chain, jobs, vault, transactions, timeout=timeout)

    return make


def refuse_real_chains(deployment: Deployment) -> None:
    """
    Raises:
        ConfigError: the manifest is for a chain where money is real.
    """
    if deployment.chain_id not in DEVELOPMENT_CHAIN_IDS:
        raise ConfigError(f"Adversaries run on development chains only, not on chain {deployment.chain_id}.")


def main(arguments: list[str]) -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("behaviour", choices=BEHAVIOURS)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--until", type=Path, default=Path("/nonexistent"))
    chosen = parser.parse_args(arguments)
    signals = Signals()
    config = ProviderConfig.load(chosen.config)
    refuse_real_chains(Deployment.load(config.deployment))
    executors: dict[str, ExecutorFactory] = {"liar": Liar, "held": functools.partial(Held, until=chosen.until)}
    sides = {"mute": side(Mute), "absent": side(Absent)}
    serve(
        config,
        load_account(config.keystore, chosen.password_file.read_text(encoding="utf-8").strip()),
        signals,
        lambda agent: print(f"ready {agent.url} {agent.address}", flush=True),
        executor_factory=executors.get(chosen.behaviour, EngineExecutor),
        side_factory=sides.get(chosen.behaviour, chain_side),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
