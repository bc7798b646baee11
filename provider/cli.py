"""`assay provider …`. Errors are AssayErrors; the root command prints them."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from eth_utils.address import is_address, to_checksum_address
from rich.console import Console
from rich.table import Table

from market.config import Home, LocalNetworkNote, queue_path
from market.deployment import Contracts
from market.errors import ConfigError
from market.keystore import create_account, load_account, read_address, read_password
from market.money import format_amount, parse_amount
from market.transactions import Transactions
from provider import cli_operations, config_file, proofs_cli
from provider.cli_common import DEFAULT_CONFIG, Config, Json, PasswordFile, address_of, connect, password
from provider.config import Prices, ProviderConfig, Terms
from provider.income import Action, Income
from provider.instructions import Instruction, InstructionBook, give
from provider.journal import Journal
from provider.signals import Signals
from provider.status import EngineInUse, Status, gather

if TYPE_CHECKING:
    from provider.agent import Agent

app = typer.Typer(no_args_is_help=True, help="Run a provider agent and look after its income.")
for command in (cli_operations.drain, cli_operations.resume, cli_operations.earnings, proofs_cli.prove):
    app.command()(command)


@app.command()
def init(
    rpc: Annotated[
        str | None,
        typer.Option(
            help="RPC endpoint of the chain; several, in order of preference, with commas.",
            show_default="the local network's",
        ),
    ] = None,
    pack: Annotated[list[Path] | None, typer.Option(help="Folder of a model pack to serve; repeat for more.")] = None,
    deployment: Annotated[
        Path | None, typer.Option(help="Manifest of the contracts.", show_default="the local network's")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    keystore: Annotated[
        Path | None,
        typer.Option(help="An existing keystore to use; left out: a new key beside the configuration."),
    ] = None,
    password_file: PasswordFile = None,
    ws: Annotated[str | None, typer.Option(help="WebSocket endpoint of the chain: wakes the agent at once.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 = any free one.")] = 8_700,
    endpoint: Annotated[str | None, typer.Option(help="Public URL, announced on chain.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of GET /metrics on the loopback address; 0 = any free one. None: none.")
    ] = None,
    label: Annotated[str, typer.Option(help="Region or privacy class, announced on chain.")] = "",
    mode: Annotated[list[str] | None, typer.Option(help="Verification mode to offer; repeat for more.")] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            help="Sampler to offer: greedy, seeded_by_request, seeded_by_chain; repeat for more. Left out: all."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda or cuda:<n>; cuda needs torch and was never run on a GPU.")
    ] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine.")] = None,
    confirmations: Annotated[int, typer.Option(help="Blocks on top of a job before it is believed.")] = 0,
    stake: Annotated[str, typer.Option(help="Stake to hold, base units; `run` deposits up to it. 0: leave it.")] = "0",
    base_fee: Annotated[str, typer.Option(help="Price of any job, base units.")] = "0",
    per_m_input: Annotated[str, typer.Option(help="Price per million prompt tokens, base units.")] = "0",
    per_m_output: Annotated[str, typer.Option(help="Price per million output tokens, base units.")] = "0",
    bond: Annotated[str, typer.Option(help="Least bond of a job, base units.")] = "0",
    valid_seconds: Annotated[int, typer.Option(help="How long a quote binds.")] = 60,
    coin_value: Annotated[str, typer.Option(help="Base units one gas coin is worth; 0: ignore gas.")] = "0",
    settle_grace: Annotated[int, typer.Option(help="Seconds before settling what nobody settles.")] = 15,
    light: Annotated[bool, typer.Option(help="Cheap key encryption: for development keys only.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented configuration file and an encrypted key. Nothing that exists is overwritten.

    Stake, prices and bond are in base units, here and in the file: with 6 decimals, 1000000 is one token.

    Examples:

        assay provider init --pack build/models/smollm2-135m-instruct --per-m-output 600000 --stake 5000000

        assay provider init --config ~/provider/provider.toml --rpc https://rpc.example --deployment market.json \\
            --endpoint https://provider.example --confirmations 2
    """
    folder = config.resolve().parent
    key_path = keystore.resolve() if keystore is not None else folder / "keystore.json"
    home = Home.of(os.environ)
    note = LocalNetworkNote.of(home) if rpc is None and deployment is None else None
    if note is not None:
        rpc, ws, deployment = note.rpc_url, ws or note.ws_url, Path(note.deployment)
    choices = config_file.Choices(
        rpc_url=rpc or "http://127.0.0.1:8545",
        ws_url=ws,
        deployment=str((deployment or home.manifest).resolve()),
        keystore=str(key_path) if keystore is not None else key_path.name,
        data_dir="data",
        packs=[str(path.resolve()) for path in pack or []],
        host=host,
        port=port,
        endpoint=endpoint,
        label=label,
        modes=mode or ("quorum", "none"),
        samplers=sampler or ("greedy", "seeded_by_request", "seeded_by_chain"),
        device=device,
        threads=threads,
        confirmations=confirmations,
        stake=_units("--stake", stake),
        prices=Prices(
            base_fee=_units("--base-fee", base_fee),
            per_m_input=_units("--per-m-input", per_m_input),
            per_m_output=_units("--per-m-output", per_m_output),
        ),
        terms=Terms(bond=_units("--bond", bond), valid_seconds=valid_seconds),
        token_per_coin=_units("--coin-value", coin_value),
        settle_grace=settle_grace,
        metrics_port=metrics_port,
    )
    config_file.check(config, choices)
    if keystore is None:
        secret = read_password(password_file=password_file, environment=os.environ, prompt=_new_password)
        address = str(create_account(key_path, secret, light=light).address)
    else:
        address = read_address(key_path) or "(stated nowhere in the keystore)"
    config_file.write(config, choices)
    if as_json:
        typer.echo(json.dumps({"address": address, "config": str(config), "keystore": str(key_path)}))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"configuration  {config}\nkeystore       {key_path}\naddress        [bold]{address}[/]\n")
    if choices.prices == Prices():
        console.print("[yellow]Every price is 0: this provider would work for nothing until you set some.[/]\n")
    console.print("What to do next:")
    console.print(
        f"  1. send the address a little of the chain's gas coin, and the tokens to stake ({stake} base units)"
    )
    console.print(f"  2. read {config}: prices, bond and limits are yours to set")
    step = 3
    if "optimistic" in choices.modes:
        console.print(
            f"  {step}. assay doctor --provider {config}   (says whether the market's judge knows your models)"
        )
        for folder_of_pack in choices.packs:
            console.print(f"     if not: assay dispute accept {folder_of_pack}   (anyone may, once for each model)")
        step += 1
    console.print(f"  {step}. assay provider run --config {config}   (announces, deposits, stakes, then serves)")


