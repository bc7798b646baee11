"""`assay dispute open|show|list|step|auto|contradict|answer|accept`: disputes for people, every move is explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import typer
from eth_utils.address import is_address

from assay.dispute_contradict import contradict_command
from assay.dispute_render import (
    dispute_json,
    show_dispute,
    show_move,
    show_prospects,
    show_resolution,
    show_verdict,
)
from client.cli_options import Connection, connected
from client.client import Client
from client.disputing import book_of, evidence_for, load_packs, player_of
from client.errors import BadRequest
from client.render import page
from client.wallet import Wallet
from market.chain import same_address
from market.dispute_contracts import Disputes
from market.dispute_evidence import Evidence
from market.dispute_play import NotDisputable, Player, Prospects
from market.dispute_resolution import Resolution, move_name, prospects_of, resolve, step
from market.disputes import Dispute, Verdict
from market.errors import ConfigError, ContractError
from market.judging import acceptances, names_of, require_judgeable
from market.models.pack import load_pack
from market.receipts import ReceiptDocument
from market.verification.challenger import Agrees, Move, Over, Wait
from market.verification.traces import Traces
from provider import logs
from provider.disputes import Responder
from provider.node import AGAIN

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Dispute an answer on chain, or defend one. Needs the model's pack (--pack) and a key.",
)

JobArgument = typer.Argument(help="Job id, or its first digits.", show_default=False)
ProviderArgument = typer.Argument(
    None, help="Whose answer; may be left out where one replica revealed.", show_default=False
)
DisputeArgument = typer.Argument(help="Id of the dispute or of its job, or first digits of one.", show_default=False)
AnswerOption = typer.Option(
    None, "--answer", help="A receipt file, or JSON with `ids`: the output of a private job.", show_default=False
)
AnywayOption = typer.Option(False, "--anyway", help="Open it although our own computation says the answer is right.")
YesOption = typer.Option(False, "--yes", "-y", help="Agree to every move without being asked.")


@dataclass(frozen=True)
class Table:
    """An open client with a player."""

    client: Client
    player: Player
    wallet: Wallet

    def find(self, text: str) -> bytes:
        """A dispute's id. Raises BadRequest."""
        self.player.book.poll()
        return found_in(self.player.book.find(text), text)


@contextmanager
def table_of(connection: Connection) -> Iterator[Table]:
    """Raises ConfigError: no pack, no key."""
    packs = load_packs(connection.config.packs)
    if not packs:
        raise ConfigError(
            "No model pack was named; an answer is judged by computing it again.",
            hint="Name its folder with --pack (ASSAY_PACKS). Nothing was sent.",
            code="NoPack",
        )
    with connection.open(with_key=True) as client:
        if client.wallet is None:
            raise ConfigError("No keystore was named.", hint="Give --keystore (ASSAY_KEYSTORE). Nothing was sent.")
        yield Table(client, player_of(client.marketplace, client.wallet, packs), client.wallet)


def found_in(found: list[bytes], text: str) -> bytes:
    if len(found) != 1:
        problem = f"{len(found)} disputes begin" if found else "No dispute begins"
        raise BadRequest(
            f"{problem} with {text[:70]}.",
            hint="`assay dispute list --all` shows them; `assay dispute open` opens one about an answer.",
        )
    return found[0]


@app.command("open")
@connected
def open_command(
    connection: Connection,
    job: str = JobArgument,
    provider: str | None = ProviderArgument,
    answer: Path | None = AnswerOption,
    anyway: bool = AnywayOption,
    yes: bool = YesOption,
) -> None:
    """Compute an answer again and, where it is wrong, open a dispute about it.

    Opening prepays the provider's first reply; the prepayment comes back if it is found guilty. Disputing publishes
    prompt and answer on chain, for everybody and for ever. `assay dispute auto` opens and goes on to the end.

    Examples:

        assay dispute open 0x1f2e --pack build/models/smollm2-135m-instruct

        assay dispute open 0x1f2e 0x70997970c51812dc3a010c7d01b50e0d17dc79c8 --answer receipt.json --yes --json
    """
    connection.must_be_able_to_ask(yes=yes)
    with table_of(connection) as table:
        evidence = find_evidence(table.client, job, provider, answer)
        opened = open_dispute(connection, table, evidence, anyway=anyway, yes=yes)
        if isinstance(opened, Verdict):
            show_end(connection, evidence, opened)
            return
        show(connection, table, opened)
        connection.console.print(go_on(opened.dispute_id))


