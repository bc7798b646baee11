"""`assay doctor`: what is missing on this machine, and how to get it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import typer
from rich.console import Console
from rich.table import Table

from market.anvil import find_binary
from market.errors import AssayError
from market.networks import Network
from market.rpc_survey import EndpointState, survey

app = typer.Typer(add_completion=False)

GIB = 1 << 30
MEMORY_GIB = 3  # three agents that serve the 135M model and the chain
DISK_GIB = 3
PYTHON_MINIMUM = (3, 11)
NODE_MINIMUM = 20


@dataclass(frozen=True)
class Finding:
    """One check. `needed_for` names what does not work while `ok` is false; `fix` says what to do about it."""

    check: str
    ok: bool
    found: str
    needed_for: str
    fix: str = ""


Check = Callable[[], Finding]


def check_python() -> Finding:
    found = platform.python_version()
    wanted = ".".join(map(str, PYTHON_MINIMUM))
    return Finding(
        "python", sys.version_info >= PYTHON_MINIMUM, found, "everything", f"install Python {wanted} or newer"
    )


def check_platform(
    system: str = platform.system(), machine: str = platform.machine(), find: Callable[[], Path] = find_binary
) -> Finding:
    """npm's anvil is for Linux on x86-64 alone; elsewhere any anvil that `find` finds will do."""
    ok = (system, machine) == ("Linux", "x86_64")
    if not ok:
        try:
            ok = find().is_file()
        except AssayError:
            ok = False
    fix = "put an anvil for this platform on PATH"
    return Finding("platform", ok, f"{system} {machine}", "the anvil that npm installs", fix)


def check_node() -> Finding:
    path = shutil.which("node")
    if path is None:
        return Finding("node", False, "not found", "make demo, make test", f"install Node {NODE_MINIMUM} or newer")
    version = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = version.lstrip("v").split(".")[0]
    ok = major.isdigit() and int(major) >= NODE_MINIMUM
    return Finding("node", ok, version, "make demo, make test", f"install Node {NODE_MINIMUM} or newer")


def check_anvil() -> Finding:
    try:
        path = find_binary()
    except AssayError as error:
        return Finding("anvil", False, "not found", "assay up, assay demo", str(error))
    version = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[
        0
    ]
    return Finding("anvil", bool(version), version or "does not run", "assay up, assay demo", "run make demo once")


def check_module(module: str, needed_for: str, fix: str) -> Finding:
    found = importlib.util.find_spec(module) is not None
    return Finding(module, found, "installed" if found else "not installed", needed_for, fix)


def check_kernels() -> Finding:
    """What `assay provider run` may compute with, the one it takes first; slow when nothing native is there."""
    from market.inference.engine import available_kernels
    from market.inference.native.library import supported

    fix = "install a C compiler (Debian: apt install gcc libc6-dev), then the package again"
    try:
        return Finding("kernels", bool(supported()), ", ".join(available_kernels()), "answering fast", fix)
    except AssayError as error:
        return Finding("kernels", False, error.message, "answering fast", "install the package again")


def check_memory() -> Finding:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Finding("memory", size >= MEMORY_GIB, f"{size:.0f} GiB", "three agents at once", f"{MEMORY_GIB} GiB")


