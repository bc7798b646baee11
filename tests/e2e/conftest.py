"""Networks of real processes: anvil, agents, HTTP. One of the tiny model for the file's tests, one of the real."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assay.demo import connect
from assay.network import LocalNetwork, NetworkInfo, NetworkPlan
from client import Client, JobResult
from client.rfq import RfqPolicy
from market.chain import Chain
from market.deployment import Contracts, Deployment
from market.events import Event, decode_logs

WAIT_SECONDS = 120


@dataclasses.dataclass
class Market:
    """A running network with what a test looks at."""

    network: LocalNetwork
    info: NetworkInfo
    contracts: Contracts

    @classmethod
    def start(cls, directory: Path, pack: Path, **plan: Any) -> Market:
        network = LocalNetwork(NetworkPlan(directory=directory, packs=(pack,), **plan))
        info = network.start()
        deployment = Deployment.load(Path(info.deployment))
        return cls(network, info, Contracts.of(Chain(info.rpc_url), deployment))

    def client(self) -> Client:
        return connect(self.network, self.info, RfqPolicy(timeout=20.0, grace=2.0))

    def replace(self, index: int, program: tuple[str, ...] | None) -> None:
        self.info = self.network.replace(index, program)

    def run_in_background(self, **options: Any) -> Background:
        return Background(self, options)

    def events(self, name: str) -> list[Event]:
        """Every event of that name of the jobs contract so far."""
        chain, jobs = self.contracts.jobs.chain, self.contracts.jobs.address
        return [e for e in decode_logs(chain.logs([jobs], 0, chain.head().number)) if e.name == name]

    def assert_vault_is_whole(self) -> None:
        """Invariant 1: what the vault owes, it has."""
        vault, token = self.contracts.vault, self.contracts.token
        assert token.balance_of(vault.address) == vault.total(token.address)


class Background:
    """A job bought on another thread while the test moves the chain's clock."""

    def __init__(self, market: Market, options: dict[str, Any]) -> None:
        self._result: JobResult | None = None
        self._error: BaseException | None = None
        self._market = market
        self._posted = market.contracts.jobs.client_nonce(market.info.client)
        self._thread = threading.Thread(target=self._run, args=[options], daemon=True)
        self._thread.start()

    def _run(self, options: dict[str, Any]) -> None:
        try:
            with self._market.client() as client:
                self._result = client.run(**options)
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._error = error

    @property
    def job_id(self) -> bytes:
        """The id the job has or will have."""
        return self._market.contracts.jobs.job_id_of(self._market.info.client, self._posted)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if self._error is not None:
                raise self._error
            assert time.monotonic() < deadline, "the job did not get there in time"
            time.sleep(0.05)

    def wait_for_post(self) -> None:
        jobs, client = self._market.contracts.jobs, self._market.info.client
        self.wait_until(lambda: jobs.client_nonce(client) > self._posted)

    def result(self) -> JobResult:
        self._thread.join(WAIT_SECONDS)
        if self._error is not None:
            raise self._error
        assert self._result is not None, "the job did not end in time"
        return self._result


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Path) -> Iterator[Market]:
    """Three honest providers of the tiny model; a test that replaces one puts it back."""
    running = Market.start(tmp_path_factory.mktemp("network"), tiny_pack)
    yield running
    running.network.stop()
