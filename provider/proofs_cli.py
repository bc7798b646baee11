"""`assay provider prove`: a provider of proofs as one process: quotes over HTTP, jobs from the chain."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from eth_account.signers.local import LocalAccount

from market.chain import Chain
from market.config import Home, LocalNetworkNote, queue_path
from market.deployment import Contracts, Deployment
from market.errors import AssayError, ConfigError
from market.keystore import load_account
from market.proofs.artefact import ProofArtefact, load_artefact
from market.proofs.backends import backend_of
from market.proofs.process import MIB
from market.proofs.process import Limits as ProverLimits
from market.transactions import Transactions
from provider.cli_common import PasswordFile, password
from provider.config import Limits, Prices
from provider.proof_inputs import InputStore
from provider.proofs import ProofAgent, ProofDesk, ProofShop
from provider.proofs_app import create_proofs_app
from provider.proofs_onboard import announce, withdraw
from provider.server import Server, listen

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Proving:
    """What one agent needs: where, as whom, what for how much, and what a prover may use.

    Attributes:
        queue: of transactions, and `inputs` of private inputs: files, or ":memory:" to forget with the process.
        endpoint: public URL announced on chain, "" for http://host:port; None: nothing is announced, and only clients
            that were told the URL come.
        leave: take the offers back when the agent stops.
    """

    rpc_url: str
    deployment: Path
    account: LocalAccount
    artefacts: tuple[Path, ...]
    queue: Path | str
    prices: Prices
    prover: ProverLimits
    host: str = "127.0.0.1"
    port: int = 0
    confirmations: int = 0
    inputs: Path | str = ":memory:"
    endpoint: str | None = None
    label: str = ""
    leave: bool = False


class ProvingAgent:
    """Starts serving when it is made; `stop` ends it.

    Args:
        report: told what was sent to the registry, a line each.
    Raises:
        ConfigError, ArtefactError, ChainError, ContractError, JournalError: before anything is promised.
    """

    def __init__(self, settings: Proving, report: Callable[[str], None] = lambda _text: None) -> None:
        with ExitStack() as stack:
            self._start(settings, report, stack)
            self._stack = stack.pop_all()

    def _start(self, settings: Proving, report: Callable[[str], None], stack: ExitStack) -> None:
        artefacts = [load_artefact(path, proving=True) for path in settings.artefacts]
        backend = backend_of(artefacts, settings.prover)
        manifest = Deployment.load(settings.deployment)
        chain = Chain(settings.rpc_url, expected_chain_id=manifest.chain_id)
        manifest.check(chain)
        contracts = Contracts.of(chain, manifest)
        _check_registered(contracts, artefacts)
        shop = ProofShop({artefact.model_id: artefact for artefact in artefacts}, settings.prices)

        def now() -> int:
            return max(int(time.time()), chain.head().timestamp)

        self._transactions = stack.enter_context(Transactions(chain, settings.account, settings.queue))
        settings.prover.wipe()  # the queue has one writer: nobody else works there, nor with the inputs
        inputs = InputStore(settings.inputs, settings.account)
        stack.callback(inputs.close)
        self._agent = ProofAgent(
            chain,
            manifest,
            self._transactions,
            shop,
            backend,
            inputs,
            now,
            confirmations=settings.confirmations,
        )
        self._agent.catch_up()
        desk = ProofDesk(contracts, settings.account, shop, backend, inputs, now)
        self._socket = listen(settings.host, settings.port)
        stack.callback(self._socket.close)
        self.url = f"http://{settings.host}:{self._socket.getsockname()[1]}"
        if settings.endpoint is not None:
            endpoint, token = settings.endpoint or self.url, contracts.token.address
            announce(
                contracts.registry,
                self._transactions,
                shop,
                token=token,
                endpoint=endpoint,
                label=settings.label,
                report=report,
            )

        def leave() -> None:
            if settings.leave:
                withdraw(contracts.registry, self._transactions, shop, report)

        self._leave = leave
        limits = Limits()
        self._server = Server(create_proofs_app(desk, limits), limits)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, name="proof-http", daemon=True),
            threading.Thread(target=self._work, name="proof-agent", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self._agent.step()
            except AssayError as error:
                log.warning("proving_failed", code=error.code, error=str(error))
            except Exception:
                log.exception("proving_broke")
            self._stopping.wait(POLL_SECONDS)

    def wait(self, seconds: float | None = None) -> None:
        """Until `stop` was called."""
        self._stopping.wait(seconds)

    def stop(self) -> None:
        """Takes no new work, finishes the proof at hand, frees port, queue and file."""
        self._stopping.set()
        self._server.should_exit = True
        for thread in self._threads:
            thread.join()
        with self._stack:
            self._leave()


@contextmanager
def proving(settings: Proving, report: Callable[[str], None] = lambda _text: None) -> Iterator[ProvingAgent]:
    """An agent for as long as the block lasts."""
    agent = ProvingAgent(settings, report)
    try:
        yield agent
    finally:
        agent.stop()


def _check_registered(contracts: Contracts, artefacts: list[ProofArtefact]) -> None:
    for artefact in artefacts:
        if contracts.verifier.verifier_of(artefact.model_id) is None:
            raise ConfigError(
                f"No verifier of {artefact.name} (0x{artefact.model_id.hex()}) is registered on this chain.",
                hint="Register it with `assay model prove-register`.",
                code="ModelNotProvable",
            )


def prove(
    artefact: Annotated[list[Path], typer.Argument(help="Folders of proof artefacts to serve.", show_default=False)],
    keystore: Annotated[Path, typer.Option(help="The provider's encrypted key.")],
    rpc: Annotated[str | None, typer.Option(help="RPC endpoint.", show_default="the local network's")] = None,
    deployment: Annotated[
        Path | None, typer.Option(help="Manifest of the market.", show_default="the local network's")
    ] = None,
    password_file: PasswordFile = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 = any free one.")] = 8_750,
    base_fee: Annotated[int, typer.Option(help="Price of a proof, base units.", min=0)] = 0,
    per_m_input: Annotated[int, typer.Option(help="And per million input ids.", min=0)] = 0,
    per_m_output: Annotated[int, typer.Option(help="And per million output ids.", min=0)] = 0,
    memory: Annotated[int, typer.Option(help="MiB that a prover may use.", min=256)] = 4096,
    seconds: Annotated[float, typer.Option(help="Longest that one proof may take.", min=1)] = 60.0,
    threads: Annotated[int, typer.Option(help="Threads of a prover; 0 = one per core.", min=0)] = 0,
    confirmations: Annotated[int, typer.Option(help="Blocks on top of a job before it is believed.", min=0)] = 0,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Public URL, announced on chain.", show_default="http://host:port"),
    ] = None,
    label: Annotated[str, typer.Option(help="Region or privacy class, announced on chain.")] = "",
    unlisted: Annotated[
        bool, typer.Option("--unlisted", help="Announce nothing: only clients that are told the URL come.")
    ] = False,
    leave: Annotated[bool, typer.Option("--leave", help="Take the offers back when it ends.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where queue and private inputs are kept.", show_default="ASSAY_HOME")
    ] = None,
) -> None:
    """Sell proofs: quote over HTTP, prove the jobs that name this provider, be paid by the proof's own transaction.

    Endpoint and prices are announced in the registry, where clients find them. One key has one endpoint there: give
    this agent a key of its own. Private inputs are kept on disk, encrypted under this key, until their job
    is over. Ends on SIGTERM or SIGINT, after the proof at hand. No stake and no bond: an answer that is not proved is
    not paid.

    Examples:

        assay provider prove build/proofs/digits --keystore provider.json --base-fee 1000

        assay provider prove digits private --keystore provider.json --host 0.0.0.0 --endpoint https://prover.example
    """
    if endpoint is None and not unlisted and host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        raise ConfigError(
            f"Nobody reaches http://{host}; nothing was announced.",
            hint="Say with --endpoint under which URL clients come, or announce nothing with --unlisted.",
        )
    home = Home.of(os.environ)
    note = LocalNetworkNote.of(home) if rpc is None or deployment is None else None
    account = load_account(keystore, password(password_file))
    manifest = deployment or (Path(note.deployment) if note else home.manifest)
    chain_id = Deployment.load(manifest).chain_id
    folder = data_dir or home.path
    folder.mkdir(parents=True, exist_ok=True)
    settings = Proving(
        rpc_url=rpc or (note.rpc_url if note else "http://127.0.0.1:8545"),
        deployment=manifest,
        account=account,
        artefacts=tuple(artefact),
        queue=queue_path(folder, chain_id, account.address),
        inputs=folder / f"proof-inputs-{chain_id}-{account.address.lower()}.sqlite",
        endpoint=None if unlisted else endpoint or "",
        label=label,
        leave=leave,
        prices=Prices(base_fee=base_fee, per_m_input=per_m_input, per_m_output=per_m_output),
        prover=ProverLimits(memory * MIB, seconds, threads, folder / f"provers-{chain_id}-{account.address.lower()}"),
        host=host,
        port=port,
        confirmations=confirmations,
    )
    stopping = threading.Event()

    def stop(*_signal: Any) -> None:
        stopping.set()

    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, stop)
    with proving(settings, lambda text: typer.echo(text, err=True)) as agent:
        typer.echo(f"Proving for {account.address} at {agent.url}", err=True)
        stopping.wait()
