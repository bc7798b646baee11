"""The agent as a process: logs, signals, and an exit that waits for nobody."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import structlog
from eth_account.signers.local import LocalAccount

from market.config import Home
from market.networks import FILE_NAME, Networks
from market.verification.traces import Traces
from provider import logs
from provider.agent import Agent, SideFactory, TracesFactory, build, chain_side
from provider.config import ProviderConfig
from provider.executor import EngineExecutor, ExecutorFactory
from provider.signals import Signals
from provider.threads import on_thread

CLOSE_SECONDS = 0.5  # then the process ends without: locks end with it, and what must last is on disk


def serve(
    config: ProviderConfig,
    account: LocalAccount,
    signals: Signals,
    announce: Callable[[Agent], None],
    *,
    executor_factory: ExecutorFactory = EngineExecutor,
    side_factory: SideFactory = chain_side,
    traces_factory: TracesFactory = Traces,
) -> NoReturn:
    """Builds an agent and runs it until a signal; ends the process.

    Args:
        announce: called once, when the first request can be answered.

    Raises:
        AssayError: the agent could not start (`provider.agent.build`), or a part of it ended on its own.
    """
    logs.configure(style=config.log)
    log = structlog.get_logger("provider")
    agent = build(
        config,
        account,
        report=lambda line: log.info("startup", step=line),
        executor_factory=executor_factory,
        side_factory=side_factory,
        traces_factory=traces_factory,
        network_of=Networks(Home.of(os.environ).path / FILE_NAME).of,
    )

    async def run() -> None:
        stop = asyncio.Event()
        signals.attach(stop)
        try:
            await agent.run(lambda: announce(agent), stop)
        finally:
            await asyncio.wait([on_thread(agent.close)], timeout=CLOSE_SECONDS)

    asyncio.run(run())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(signals.code)  # a step may still wait for a receipt on its thread; the queue on disk knows of it
