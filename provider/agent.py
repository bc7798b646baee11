"""Wires one provider agent by hand and runs it: HTTP server, chain watcher and worklist in one process.

`build` is the only place where the parts meet. `executor_factory`, `side_factory` and `traces_factory` are for programs
that build an agent themselves; the command line passes none, so nothing it reads can replace them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from eth_account.signers.local import LocalAccount

from market.chain import DEVELOPMENT_CHAIN_IDS, Chain
from market.config import queue_path
from market.contracts import Jobs, Vault
from market.deployment import Contracts, Deployment
from market.dispute_contracts import Disputes
from market.disputes import DisputeBook
from market.errors import AssayError
from market.events import Follower, HeadWaker
from market.fees import FeeAboveCap
from market.judging import acceptances
from market.models.pack import Pack
from market.networks import Network, Networks
from market.transaction_history import TransactionHistory
from market.transactions import Transactions
from market.verification.traces import Traces
from provider.app import create_app
from provider.catalogue import Catalogue, load_catalogue
from provider.chainside import ChainSide
from provider.config import ProviderConfig
from provider.desk import Desk
from provider.disputes import CHORE, Responder, Traced, concerns
from provider.drain import Drain
from provider.draws import Draws
from provider.executor import EngineExecutor, Executor, ExecutorFactory
from provider.income import Income
from provider.instructions import Attendant, InstructionBook
from provider.journal import Journal
from provider.journal_schema import CHAIN, peek, wrong_market
from provider.judged import Judged, obstacle
from provider.metrics import Books, Metrics, create_metrics_app
from provider.node import Next, Node
from provider.onboard import Onboarding, Report, stake_problem
from provider.pricing import Shop
from provider.server import Server, listen
from provider.status import EngineInUse
from provider.threads import on_thread
from provider.watcher import JournalCursor, Watcher
from provider.worklist import Worklist

log = structlog.get_logger(__name__)

SideFactory = Callable[[Chain, Jobs, Vault, Transactions, float], ChainSide]
TracesFactory = Callable[[Iterable[Pack]], Traced]

OFFERS_AGAIN = 10.0  # seconds until offers that could not be brought in line are tried again
JUDGE_AGAIN = 60.0  # until the judge is asked again about models that it did not know
SETTLE_DOWN = 3.0  # seconds a stopping agent gives its last steps


def chain_side(chain: Chain, jobs: Jobs, vault: Vault, transactions: Transactions, timeout: float) -> ChainSide:
    """The honest ChainSide."""
    return ChainSide(chain, jobs, vault, transactions, timeout=timeout)


@dataclass
class Agent:
    """A built agent. `run` once, then `close`."""

    config: ProviderConfig
    address: str
    endpoint: str
    url: str
    listener: socket.socket
    server: Server
    executor: Executor
    worklist: Worklist
    dispute_worklist: Worklist
    watcher: Watcher
    journal: Journal
    attendant: Attendant
    onboard: Callable[[], None]
    resources: ExitStack
    drain: Drain
    draws: Draws
    offers_again: Callable[[], float | None]  # seconds until what could not be offered is tried again
    metrics_url: str | None
    metrics_server: Server | None
    metrics_listener: socket.socket | None

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Goes on with open jobs, brings the chain in line with the configuration, serves until `stop` is set or a
        drain that ends the agent has nothing left to wait for.

        `ready` is called when all of it stands. Open jobs do not wait for that: their deadlines run.

        Raises:
            AssayError: an announcement, an offer or the stake was refused.
            Exception: a part of the agent ended on its own; the journal knows where to go on.
        """
        waker = HeadWaker(self.config.ws_url)
        parts: list[asyncio.Future[None]] = [
            asyncio.create_task(self.server.serve(sockets=[self.listener]), name="server"),
            asyncio.create_task(self.worklist.run(), name="worklist"),
            asyncio.create_task(self.watcher.run(waker), name="watcher"),
            asyncio.create_task(self._attend(), name="attendant"),
            asyncio.create_task(self.dispute_worklist.run(), name="disputes"),
        ]
        if self.metrics_server is not None and self.metrics_listener is not None:
            serving = self.metrics_server.serve(sockets=[self.metrics_listener])
            parts.append(asyncio.create_task(serving, name="metrics"))
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not self.server.started and not any(part.done() for part in parts):
                await asyncio.sleep(0.005)
            for job_id in [*(row.job_id for row in self.journal.open_jobs()), *self.draws.open()]:
                self.worklist.kick(job_id)
            onboarded = asyncio.create_task(self._onboarded(), name="onboarding")
            ends: list[asyncio.Future[Any]] = [stopped, *parts]
            await asyncio.wait([onboarded, *ends], return_when=asyncio.FIRST_COMPLETED)
            if onboarded.done():
                onboarded.result()
                ready()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                for part in parts:
                    if part.done():
                        part.result()  # raises what ended it
        finally:
            await self._wind_down(parts, stopped)

    async def _onboarded(self) -> None:
        """Returns once the chain is in line with the configuration. Gas that is too dear for that ends no agent: open
        jobs and disputes are looked after all the while."""
        while True:
            try:
                return await on_thread(self.onboard)
            except FeeAboveCap as error:
                log.warning("announcement_waits", code=error.code, error=error.message)
                await asyncio.sleep(OFFERS_AGAIN)

    async def _attend(self) -> None:
        """Looks for the owner's instructions twice a second and brings the offers in line with them; returns once a
        drain that ends the agent is done."""
        drained = False
        applied = self.drain.active  # by the start
        look_again = 0.0  # monotonic

        def look() -> None:
            nonlocal drained, applied, look_again
            self.attendant.serve()
            undone = self.drain.active and self.drain.left_draws_in is None  # drained anew before anybody looked
            changed = undone or self.drain.active != applied
            again = self.offers_again()
            if (changed or again is not None) and time.monotonic() > look_again:
                look_again = time.monotonic() + OFFERS_AGAIN
                wanted = self.drain.active
                self.onboard()
                applied = wanted
                again = self.offers_again()
                look_again = 0.0 if again is None else time.monotonic() + again
            if self.drain.leaves and self._has_nothing_left():
                self.drain.gone()
                drained = True

        while not drained:
            try:
                await on_thread(look)
            except AssayError as error:
                log.warning("instructions_not_carried_out", code=error.code, error=error.message)
            await asyncio.sleep(0.5)
        log.info("drained")

    def _has_nothing_left(self) -> bool:
        """Before the chain was read past the last block that may have drawn this provider, nobody knows."""
        left_in = self.drain.left_draws_in
        known = left_in is not None and self.watcher.is_abreast and self.watcher.has_read(left_in)
        return known and self.drain.left(self.worklist.now()).nothing

    async def _wind_down(self, parts: list[asyncio.Future[None]], stopped: asyncio.Future[Any]) -> None:
        _, _, watcher, attendant, *_ = parts
        self.executor.stop()
        self.server.should_exit = True
        if self.metrics_server is not None:
            self.metrics_server.should_exit = True
        watcher.cancel()
        attendant.cancel()
        stopped.cancel()
        ended = all(await asyncio.gather(self.worklist.stop(SETTLE_DOWN), self.dispute_worklist.stop(SETTLE_DOWN)))
        await asyncio.wait(parts, timeout=1.0)
        log.info("stopped", steps_ended=ended)

    def close(self) -> None:
        """Gives back files, locks and the socket. Safe to repeat."""
        self.resources.close()


