"""`assay watch`, `assay watch check`: computes a share of the public answers again and disputes what is wrong."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from eth_utils.address import is_address

from assay.dispute_render import coins
from assay.watch import Watch, WatchRules
from assay.watch_check import check, claims_in
from assay.watch_store import WatchStore
from client.cli_options import Connection, connected
from client.demands import demand_next
from client.disputing import evidence_for, load_packs, player_of
from client.errors import BadRequest
from client.store import market_key
from market.audit import BPS, AuditPolicy
from market.contracts import Registry
from market.errors import ChainError, ConfigError, MarketError
from market.events import Follower
from market.filelock import FileLock
from market.models.pack import Pack
from market.money import parse_amount
from market.verification.traces import Traces

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
@connected
def watch(
    ctx: typer.Context,
    connection: Connection,
    rate: str | None = typer.Option(
        None, "--rate", help="Share of answers to audit, 0 to 1.", show_default="what deters, by price and bond"
    ),
    budget: str = typer.Option("0.05", "--budget", help="Most gas a day, in the chain's own coin."),
    token_per_coin: str = typer.Option(
        "0", "--token-per-coin", help="What one coin is worth in tokens; 0: gas costs nothing, every dispute pays."
    ),
    margin: int = typer.Option(20, "--margin", min=0, max=1000, help="Percent by which the reward must beat the cost."),
    colluding: int = typer.Option(0, "--colluding", min=0, max=99, help="Percent of other watchers not to trust."),
    bribe: str = typer.Option("0", "--bribe", help="What a wrong answer may be worth to somebody else, in tokens."),
    confirmations: int = typer.Option(0, "--confirmations", min=0, max=1000, help="Blocks on top before it is read."),
    once: bool = typer.Option(False, "--once", help="One look, then go on with open disputes to their end, and stop."),
    poll: float = typer.Option(2.0, "--poll", min=0.05, max=3600, help="Seconds between looks."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Agree to dispute by itself, within the budget."),
) -> None:
    """Compute a share of the answers that providers publish again, and dispute what is wrong, where that pays.

    Needs the models' packs (--pack): answers of other models are passed over. With --json, one JSON object a line says
    what was audited, found and done. What was read, judged and spent is kept in the data folder, so that a watcher that
    was killed goes on; SIGTERM and Ctrl-C end it once what is being done is done. Each audit leaves a root keyed to
    your address, which shows that it was made; canaries check this machine.

    Examples:

        assay watch --pack build/models/smollm2-135m-instruct --yes

        assay watch --rate 0.1 --budget 0.02 --token-per-coin 2500 --yes --json

        assay watch --once --rate 1 --yes --json | jq 'select(.state == "guilty")'
    """
    if ctx.invoked_subcommand is not None:
        return
    connection.must_be_able_to_ask(yes=yes)
    packs = packs_of(connection)
    with connection.open(with_key=True) as client:
        place, wallet = client.marketplace, client.wallet
        if wallet is None:
            raise ConfigError("No keystore was named.", hint="Give --keystore (ASSAY_KEYSTORE). Nothing was sent.")
        decimals = place.token_info.decimals
        rules = WatchRules(
            rate=None if rate is None else share(rate),
            policy=AuditPolicy(colluding_bps=colluding * 100, bribe=parse_amount(bribe, decimals)),
            budget=parse_amount(budget, 18),
            token_per_coin=parse_amount(token_per_coin, decimals),
            margin_bps=margin * BPS // 100,
        )
        connection.confirm(f"Dispute wrong answers by itself, for up to {coins(rules.budget)} coins a day?", yes=yes)
        folder = connection.config.data_dir or Path()
        with record_in(folder, market_key(place.chain, place.jobs.address)) as store, stopping() as stop:
            follower = Follower(
                place.chain,
                [place.jobs.address],
                store,
                confirmations=confirmations,
                start_block=place.deployment.block,
            )
            watching = Watch(
                place.chain,
                place.jobs,
                Registry(place.chain, place.deployment.registry),
                player_of(place, wallet, packs),
                store,
                follower,
                rules,
                lambda job_id, provider: demand_next(place, wallet, job_id, provider),
                lambda line: tell(connection, line),
                place.clock.now,
            )
            if not once:
                names = ", ".join(pack.name for pack in packs)
                tell(connection, {"event": "start", "address": wallet.account.address.lower(), "models": names})
            run(connection, watching, stop, once=once, poll=poll)
            if stop.is_set():
                tell(connection, {"event": "stop", "open_disputes": len(store.audits("disputed"))})
                raise typer.Exit(stop.code)


@app.command("check")
@connected
def check_command(
    connection: Connection,
    file: Path = typer.Argument(
        help="What a watcher printed with --json, or its record `watch.sqlite`.", show_default=False
    ),
    address: str = typer.Option(..., "--address", help="Address of the watcher.", show_default=False),
) -> None:
    """Compute the audits that a watcher says to have made again, and say which it did not work for.

    Each audit left a root keyed to the watcher's address: one that was copied from another watcher, or made up, does
    not come out. Costs as much computing as the audits did; needs the models' packs (--pack) and no key; sends nothing.
    Exits with 5 where an audit was not worked for.

    Examples:

        assay watch check lines.json --address 0x70997970c51812dc3a010c7d01b50e0d17dc79c8 --pack build/models/tiny

        assay watch check watch.sqlite --address 0x70997970c51812dc3a010c7d01b50e0d17dc79c8 --json | jq .not_worked
    """
    if not is_address(address):
        raise BadRequest(f"--address: “{address[:60]}” is no address.", hint="Nothing was checked.")
    claims, packs = claims_in(file), packs_of(connection)
    with connection.open(with_key=False) as client:
        place = client.marketplace
        found = list(
            check(claims, address, lambda job_id, provider: evidence_for(place, job_id, provider), Traces(packs))
        )
    lines = [
        {
            "job_id": "0x" + checked.claimed.job_id.hex(),
            "provider": checked.claimed.provider,
            "worked": checked.worked,
            "why": checked.why,
        }
        for checked in found
    ]
    lazy = sum(checked.worked is False for checked in found)
    if connection.as_json:
        connection.emit({"address": address.lower(), "audits": lines, "not_worked": lazy})
    else:
        words = {True: "worked for", False: "NOT WORKED FOR", None: "cannot be checked"}
        for checked, line in zip(found, lines, strict=True):
            why = f": {checked.why}" if checked.why else ""
            sys.stdout.write(f"{line['job_id']} {line['provider']} {words[checked.worked]}{why}\n")
        sys.stdout.write(f"{len(found)} audits with a root, {lazy} not worked for\n")
    if lazy:
        raise typer.Exit(MarketError.exit_code)


def packs_of(connection: Connection) -> list[Pack]:
    """Raises ConfigError: code NoPack."""
    packs = load_packs(connection.config.packs)
    if not packs:
        raise ConfigError(
            "No model pack was named; answers are judged by computing them again.",
            hint="Name folders with --pack (ASSAY_PACKS). Nothing was sent.",
            code="NoPack",
        )
    return packs


class Stop(threading.Event):
    """Set by a signal; `code` is what the command then exits with: 0 after SIGTERM, 130 after SIGINT."""

    code = 0


def run(connection: Connection, watching: Watch, stop: Stop, *, once: bool, poll: float) -> None:
    """Looks until it is stopped; with `once` until nothing is going on."""
    while not stop.is_set():
        busy = True
        with surviving(connection):
            busy = watching.tick(stop.is_set)
        if once and not busy:
            return
        stop.wait(poll)


@contextmanager
def record_in(folder: Path, market: str) -> Iterator[WatchStore]:
    """The watcher's record, for this process alone: two that share one would dispute the same answers twice over.

    Raises:
        ConfigError: code Locked where another watcher has it.
    """
    path = folder / "watch.sqlite"
    lock = FileLock(path.with_name(path.name + ".lock"), f"the watcher's record {path}")
    try:
        store = WatchStore(path, market)
        try:
            yield store
        finally:
            store.close()
    finally:
        lock.close()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Set by the first SIGTERM or SIGINT: what is being done is done to its end. A second one ends the process."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.code = 0 if number == signal.SIGTERM else 128 + number
        stop.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def surviving(connection: Connection) -> Iterator[None]:
    """A chain that cannot be asked for a while ends nothing."""
    try:
        yield
    except ChainError as error:
        tell(connection, {"event": "error", "code": error.code, "message": error.message})


def tell(connection: Connection, line: dict[str, Any]) -> None:
    """One line: JSON on standard output with --json, else words on it."""
    if connection.as_json:
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    else:
        words = " ".join(f"{name}={value}" for name, value in line.items() if name != "event")
        sys.stdout.write(f"{line['event']:<7} {words}\n")
    sys.stdout.flush()


def share(text: str) -> Fraction:
    """A share from 0 to 1. Raises BadRequest."""
    try:
        value = Fraction(Decimal(text))
    except (InvalidOperation, ValueError, OverflowError):
        value = Fraction(-1)
    if not 0 <= value <= 1:
        raise BadRequest(f"--rate is a share from 0 to 1, not “{text[:20]}”.")
    return value