@app.command("show")
@connected
def show_command(connection: Connection, dispute: str = DisputeArgument) -> None:
    """A dispute as it stands, drawn as the way down. With --pack each reply is compared with our own trace.

    No key is needed, nothing is sent.

    Examples:

        assay dispute show 0x1f2e --pack build/models/smollm2-135m-instruct

        assay dispute show 0x1f2e --json | jq '.asked[] | select(.answered | not)'
    """
    packs = load_packs(connection.config.packs)
    with connection.open(with_key=False) as client:
        book = book_of(client.marketplace, forget=False)
        book.poll()
        found = book.dispute(found_in(book.find(dispute), dispute))
        if found is None:
            raise BadRequest("The dispute was taken back by a reorganisation.")
        traces = Traces(packs)
        known = traces.knows(found.claim)
        challenger = traces.challenger(found.claim, found.input_ids, found.output_ids) if known else None
        if connection.as_json:
            connection.emit(dispute_json(found, challenger))
        else:
            show_dispute(page(), found, challenger, client.marketplace.clock.now())


@app.command("list")
@connected
def list_command(
    connection: Connection, every: bool = typer.Option(False, "--all", help="Those that are over, too.")
) -> None:
    """Disputes of the market, oldest first. No key is needed.

    Examples:

        assay dispute list

        assay dispute list --all --json | jq -r '.[] | select(.state == "GUILTY") | .provider'
    """
    with connection.open(with_key=False) as client:
        book = book_of(client.marketplace, forget=False)
        book.poll()
        found = [dispute for dispute in book.all() if every or dispute.is_open]
        if connection.as_json:
            connection.emit([dispute_json(dispute, None) for dispute in found])
            return
        if not found:
            connection.console.print("No dispute is open." if not every else "There was no dispute in this market yet.")
        for entry in found:
            replies = f"{len(entry.asked) - len(entry.unanswered)} of {len(entry.asked)} replies"
            state, provider = entry.state.name.lower(), entry.claim.provider.lower()
            page().print(f"0x{entry.dispute_id.hex()}  {state:<10}  {provider}  {replies}")


@app.command("step")
@connected
def step_command(connection: Connection, dispute: str = DisputeArgument, yes: bool = YesOption) -> None:
    """Do the one next thing in a dispute: ask for a node, prove, or say that a reply is overdue.

    Exits with 5 where there is nothing to do: the answer is right, or the time is over.

    Examples:

        assay dispute step 0x1f2e --pack build/models/smollm2-135m-instruct

        assay dispute step 0x1f2e --yes --json
    """
    connection.must_be_able_to_ask(yes=yes)
    with table_of(connection) as table:
        dispute_id = table.find(dispute)
        found = table.player.look(dispute_id)
        result = Resolution(dispute_id)
        if isinstance(found, Dispute) and found.is_open:
            move = table.player.next(found)
            if isinstance(move, Wait):
                show(connection, table, found, move)
                return
            if isinstance(move, Over | Agrees):
                raise NotDisputable(move.reason, hint="Nothing was sent.", code=type(move).__name__)
            prospects = prospects_of(table.player, found, move)
            explain(connection, table, found, move, prospects)
            connection.confirm("Send this move?", yes=yes)
            step(table.player, found, move, prospects, result)
            after = table.player.look(dispute_id)
            result.verdict = after.verdict if isinstance(after, Dispute) else after
            if result.guilty:
                result.refunded = table.player.refund(dispute_id) is not None
        else:
            result.verdict = found.verdict if isinstance(found, Dispute) else found
        finish(connection, table, result)
        if result.verdict is None:
            connection.console.print(go_on(dispute_id))


@app.command("auto")
@connected
def auto_command(
    connection: Connection,
    job: str = typer.Argument(help="Job id, or id of a dispute, or first digits of one.", show_default=False),
    provider: str | None = ProviderArgument,
    answer: Path | None = AnswerOption,
    anyway: bool = AnywayOption,
    yes: bool = YesOption,
) -> None:
    """Compute an answer again, dispute it where it is wrong, and play until there is a verdict. Safe to repeat.

    Each move is explained and, without --yes, confirmed. Disputing publishes prompt and answer on chain, for everybody
    and for ever. Exits with 5 where the answer is right.

    Examples:

        assay dispute auto 0x1f2e --pack build/models/smollm2-135m-instruct --yes

        assay dispute auto 0x1f2e --yes --json | jq '.verdict, .reward, .gas'
    """
    connection.must_be_able_to_ask(yes=yes)
    with table_of(connection) as table:
        table.player.book.poll()
        found = table.player.book.find(job)
        if provider is not None:
            disputes = [table.player.book.dispute(dispute_id) for dispute_id in found]
            found = [d.dispute_id for d in disputes if d is not None and same_address(d.claim.provider, provider)]
        if len(found) == 1:
            dispute_id = found[0]
        else:
            evidence = find_evidence(table.client, job, provider, answer)
            opened = open_dispute(connection, table, evidence, anyway=anyway, yes=yes)
            if isinstance(opened, Verdict):
                show_end(connection, evidence, opened)
                return
            dispute_id = opened.dispute_id
        result = play(connection, table, dispute_id, yes=yes)
        finish(connection, table, result)
        if result.verdict is None:
            raise typer.Exit(NotDisputable.exit_code)


