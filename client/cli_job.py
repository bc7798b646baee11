"""`assay job post|list|show|watch|settle|draw|demand|cancel`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from eth_utils.address import is_address
from rich.console import Console

from client import cli_question as asked
from client.checking import Audit
from client.cli_options import Connection, connected
from client.cli_proofs import classify_command, expire_command
from client.demands import cost_of
from client.errors import BadRequest
from client.progress import Progress, Report
from client.render import (
    answer_text,
    money,
    page,
    progress_on,
    show_demand,
    show_job,
    show_jobs,
    show_log_probabilities,
    show_quote,
)
from client.results import JobResult

job_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Post, list, show, watch, settle, cancel jobs.")

JobArgument = typer.Argument(help="Job id, or its first digits.", show_default=False)
AuditOption = typer.Option(
    "auto", "--audit", help="Compute the answer again with a local --pack: auto (as often as deters), always, never."
)
DisputeOption = typer.Option(
    True, "--dispute/--no-dispute", help="Dispute on chain what an audit finds wrong; prompt and answer become public."
)
job_app.command("classify")(classify_command)
job_app.command("expire-proof")(expire_command)
YesOption = typer.Option(False, "--yes", "-y", help="Agree to the price without being asked.")


@job_app.command("post")
@connected
def post_command(
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
    logprobs: int = asked.LogProbabilitiesOption,
    private: bool = typer.Option(False, "--private", help="Refuse what would make the prompt public."),
    commit_window: int = typer.Option(120, "--commit-window", help="Seconds for delivery, inference and commit."),
    reveal_window: int = typer.Option(60, "--reveal-window", help="Seconds for the reveals after it."),
    escrow: str = typer.Option("auto", "--escrow", help="Where the money comes from: auto, credit, allowance, permit."),
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Wait for the answer, or only post."),
    audit: Audit = AuditOption,
    dispute: bool = DisputeOption,
    yes: bool = YesOption,
) -> None:
    """Buy an answer: quotes, escrow, delivery, agreement, settlement.

    The price and the guarantee are shown before money moves. The answer goes to standard output, everything else to
    standard error. Interrupting is safe: `assay job watch` goes on.

    With --mode optimistic one provider answers, prompt and answer are public, and it is paid once nobody has proved the
    answer wrong. With --pack this client computes answers again, as often as deters and always where replicas disagree,
    and disputes what is wrong.

    With --draw the chain draws the providers instead of you choosing among quotes, and the prompt is written on chain,
    where anybody can read it for ever. All that are drawn are paid the same, no more than --max-price.

    With --seed-by-chain the answer is sampled with a seed out of the hash of the block that the job lands in, which
    nobody knew before: for whoever must be shown that you did not choose the answer. The report tells it.

    Examples:

        assay job post "What is the capital of France?"

        assay job post @prompt.txt --max-output-tokens 64 --max-escrow 0.05 --yes

        assay job post "Tell me a story." --temperature 0.8 --top-p 0.95 --stop-string "The end" --yes

        assay job post "The capital of France is" --max-output-tokens 8 --logprobs 3 --yes

        echo "Why is the sky blue?" | assay job post --yes --json | jq -r .answer

        assay job post --draw --max-price 0.01 "What is the capital of France?"

        assay job post "Pick one of them: heads or tails?" --temperature 1 --seed-by-chain --yes
    """
    wanted = asked.JobQuestion(
        prompt, file, messages, model, mode, replicas, quorum, max_output_tokens, max_price, max_escrow, allow, deny,
        label, min_reliability, max_kill_fee, temperature, top_k, top_p, seed, seed_by_chain, draw, bond,
        stop_string, selection_seed,
    )  # fmt: skip
    connection.must_be_able_to_ask(yes=yes)
    question, source = wanted.question(), asked.parse_escrow(escrow)
    console = connection.console
    with connection.open(with_key=True) as client:
        options = wanted.options(
            client,
            commit_window=commit_window,
            reveal_window=reveal_window,
            escrow=source,
            log_probabilities=logprobs,
            private=private,
        )
        with progress_on(console) as report:
            offered = client.negotiate(**question, options=options, progress=report)
        if not yes:
            show_quote(page(stderr=True), offered.report, explain=False)
        public = ", with its prompt for all to see" if options.is_public else ""
        connection.confirm(f"Post this job{public}?", yes=yes)
        with progress_on(console) as report, _telling_how_to_go_on(console, report) as noting:
            if wait:
                result = client.run(offered=offered, progress=noting)
                result = client.check(result, audit=audit, dispute=dispute, progress=noting)
            else:
                result = client.post(offered=offered, progress=noting)
    _finish(connection, result)


@job_app.command("list")
@connected
def list_command(
    connection: Connection, limit: int = typer.Option(20, "--limit", min=1, max=1000, help="How many, newest first.")
) -> None:
    """Jobs that this machine posted on this market. No key is needed; prompts and answers show where its password is
    given (--password-file or ASSAY_PASSWORD).

    Examples:

        assay job list

        assay job list --json | jq -r '.[] | select(.state == "open") | .job_id'
    """
    with connection.open_to_read() as client:
        jobs, token = client.list(limit), client.marketplace.token_info
    if connection.as_json:
        connection.emit([job.to_json() for job in jobs])
    else:
        show_jobs(page(), jobs, token)


@job_app.command("show")
@connected
def show_command(connection: Connection, job: str = JobArgument) -> None:
    """A job as it stands: who committed, revealed, was paid. Nothing is sent.

    No key is needed; the answer shows where its password is given (--password-file or ASSAY_PASSWORD).

    Examples:

        assay job show 0x1f2e

        assay job show 0x1f2e --json | jq .providers
    """
    with connection.open_to_read() as client:
        result = client.show(job)
    if connection.as_json:
        connection.emit(result.to_json())
        return
    show_job(page(), result)
    show_log_probabilities(page(), result.log_probabilities)
    if result.answer is not None:
        _print_answer(result)


@job_app.command("watch")
@connected
def watch_command(connection: Connection, job: str = JobArgument) -> None:
    """Go on with a job until it ends: deliver, wait, settle, fetch the answer. Safe to repeat.

    Examples:

        assay job watch 0x1f2e
    """
    with connection.open(with_key=True) as client, progress_on(connection.console) as report:
        result = client.watch(job, report)
    _finish(connection, result)


@job_app.command("settle")
@connected
def settle_command(connection: Connection, job: str = JobArgument) -> None:
    """Settle a job now, if its windows allow: pays agreed answers, or gives the escrow back. Anyone may.

    Examples:

        assay job settle 0x1f2e
    """
    with connection.open(with_key=True) as client, progress_on(connection.console):
        result = client.settle(job)
    if connection.as_json:
        connection.emit(result.to_json())
    else:
        show_job(page(), result)


@job_app.command("draw")
@connected
def draw_command(connection: Connection, job: str = JobArgument) -> None:
    """Draw the providers of a job that waits for it, once its posting block is behind. Anyone may.

    Examples:

        assay job draw 0x1f2e…
    """
    with connection.open(with_key=True) as client, progress_on(connection.console):
        result = client.draw(job)
    if connection.as_json:
        connection.emit(result.to_json())
    else:
        show_job(page(), result)


@job_app.command("demand")
@connected
def demand_command(
    connection: Connection,
    job: str = JobArgument,
    provider: str = typer.Argument(help="The provider (address) that revealed it.", show_default=False),
    yes: bool = YesOption,
) -> None:
    """Make a provider that revealed an answer publish it on chain, or lose its bond. Call it again to go on.

    Costs the contract's fee, once for each 512 tokens begun, which comes back where the provider stays silent. An
    answer that the job did not pay for (in the minority, or without a quorum) costs its price too, which comes back
    where the provider loses its bond. Everybody can read what is published.

    Examples:

        assay job demand 0x1f2e 0x70997970c51812dc3a010c7d01b50e0d17dc79c8 --yes
    """
    if not is_address(provider):
        raise BadRequest(f"“{provider[:60]}” is no address.", hint="`assay job show --json` names the providers.")
    connection.must_be_able_to_ask(yes=yes)
    with connection.open(with_key=True) as client:
        wanted = client.find(job)
        cost, token = cost_of(client.marketplace, wanted, provider), client.marketplace.token_info
        price = f" and its price of {money(cost.price, token)}, which the job did not pay" if cost.price else ""
        question = (
            f"Demand the answer for {money(cost.fee, token)}{price}, if that was not done yet? It becomes public."
        )
        connection.confirm(question, yes=yes)
        with progress_on(connection.console):
            demand = client.demand(wanted, provider)
    if connection.as_json:
        connection.emit(demand.to_json())
    else:
        show_demand(page(), demand)


@job_app.command("cancel")
@connected
def cancel_command(connection: Connection, job: str = JobArgument, yes: bool = YesOption) -> None:
    """Take a job back before the first commit. Each provider gets its kill fee, the rest becomes credit.

    Examples:

        assay job cancel 0x1f2e --yes
    """
    connection.must_be_able_to_ask(yes=yes)
    with connection.open(with_key=True) as client:
        wanted = client.find(job)
        connection.confirm(f"Cancel job 0x{wanted.hex()[:12]}… and pay the kill fees?", yes=yes)
        with progress_on(connection.console):
            result = client.cancel(wanted)
    if connection.as_json:
        connection.emit(result.to_json())
    else:
        show_job(page(), result)


@job_app.command("forget")
@connected
def forget_command(connection: Connection, job: str = JobArgument) -> None:
    """Remove a job that is over from this machine: its prompt, answer and receipts are overwritten.

    Examples:

        assay job forget 0x1f2e
    """
    with connection.open(with_key=False) as client:
        forgotten = client.forget(job)
    if connection.as_json:
        connection.emit({"forgotten": "0x" + forgotten.hex()})
    else:
        page().print(f"Forgotten: 0x{forgotten.hex()}")


@contextmanager
def _telling_how_to_go_on(console: Console, report: Report) -> Iterator[Report]:
    """Passes progress on; an interrupt names the job that goes on without us."""
    posted: list[str] = []

    def noting(progress: Progress) -> None:
        if "job_id" in progress.details:
            posted.append(progress.details["job_id"])
        report(progress)

    try:
        yield noting
    except KeyboardInterrupt:
        if posted:
            console.print(f"The job goes on; its answer: assay job watch {posted[-1]}")
        raise


def _finish(connection: Connection, result: JobResult) -> None:
    """Prints a job's end. A job without an answer at its end gives the exit code of its reason."""
    if connection.as_json:
        connection.emit(result.to_json())
    else:
        if result.answer is not None:
            _print_answer(result)
        show_log_probabilities(page(stderr=True, quiet=connection.quiet), result.log_probabilities)
        show_job(page(stderr=True, quiet=connection.quiet), result)
    code = result.exit_code
    if code:
        if not connection.as_json:
            result.raise_for_state()
        raise typer.Exit(code)


def _print_answer(result: JobResult) -> None:
    text = result.answer or ""
    sys.stdout.write((answer_text(text) if sys.stdout.isatty() else text) + "\n")
    sys.stdout.flush()
