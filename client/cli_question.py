"""The options that say what is asked and what it may cost; shared by `quote` and `job post`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from eth_utils.address import is_address

from client.client import Client
from client.errors import BadRequest
from client.escrow import EscrowSource
from client.job_options import JobOptions
from market.errors import WireError
from market.inference.log_probabilities import TOP_LIMIT
from market.money import parse_amount
from market.types import Mode, parse_bytes32

PROMPT_LIMIT = 1 << 20
"""Bytes read of a prompt file or of standard input."""
MODES = {mode.name.lower(): mode for mode in Mode}

PromptArgument = typer.Argument(
    None, help="The prompt; @FILE reads a file, - (or nothing, in a pipe) reads standard input.", show_default=False
)
FileOption = typer.Option(None, "--file", help="Read the prompt from a file.", show_default=False)
MessagesOption = typer.Option(
    None, "--messages", help='A JSON file: [{"role": "user", "content": "…"}, …].', show_default=False
)
ModelOption = typer.Option(None, "--model", "-m", help="Name or id. Default: the only one on sale.", show_default=False)
ModeOption = typer.Option(
    "quorum", "--mode", help="none, quorum or optimistic: paid unless proved wrong; everybody can read it."
)
ReplicasOption = typer.Option(None, "--replicas", "-n", help="Providers that answer. [default: 3]", show_default=False)
QuorumOption = typer.Option(None, "--quorum", "-k", help="Equal answers needed. [default: 2]", show_default=False)
OutputOption = typer.Option(128, "--max-output-tokens", "-t", help="Longest answer, in tokens.")
PriceOption = typer.Option(
    None, "--max-price", help="Most one provider may cost, in units of the token, e.g. 0.25.", show_default=False
)
EscrowCapOption = typer.Option(
    None, "--max-escrow", help="Most the whole job may cost, in units of the token.", show_default=False
)
AllowOption = typer.Option([], "--allow", help="Only this provider (address); repeatable.", show_default=False)
DenyOption = typer.Option([], "--deny", help="Never this provider (address); repeatable.", show_default=False)
LabelOption = typer.Option([], "--label", help="Only providers with this label; repeatable.", show_default=False)
ReliabilityOption = typer.Option(
    0, "--min-reliability", min=0, max=100, help="Least share of jobs paid, in percent, of providers with a record."
)
KillFeeOption = typer.Option(
    20, "--max-kill-fee", min=0, max=100, help="Most a quote's kill fee may be, in percent of its price."
)
DrawOption = typer.Option(
    False, "--draw", help="The chain draws who answers, from offers that allow it. The prompt becomes public, for ever."
)
BondOption = typer.Option(
    None, "--bond", help="With --draw: least bond that each locks, in units of the token.", show_default=False
)
TemperatureOption = typer.Option(
    None, "--temperature", help="How much chance decides, e.g. 0.7; 0 = greedy. [default: greedy]", show_default=False
)
TopKOption = typer.Option(
    None, "--top-k", min=0, max=2**32 - 1, help="Choose among the k likeliest tokens; 0 = all.", show_default=False
)
TopPOption = typer.Option(
    None, "--top-p", help="Choose among the likeliest tokens of this share, e.g. 0.9.", show_default=False
)
SeedOption = typer.Option(
    None, "--seed", help="32 bytes hex: the same seed gives the same answer. Default: drawn.", show_default=False
)
SeedByChainOption = typer.Option(
    False, "--seed-by-chain", help="The chain gives the seed once the job is posted: nobody chose the answer."
)
StopStringOption = typer.Option(
    [], "--stop-string", help="Cut the answer's text before this text; repeatable.", show_default=False
)
LogProbabilitiesOption = typer.Option(
    0,
    "--logprobs",
    min=0,
    max=TOP_LIMIT,
    help="Also tell how likely each token was, beside the N likeliest in its place. Unverified; 0 = no.",
)
SelectionSeedOption = typer.Option(
    None, "--selection-seed", help="32 bytes hex: decides between equal quotes.", show_default=False
)


@dataclass(frozen=True)
class JobQuestion:
    """The options as they were typed."""

    prompt: str | None
    file: Path | None
    messages: Path | None
    model: str | None
    mode: str
    replicas: int | None
    quorum: int | None
    max_output_tokens: int
    max_price: str | None
    max_escrow: str | None
    allow: list[str]
    deny: list[str]
    label: list[str]
    min_reliability: int
    max_kill_fee: int
    temperature: str | None
    top_k: int | None
    top_p: str | None
    seed: str | None
    seed_by_chain: bool
    draw: bool
    bond: str | None
    stop_string: list[str]
    selection_seed: str | None

    def question(self) -> dict[str, Any]:
        """Arguments of Client.negotiate that carry the prompt.

        Raises:
            BadRequest: no prompt, several, or an unreadable file.
        """
        given = [value for value in (self.prompt, self.file, self.messages) if value is not None]
        if len(given) > 1:
            raise BadRequest("Give the prompt once: as an argument, with --file, or with --messages.")
        if self.messages is not None:
            try:
                messages = json.loads(_read(self.messages))
            except ValueError:
                messages = None
            if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
                raise BadRequest(f"{self.messages} is no JSON list of messages.", hint="Nothing was sent.")
            return {"messages": messages}
        if self.file is not None:
            return {"prompt": _read(self.file)}
        if self.prompt is None and sys.stdin.isatty():
            raise BadRequest("There is no prompt.", hint="Give some text, @FILE, or - for standard input.")
        if self.prompt in (None, "-"):
            return {"prompt": _text(sys.stdin.buffer.read(PROMPT_LIMIT + 1), "standard input")}
        if self.prompt.startswith("@"):
            return {"prompt": _read(Path(self.prompt[1:]))}
        return {"prompt": self.prompt}

    def options(self, client: Client, **more: Any) -> JobOptions:
        """JobOptions; amounts become base units of the market's token.

        Raises:
            BadRequest, BadAmount: a value that is none.
        """
        mode = MODES.get(self.mode.lower())
        if mode is None:
            raise BadRequest(f"There is no mode “{self.mode}”.", hint=f"Modes: {', '.join(MODES)}.")
        alone = mode is not Mode.QUORUM
        replicas = self.replicas if self.replicas is not None else 1 if alone else 3
        quorum = self.quorum if self.quorum is not None else 1 if alone else replicas // 2 + 1
        decimals = client.marketplace.token_info.decimals
        return JobOptions(
            model=self.model,
            mode=mode,
            replicas=replicas,
            quorum=quorum,
            max_output_tokens=self.max_output_tokens,
            max_price=None if self.max_price is None else parse_amount(self.max_price, decimals),
            max_escrow=None if self.max_escrow is None else parse_amount(self.max_escrow, decimals),
            allow=addresses("--allow", self.allow),
            deny=addresses("--deny", self.deny),
            labels=frozenset(self.label),
            min_reliability_bps=self.min_reliability * 100,
            max_kill_fee_bps=self.max_kill_fee * 100,
            draw=self.draw,
            bond=0 if self.bond is None else parse_amount(self.bond, decimals),
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=_seed("--seed", self.seed),
            seed_by_chain=self.seed_by_chain,
            stop_strings=tuple(self.stop_string),
            selection_seed=_seed("--selection-seed", self.selection_seed),
            **more,
        )


def _seed(option: str, text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return parse_bytes32(option, text)
    except WireError as error:
        raise BadRequest(error.message, hint="Nothing was sent.") from None


def parse_escrow(text: str) -> EscrowSource:
    """Raises BadRequest."""
    try:
        return EscrowSource(text)
    except ValueError:
        known = ", ".join(source.value for source in EscrowSource)
        raise BadRequest(f"There is no escrow source “{text}”.", hint=f"Sources: {known}.") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _text(file.read(PROMPT_LIMIT + 1), str(path))
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.", hint="Nothing was sent.") from None


def _text(raw: bytes, source: str) -> str:
    if len(raw) > PROMPT_LIMIT:
        raise BadRequest(f"{source} holds more than {PROMPT_LIMIT} bytes.", hint="Nothing was sent. Shorten it.")
    try:
        return raw.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise BadRequest(f"{source} is no UTF-8 text.", hint="Nothing was sent.") from None


def addresses(option: str, given: list[str]) -> frozenset[str]:
    odd = next((text for text in given if not is_address(text)), None)
    if odd is not None:
        raise BadRequest(f"{option}: “{odd[:60]}” is no address.", hint="Nothing was sent.")
    return frozenset(given)
