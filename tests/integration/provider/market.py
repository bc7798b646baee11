"""A real chain with real contracts, a client with money, and provider agents, in this process or as programs."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount

from market.anvil import Anvil
from market.chain import Call, Chain
from market.deployment import Contracts, Deployment, DeploymentParameters, deploy
from market.events import decode_logs
from market.hashing import ZERO32, job_id, pack_stop_tokens, pack_tokens, tokens_root
from market.keystore import save_account
from market.models.pack import Pack
from market.models.text import load_text
from market.models.tiny import write_tiny_pack
from market.signing import sign
from market.transactions import Transactions
from market.types import Mode, OutputAccess, Quote, Request
from market.views import JobParams, JobState, JobView, SignedQuote
from provider import config_file
from provider.agent import Agent, build
from provider.config import Prices, ProviderConfig, Terms
from provider.journal import Journal

PASSWORD = "correct horse battery"
TOKENS = 10**12
STAKE = 10**9
DISPUTE_WINDOW = 60
STEP = 60.0  # seconds any one thing may take on a busy machine


def until(condition: Callable[[], Any], seconds: float = STEP) -> Any:
    """The condition's first true value; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.025)  # most conditions ask the chain: oftener, and they keep the agents from their work
    return value


class Market:
    """Everything but the providers."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        self.folder = folder
        self.anvil = Anvil.start(accounts=10)
        self.chain = Chain(self.anvil.rpc_url)
        self.guardian = Transactions(self.chain, self.anvil.accounts[0], ":memory:")
        fixed = DeploymentParameters(dispute_window=DISPUTE_WINDOW, **parameters)
        self.deployment: Deployment = deploy(self.chain, self.guardian, parameters=fixed)
        self.manifest = folder / "deployment.json"
        self.deployment.save(self.manifest)
        self.contracts = Contracts.of(self.chain, self.deployment)
        self.client: LocalAccount = self.anvil.accounts[1]
        self.transactions = Transactions(self.chain, self.client, ":memory:")
        self.guardian.send(self.contracts.token.mint(self.client.address, TOKENS))
        self.transactions.send(self.contracts.token.approve(self.deployment.vault, TOKENS))
        self.pack: Pack = write_tiny_pack(folder / "pack")
        self.password_file = folder / "password"
        self.password_file.write_text(PASSWORD + "\n", encoding="utf-8")

    def close(self) -> None:
        self.guardian.close()
        self.transactions.close()
        self.anvil.stop()

    # ------------------------------------------------------------------------------------------------ providers

    def provider(self, folder: Path, **choices: Any) -> tuple[Path, LocalAccount]:
        """Configuration and funded account, a new one each time, of a provider that did not run yet."""
        account: LocalAccount = Account.create()
        self.guardian.send(Call(account.address, b"", "gas coin", 10**19))
        self.guardian.send(self.contracts.token.mint(account.address, TOKENS))
        save_account(folder / "keystore.json", account, PASSWORD, light=True)
        base = config_file.Choices(
            rpc_url=self.anvil.rpc_url,
            ws_url=self.anvil.ws_url,
            deployment=str(self.manifest),
            keystore="keystore.json",
            data_dir="data",
            packs=[str(self.pack.path)],
            port=0,
            threads=1,
            stake=STAKE,
            prices=Prices(base_fee=1_000, per_m_input=1_000_000, per_m_output=2_000_000),
            terms=Terms(bond=10_000),
            settle_grace=0,
        )
        path = folder / "provider.toml"
        config_file.write(path, replace(base, **choices))
        return path, account

    # -------------------------------------------------------------------------------------------------- the client

    def request(self, prompt: str = "the end", max_output_tokens: int = 8) -> tuple[Request, list[int]]:
        ids = load_text(self.pack).encode(prompt)
        request = Request(
            model_id=self.pack.model_id,
            input_root=tokens_root(ids),
            input_tokens=len(ids),
            max_output_tokens=max_output_tokens,
            stop_tokens=pack_stop_tokens(self.pack.limits.stop_tokens),
            sampler=0,
            temperature_q16=0,
            top_k=0,
            top_p_q16=0,
            seed=ZERO32,
            nonce=secrets.token_bytes(32),
        )
        return request, ids

    def quote(self, url: str, request: Request, mode: Mode, *, client: str = "") -> SignedQuote:
        client = (client or self.client.address).lower()
        body = {"request": request.to_json(), "modelId": None, "client": client, "mode": mode}
        answer = httpx.post(f"{url}/v1/quotes", json=body)
        assert answer.status_code == 200, answer.text
        content = answer.json()
        return SignedQuote(Quote.from_json(content["quote"]), bytes.fromhex(content["signature"][2:]))

    def deliver(
        self, url: str, subject: bytes, request: Request, ids: Sequence[int], messages: Any = None
    ) -> httpx.Response:
        body = {"subjectId": "0x" + subject.hex(), "request": request.to_json(), "ids": list(ids), "messages": messages}
        return httpx.put(f"{url}/v1/requests/0x{request.request_hash.hex()}", json=body)

    def post(
        self,
        quotes: Sequence[SignedQuote],
        request: Request,
        *,
        quorum: int = 1,
        mode: Mode | None = None,
        inline: Sequence[int] = (),
        commit_window: int = 120,
        reveal_window: int = 120,
        sender: Transactions | None = None,
    ) -> bytes:
        """Posts the job, as the client or as `sender`, and returns its id. One quote: mode none, if none is named."""
        sender = sender or self.transactions
        nonce = self.contracts.jobs.client_nonce(sender.address)
        posted = job_id(self.chain.chain_id, self.deployment.jobs, sender.address, nonce)
        call = self.contracts.jobs.post(
            JobParams(
                mode=(Mode.NONE if len(quotes) == 1 else Mode.QUORUM) if mode is None else mode,
                quorum=quorum,
                max_escrow=10**9,
                commit_window=commit_window,
                reveal_window=reveal_window,
                request=request,
                quotes=tuple(quotes),
                inline_input=pack_tokens(inline) if inline else b"",
            )
        )
        sender.send(call)
        return posted

    def start_job(self, url: str, **options: Any) -> tuple[bytes, Request]:
        """Quote, post, deliver: a job of one provider."""
        request, ids = self.request()
        quote = self.quote(url, request, Mode.NONE)
        posted = self.post([quote], request, **options)
        answer = self.deliver(url, posted, request, ids)
        assert answer.status_code == 200, answer.text
        return posted, request

    def output(
        self, url: str, subject: bytes, *, signer: LocalAccount | None = None, ahead: int = 60
    ) -> httpx.Response:
        signer = signer or self.client
        access = OutputAccess(subject, signer.address, self.chain.head().timestamp + ahead)
        headers = {
            "X-Assay-Client": signer.address.lower(),
            "X-Assay-Valid-Until": str(access.valid_until),
            "X-Assay-Signature": "0x" + sign(self.contracts.jobs.domain, access, signer).hex(),
        }
        return httpx.get(f"{url}/v1/outputs/0x{subject.hex()}", headers=headers)

    def job(self, subject: bytes) -> JobView:
        return self.contracts.jobs.job(subject)

    def settled(self, subject: bytes) -> bool:
        return self.job(subject).state is JobState.SETTLED

    def assert_books(self, job: bytes, provider: str, stake: int = STAKE) -> None:
        """The vault has what it owes, the provider what it staked, and the job was settled exactly once."""
        block, vault, token = self.chain.head().number, self.contracts.vault, self.contracts.token
        assert token.balance_of(vault.address, block) == vault.total(token.address, block)
        found = vault.stake_of(provider, block)
        assert found.free + found.bonded == stake
        assert len(self.events("Settled", job)) == 1

    def events(self, name: str, subject: bytes) -> list[dict[str, Any]]:
        logs = self.chain.logs([self.deployment.jobs], 0, self.chain.head().number)
        return [e.args for e in decode_logs(logs) if e.name == name and e.args.get("jobId") == subject]


class LocalAgent:
    """An agent in this process, on a thread and an event loop of its own."""

    def __init__(self, config: Path, account: LocalAccount, **wiring: Any) -> None:
        self.config = ProviderConfig.load(config)
        self.account = account
        self.reports: list[str] = []
        self.agent: Agent = build(self.config, account, report=self.reports.append, **wiring)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        until(lambda: self._ready.is_set() or self._failure is not None)
        if self._failure is not None:
            raise self._failure

    @property
    def url(self) -> str:
        return self.agent.url

    @property
    def journal(self) -> Journal:
        return self.agent.journal

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        if not self.ended:
            self._stop()
        self._thread.join(STEP)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self._failure = error
        finally:
            self.agent.close()

    async def _serve(self) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        await self.agent.run(self._ready.set, stop)


class Program:
    """An agent as a process: the real command, or a test-side module that crashes."""

    def __init__(self, market: Market, config: Path, *program: str) -> None:
        self.config = ProviderConfig.load(config)
        command = program or (sys.executable, "-m", "assay", "provider", "run")
        self.log = (config.parent / "log").open("a+", encoding="utf-8")
        self.process = subprocess.Popen(
            [*command, "--config", str(config), "--password-file", str(market.password_file)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.url = ""

    def ready(self) -> str:
        """Waits for the ready line; returns the address in it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready http"), f"{line!r}: {self.text()}"
        _, self.url, address = line.split()
        return address

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal; returns the exit code. Raises subprocess.TimeoutExpired where the program hangs."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()

    def text(self) -> str:
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]
