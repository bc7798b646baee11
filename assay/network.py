"""A local network: anvil, deployed contracts, provider agents as processes, a client with money.

Development only: it uses anvil's published keys, and refuses to live on any other chain.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from eth_account.signers.local import LocalAccount

from market.anvil import Anvil, development_accounts, die_with
from market.chain import Call, Chain
from market.contracts import Token
from market.deployment import Deployment, DeploymentParameters, deploy
from market.errors import AssayError, ConfigError
from market.files import write_atomically
from market.judging import acceptances
from market.keystore import load_account, save_account
from market.models.pack import load_pack
from market.transactions import Transactions
from provider.config import Prices, Terms
from provider.config_file import Choices, write

Say = Callable[[str], None]

READY_SECONDS = 120
STOP_SECONDS = 8
DEPLOYER, CLIENT, FIRST_PROVIDER = 0, 1, 2  # indexes into anvil's accounts
MAX_PROVIDERS = 7
GAS_COIN = 10 * 10**18  # wei that `fund_account` gives
AGENT = (sys.executable, "-m", "assay", "provider", "run")


@dataclass(frozen=True)
class NetworkPlan:
    """What to start.

    Attributes:
        directory: everything of the network lives here; nothing outside is written.
        packs: model packs that every provider serves.
        providers: how many agents, 1 to 7.
        block_time: seconds between blocks; None mines every transaction at once.
        threads: CPU threads of each agent.
        dispute_window: seconds a revealed bond stays locked; reply_window: to give a reply in a dispute.
        max_bond: most that an agent locks in a job it is drawn for, base units; 0 = they work for quotes only.
        queue: jobs that an agent takes on at a time.
        keep: write the chain down every second, so that it goes on after a stop. That is all of its past, tens of
            megabytes after some jobs: a network that is gone with its process does without.
        substitutes: index of a provider → command that runs instead of the agent, with the same arguments (tests and
            the demo put adversaries there).
    """

    directory: Path
    packs: tuple[Path, ...]
    providers: int = 3
    block_time: float | None = None
    port: int = 0
    threads: int = 1
    dispute_window: int = 600
    reply_window: int = 120
    tokens_each: int = 1_000_000 * 10**6
    stake_each: int = 100_000 * 10**6
    prices: Prices = field(default_factory=lambda: Prices(base_fee=1_000, per_m_input=200_000, per_m_output=600_000))
    terms: Terms = field(default_factory=lambda: Terms(bond=1_000_000))
    max_bond: int = 10 * 10**6
    settle_grace: int = 15
    draw_grace: int = 20
    queue: int = 8
    keep: bool = False
    substitutes: dict[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ProviderProcess:
    address: str
    endpoint: str
    pid: int
    config: str
    log: str


@dataclass(frozen=True)
class NetworkInfo:
    """What runs where: the content of network.json."""

    supervisor: int
    chain_id: int
    rpc_url: str
    ws_url: str
    deployment: str
    client: str
    client_keystore: str
    password_file: str
    providers: tuple[ProviderProcess, ...]

    def save(self, directory: Path) -> None:
        write_atomically(directory / "network.json", json.dumps(asdict(self), indent=1).encode() + b"\n", mode=0o600)

    @classmethod
    def load(cls, directory: Path) -> NetworkInfo | None:
        """The network that was last started there, or None."""
        try:
            data: dict[str, Any] = json.loads((directory / "network.json").read_text(encoding="utf-8"))
            providers = tuple(ProviderProcess(**entry) for entry in data.pop("providers"))
            return cls(providers=providers, **data)
        except (FileNotFoundError, json.JSONDecodeError, TypeError, KeyError):
            return None


class LocalNetwork:
    """Starts and stops one network. Everything it starts dies with it, even if it is killed."""

    def __init__(self, plan: NetworkPlan, say: Say = lambda _: None) -> None:
        """
        Raises:
            ConfigError: the plan is impossible.
        """
        if not 1 <= plan.providers <= MAX_PROVIDERS:
            raise ConfigError(f"A local network has 1 to {MAX_PROVIDERS} providers, not {plan.providers}.")
        self.plan = plan
        self._say = say
        self._anvil: Anvil | None = None
        self._processes: list[subprocess.Popen[str]] = []
        self._deployment_gas: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def anvil(self) -> Anvil:
        if self._anvil is None:
            raise ConfigError("The local network is not running.")
        return self._anvil

    def start(self) -> NetworkInfo:
        """Starts all of it and returns when every provider is ready. State that is there is taken up again.

        Raises:
            AssayError: something did not start; what had started is stopped.
        """
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> NetworkInfo:
        directory = self.plan.directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        password_file = directory / "password"
        if not password_file.exists():
            write_atomically(password_file, secrets.token_urlsafe(24).encode() + b"\n", mode=0o600)
        self._say("chain")
        state = directory / "chain.json" if self.plan.keep else None
        self._anvil = Anvil.start(port=self.plan.port, block_time=self.plan.block_time, state=state)
        chain = Chain(self._anvil.rpc_url)
        accounts = self._anvil.accounts
        self._say("contracts")
        deployment = self._deploy(chain, accounts[DEPLOYER], directory)
        people = [accounts[CLIENT], *accounts[FIRST_PROVIDER : FIRST_PROVIDER + self.plan.providers]]
        self._mint(chain, deployment, accounts[DEPLOYER], people, directory)
        password = password_file.read_text(encoding="utf-8").strip()
        client_keystore = _keystore(directory / "client" / "keystore.json", accounts[CLIENT], password)
        self._say(f"{self.plan.providers} providers")
        started = [
            self._start_provider(index, accounts[FIRST_PROVIDER + index], password, directory, password_file)
            for index in range(self.plan.providers)
        ]
        providers = tuple(self._await_ready(*entry) for entry in started)
        info = NetworkInfo(
            supervisor=os.getpid(),
            chain_id=chain.chain_id,
            rpc_url=self._anvil.rpc_url,
            ws_url=self._anvil.ws_url,
            deployment=str(directory / "deployment.json"),
            client=accounts[CLIENT].address,
            client_keystore=str(client_keystore),
            password_file=str(password_file),
            providers=providers,
        )
        info.save(directory)
        return info

    def stop(self) -> None:
        """Stops everything this object started, providers first, so that they can finish what they are writing."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            _reap(process, deadline - time.monotonic())
        self._processes.clear()
        if self._anvil is not None:
            self._anvil.stop()
            self._anvil = None

    def replace(self, index: int, program: tuple[str, ...] | None) -> NetworkInfo:
        """Stops one provider and starts `program` (None: the agent) in its place, with the same key and journal.

        Raises:
            ConfigError: it did not start.
        """
        process = self._processes[index]
        process.send_signal(signal.SIGTERM)
        _reap(process, STOP_SECONDS)
        return self.start_again(index, program)

    def start_again(self, index: int, program: tuple[str, ...] | None = None) -> NetworkInfo:
        """Starts a provider again, whose process has ended. See `replace`."""
        directory = self.plan.directory.resolve()
        info = NetworkInfo.load(directory)
        if info is None:
            raise ConfigError("The local network is not running.")
        entry = info.providers[index]
        process = self._spawn(program, Path(entry.config), Path(entry.log), Path(info.password_file))
        _reap(self._processes[index], STOP_SECONDS)
        self._processes[index] = process
        ready = self._await_ready(process, Path(entry.config), Path(entry.log))
        providers = (*info.providers[:index], ready, *info.providers[index + 1 :])
        info = dataclasses.replace(info, providers=providers)
        info.save(directory)
        return info

    def processes(self) -> Sequence[subprocess.Popen[str]]:
        """The provider processes, in order."""
        return tuple(self._processes)

    # ---- parts of start

    def _deploy(self, chain: Chain, deployer: LocalAccount, directory: Path) -> Deployment:
        manifest = directory / "deployment.json"
        if manifest.exists():
            deployment = Deployment.load(manifest)
            try:
                deployment.check(chain)
                return deployment
            except AssayError:
                self._say("the chain kept no state; deploying anew")
                forget(directory)
        transactions = Transactions(chain, deployer, directory / "deployer.sqlite")
        try:
            cap = self.plan.tokens_each * (MAX_PROVIDERS + 1)  # so that nobody alone can fill the vault
            parameters = DeploymentParameters(
                dispute_window=self.plan.dispute_window, reply_window=self.plan.reply_window, cap=cap
            )
            deployment = deploy(chain, transactions, parameters=parameters, on_step=self._count_gas)
            for pack in map(load_pack, self.plan.packs):
                for call in acceptances(chain, deployment.judge, pack):
                    self._count_gas(call.label, transactions.send(call))
        finally:
            transactions.close()
        deployment.save(manifest)
        return deployment

    def _count_gas(self, label: str, sent: Any) -> None:
        self._deployment_gas[label] = sent.gas_used

    @property
    def deployment_gas(self) -> dict[str, int]:
        """Gas of each transaction of the deployment; empty when contracts were there already."""
        return dict(self._deployment_gas)

    def _mint(
        self, chain: Chain, deployment: Deployment, minter: LocalAccount, people: list[LocalAccount], directory: Path
    ) -> None:
        token = Token(chain, deployment.token)
        transactions = Transactions(chain, minter, directory / "deployer.sqlite")
        try:
            for person in people:
                key = f"mint-{person.address}"
                if token.balance_of(person.address) == 0:
                    transactions.send(token.mint(person.address, self.plan.tokens_each), key=key)
        finally:
            transactions.close()

    def _start_provider(
        self, index: int, account: LocalAccount, password: str, directory: Path, password_file: Path
    ) -> tuple[subprocess.Popen[str], Path, Path]:
        folder = directory / f"provider-{index + 1}"
        keystore = _keystore(folder / "keystore.json", account, password)
        config, log = folder / "provider.toml", folder / "agent.log"
        config.unlink(missing_ok=True)  # ports and endpoints of this start, not of the last
        write(
            config,
            Choices(
                rpc_url=self.anvil.rpc_url,
                ws_url=self.anvil.ws_url,
                deployment=str(directory / "deployment.json"),
                keystore=str(keystore),
                data_dir=str(folder / "data"),
                packs=[str(pack.resolve()) for pack in self.plan.packs],
                port=0,
                label="local",
                threads=self.plan.threads,
                stake=self.plan.stake_each,
                modes=("quorum", "none", "optimistic"),
                max_bond=self.plan.max_bond,
                prices=self.plan.prices,
                terms=self.plan.terms,
                settle_grace=self.plan.settle_grace,
                draw_grace=self.plan.draw_grace,
                queue=self.plan.queue,
                metrics_port=0,
            ),
        )
        process = self._spawn(self.plan.substitutes.get(index), config, log, password_file)
        self._processes.append(process)
        return process, config, log

    def _spawn(
        self, program: tuple[str, ...] | None, config: Path, log: Path, password_file: Path
    ) -> subprocess.Popen[str]:
        command = [*(program or AGENT), "--config", str(config), "--password-file", str(password_file)]
        with open(log, "a", encoding="utf-8") as sink:
            return subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                text=True,
                preexec_fn=die_with(os.getpid()),
            )

    def _await_ready(self, process: subprocess.Popen[str], config: Path, log: Path) -> ProviderProcess:
        line = _read_line(process, READY_SECONDS)
        words = line.split()
        if len(words) != 3 or words[0] != "ready":
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
            raise ConfigError(
                f"A provider did not start: {tail or line or 'it printed nothing'}",
                hint=f"Its log: {log}",
            )
        return ProviderProcess(words[2], words[1], process.pid, str(config), str(log))


