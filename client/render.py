"""How quotes, jobs and balances look to a person. Foreign text is printed without markup or control characters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.demands import Demand
from client.drawing import DrawOffer
from client.log_probabilities import LikelyToken, TokenLogProbabilities
from client.matching import LeftOut
from client.progress import Progress, Report
from client.results import Balance, JobResult, JobSummary, QuoteReport, TokenInfo
from client.selection import VerifiedQuote
from market.money import format_amount
from market.types import Sampler
from market.views import JobState

_ROLES = {"agreed": "green", "late": "yellow", "working": "cyan", "released": "dim"}
TABLE_WIDTH = 150
UNBOUNDED = 10_000
_MARKS = {
    "undrawn": "not drawn",
    "assigned": "–",
    "committed": "committed",
    "revealed": "committed, revealed",
    "late": "committed, revealed late",
    "missed": "committed, never revealed",
}


def answer_text(text: str) -> str:
    """A model's answer as it may go to a terminal: line breaks and tabs stay, other control characters do not."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def money(amount: int, token: TokenInfo) -> str:
    return format_amount(amount, token.decimals, answer_text(token.symbol)[:12])


def page(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console on which addresses stay whole: see `_print_table` for what becomes of tables in a narrow terminal."""
    console = Console(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True)
    if not console.is_terminal:  # a file or a pipe has no edge to fit into
        console.width = max(console.width, TABLE_WIDTH)
    return console


@contextmanager
def progress_on(console: Console) -> Iterator[Report]:
    """Shows progress: a moving line on a terminal, one line each elsewhere."""
    if console.is_terminal:
        with console.status("…") as status:
            yield lambda progress: status.update(Text(_line(progress)))
    else:
        yield lambda progress: console.print(Text(_line(progress), style="dim"))


def _line(progress: Progress) -> str:
    return f"{progress.step}: {progress.text}"


def show_quote(console: Console, report: QuoteReport, *, explain: bool) -> None:
    """Price, guarantee and who would do it; with `explain` also who would not, and why.

    Of a drawn job: who may be drawn, which only `explain` lists.
    """
    token = report.token
    console.print(
        Text.assemble(
            (money(report.escrow, token), "bold"),
            f" at most, for {report.input_tokens} prompt and up to {report.max_output_tokens} output tokens of ",
            (answer_text(report.model_name), "bold"),
        )
    )
    if report.sampling.sampler is not Sampler.GREEDY:
        console.print(f"sampled with {report.sampling.describe()}")
    console.print(Text(_guarantee(report)))
    if report.drawn is not None:
        _show_drawn(console, report.drawn, report, explain=explain)
    else:
        table = _table("provider", "price", "bond", "answered in", "stake", "paid/missed")
        for quote in report.chosen:
            table.add_row(*_quote_cells(quote, token))
        _print_table(console, table)
    if explain:
        _show_left_out(console, report.left_out, report)


def _show_drawn(console: Console, drawn: DrawOffer, report: QuoteReport, *, explain: bool) -> None:
    token, count = report.token, len(drawn.eligible)
    console.print(
        Text(
            f"The chain draws {report.replicas} of {count} providers that take these terms. Each is paid "
            f"{money(drawn.price, token)} for an answer of full length, whatever less its own offer asks. A draw that "
            f"nobody makes in time costs {money(drawn.quote.kill_fee, token)} for each. The prompt is public on chain."
        )
    )
    if not explain:
        return
    whole = sum(provider.weight for provider in drawn.eligible)
    table = _table("may be drawn", "its offer", "share", "locks up to", "stake", "paid/missed")
    for provider in drawn.eligible:
        table.add_row(
            provider.provider.lower(),
            money(provider.list_price, token),
            f"{100 * provider.weight // whole} %",
            money(provider.max_bond, token),
            money(provider.stake, token),
            f"{provider.jobs_paid}/{provider.jobs_missed}",
        )
    _print_table(console, table)


def _guarantee(report: QuoteReport) -> str:
    if report.replicas == 1:
        return "One provider answers and is paid on delivery: nobody checks the answer."
    bond = money(report.bond, report.token)
    return (
        f"Paid once {report.quorum} of {report.replicas} independent providers reveal the same answer; each locks a "
        f"bond of at least {bond} behind it. Without agreement the escrow comes back."
    )


def _quote_cells(quote: VerifiedQuote, token: TokenInfo) -> tuple[str, ...]:
    return (
        quote.provider.lower(),
        money(quote.price, token),
        money(quote.quote.bond, token),
        f"{quote.latency_ms} ms",
        money(quote.stake, token),
        f"{quote.jobs_paid}/{quote.jobs_missed}",
    )


def _show_left_out(console: Console, left_out: Sequence[LeftOut], report: QuoteReport) -> None:
    if not left_out:
        console.print(Text("Nobody was left out.", style="dim"))
        return
    table = _table("left out", "at", "failed", "because")
    for item in left_out:
        table.add_row(item.provider.lower(), item.stage, answer_text(item.constraint), Text(answer_text(item.message)))
    _print_table(console, table)
    console.print(Text(f"amounts in base units of {report.token.symbol}", style="dim"))


def show_job(console: Console, result: JobResult) -> None:
    """The picture of a job: who did what and was paid, where the escrow went, how long each step took."""
    token = result.token
    console.print(Text.assemble("job ", (f"0x{result.job_id.hex()}", "bold"), f"  {result.state.name.lower()}"))
    table = _table("provider", "did", "role", "bond", "paid")
    for replica in result.providers:
        table.add_row(
            replica.address.lower()[:10] + "…",  # as in the labels of the gas below; --json has all of it
            _MARKS.get(replica.status, replica.status),
            Text(replica.role, style=_ROLES.get(replica.role, "red")),
            replica.bond,
            money(replica.paid, token) if replica.paid else "–",
        )
    _print_table(console, table)
    if result.sampling is not None and result.sampling.sampler is not Sampler.GREEDY:
        console.print(f"sampled with {result.sampling.describe()}")
    if result.stop_string is not None:
        console.print(Text(f"cut at the stop string {json.dumps(result.stop_string, ensure_ascii=False)}"))
    if result.state.is_final:
        burnt = f" + {money(result.burnt, token)} burnt, as nobody made the draw in time" if result.burnt else ""
        console.print(
            f"escrow {money(result.escrow, token)} = {money(result.paid, token)} paid + "
            f"{money(result.refunded, token)} back as credit{burnt}"
        )
    else:
        what = "draw" if result.state is JobState.DRAWING else "commits"
        console.print(f"escrow {money(result.escrow, token)}, {what} until {moment(result.commit_deadline)}")
    if any(result.steps_ms.values()):
        steps = "  ".join(f"{step} {milliseconds:,}" for step, milliseconds in result.steps_ms.items() if milliseconds)
        console.print(Text(f"ms     {steps}", style="dim"))
    if result.gas:
        gas = "  ".join(f"{label} {used:,}" for label, used in result.gas.items())
        console.print(Text(f"gas    {gas}  in all {sum(result.gas.values()):,}", style="dim"))
    for problem in result.problems:
        console.print(Text(f"note   {answer_text(problem)}", style="yellow"))


def show_log_probabilities(console: Console, told: Sequence[TokenLogProbabilities]) -> None:
    """A line for each token of the answer: how likely it was, and what else was. Nothing where nothing was told."""
    if not told:
        return
    for each in told:
        line = Text.assemble(f"{_share(each.chosen)}  ", (_token(each.chosen), "bold"))
        others = [token for token in each.top if token.id != each.chosen.id]
        if others:
            line.append("  " + "  ".join(f"{_token(token)} {_share(token).strip()}" for token in others), style="dim")
        console.print(line)
    console.print(Text("told by one provider, proved by nobody (docs/cli.md)", style="dim"))


def _share(token: LikelyToken) -> str:
    return f"{100 * token.probability:6.2f} %"


def _token(token: LikelyToken) -> str:
    return str(token.id) if token.text is None else json.dumps(answer_text(token.text), ensure_ascii=False)


def show_demand(console: Console, demand: Demand) -> None:
    """How far a demand is, and what to do next."""
    until, fee = moment(demand.deadline), money(demand.fee + demand.price, demand.token)
    words = {
        "demanded": f"Demanded for {fee}. The provider must publish its answer until {until}.",
        "waiting": f"The provider has until {until} to publish. Then: the same command again, which slashes its bond.",
        "slashed": "The provider kept the answer back and lost its bond. What the job paid it went to the client, "
        "what the demand cost back to whoever made it, both as credit.",
        "published": "Published on chain:",
    }
    console.print(Text(words[demand.state]))
    if demand.ids is not None:
        console.print(Text(answer_text(demand.answer if demand.answer is not None else f"ids {list(demand.ids)}")))


def show_jobs(console: Console, jobs: Sequence[JobSummary], token: TokenInfo) -> None:
    table = _table("job", "posted", "state", "escrow", "prompt", "answer")
    for job in jobs:
        table.add_row(
            f"0x{job.job_id.hex()[:12]}…",
            moment(job.created_at),
            job.state,
            money(job.escrow, token),
            Text("encrypted", style="dim") if job.is_encrypted else Text(_short(job.prompt)),
            Text(_short(job.answer or "")),
        )
    if jobs:
        _print_table(console, table)
    else:
        console.print(Text("No jobs on this market from this machine.", style="dim"))
    if any(job.is_encrypted for job in jobs):
        note = "encrypted: give the password of the key that posted it (--password-file or ASSAY_PASSWORD)"
        console.print(Text(note, style="dim"))


def show_balance(console: Console, balance: Balance) -> None:
    token = balance.token
    table = _table("", "")
    rows = [
        ("wallet", money(balance.wallet, token)),
        ("credit in the vault", money(balance.credit, token) + "  (assay withdraw)"),
        ("escrow of open jobs", money(balance.escrowed, token)),
    ]
    if balance.staked:
        rows.append(("stake", money(balance.staked, token)))
    if balance.exiting:
        rows.append(("unstaking", f"{money(balance.exiting, token)}, ready {moment(balance.exit_ready_at)}"))
    rows.append(("for gas", f"{format_amount(balance.gas_wei, 18)} of the chain's coin"))
    for row in rows:
        table.add_row(*row)
    console.print(f"account {balance.account.lower()}")
    _print_table(console, table)


def moment(seconds: int) -> str:
    """Unix seconds in the reader's own time zone."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S") if seconds else "–"


def _short(text: str, length: int = 40) -> str:
    text = " ".join(answer_text(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, justify="right" if column in ("price", "paid") else "left", no_wrap=True)
    return table


def _print_table(console: Console, table: Table) -> None:
    """The table where it fits, else a block of lines per row, so that nothing is cut and no line breaks in a value."""
    if console.measure(table, options=console.options.update(width=UNBOUNDED)).maximum <= console.width:
        console.print(table)
        return
    names = [str(column.header) for column in table.columns]
    cells = zip(*([_text(cell) for cell in column.cells] for column in table.columns), strict=True)
    label = max(map(len, names[1:])) + 2
    for first, *others in cells:
        console.print(first)
        for name, value in zip(names[1:], others, strict=True):
            console.print(Text.assemble("  ", (name.ljust(label), "dim"), value))


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))