def check_disk(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free / GIB
    return Finding("disk", free >= DISK_GIB, f"{free:.0f} GiB free", "packages and the model", f"free {DISK_GIB} GiB")


def check_pack(path: Path) -> Finding:
    from market.models.pack import load_pack

    fix = "run make demo, or: assay model pack SOURCE --recipe RECIPE --out DIR"
    try:
        pack = load_pack(path)
    except AssayError as error:
        return Finding("model pack", False, error.message, "serving a model", error.hint or fix)
    return Finding("model pack", True, f"{pack.name} 0x{pack.model_id.hex()[:8]}…", "serving a model")


def check_network(directory: Path) -> Finding:
    from assay.network import NetworkInfo
    from market.chain import Chain
    from market.deployment import Deployment

    info = NetworkInfo.load(directory)
    if info is None:
        return Finding("local network", True, "never started (assay up starts one)", "trying things out")
    try:
        Deployment.load(Path(info.deployment)).check(Chain(info.rpc_url, expected_chain_id=info.chain_id, timeout=2.0))
    except AssayError:
        return Finding("local network", True, "not running (assay up starts it)", "trying things out")
    return Finding("local network", True, f"running at {info.rpc_url}", "trying things out")


@dataclass(frozen=True)
class Configured:
    """The RPC endpoints in use. `chain_id`: of the manifest they go with, None where there is none. `needed`: False for
    the local network, which may well be stopped."""

    urls: tuple[str, ...]
    chain_id: int | None
    needed: bool

    @classmethod
    def of(cls, provider: Path | None, environment: Mapping[str, str]) -> Self:
        """Those of a provider's file, else those of the client's settings.

        Raises:
            ConfigError: the settings, or a manifest they name, cannot be read.
        """
        from client.config import load_config
        from market.config import Home, LocalNetworkNote
        from market.deployment import Deployment
        from market.rpc_endpoints import rpc_urls
        from provider.config import ProviderConfig

        if provider is not None:
            config = ProviderConfig.load(provider)
            return cls(rpc_urls(config.rpc_url), Deployment.load(config.deployment).chain_id, True)
        settings = load_config({}, environment)
        if settings.rpc is None:
            return cls((), None, False)
        note = LocalNetworkNote.of(Home.of(environment))
        manifest = settings.deployment
        chain_id = Deployment.load(manifest).chain_id if manifest is not None and manifest.exists() else None
        return cls(rpc_urls(settings.rpc), chain_id, note is None or note.rpc_url != settings.rpc)


def check_endpoints(
    provider: Path | None, environment: Mapping[str, str], timeout: float = 3.0
) -> tuple[list[Finding], list[EndpointState]]:
    """A finding for each configured endpoint, and what is known of it."""
    what = "asking the chain"
    try:
        configured = Configured.of(provider, environment)
        states = survey(configured.urls, chain_id=configured.chain_id, timeout=timeout)
    except AssayError as error:
        return [Finding("RPC endpoints", False, error.message, what, error.hint)], []
    if not states:
        return [Finding("RPC endpoints", True, "none configured (ASSAY_RPC, or assay up)", what)], []
    findings = []
    for state in states:
        found = state.trouble or f"chain {state.chain_id}, block {state.head}, {state.lag} behind the best"
        fix = "check the URL, its key, the node"
        findings.append(Finding(f"RPC {state.origin}", state.ok or not configured.needed, found, what, fix))
    return findings, states


def _own_network(chain_id: int) -> Network:
    from assay.chain_options import own_networks

    return own_networks().of(chain_id)


def check_judge(provider: Path, network_of: Callable[[int], Network] = _own_network) -> list[Finding]:
    """For each model that a provider's file sells as OPTIMISTIC: whether the market's judge knows it, and whether this
    provider could answer for it in a dispute."""
    from market.chain import Chain
    from market.deployment import Deployment
    from market.dispute_contracts import Disputes
    from market.judging import acceptances, names_of
    from market.models.pack import load_pack
    from market.types import Mode
    from provider.config import ProviderConfig
    from provider.judged import obstacle

    what, findings = "selling mode optimistic", []
    try:
        config = ProviderConfig.load(provider)
        if Mode.OPTIMISTIC not in config.offered_modes:
            return []
        deployment = Deployment.load(config.deployment)
        chain = Chain(config.rpc_url, expected_chain_id=deployment.chain_id, timeout=3.0)
        network, window = network_of(chain.chain_id), Disputes(chain, deployment.disputes).reply_window()
        for path in config.packs:
            pack = load_pack(path)
            against = obstacle(pack, config, network, window)
            said = f"{pack.name} can be answered for" if against is None else f"{pack.name}: {against}"
            findings.append(
                Finding("disputes", against is None, said, what, "see what was found, or leave the mode out")
            )
            missing = acceptances(chain, deployment.judge, pack)
            found = f"knows {pack.name}" if not missing else f"does not know {names_of(missing)} of {pack.name}"
            findings.append(Finding("judge", not missing, found, what, f"assay dispute accept {path} (anyone, once)"))
    except AssayError as error:
        findings.append(Finding("judge", False, error.message, what, error.hint))
    return findings


@app.command()
def doctor(
    pack: Path = typer.Option(Path("build/models/smollm2-135m-instruct"), help="A model pack to check."),
    provider: Path | None = typer.Option(
        None,
        "--provider",
        help="A provider's file: its RPC endpoints are checked instead, and whether the judge knows its models and it "
        "could answer for them in a dispute.",
        show_default=False,
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on standard output."),
) -> None:
    """Check this machine: what is there, what is missing, how to get it; and how each configured RPC endpoint stands.

    Changes nothing. Exits with 0 if everything needed is there, else with 1.

    Examples:

        assay doctor

        assay doctor --pack ~/packs/my-model --json

        assay doctor --provider ~/provider/provider.toml --json | jq .endpoints
    """
    from assay.network_cli import default_directory

    checks: list[Check] = [
        check_python,
        check_platform,
        check_node,
        check_anvil,
        check_kernels,
        lambda: check_module("coincurve", "signing quotes fast", "pip install coincurve"),
        check_memory,
        lambda: check_disk(Path.cwd()),
        lambda: check_pack(pack),
        lambda: check_network(default_directory()),
    ]
    endpoints, states = check_endpoints(provider, os.environ)
    judge = [] if provider is None else check_judge(provider)
    findings = [*(check() for check in checks), *endpoints, *judge]
    healthy = all(finding.ok for finding in findings)
    if as_json:
        document = {
            "ok": healthy,
            "checks": [asdict(finding) for finding in findings],
            "endpoints": [asdict(state) for state in states],
        }
        typer.echo(json.dumps(document, indent=1))
    else:
        show(findings)
    if not healthy:
        raise typer.Exit(1)


def show(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "check", "found", "needed for", "what to do"):
        table.add_column(column, no_wrap=column == "check", overflow="fold")
    for finding in findings:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
        table.add_row(mark, finding.check, finding.found, finding.needed_for, "" if finding.ok else finding.fix)
    Console().print(table)