@app.command()
def run(config: Config = DEFAULT_CONFIG, password_file: PasswordFile = None, as_json: Json = False) -> None:
    """Serve: quote prices, run the model, commit and reveal answers, collect what is owed.

    Checks the chain, the contracts, the packs and the engine first. Then announces endpoint, models and offers where
    they differ from the configuration, and deposits and stakes from the wallet up to `stake` (0 there leaves the stake
    alone). Prints "ready URL ADDRESS" when it serves. Logs are JSON lines on standard error. SIGTERM stops it cleanly;
    a restart goes on wherever it was.

    Examples:

        assay provider run

        assay provider run --config ~/provider/provider.toml --password-file ~/provider/password 2>> provider.log
    """
    signals = Signals()
    from provider.program import serve  # the engine's packages take a second to import

    settings = ProviderConfig.load(config)
    account = load_account(settings.keystore, password(password_file))

    def announce(agent: Agent) -> None:
        line = f"ready {agent.url} {agent.address}"
        document = {"ready": agent.url, "address": agent.address, "metrics": agent.metrics_url}
        typer.echo(json.dumps(document) if as_json else line)
        sys.stdout.flush()

    serve(settings, account, signals, announce)


@app.command()
def status(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """What the provider has, owes and earned. Works while the agent runs, and needs no password.

    Examples:

        assay provider status

        assay provider status --config "$(assay up --show provider-config)"

        assay provider status --json | jq .credit
    """
    settings = ProviderConfig.load(config)
    chain, contracts = connect(settings)
    journal = Journal.read_only(settings.journal_path) if settings.journal_path.exists() else None
    found = gather(address_of(settings), contracts, journal, chain.balance)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        _show(found, chain.head().timestamp)


@app.command()
def withdraw(
    config: Config = DEFAULT_CONFIG,
    to: Annotated[str | None, typer.Option(help="Where credit goes.", show_default="the provider's address")] = None,
    amount: Annotated[
        str | None, typer.Option(help="Credit to withdraw, in units of the token. Default: all of it.")
    ] = None,
    unstake: Annotated[
        str | None, typer.Option(help="Begin to take out this much stake, in units of the token, or `all`.")
    ] = None,
    finish: Annotated[bool, typer.Option(help="Turn stake whose unbonding is over into credit.")] = False,
    password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Take money out. A running agent is asked to do it, because a key has one writer; it needs no restart.

    Always releases bonds that are due and withdraws credit (all of it, or --amount). Unstaking takes the deployment's
    unbonding window; set `stake` in the configuration to what should stay, or `run` stakes again.

    Examples:

        assay provider withdraw

        assay provider withdraw --amount 2.5 --to 0x1111111111111111111111111111111111111111

        assay provider withdraw --unstake all

        assay provider withdraw --finish --json
    """
    settings = ProviderConfig.load(config)
    if to is not None and not is_address(to):
        raise ConfigError(f"--to: {to} is not an address.", field="to")
    chain, contracts = connect(settings)
    decimals = contracts.token.decimals()
    leaving = 0 if unstake is None else None if unstake == "all" else parse_amount(unstake, decimals)
    wanted = None if amount is None else parse_amount(amount, decimals)
    account = load_account(settings.keystore, password(password_file))
    instruction = Instruction.new(to_checksum_address(to) if to else account.address, wanted, leaving, finish)
    queue = queue_path(settings.data_dir, chain.chain_id, account.address)
    try:
        transactions = Transactions(chain, account, queue, lock_timeout=0.0)
    except ConfigError as error:
        if error.code != "Locked":
            raise
        book = InstructionBook(settings.instructions_path)
        actions = give(book, instruction, account, 60 + 4 * settings.timing.transaction_seconds)
    else:
        with transactions:
            journal = Journal.read_only(settings.journal_path) if settings.journal_path.exists() else None
            actions = instruction.carry_out(Income(contracts, transactions, journal, chain.head().timestamp))
    _tell(actions, contracts, as_json)


def _units(option: str, text: str) -> int:
    digits = text.replace("_", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 28):
        raise ConfigError(f"{option}: {text!r} is no whole number of base units.", option=option)
    return int(digits)


def _new_password() -> str:
    if not sys.stdin.isatty():
        raise ConfigError(
            "No password for the new key was given.", hint="Set ASSAY_PASSWORD, or name a file with --password-file."
        )
    return str(typer.prompt("Password for the new key", hide_input=True, confirmation_prompt=True, err=True))


def _tell(actions: list[Action], contracts: Contracts, as_json: bool) -> None:
    if as_json:
        shown = [{"action": a.what, "amount": a.amount, "transaction": a.transaction, "note": a.note} for a in actions]
        typer.echo(json.dumps({"actions": shown}))
        return
    console = Console(highlight=False, soft_wrap=True)
    decimals, symbol = contracts.token.decimals(), contracts.token.symbol()
    for action in actions:
        console.print(f"{action.what:<10} {format_amount(action.amount, decimals, symbol)}  {action.note}")
    if not actions:
        console.print("Nothing to take out: no credit, and no bond is due.")


def _engine(engine: EngineInUse | None) -> str:
    if engine is None:
        return "never started"
    started = datetime.fromtimestamp(engine.started_at, UTC).astimezone()
    return f"{engine} (agent started {started:%Y-%m-%d %H:%M:%S})"


def _show(found: Status, now: int) -> None:
    console = Console(highlight=False, soft_wrap=True)

    def money(units: int) -> str:
        return format_amount(units, found.decimals, found.symbol)

    def when(at: int) -> str:
        return "when its job is final" if at == 0 else "now" if at <= now else f"in {at - now} s"

    rows: list[tuple[str, Any]] = [
        ("address", found.address),
        ("endpoint", found.endpoint or "not announced"),
        ("stake, free", money(found.staked)),
        ("stake, locked", money(found.locked)),
        ("leaving", f"{money(found.exiting)}, free {when(found.exit_ready_at)}" if found.exiting else "nothing"),
        ("credit", money(found.credit)),
        ("wallet", money(found.wallet)),
        ("gas coin", f"{format_amount(found.gas_wei, 18, 'coins')}"),
        ("earned", f"{money(found.earned)} in {found.settled_jobs} jobs"),
        ("new work", "not taken: draining" if found.draining else "taken"),
        ("engine", _engine(found.engine)),
    ]
    for name, value in rows:
        console.print(f"{name:<14} {value}")
    for title, columns, lines in (
        ("locked bonds", ("job", "bond", "free"), [(b.job_id, money(b.amount), when(b.free_at)) for b in found.bonds]),
        ("open jobs", ("job", "stage"), [(j.job_id, j.stage) for j in found.open_jobs]),
        ("refused jobs", ("job", "reason"), [(j.job_id, f"{j.reason} {j.detail}") for j in found.refused_jobs[:10]]),
    ):
        if lines:
            table = Table(*columns, title=title, title_justify="left")
            for line in lines:
                table.add_row(*line)
            console.print(table)
