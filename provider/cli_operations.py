"""`assay provider drain|resume|earnings`: running a provider from day to day."""

from __future__ import annotations

import csv
import json
import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from market.config import queue_path
from market.deployment import Contracts, Deployment
from market.errors import ConfigError
from market.filelock import FileLock
from market.keystore import load_account
from market.money import format_amount
from market.transaction_history import TransactionHistory
from market.views import ReplicaState
from provider.cli_common import DEFAULT_CONFIG, Config, Json, PasswordFile, address_of, connect, password
from provider.config import ProviderConfig
from provider.drain import Drain, Left
from provider.earnings import By, Report, entries, report, since_of, was_silent
from provider.instructions import DrainInstruction, InstructionBook, give
from provider.journal import Journal
from provider.pricing import COIN
from provider.records import JobRow

ANSWER_SECONDS = 60


def drain(
    config: Config = DEFAULT_CONFIG,
    leave: Annotated[
        bool, typer.Option("--exit", help="The agent ends once no job is open, no bond locked and no quote valid.")
    ] = False,
    password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Take no new work; keep what was promised. Holds until `resume`, over restarts too.

    Quotes are refused with DRAINING (503 and Retry-After) and /readyz says so; answers are served on. Open jobs are
    finished and their bonds released. Works beside a running agent, and before the next start of one that is stopped.
    An upgrade needs no drain: the journal goes on where it was.

    Examples:

        assay provider drain

        assay provider drain --exit --config ~/provider/provider.toml --password-file ~/provider/password
    """
    settings = ProviderConfig.load(config)
    running = _switch(settings, DrainInstruction.new(drain=True, leave=leave), password(password_file))
    left = _left(settings)
    if as_json:
        typer.echo(json.dumps({"draining": True, "running": running, "jobs": left.jobs, "quotes": left.quotes}))
        return
    typer.echo("Draining: no new work is taken." if running else "No agent runs; the next start drains.")
    typer.echo(f"{left.jobs} open jobs, {left.quotes} quotes that can still be posted.")
    if leave and running:
        typer.echo("The agent ends when both are 0.")


def resume(config: Config = DEFAULT_CONFIG, password_file: PasswordFile = None, as_json: Json = False) -> None:
    """Take new work again after `drain`.

    Examples:

        assay provider resume

        assay provider resume --json --password-file ~/provider/password
    """
    settings = ProviderConfig.load(config)
    running = _switch(settings, DrainInstruction.new(drain=False, leave=False), password(password_file))
    if as_json:
        typer.echo(json.dumps({"draining": False, "running": running}))
    else:
        typer.echo("New work is taken again." if running else "No agent runs; the next start takes new work.")


def earnings(
    config: Config = DEFAULT_CONFIG,
    by: Annotated[By, typer.Option(help="What a line stands for.")] = By.DAY,
    since: Annotated[
        str | None, typer.Option(help="From this day on (UTC), 2026-01-31, or so many days ago, 30d.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output, without a total.")] = False,
    as_json: Json = False,
) -> None:
    """What was earned and what gas it cost. Works while the agent runs, and needs no password.

    Income is escrow paid in base units, gas is in wei; missed fees are what silence after a commitment cost. The line
    `none` is of transactions that belong to no job: announcements, stake, withdrawals. As far as the journal goes back.

    Examples:

        assay provider earnings --since 30d

        assay provider earnings --by model --json | jq .total

        assay provider earnings --by job --csv --since 2026-01-01 > january.csv
    """
    if as_csv and as_json:
        raise ConfigError("--csv and --json exclude each other.")
    settings = ProviderConfig.load(config)
    start = since_of(since, int(time.time()))
    chain, contracts = connect(settings)
    found = _report(settings, contracts, chain.chain_id, by, start)
    if as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(found.to_rows())
        return
    decimals, symbol = contracts.token.decimals(), contracts.token.symbol()
    rate = settings.gas.token_per_coin
    gas_units = -(-found.total.gas_wei * rate // COIN) if rate else None
    if as_json:
        token = {"address": contracts.token.address.lower(), "symbol": symbol, "decimals": decimals}
        typer.echo(json.dumps(found.to_json() | {"since": start, "token": token, "gas_base_units": gas_units}))
        return
    _show(found, decimals, symbol, gas_units)


def _switch(settings: ProviderConfig, instruction: DrainInstruction, secret: str) -> bool:
    """Has it carried out: by the running agent (True), or on the journal where none runs."""
    account = load_account(settings.keystore, secret)
    queue = queue_path(settings.data_dir, Deployment.load(settings.deployment).chain_id, account.address)
    try:
        lock = FileLock(
            queue.with_name(queue.name + ".lock"), f"the transaction queue of {account.address}", timeout=0.0
        )
    except ConfigError as error:
        if error.code != "Locked":
            raise
        give(InstructionBook(settings.instructions_path), instruction, account, ANSWER_SECONDS)
        return True
    try:
        journal = Journal(settings.journal_path, account)
        try:
            instruction.carry_out(Drain(journal))
        finally:
            journal.close()
    finally:
        lock.close()
    return False


def _left(settings: ProviderConfig) -> Left:
    journal = Journal.read_only(settings.journal_path)
    try:
        return Drain(journal).left(int(time.time()))
    finally:
        journal.close()


def _report(settings: ProviderConfig, contracts: Contracts, chain_id: int, by: By, start: int) -> Report:
    address = address_of(settings)
    history = TransactionHistory(queue_path(settings.data_dir, chain_id, address))
    if not settings.journal_path.exists():
        return report([], by, start)
    journal = Journal.read_only(settings.journal_path)

    def missed(row: JobRow) -> int:
        if not was_silent(journal, row):
            return 0
        replicas = contracts.jobs.replicas(row.job_id)
        mine = next((replica for replica in replicas if replica.provider.lower() == address.lower()), None)
        return mine.miss_fee if mine is not None and mine.state is ReplicaState.MISSED else 0

    try:
        return report(entries(journal.jobs(limit=-1), history.transactions(start), missed), by, start)
    finally:
        journal.close()


def _show(found: Report, decimals: int, symbol: str, gas_units: int | None) -> None:
    console = Console(highlight=False, soft_wrap=True)

    def money(units: int) -> str:
        return format_amount(units, decimals, symbol)

    columns = (found.by.value, "jobs", "paid", "refused", "income", "missed fees", "transactions", "gas coin")
    table = Table(*columns)
    for name, sums in (*found.lines, ("total", found.total)):
        table.add_row(
            name,
            str(sums.jobs),
            str(sums.paid_jobs),
            str(sums.refused_jobs),
            money(sums.income),
            money(sums.missed_fees),
            str(sums.transactions),
            format_amount(sums.gas_wei, 18, "coins"),
        )
    console.print(table)
    if gas_units is not None:
        console.print(f"gas at the configured rate  {money(gas_units)}")
    for reason, count in found.refusals.items():
        console.print(f"refused  {count} x {reason}")
