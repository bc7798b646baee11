"""A client with money beside a chain on which the tiny models are registered: what the tests of the market share."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass
from pathlib import Path

from client.proofs import ProofClient
from market.hashing import ZERO32
from market.proofs.artefact import ProofArtefact
from market.proofs.process import Limits
from market.signing import sign
from market.types import ZERO_ADDRESS, Quote
from provider.config import Prices
from provider.proofs_cli import Proving
from tests.integration.chain.world import PROVIDERS, World

VALUES = [1, 2, 3, -4]
BASE_FEE = 1_000
STRANGER = PROVIDERS[2]


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
