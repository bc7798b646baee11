"""The seam: another proving system is one class off chain and one contract on it; desk, agent, client, ProofJobs stay
as they are. This one proves nothing: its "proof" is the hash of the statement, and its model adds one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from eth_abi import encode

from client.proofs import ProofClient, ProofNotMade
from client.wallet import Wallet
from market.anvil import Anvil
from market.artefacts import shipped
from market.errors import MarketError
from market.hashing import ZERO32, keccak256, pack_tokens, tokens_root
from market.proofs.artefact import ProofArtefact
from market.proofs.backend import EzklProgram, InputForm, Proof, ProvingBackend, signed, unsigned
from market.proofs.srs import CEREMONY
from market.transactions import Transactions
from market.types import Model
from market.views import ProofJobState
from provider.config import Limits, Prices
from provider.proof_inputs import InputStore
from provider.proofs import ProofAgent, ProofDesk, ProofShop
from provider.proofs_app import create_proofs_app
from provider.server import Server, listen
from tests.integration.chain.world import CLIENT, PROVIDERS, World, build
from tests.unit.contracts.artefacts import artefacts

MODEL = Model(b"\x07" * 32, b"\x08" * 32, ZERO32, ZERO32, ZERO32)
PRICE = 500


@dataclass
class AddsOne:
    """A backend of ProvingBackend's shape."""

    model_id: bytes
    name: str = "toy"
    lies: bool = False

    def prove(self, folder: Path, ids: Sequence[int], job_id: bytes, *, blinding: int = 0) -> Proof:
        root, output = self.input_root(folder, ids, blinding=blinding), self.run(folder, [ids])[0]
        statement = (job_id, self.model_id, root, len(ids))
        claimed = output if not self.lies else tuple(unsigned(signed(token) + 1) for token in output)
        words = encode(["(bytes32,bytes32,bytes32,uint32)", "bytes"], [statement, pack_tokens(output)])
        return Proof(keccak256(words), claimed)

    def verify(self, folder: Path, proof: Proof) -> bool:
        return folder is not None and len(proof.data) == 32

    def input_root(self, folder: Path, ids: Sequence[int], *, blinding: int = 0) -> bytes:
        assert (folder.name, blinding) == ("toy", 0)
        return tokens_root(ids)

    def run(self, folder: Path, batch: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        assert folder.name == "toy"
        return [tuple(unsigned(signed(token) + 1) for token in ids) for ids in batch]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A market whose ProofJobs asks another adapter."""
    folder = tmp_path_factory.mktemp("other")
    with Anvil.start() as anvil:
        made = build(anvil, folder)
        adapter = artefacts()["ToyProofVerifier"]["deployedBytecode"]
        assert "ToyProofVerifier" not in {artefact.name for artefact in shipped()}
        made.chain.rpc("anvil_setCode", made.deployment.verifier, adapter)
        made.deposit(CLIENT)
        yield made


@pytest.mark.parametrize("lies", [False, True])
def test_another_proving_system_is_one_class_and_one_contract(world: World, tmp_path: Path, lies: bool) -> None:
    folder = tmp_path / "toy"
    artefact = ProofArtefact(
        folder=folder,
        name="adds one",
        backend="toy",
        model=MODEL,
        program=EzklProgram(1, 1, InputForm.PUBLIC),
        labels=(),
        input_scale=0,
        output_scale=0,
        srs_kind=CEREMONY,
        creation=b"",
        manifest={"inputForm": "public"},
    )
    backend: ProvingBackend = AddsOne(MODEL.model_id, lies=lies)
    provider = world.account(PROVIDERS[0])
    inputs = InputStore(":memory:", provider)
    shop = ProofShop({MODEL.model_id: artefact}, Prices(base_fee=PRICE))

    def now() -> int:
        return world.chain.head().timestamp

    wallet = Wallet(world.chain, world.account(CLIENT), tmp_path / "client.sqlite", linger=0.1)
    with (
        Transactions(world.chain, provider, ":memory:") as transactions,
        httpx.Client(trust_env=False) as http,
        _served(ProofDesk(world.contracts, provider, shop, backend, inputs, now)) as url,
    ):
        agent = ProofAgent(world.chain, world.deployment, transactions, shop, backend, inputs, now)
        client = ProofClient(world.chain, world.deployment, world.account(CLIENT), wallet, http=http, now=now)
        offered = client.negotiate(artefact, [-7], url)
        posted, told = threading.Event(), list[object]()

        def buy() -> None:
            try:
                told.append(client.classify(offered, window=30, on_posted=lambda _job_id: posted.set()))
            except MarketError as error:
                told.append(error)

        thread = threading.Thread(target=buy)
        thread.start()
        assert posted.wait(30)
        assert agent.step() == (0 if lies else 1)
        if lies:
            world.anvil.increase_time(31)
        thread.join(30)
        (result,) = told
        if lies:
            assert isinstance(result, ProofNotMade)
        else:
            assert result.scores == (-6.0,)  # type: ignore[attr-defined]
            job = world.contracts.proofs.job(result.job_id)  # type: ignore[attr-defined]
            assert (job.state, job.escrow) == (ProofJobState.SETTLED, PRICE)
    wallet.close()
    inputs.close()


class _served:  # noqa: N801 - used as a function
    """The desk's HTTP server for as long as the block lasts."""

    def __init__(self, desk: ProofDesk) -> None:
        import asyncio

        limits = Limits()
        self._socket = listen("127.0.0.1", 0)
        self._server = Server(create_proofs_app(desk, limits), limits)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(sockets=[self._socket])))

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_error: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
