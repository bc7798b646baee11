"""One local network with real provider processes for all of the client's integration tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from assay.network import CLIENT, LocalNetwork, NetworkInfo, NetworkPlan
from client import Client
from client.rfq import RfqPolicy

ADVERSARIES = Path(__file__).resolve().parents[2] / "adversaries.py"
HONEST = 3
BEHAVIOURS = ("liar", "mute")
UNUSED_ACCOUNT = 9  # of anvil's: has coin for gas and no tokens


class Town:
    """The network, and what tests do to it."""

    def __init__(self, network: LocalNetwork, home: Path) -> None:
        self.network = network
        self.home = home
        self.info: NetworkInfo = network.start()

    @property
    def account(self) -> Any:
        return self.network.anvil.accounts[CLIENT]

    @property
    def providers(self) -> list[str]:
        return [provider.address for provider in self.info.providers]

    @property
    def honest(self) -> list[str]:
        return self.providers[:HONEST]

    def adversary(self, behaviour: str) -> str:
        """The address of the provider that behaves like that."""
        return self.providers[HONEST + BEHAVIOURS.index(behaviour)]

    def connect(self, data_dir: Path, **options: Any) -> Client:
        patient = RfqPolicy(timeout=5.0, grace=2.0)  # these tests are about outcomes, on machines of any load
        options = {"account": self.account, "rpc_url": self.info.rpc_url, "ws_url": self.info.ws_url, **options}
        options = {"rfq": patient, **options}
        return Client.connect(**{"deployment": Path(self.info.deployment), "data_dir": data_dir, **options})

    @contextmanager
    def frozen(self, *indexes: int) -> Iterator[None]:
        """These providers neither answer nor act."""
        processes = [self.network.processes()[index] for index in indexes]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def pass_time(self, seconds: int) -> None:
        self.network.anvil.increase_time(seconds)
        self.network.anvil.mine()


@pytest.fixture(scope="session")
def town(tiny_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    home = tmp_path_factory.mktemp("home")
    substitutes = {HONEST + n: (sys.executable, str(ADVERSARIES), name) for n, name in enumerate(BEHAVIOURS)}
    plan = NetworkPlan(
        directory=home / "network",
        packs=(tiny_pack,),
        providers=HONEST + len(BEHAVIOURS),
        substitutes=substitutes,
    )
    with LocalNetwork(plan) as network:
        yield Town(network, home)


Connect = Callable[..., Client]


@pytest.fixture
def connect(town: Town, tmp_path: Path) -> Iterator[Connect]:
    """Opens clients that are closed after the test; the same data folder unless another is named."""
    with ExitStack() as stack:

        def open_client(data_dir: Path | None = None, **options: Any) -> Client:
            return stack.enter_context(town.connect(data_dir or tmp_path / "client", **options))

        yield open_client


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()
