"""A client with money beside a chain on which the tiny models are registered: what the tests of the market share."""

from __future__ import annotations

import dataclasses
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from client.cli_job import job_app
from client.proofs import ProofClient
from market.hashing import ZERO32
from market.keystore import save_account
from market.proofs.artefact import ProofArtefact
from market.proofs.cli import app as model_app
from market.proofs.process import Limits
from market.signing import sign
from market.types import ZERO_ADDRESS, Quote
from provider.config import Prices
from provider.proofs_cli import Proving
from tests.integration.chain.world import PROVIDERS, World

VALUES = [1, 2, 3, -4]
BASE_FEE = 1_000
STRANGER = PROVIDERS[2]
PASSWORD = "password"
GAS_BAR = 700_000
"""Of verification and settlement together."""


@dataclass(frozen=True)
class Shopping:
    """A client with money beside a chain on which the tiny models are registered."""

    world: World
    client: ProofClient
    manifest: Path
    folder: Path

    def settings(self, *artefacts: ProofArtefact, prover: Limits | None = None, provider: int = 0) -> Proving:
        return Proving(
            rpc_url=self.world.anvil.rpc_url,
            deployment=self.manifest,
            account=self.world.account(PROVIDERS[provider]),
            artefacts=tuple(artefact.folder for artefact in artefacts),
            queue=":memory:",
            prices=Prices(base_fee=BASE_FEE),
            prover=prover or Limits(),
        )

    def requote(self, quote: Quote, provider: int) -> tuple[Quote, bytes]:
        """The same for anybody and any request: for jobs that others post, since the client's key has one writer."""
        made = dataclasses.replace(
            quote, client=ZERO_ADDRESS, request_hash=ZERO32, nonce=secrets.randbits(64), valid_until=2**40
        )
        return made, sign(self.world.contracts.proofs.domain, made, self.world.account(PROVIDERS[provider]))

    def credit(self, index: int) -> int:
        return self.world.vault.credit(self.world.token.address, self.world.account(index).address)


@dataclass(frozen=True)
class Commands:
    """What people type, each with --json; `folder` holds the keys. Errors of the market are raised as they are."""

    shopping: Shopping
    folder: Path

    def market(self, account: int) -> list[str]:
        """The options that say which market, and with whose key."""
        keystore = self.folder / f"key-{account}.json"
        if not keystore.exists():
            save_account(keystore, self.shopping.world.account(account), PASSWORD, light=True)
        rpc, manifest = self.shopping.world.anvil.rpc_url, str(self.shopping.manifest)
        return ["--rpc", rpc, "--deployment", manifest, "--keystore", str(keystore)]

    def model(self, *arguments: str) -> dict[str, Any]:
        """`assay model …`; its document."""
        return _document(model_app, arguments)

    def job(self, *arguments: str) -> dict[str, Any]:
        """`assay job …`; its document."""
        return _document(job_app, arguments)


def _document(app: Any, arguments: tuple[str, ...]) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