app.command("contradict")(contradict_command)


@app.command("answer")
@connected
def answer_command(connection: Connection, dispute: str = DisputeArgument, yes: bool = YesOption) -> None:
    """Give, with the provider's key, every reply that a dispute waits for; or close it once it is over.

    A running agent does this by itself: use this where it cannot run, and not beside it.

    Examples:

        assay dispute answer 0x1f2e --keystore provider.json --pack build/models/smollm2-135m-instruct
    """
    connection.must_be_able_to_ask(yes=yes)
    with table_of(connection) as table:
        dispute_id, place = table.find(dispute), table.client.marketplace
        found = table.player.book.dispute(dispute_id)
        if found is None or not same_address(found.claim.provider, table.player.address):
            raise BadRequest(
                "The dispute is not about an answer of this key's.", hint="Give the provider's --keystore."
            )
        waiting = [asked.node for asked in found.unanswered]
        connection.confirm(f"Give {len(waiting)} replies with the trace computed here?", yes=yes)
        logs.configure(style="console")
        with table.wallet.open() as transactions:
            responder = Responder(
                table.player.book,
                Disputes(place.chain, place.deployment.disputes),
                table.player.traces,
                lambda call, key, waits: transactions.enqueue(
                    call, key=key, block="pending" if waits is None else "latest"
                ),
                now=place.clock.now,
                seen=lambda: place.chain.head().timestamp,
                only=dispute_id,
            )
            while responder.step() == AGAIN:
                pass
        after = table.player.look(dispute_id)
        if isinstance(after, Dispute):
            show(connection, table, after)


@app.command("accept")
@connected
def accept_command(
    connection: Connection,
    pack: Path = typer.Argument(help="Folder of the model's pack.", show_default=False),
    yes: bool = YesOption,
) -> None:
    """Let the market's judge learn a model, so that its answers can be disputed. Anyone may, once per model.

    Models that are too large for a step of 500,000 gas are refused: SmolLM2-135M is taken, 360M and 1.7B are not.

    Examples:

        assay dispute accept build/models/smollm2-135m-instruct --yes
    """
    connection.must_be_able_to_ask(yes=yes)
    loaded = load_pack(pack)
    require_judgeable(loaded)
    with connection.open(with_key=True) as client:
        place = client.marketplace
        missing = acceptances(place.chain, place.deployment.judge, loaded)
        if missing and client.wallet is not None:
            gas = sum(place.chain.estimate_gas(call, client.wallet.account.address) for call in missing)
            connection.confirm(f"Let the judge learn the model's {names_of(missing)} for about {gas:,} gas?", yes=yes)
            for call in missing:
                client.wallet.send(call, f"{call.label}:{loaded.model_id.hex()}")
    if connection.as_json:
        connection.emit({"model_id": "0x" + loaded.model_id.hex(), "accepted": [call.label for call in missing]})
    else:
        page().print(f"accepted: {names_of(missing)}" if missing else "The judge knows this model.")


# ------------------------------------------------------------------------------------------------------------- parts


def find_evidence(client: Client, job: str, provider: str | None, answer: Path | None) -> Evidence:
    """Raises BadRequest, JobNotKnown, NoEvidence, HashMismatch."""
    if provider is not None and not is_address(provider):
        raise BadRequest(f"“{provider[:60]}” is no address.", hint="`assay job show --json` names the providers.")
    job_id = client.find(job)
    ids = None if answer is None else read_ids(answer)
    return evidence_for(client.marketplace, job_id, provider, client.store.get(job_id), ids)