def fund_account(directory: Path, info: NetworkInfo, address: str) -> dict[str, str]:
    """Gives an address what the network's own accounts got: test tokens, and 10 of the gas coin.

    Raises:
        ConfigError: another command is using the deployer's queue; ChainError: the chain refused.
    """
    tokens = NetworkPlan(directory, ()).tokens_each
    chain = Chain(info.rpc_url, expected_chain_id=info.chain_id)
    token = Token(chain, Deployment.load(Path(info.deployment)).token)
    with Transactions(chain, development_accounts()[DEPLOYER], directory / "deployer.sqlite") as transactions:
        transactions.send(Call(address, b"", "gas coin", GAS_COIN))
        transactions.send(token.mint(address, tokens))
    return {"address": address.lower(), "tokens": str(tokens), "wei": str(GAS_COIN)}


def forget(directory: Path) -> None:
    """Removes what belonged to a chain that is gone: queues, journals and indexes would speak of another past."""
    for name in ("deployment.json", "deployer.sqlite", "network.json"):
        for path in directory.glob(f"{name}*"):
            path.unlink()
    for path in [*directory.glob("provider-*/data"), directory / "client" / "data"]:
        shutil.rmtree(path, ignore_errors=True)


def _keystore(path: Path, account: LocalAccount, password: str) -> Path:
    """The account's encrypted keystore; one with another key or password is replaced (the keys are public ones)."""
    try:
        if load_account(path, password).address == account.address:
            return path
    except AssayError:
        path.unlink(missing_ok=True)
    save_account(path, account, password, light=True)
    return path


def _reap(process: subprocess.Popen[str], seconds: float) -> None:
    """Waits for a process that was told to end, ends it hard if it does not, and closes its pipe."""
    try:
        process.wait(max(0.1, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _read_line(process: subprocess.Popen[str], seconds: float) -> str:
    """The first line the process prints, or "" when it ends or stays silent for so long."""
    import selectors

    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            return ""
    return process.stdout.readline().strip()
