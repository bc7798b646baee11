"""Real artefacts of a tiny network, made once: public, private (hashed), and two with committed weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.proofs import ProofClient
from client.wallet import Wallet
from market.anvil import Anvil
from market.proofs.artefact import SRS, ProofArtefact
from market.proofs.backend import CircuitOptions, InputForm, WeightForm
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.registration import register
from market.proofs.setup import SetupWish, set_up
from market.proofs.srs import Ceremony, sha256_of
from tests.conftest import ROOT
from tests.integration.chain.world import CLIENT, PROVIDERS, build
from tests.integration.proofs.shopping import PASSWORD, STRANGER, Commands, Shopping
from tests.integration.proofs.tiny import write_tiny
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.proofs import ProofWorld
from tests.unit.contracts.revm import RevmChain

pytest.importorskip("ezkl", reason="the extra `proof` is not installed")
pytest.importorskip("onnx", reason="the extra `proof` is not installed")

SOLC = ROOT / "tools" / "solc"
DIGITS = ROOT / "recipes" / "digits.onnx"
COMMITTED = CircuitOptions(weights=WeightForm.COMMITTED)


class Lab:
    """Sets artefacts up. The first one's powers of tau serve the others as if a ceremony had made them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backend = EzklBackend()
        self._ceremony: Ceremony | None = None

    def make(self, name: str, seed: int, options: CircuitOptions | None = None, **network: Any) -> ProofArtefact:
        return self.set_up(name, write_tiny(self.folder / f"{name}.onnx", seed, **network), options)

    def set_up(self, name: str, source: Path, options: CircuitOptions | None = None) -> ProofArtefact:
        wish = SetupWish(
            source=source,
            name=name,
            solc=SOLC,
            options=options or CircuitOptions(),
            ceremony=self._ceremony,
            labels=("a", "b", "c"),
            licence="Apache-2.0",
        )
        made = set_up(wish, self.folder / name, self.backend)
        if self._ceremony is None:
            powers = made.folder / SRS
            self._ceremony = Ceremony(powers, sha256_of(powers))
        return made


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("proofs"))


@pytest.fixture(scope="session")
def backend(lab: Lab) -> EzklBackend:
    return lab.backend


@pytest.fixture(scope="session")
def tiny(lab: Lab) -> ProofArtefact:
    """Public input, weights in the key, powers of tau made here."""
    return lab.make("tiny", 1)


@pytest.fixture(scope="session")
def other(lab: Lab, tiny: ProofArtefact) -> ProofArtefact:
    """The same network with other weights."""
    return lab.make("other", 2)


@pytest.fixture(scope="session")
def private(lab: Lab, tiny: ProofArtefact) -> ProofArtefact:
    """Its input is hashed."""
    return lab.make("private", 1, CircuitOptions(form=InputForm.HASHED))


@pytest.fixture(scope="session")
def committed(lab: Lab, tiny: ProofArtefact) -> tuple[ProofArtefact, ProofArtefact]:
    """One key fits both, only the commitments differ. Small ones: each weight costs some forty rows of a hash."""
    return lab.make("committed", 1, COMMITTED, hidden=2), lab.make("committed-other", 2, COMMITTED, hidden=2)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, backend: EzklBackend) -> ProofArtefact:
    """The classifier that is shipped, set up as docs/proofs.md says."""
    labels = tuple(str(digit) for digit in range(10))
    return set_up(SetupWish(DIGITS, "digits", SOLC, labels=labels), tmp_path_factory.mktemp("digits") / "out", backend)


@pytest.fixture(scope="session")
def _deployed() -> ProofWorld:
    return ProofWorld(chain=RevmChain(list(artefacts().values())))


@pytest.fixture
def proving(_deployed: ProofWorld) -> Iterator[ProofWorld]:
    """A market in process."""
    assert isinstance(_deployed.chain, RevmChain)
    with _deployed.chain.undone():
        yield _deployed


@pytest.fixture(scope="session")
def shopping(
    tmp_path_factory: pytest.TempPathFactory, tiny: ProofArtefact, private: ProofArtefact, backend: EzklBackend
) -> Iterator[Shopping]:
    folder = tmp_path_factory.mktemp("shopping")
    with Anvil.start() as anvil:
        world = build(anvil, folder)
        world.deposit(CLIENT)
        world.deposit(STRANGER)
        with world.as_(PROVIDERS[0]) as transactions:
            for artefact in (tiny, private):
                register(artefact, world.contracts, transactions)
            assert register(tiny, world.contracts, transactions).sent == ()
        manifest = folder / "market.json"
        world.deployment.save(manifest)
        wallet = Wallet(world.chain, world.account(CLIENT), folder / "client.sqlite", linger=0.1)
        with httpx.Client(timeout=20, trust_env=False) as http:
            client = ProofClient(
                world.chain,
                world.deployment,
                world.account(CLIENT),
                wallet,
                http=http,
                now=lambda: world.chain.head().timestamp,
                backend=backend,
            )
            yield Shopping(world, client, manifest, folder)
        wallet.close()


@pytest.fixture
def commands(shopping: Shopping, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Commands:
    """With a home of their own."""
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASSAY_PASSWORD", PASSWORD)
    return Commands(shopping, tmp_path)