def read_ids(path: Path) -> tuple[int, ...]:
    """Output ids of a receipt file, or of any JSON object with `ids`. Raises BadRequest."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and "receipt" in document:
            return ReceiptDocument.from_json(document).ids
        return tuple(int(token) for token in document["ids"])
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.", hint="Give the receipt's file.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{path} holds no output: {error}.", hint="Give a receipt, or JSON with `ids`.") from None


def open_dispute(
    connection: Connection, table: Table, evidence: Evidence, *, anyway: bool, yes: bool
) -> Dispute | Verdict:
    """Judges an answer here, says what disputing it costs, and opens the dispute.

    Raises:
        NotDisputable: our own computation says that the answer is right, or nothing is locked behind it.
    """
    console, player, place = connection.console, table.player, table.client.marketplace
    there = player.look(evidence.dispute_id)
    if there is not None:
        already_disputed(evidence.dispute_id, there)
    reward = player.reward(evidence.subject_id, evidence.provider)
    if not reward:
        raise NotDisputable(
            "No bond is locked behind this answer: the time in which it could be disputed is over. Nothing was sent.",
            code="NothingAtStake",
            hint="`assay job show` says what became of it.",
        )
    console.print(f"Computing {len(evidence.output_ids)} tokens of {evidence.provider.lower()} again …")
    wrong = player.fault(evidence)
    if wrong is None and not anyway:
        raise NotDisputable(
            "Computed again, the answer comes out the same: a dispute about it would be lost. Nothing was sent.",
            hint="--anyway opens it all the same.",
            code="AnswerIsRight",
        )
    if wrong is not None:
        console.print(f"The answer is wrong: {wrong}.")
    pack, left = player.traces.pack(evidence.claim()), 0
    if evidence.forbidden(pack.limits.vocabulary) is None:  # else it is judged at once
        left = player.challenger(evidence.claim(), evidence.input_ids, evidence.output_ids).geometry.rounds() + 1
    prospects = player.prospects(player.opening(evidence), player.rules.root_fee if left else 0, left, reward)
    show_prospects(console, prospects, place.token_info)
    connection.confirm("Open the dispute? Prompt and output become public.", yes=yes)
    player.open(evidence)
    found = player.look(evidence.dispute_id)
    if found is None:
        raise ContractError("The dispute was opened and taken back by a reorganisation.", code="Reorganised")
    return found


def already_disputed(dispute_id: bytes, there: Dispute | Verdict) -> NoReturn:
    """Raises NotDisputable, which says what to do about a dispute that there is, or how it ended."""
    verdict = there.verdict if isinstance(there, Dispute) else there
    if verdict is not None:
        raise NotDisputable(
            f"This answer was judged before: {verdict.state.name.lower().replace('_', ' ')}. Nothing was sent.",
            hint="An answer is disputed once. `assay dispute show` tells how it went.",
            code="AlreadyDisputed",
        )
    raise NotDisputable(
        "A dispute about this answer is open already, and whoever doubts it may join. Nothing was sent.",
        hint=f"`assay dispute auto 0x{dispute_id.hex()[:12]}` goes on with it.",
        code="AlreadyDisputed",
    )


def go_on(dispute_id: bytes) -> str:
    """What to do after a move that decides nothing."""
    short = f"0x{dispute_id.hex()[:12]}"
    ways = f"assay dispute step {short}: the next move;\nassay dispute auto {short}: all of them."
    return f"Nothing follows by itself. {ways}"


def play(connection: Connection, table: Table, dispute_id: bytes, *, yes: bool) -> Resolution:
    waiting: list[str] = []

    def before(dispute: Dispute, move: Move, prospects: Prospects | None) -> None:
        if isinstance(move, Wait):
            if move.reason not in waiting:
                waiting.append(move.reason)
                connection.console.print(move.reason)
            return
        explain(connection, table, dispute, move, prospects)
        if prospects is not None:
            connection.confirm("Send this move?", yes=yes)

    return resolve(table.player, dispute_id, before=before)


def explain(connection: Connection, table: Table, dispute: Dispute, move: Move, prospects: Prospects | None) -> None:
    """The way down so far and the next move, to standard error."""
    console, place = connection.console, table.client.marketplace
    if not connection.quiet:
        challenger = table.player.challenger(dispute.claim, dispute.input_ids, dispute.output_ids)
        show_dispute(console, dispute, challenger, place.clock.now())
    show_move(console, move, prospects, place.token_info)


def show(connection: Connection, table: Table, dispute: Dispute, move: Move | None = None) -> None:
    """A dispute as it stands, to standard output."""
    challenger = table.player.challenger(dispute.claim, dispute.input_ids, dispute.output_ids)
    if connection.as_json:
        document = dispute_json(dispute, challenger)
        if move is not None:
            document |= {"next": move_name(move), "reason": move.reason}
        connection.emit(document)
        return
    show_dispute(page(), dispute, challenger, table.client.marketplace.clock.now())
    if move is not None:
        show_move(page(), move, None, table.client.marketplace.token_info)


def show_end(connection: Connection, evidence: Evidence, verdict: Verdict) -> None:
    """A dispute that was judged from the ids alone."""
    if connection.as_json:
        fault = None if verdict.fault is None else verdict.fault.name
        identity = {"dispute_id": "0x" + evidence.dispute_id.hex()}
        connection.emit({**identity, "verdict": verdict.state.name, "fault": fault})
    else:
        show_verdict(page(), verdict)


def finish(connection: Connection, table: Table, result: Resolution) -> None:
    if connection.as_json:
        connection.emit(result.to_json())
    else:
        show_resolution(page(), result, table.client.marketplace.token_info)
