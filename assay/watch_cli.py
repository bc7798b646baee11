"""`assay watch`: computes a share of the public answers again and disputes what is wrong."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

import typer

from assay.dispute_render import coins
from assay.watch import Watch, WatchRules
from assay.watch_store import WatchStore
from client.cli_options import Connection, connected
from client.demands import demand_next
from client.disputing import load_packs, player_of
from client.errors import BadRequest
from client.store import market_key
from market.audit import BPS, AuditPolicy
from market.contracts import Registry
from market.errors import ChainError, ConfigError
from market.events import Follower
from market.money import parse_amount

app = typer.Typer(add_completion=False, help="Compute public answers again and dispute what is wrong.")


@app.command()
@connected
def watch(
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
    was killed goes on. Each audit leaves a root keyed to your address, which shows that it was made; canaries check
    this machine.

    Examples:

        assay watch --pack build/models/smollm2-135m-instruct --yes

        assay watch --rate 0.1 --budget 0.02 --token-per-coin 2500 --yes --json

        assay watch --once --rate 1 --yes --json | jq 'select(.state == "guilty")'
    """
    connection.must_be_able_to_ask(yes=yes)
    packs = load_packs(connection.config.packs)
    if not packs:
        raise ConfigError(
            "No model pack was named; answers are judged by computing them again.",
            hint="Name folders with --pack (ASSAY_PACKS). Nothing was sent.",
            code="NoPack",
        )
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
        store = WatchStore(folder / "watch.sqlite", market_key(place.chain, place.jobs.address))
        try:
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
            run(connection, watching, once=once, poll=poll)
        finally:
            store.close()


def run(connection: Connection, watching: Watch, *, once: bool, poll: float) -> None:
    """Looks until interrupted; with `once` until nothing is going on."""
    while True:
        busy = True
        with surviving(connection):
            busy = watching.tick()
        if once and not busy:
            return
        time.sleep(poll)


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
