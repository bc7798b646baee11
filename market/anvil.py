"""A local development chain: anvil (https://getfoundry.sh/anvil/reference/) as a child process that leaves no orphan.

Every account here is derived from the public development mnemonic: worthless anywhere else.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount

from market.anvil_state import Keeper, mend
from market.errors import ChainError, ChainUnreachable, ConfigError

MNEMONIC = "test test test test test test test test test test test junk"
ACCOUNTS = 10
CHAIN_ID = 31337
HARDFORK = "cancun"
START_TIMEOUT = 20.0  # seconds
STOP_TIMEOUT = 10.0  # seconds; saving a state takes time
_PLATFORM_PACKAGE = Path("node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil")
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")


@cache
def development_accounts(count: int = ACCOUNTS) -> tuple[LocalAccount, ...]:
    """The accounts anvil funds, in its order."""
    Account.enable_unaudited_hdwallet_features()
    return tuple(Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}") for index in range(count))


def find_binary(root: Path | None = None) -> Path:
    """anvil's executable: the npm platform package under `root` (default: the checkout this file is in), else the PATH.

    The current directory is not searched: whoever owns it would choose what runs. npm's `.bin/anvil` wrapper is never
    used: killing it leaves the chain running.

    Raises:
        ConfigError: there is none.
    """
    candidate = (root if root is not None else Path(__file__).resolve().parent.parent) / _PLATFORM_PACKAGE
    if candidate.is_file():
        return candidate
    found = shutil.which("anvil")
    if found is None:
        raise ConfigError(
            "anvil, the local development chain, is not installed.",
            hint="Run `npm ci --ignore-scripts` in the checkout (or install Foundry and put anvil on the PATH).",
        )
    return Path(found)


class Anvil:
    """A running development chain. Build it with `Anvil.start`; it is a context manager.

    Attributes:
        rpc_url, ws_url: where it listens (loopback only).
        port, pid: of the process.
        accounts: funded LocalAccounts (10,000 ETH each).
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, chain_id: int, accounts: int = ACCOUNTS) -> None:
        self._process = process
        self.port = port
        self.chain_id = chain_id
        self._account_count = accounts
        self.rpc_url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}"
        self._http = httpx.Client(timeout=30.0)
        self._keeper: Keeper | None = None

    @classmethod
    def start(
        cls,
        port: int = 0,
        *,
        block_time: float | None = None,
        mining: bool = True,
        state: Path | None = None,
        chain_id: int = CHAIN_ID,
        accounts: int = ACCOUNTS,
        binary: Path | None = None,
        detached: bool = False,
        log: Path | None = None,
        options: Sequence[str] = (),
    ) -> Self:
        """Starts anvil and waits until it answers.

        Args:
            port: 0 = a free one.
            block_time: seconds between blocks; None mines each transaction at once.
            mining: False mines only when `mine` is called.
            state: file the chain is loaded from (where it exists) and saved to: every second and when stopped. A copy
                is kept beside it, as long as this process lives, for a chain that is killed while it saves.
            chain_id: 31337 unless another is wanted.
            accounts: how many of the development accounts it funds and signs for.
            binary: anvil's executable; None = `find_binary()`.
            detached: survive this process (otherwise the kernel ends anvil when the thread that started it ends).
            log: file for anvil's output; None drops it.
            options: further arguments of anvil.

        Raises:
            ConfigError: no anvil, or it does not start (its own words are in the message), or its state is damaged.
        """
        executable = binary or find_binary()
        command = [str(executable), "--port", str(port), "--chain-id", str(chain_id), "--hardfork", HARDFORK]
        command += ["--accounts", str(accounts), "--mnemonic", MNEMONIC]
        if block_time is not None:
            command += ["--block-time", f"{block_time:g}"]
        if not mining:
            command += ["--no-mining"]
        if state is not None:
            state.parent.mkdir(parents=True, exist_ok=True)
            mend(state)
            command += ["--state", str(state), "--state-interval", "1", "--preserve-historical-states"]
        command += options
        with _output(log) as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=None if detached else die_with(os.getpid()),
            )
            try:
                bound = _wait_for_port(process, output)
            except BaseException:
                process.kill()
                process.wait()
                raise
        anvil = cls(process, bound, chain_id, accounts)
        anvil._wait_until_ready()
        if state is not None:
            anvil._keeper = Keeper(state)
        return anvil

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def accounts(self) -> tuple[LocalAccount, ...]:
        return development_accounts(max(self._account_count, ACCOUNTS))

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends the chain (saving its state where it has a file). Safe to repeat."""
        self._http.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._end_keeper()

    def kill(self) -> None:
        """Ends the chain at once, as a crash would (kill -9)."""
        self._http.close()
        self._process.kill()
        self._process.wait()
        self._end_keeper()

    def _end_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -------------------------------------------------------------------------------------------- what time does

    def rpc(self, method: str, *parameters: Any) -> Any:
        """One of anvil's own methods (evm_…, anvil_…).

        Raises:
            ChainError: anvil refused it.
            ChainUnreachable: anvil does not answer (it was stopped, or is busy for more than 30 s).
        """
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        try:
            answer = self._http.post(self.rpc_url, json=body).json()
        except (httpx.HTTPError, ValueError, RuntimeError) as error:
            raise ChainUnreachable(f"anvil does not answer {method}: {error}.", method=method) from None
        if "error" in answer:
            raise ChainError(f"anvil refused {method}: {answer['error'].get('message')}.", method=method)
        return answer.get("result")

    def mine(self, blocks: int = 1) -> None:
        self.rpc("anvil_mine", hex(blocks))

    def increase_time(self, seconds: int) -> None:
        """Moves the chain's clock forward and mines a block at the new time."""
        self.rpc("evm_increaseTime", seconds)
        self.mine()

    def reorg(self, depth: int) -> None:
        """Replaces the newest `depth` blocks by empty ones; their transactions are gone for good."""
        self.rpc("anvil_reorg", depth, [])

    def rollback(self, depth: int) -> None:
        """Removes the newest `depth` blocks."""
        self.rpc("anvil_rollback", depth)

    def set_automine(self, enabled: bool) -> None:
        self.rpc("evm_setAutomine", enabled)

    def set_next_base_fee(self, wei: int) -> None:
        self.rpc("anvil_setNextBlockBaseFeePerGas", hex(wei))

    def drop_transaction(self, transaction_hash: str) -> None:
        """Throws a waiting transaction out of the pool."""
        self.rpc("anvil_dropTransaction", transaction_hash)

    def snapshot(self) -> str:
        return str(self.rpc("evm_snapshot"))

    def revert(self, snapshot: str) -> None:
        self.rpc("evm_revert", snapshot)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.rpc("eth_chainId")
            except ChainUnreachable:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise ConfigError("anvil started but does not answer.") from None
                time.sleep(0.01)
            else:
                return


@contextmanager
def _output(log: Path | None) -> Iterator[IO[bytes]]:
    """The file anvil writes to: the port it chose is read from it."""
    if log is None:
        with tempfile.TemporaryFile("w+b") as file:
            yield file
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+b") as file:
        yield file


def _wait_for_port(process: subprocess.Popen[bytes], output: IO[bytes]) -> int:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        text = os.pread(output.fileno(), 1 << 20, 0).decode("utf-8", "replace")
        if found := _LISTENING.search(text):
            return int(found[1])
        if process.poll() is not None:
            lines = [line for line in text.splitlines() if line.strip()]
            raise ConfigError(f"anvil did not start: {' '.join(lines[-3:]) or f'exit status {process.returncode}'}.")
        if time.monotonic() > deadline:
            raise ConfigError(f"anvil did not start within {START_TIMEOUT:.0f} s.")
        time.sleep(0.005)


def die_with(parent: int) -> Any:
    """For the child, before exec: SIGTERM when the parent dies, however it dies (Linux only)."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before prctl took effect
            os._exit(1)

    return prepare
