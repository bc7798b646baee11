"""`assay up` and `assay down`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import typer
from eth_utils.address import is_address, to_checksum_address
from rich.console import Console

from assay.network import MAX_PROVIDERS, NetworkInfo, NetworkPlan, fund_account
from assay.supervisor import holder, stop, supervise
from market.config import Home
from market.errors import ConfigError
from market.models.pack import load_pack

up = typer.Typer(add_completion=False)
down = typer.Typer(add_completion=False)

START_SECONDS = 180
DEFAULT_PACK = Path("build/models/smollm2-135m-instruct")


def default_directory() -> Path:
    """Where the local network lives: $ASSAY_HOME/network, else the user's data directory."""
    return Home.of(os.environ).path / "network"


DirectoryOption = typer.Option(None, "--dir", help="Directory of the network. Default: the user's data directory.")
JsonOption = typer.Option(False, "--json", help="One JSON document on standard output.")


@up.command("up")
def up_command(
    providers: int = typer.Option(3, min=1, max=MAX_PROVIDERS, help="How many provider agents, 1 to 7."),
    pack: list[Path] = typer.Option([DEFAULT_PACK], help="Model pack that every provider serves; repeatable."),
    block_time: float = typer.Option(0.0, min=0.0, help="Seconds between blocks; 0 mines every transaction at once."),
    port: int = typer.Option(0, min=0, max=65_535, help="Port of the chain; 0 takes the last one, or a free one."),
    directory: Path = DirectoryOption,
    foreground: bool = typer.Option(False, help="Stay in the foreground until Ctrl-C."),
    show: str = typer.Option(
        "", help="Print one value of the running network: rpc, deployment, client, provider-config."
    ),
    fund: str = typer.Option("", help="Give this address gas coin and test tokens on the running network."),
    as_json: bool = JsonOption,
) -> None:
    """Start a local network: anvil with its state kept, deployed contracts, provider agents, a client with money.

    Development only: its keys are anvil's published ones. Safe to repeat: a running network is shown, a stopped one
    is taken up where it was. `assay job post` and the other commands use it unless told otherwise.

    Examples:

        assay up

        assay up --providers 5 --block-time 2

        assay up --pack build/models/tiny --dir ~/try --json

        assay up --show rpc

        assay up --fund 0x1111111111111111111111111111111111111111
    """
    folder = (directory or default_directory()).resolve()
    running = holder(folder) is not None
    if show:
        typer.echo(_shown(folder, running, show))
        return
    if fund:
        _fund(folder, running, fund, as_json=as_json)
        return
    if not running:
        check_packs(pack)
        plan = NetworkPlan(
            directory=folder,
            packs=tuple(path.resolve() for path in pack),
            providers=providers,
            block_time=block_time or None,
            port=port or _last_port(folder),
            keep=True,
        )
        if foreground:
            raise typer.Exit(supervise(plan))
        _start_in_background(plan)
    info = _info(folder)
    if as_json:
        typer.echo(json.dumps(asdict(info), indent=1))
    else:
        _print(info, already=running)


@down.command("down")
def down_command(directory: Path = DirectoryOption, as_json: bool = JsonOption) -> None:
    """Stop the local network. Its chain, keys and journals stay for the next `assay up`.

    Examples:

        assay down

        assay down --dir ~/try
    """
    folder = (directory or default_directory()).resolve()
    stopped = stop(folder)
    if as_json:
        typer.echo(json.dumps({"stopped": stopped}))
    else:
        typer.echo("Stopped; its state is kept." if stopped else "No local network is running.")


def _start_in_background(plan: NetworkPlan) -> None:
    """Starts the supervisor in a session of its own and waits until the network is ready."""
    plan.directory.mkdir(parents=True, exist_ok=True)
    log = plan.directory / "supervisor.log"
    command = [sys.executable, "-m", "assay", "up", "--foreground", "--providers", str(plan.providers)]
    command += ["--dir", str(plan.directory), "--port", str(plan.port), "--block-time", str(plan.block_time or 0)]
    for pack in plan.packs:
        command += ["--pack", str(pack)]
    with open(log, "w", encoding="utf-8") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, start_new_session=True)
    console = Console(stderr=True)
    deadline = time.monotonic() + START_SECONDS
    try:
        with console.status("starting the local network …") as status:
            while time.monotonic() < deadline:
                lines = log.read_text(encoding="utf-8").splitlines()
                if lines and lines[-1].startswith("running "):
                    return
                if process.poll() is not None:
                    raise ConfigError(
                        f"The local network did not start. {' '.join(lines[-4:])}", hint=f"Its log: {log}"
                    )
                status.update(f"starting the local network: {lines[-1] if lines else 'anvil'} …")
                time.sleep(0.1)
    except BaseException:
        process.send_signal(signal.SIGTERM)
        raise
    process.send_signal(signal.SIGTERM)
    raise ConfigError(
        f"The local network was not ready after {START_SECONDS} s; it was stopped.", hint=f"Its log: {log}"
    )


def check_packs(packs: list[Path]) -> None:
    """
    Raises:
        ConfigError: a pack is not there; PackError: a part of one is corrupt. Nothing was started.
    """
    for path in packs:
        if not (path / "manifest.json").is_file():
            raise ConfigError(
                f"There is no model pack at {path}.",
                hint="Make one with `make demo` or `assay model pack`, or name another with --pack.",
            )
        load_pack(path)


def _last_port(folder: Path) -> int:
    """The port the chain had last time if nobody has taken it, so that configurations stay true; else 0."""
    info = NetworkInfo.load(folder)
    port = urlsplit(info.rpc_url).port if info is not None else None
    if port is None:
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _fund(folder: Path, running: bool, address: str, *, as_json: bool) -> None:
    if not is_address(address):
        raise ConfigError(f"--fund: {address} is not an address.")
    if not running:
        raise ConfigError("No local network is running.", hint="assay up starts one.")
    given = fund_account(folder, _info(folder), to_checksum_address(address))
    if as_json:
        typer.echo(json.dumps(given))
    else:
        typer.echo(f"{address} now has {given['tokens']} base units of the test token and 10 of the gas coin more.")


def _info(folder: Path) -> NetworkInfo:
    info = NetworkInfo.load(folder)
    if info is None:
        raise ConfigError(f"There is no local network in {folder}.", hint="assay up starts one.")
    return info


def _shown(folder: Path, running: bool, what: str) -> str:
    if not running:
        raise ConfigError("No local network is running.", hint="assay up starts one.")
    info = _info(folder)
    values = {
        "rpc": info.rpc_url,
        "deployment": info.deployment,
        "client": info.client,
        "provider-config": info.providers[0].config,
    }
    if what not in values:
        raise ConfigError(f"--show knows {', '.join(values)}, not {what}.")
    return values[what]


def _print(info: NetworkInfo, *, already: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if already:
        console.print("[dim]Already running; options of this call changed nothing.[/]")
    console.print(f"chain {info.chain_id}  [bold]{info.rpc_url}[/]")
    console.print(f"client       {info.client}")
    for index, provider in enumerate(info.providers, 1):
        state = "" if Path(f"/proc/{provider.pid}").exists() else "  [red]has ended[/]"
        console.print(f"provider {index}   {provider.address}  {provider.endpoint}{state}")
    console.print(f"[dim]logs: {Path(info.deployment).parent}/provider-*/agent.log[/]")
    console.print("Try: [bold]assay job post 'What is the capital of France?'[/]")
