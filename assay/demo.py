"""The demo: one honest job, then the same job with a liar, on a chain that exists only for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from assay.network import CLIENT, LocalNetwork, NetworkInfo, NetworkPlan
from client import Client, JobResult
from client.render import answer_text, show_job
from client.rfq import RfqPolicy
from market.chain import Chain
from market.deployment import Contracts, Deployment
from market.errors import MarketError
from market.files import write_atomically
from market.money import format_amount
from market.views import BondState

PROMPT = "What is the capital of France?"
MAX_OUTPUT_TOKENS = 48
LIAR = 2  # index of the provider that lies in the second part
RELEASE_SECONDS = 30
FOLDER = ".demo-"  # followed by the process id
#: The adversaries live with the tests; the agent itself cannot be made to lie.
ADVERSARIES = Path(__file__).resolve().parent.parent / "tests" / "adversaries.py"


@dataclass(frozen=True)
class DemoOptions:
    pack: Path
    output: Path
    prompt: str = PROMPT
    max_output_tokens: int = MAX_OUTPUT_TOKENS
    block_time: float | None = None


def run(options: DemoOptions, console: Console) -> list[dict[str, Any]]:
    """Runs both parts and writes `options.output`. Everything started is stopped, whatever happens.

    Returns:
        One object per job, as written.

    Raises:
        AssayError: a part failed; MarketError if a job did not settle as it must.
    """
    begun = time.monotonic()
    jobs: list[dict[str, Any]] = []
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sweep(options.output.parent)
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER}{os.getpid()}-", dir=options.output.parent) as folder:
        plan = NetworkPlan(
            directory=Path(folder), packs=(options.pack,), block_time=options.block_time, dispute_window=600
        )
        status = console.status("starting …")
        with LocalNetwork(plan, say=lambda text: status.update(f"starting {text} …")) as network:
            with status:
                info = network.start()
            _show_network(console, network, info, time.monotonic() - begun)
            jobs.append(_part(console, "1  Three honest providers", options, network, info))
            if ADVERSARIES.is_file():
                liar = (sys.executable, str(ADVERSARIES), "liar")
                with console.status("replacing provider 3 by a liar …"):
                    info = network.replace(LIAR, liar)
                jobs.append(_part(console, "2  Provider 3 lies", options, network, info))
            else:
                console.print(
                    "[dim]The liar lives with the tests, which are not installed here: part 2 is left out.[/]"
                )
            _leave(console, network, info)
    write_atomically(options.output, json.dumps(jobs, indent=1).encode() + b"\n", mode=0o644)
    console.print(f"\nEverything is stopped. Figures: {options.output} · {time.monotonic() - begun:.0f} s in all")
    return jobs


def sweep(parent: Path) -> None:
    """Removes the folders of demos that were killed."""
    for folder in parent.glob(f"{FOLDER}*"):
        process = folder.name.removeprefix(FOLDER).split("-")[0]
        if not Path(f"/proc/{process}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _show_network(console: Console, network: LocalNetwork, info: NetworkInfo, seconds: float) -> None:
    gas = sum(network.deployment_gas.values())
    console.print(f"[bold]A local market[/] at {info.rpc_url}, ready after {seconds:.1f} s ({gas:,} gas to deploy)")
    for number, provider in enumerate(info.providers, 1):
        console.print(f"  provider {number}  {provider.address}  {provider.endpoint}")


def _part(
    console: Console, title: str, options: DemoOptions, network: LocalNetwork, info: NetworkInfo
) -> dict[str, Any]:
    console.rule(f"[bold]{title}", align="left")
    console.print(Text(f"prompt  {answer_text(options.prompt)}"))
    with connect(network, info) as client, console.status("asking for quotes …") as status:
        result = client.run(
            messages=[{"role": "user", "content": options.prompt}],
            max_output_tokens=options.max_output_tokens,
            progress=lambda step: status.update(f"{step.text} …"),
        )
    if not result.settled:
        raise MarketError(
            f"The demo's job ended {result.state.name.lower()}; the escrow came back.",
            hint="; ".join(result.problems) or "Run `make demo` again; its network's logs are gone with it.",
        )
    show(console, result)
    return result.to_json()


PATIENT = RfqPolicy(timeout=10.0)
"""Providers have just been started, on a machine of any load: a slow quote is better than none."""


def connect(network: LocalNetwork, info: NetworkInfo, rfq: RfqPolicy = PATIENT) -> Client:
    """A client with the network's client account."""
    return Client.connect(
        rpc_url=info.rpc_url,
        ws_url=info.ws_url,
        deployment=Path(info.deployment),
        account=network.anvil.accounts[CLIENT],
        data_dir=network.plan.directory / "client" / "data",
        rfq=rfq,
    )


def show(console: Console, result: JobResult) -> None:
    """The answer, the picture of the job, the time of each step and the gas of each transaction."""
    console.print(Text.assemble("answer  ", (answer_text(result.answer or "").strip(), "bold green")))
    console.print(f"        [dim]{len(result.ids)} tokens, bit for bit the same from every replica that was paid[/]\n")
    show_job(console, result)


def _leave(console: Console, network: LocalNetwork, info: NetworkInfo) -> None:
    """The dispute windows end, bonds come free, everybody takes its money home."""
    console.rule("[bold]Everybody withdraws", align="left")
    chain = Chain(info.rpc_url)
    contracts = Contracts.of(chain, Deployment.load(Path(info.deployment)))
    before = {provider.address: contracts.token.balance_of(provider.address) for provider in info.providers}
    network.anvil.increase_time(network.plan.dispute_window + 1)
    with console.status("waiting for the bonds …"), connect(network, info) as client:
        jobs = [entry.job_id for entry in client.list()]
        _await(lambda: all(_bonds_free(contracts, job) for job in jobs))
        withdrawn = client.withdraw()
    symbol, decimals = contracts.token.symbol(), contracts.token.decimals()
    console.print(
        f"  client      took back {format_amount(withdrawn.amount, decimals)} {symbol} of escrow that was not used up"
    )
    for number, provider in enumerate(info.providers, 1):
        _provider_withdraw(provider.config, Path(info.password_file))
        earned = contracts.token.balance_of(provider.address) - before[provider.address]
        console.print(
            f"  provider {number}  earned {format_amount(earned, decimals)} {symbol}; its bonds are stake again"
        )


def _bonds_free(contracts: Contracts, job: bytes) -> bool:
    return all(replica.bond_state is not BondState.LOCKED for replica in contracts.jobs.replicas(job))


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RELEASE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise MarketError("The providers did not release their bonds in time; they could still do it later.")
        time.sleep(0.2)


def _provider_withdraw(config: str, password_file: Path) -> None:
    command = [sys.executable, "-m", "assay", "provider", "withdraw", "--config", config, "--json"]
    done = subprocess.run(
        [*command, "--password-file", str(password_file)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MarketError(f"A provider could not withdraw: {(done.stdout + done.stderr).strip()}")
