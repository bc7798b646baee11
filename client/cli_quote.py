"""`assay quote`."""

from __future__ import annotations

from pathlib import Path

import typer

from client import cli_question as asked
from client.cli_options import Connection, connected
from client.render import page, progress_on, show_quote

quote_app = typer.Typer(add_completion=False)


@quote_app.command("quote")
@connected
def quote_command(
    connection: Connection,
    prompt: str | None = asked.PromptArgument,
    file: Path | None = asked.FileOption,
    messages: Path | None = asked.MessagesOption,
    model: str | None = asked.ModelOption,
    mode: str = asked.ModeOption,
    replicas: int | None = asked.ReplicasOption,
    quorum: int | None = asked.QuorumOption,
    max_output_tokens: int = asked.OutputOption,
    max_price: str | None = asked.PriceOption,
    max_escrow: str | None = asked.EscrowCapOption,
    allow: list[str] = asked.AllowOption,
    deny: list[str] = asked.DenyOption,
    label: list[str] = asked.LabelOption,
    min_reliability: int = asked.ReliabilityOption,
    max_kill_fee: int = asked.KillFeeOption,
    temperature: str | None = asked.TemperatureOption,
    top_k: int | None = asked.TopKOption,
    top_p: str | None = asked.TopPOption,
    seed: str | None = asked.SeedOption,
    seed_by_chain: bool = asked.SeedByChainOption,
    draw: bool = asked.DrawOption,
    bond: str | None = asked.BondOption,
    stop_string: list[str] = asked.StopStringOption,
    selection_seed: str | None = asked.SelectionSeedOption,
    explain: bool = typer.Option(False, "--explain", help="Name every provider left out, and the first reason."),
) -> None:
    """Ask providers for prices; no money moves and no key is needed.

    Shows what a job would cost, who would do it and what stands behind the answer. With --draw nobody is asked: the
    offers in the registry say who can be drawn, and for what.

    Examples:

        assay quote "What is a hash?" --explain

        assay quote @prompt.txt --replicas 5 --quorum 3 --max-price 0.01

        assay quote "What is a hash?" --json | jq .escrow

        assay quote "What is a hash?" --draw --explain
    """
    wanted = asked.JobQuestion(
        prompt, file, messages, model, mode, replicas, quorum, max_output_tokens, max_price, max_escrow, allow, deny,
        label, min_reliability, max_kill_fee, temperature, top_k, top_p, seed, seed_by_chain, draw, bond,
        stop_string, selection_seed,
    )  # fmt: skip
    question = wanted.question()
    with connection.open(with_key=False) as client, progress_on(connection.console) as report:
        found = client.quote(**question, options=wanted.options(client), progress=report)
    if connection.as_json:
        connection.emit(found.to_json())
    else:
        show_quote(page(), found, explain=explain)