def build(
    config: ProviderConfig,
    account: LocalAccount,
    *,
    report: Report = lambda _: None,
    executor_factory: ExecutorFactory = EngineExecutor,
    side_factory: SideFactory = chain_side,
    traces_factory: TracesFactory = Traces,
    network_of: Callable[[int], Network] = lambda chain_id: Networks().of(chain_id),
) -> Agent:
    """Checks everything the agent stands on and returns the agent; sends nothing.

    Args:
        report: told each thing that was checked or done, in one line.
        network_of: what is known of the chain with an id.

    Raises:
        PortInUse, ConfigError: the port, the manifest, the journal or the gas coin.
        ChainUnreachable, WrongChain, ChainError: the chain, or contracts that are not those of the manifest.
        PackError, InferenceError: a pack or the engine's self-test.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(listen(config.host, config.port))
        url = _url(config.host, listener)
        deployment = Deployment.load(config.deployment)
        chain = Chain(config.rpc_url, expected_chain_id=deployment.chain_id)
        deployment.check(chain)
        report(f"chain {chain.chain_id}: contracts are those of the manifest")
        contracts = Contracts.of(chain, deployment)

        network = network_of(chain.chain_id)
        reply_window = Disputes(chain, deployment.disputes).reply_window()
        catalogue, engines = load_catalogue(
            config.packs, config, lambda pack: obstacle(pack, config, network, reply_window)
        )
        report("packs: " + ", ".join(served.product.name for served in catalogue.values()))
        engine = EngineInUse.of(engines.values(), config.device, int(time.time()))
        report(f"engine: exact, {engine}")

        queue = queue_path(config.data_dir, chain.chain_id, account.address)
        transactions = stack.enter_context(Transactions(chain, account, queue))  # first: nobody else is at work here
        journal = open_journal(config.journal_path, chain, deployment.jobs, account)
        stack.callback(journal.close)
        engine.note(journal)
        drain = Drain(journal)
        metrics = Metrics()

        side = side_factory(chain, contracts.jobs, contracts.vault, transactions, config.timing.transaction_seconds)
        judged = Judged(lambda pack: acceptances(chain, deployment.judge, pack))
        onboarding = Onboarding(chain, contracts, transactions, config, report, judged)
        onboarding.check_gas()
        endpoint = config.endpoint or url

        onboarded_by_one = threading.Lock()

        def onboard() -> None:
            with onboarded_by_one:  # the start's and one that an instruction asks for
                _onboard()

        def _onboard() -> None:
            if drain.active:
                drain.left_draws_in = onboarding.leave_draws(catalogue)
                report("draining: nothing is announced, offered or staked; `assay provider resume` takes work again")
                return
            onboarding.announce(endpoint)
            if config.stake:
                problem = stake_problem(onboarding.stake(), config.stake)
                if problem:
                    report(problem)
            onboarding.offer(catalogue)  # after the stake: it decides who may be drawn
            side.look()  # the first quote counts on what was just staked

        shop = _shop(config, account.address, deployment, contracts, catalogue, judged)
        worklist: Worklist  # the executor wakes it, and it steps the node that feeds the executor
        executor: Executor

        def computed(job_id: bytes) -> None:
            metrics.computed(executor.outcome(job_id))
            worklist.kick(job_id)

        executor = executor_factory(engines, config.limits.queue, computed)
        stack.callback(executor.stop)
        node = Node(side, journal, executor, shop, config.timing, confirmations=config.confirmations)

        def may_be_drawn(model_id: bytes) -> bool:
            return not drain.active and contracts.registry.is_drawable(account.address, model_id)

        draws = Draws(side, journal, shop, config.timing, may_be_drawn)

        def step(job_id: bytes) -> Next:
            return draws.step(job_id) or node.step(job_id)

        worklist = Worklist(step, side.now, lambda code: metrics.failed("job", code))
        responder = Responder(
            DisputeBook(
                chain,
                deployment.disputes,
                start_block=deployment.block,
                keep=lambda claim: concerns(claim, account.address, deployment.jobs),
            ),
            Disputes(chain, deployment.disputes),
            traces_factory(served.pack for served in catalogue.values()),
            side.enqueue,
            now=side.now,
            seen=side.seen,
            replied=metrics.replied,
            disputed=metrics.disputed,
        )
        # its own worklist: traces take seconds, and no flood of disputes may hold up jobs
        dispute_worklist = Worklist(responder.step, side.now, lambda code: metrics.failed("dispute", code))
        desk = Desk(side, journal, shop, catalogue, account, load=executor.load, kick=worklist.kick, admit=drain.check)
        follower = Follower(
            chain,
            [deployment.jobs],
            JournalCursor(journal),
            confirmations=config.confirmations,
            start_block=deployment.block,
        )
        watcher = Watcher(
            follower,
            side,
            journal,
            draws,
            worklist.kick,
            keep_requests=config.limits.stored_request_seconds,
            keep_outputs=config.limits.output_seconds,
            poll_seconds=config.timing.poll_seconds,
            purge_seconds=config.limits.purge_seconds,
            failed=lambda code: metrics.failed("chain", code),
            looked=lambda: dispute_worklist.kick(CHORE),
        )

        def offers_again() -> float | None:
            if drain.active or not (judged.waits or onboarding.postponed):
                return None
            return OFFERS_AGAIN if onboarding.postponed else JUDGE_AGAIN

        def obstacles() -> list[str]:
            return unready(watcher, side, shop, drain)

        books = Books(
            journal,
            TransactionHistory(queue),
            drain,
            outlook=lambda: side.outlook,
            load=executor.load,
            limit=config.limits.queue,
            ready=lambda: not obstacles(),
        )
        metrics.registry.register(books)
        metrics_listener, metrics_server, metrics_url = None, None, None
        if config.metrics.port is not None:
            metrics_listener = stack.enter_context(listen(config.metrics.host, config.metrics.port))
            metrics_url = _url(config.metrics.host, metrics_listener) + "/metrics"
            metrics_server = Server(create_metrics_app(metrics.registry, config.metrics.allow), config.limits)
            report(f"metrics: {metrics_url}")
        server = Server(create_app(desk, catalogue, shop, obstacles, metrics), config.limits)
        return Agent(
            config=config,
            address=account.address,
            endpoint=endpoint,
            url=url,
            listener=listener,
            server=server,
            executor=executor,
            worklist=worklist,
            dispute_worklist=dispute_worklist,
            watcher=watcher,
            journal=journal,
            attendant=Attendant(
                InstructionBook(config.instructions_path),
                account.address,
                lambda key: Income(contracts, transactions, journal, side.now(), key),
                drain,
            ),
            onboard=onboard,
            resources=stack.pop_all(),
            drain=drain,
            draws=draws,
            offers_again=offers_again,
            metrics_url=metrics_url,
            metrics_server=metrics_server,
            metrics_listener=metrics_listener,
        )


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def unready(watcher: Watcher, side: ChainSide, shop: Shop, drain: Drain | None = None) -> list[str]:
    """Why no job can be taken now. No RPC call."""
    reasons = ["DRAINING"] if drain is not None and drain.active else []
    if watcher.failure is not None:
        reasons.append(watcher.failure.code)  # strangers read this: the message may name the RPC endpoint
    least = max(shop.terms.bond, 1)
    if side.outlook.stake < least:
        reasons.append(f"InsufficientStake: {side.outlook.stake} of the stake is free, a job needs at least {least}")
    return reasons


def _shop(
    config: ProviderConfig,
    provider: str,
    deployment: Deployment,
    contracts: Contracts,
    catalogue: Catalogue,
    judged: Judged,
) -> Shop:
    return Shop(
        provider=provider,
        token=deployment.token,
        challenger_share_bps=contracts.jobs.challenger_share_bps(),
        products={model_id: served.product for model_id, served in catalogue.items()},
        modes=config.offered_modes,
        samplers=config.offered_samplers,
        terms=config.terms,
        gas=config.gas,
        limits=config.limits,
        max_bond=config.max_bond,
        is_judged=judged.is_known,
    )


def open_journal(path: Path, chain: Chain, jobs: str, account: LocalAccount) -> Journal:
    """The journal of this chain, these contracts and this provider; that of a development chain that is gone is moved
    aside.

    Raises:
        JournalError: it belongs to others, and was left as it is.
    """
    identity = f"{chain.chain_id}:{chain.block(0).hash}:{jobs.lower()}"
    known = peek(path, CHAIN)
    if known not in (None, identity):
        if chain.chain_id not in DEVELOPMENT_CHAIN_IDS:
            raise wrong_market(path, str(known), identity)
        aside = path.with_name(f"{path.stem}-{int(time.time())}{path.suffix}")
        for suffix in ("-wal", "-shm", ""):  # what was not brought into the file yet lies in its log
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        log.warning("journal_of_a_chain_that_is_gone", moved_to=str(aside))
    journal = Journal(path, account)
    try:
        known = journal.mark(CHAIN)
        if known is None:
            journal.set_mark(CHAIN, identity)
        elif known != identity:  # it could not be read a moment ago
            raise wrong_market(path, known, identity)
    except BaseException:
        journal.close()
        raise
    return journal
