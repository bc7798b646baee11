"""The root of the command line. A group's module is imported only when one of its commands is called."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import unicodedata
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup
from typer.main import get_command

from market.errors import AssayError

# typer carries its own copy of click; these are its two error classes, reached through the public name
_UsageError: Any = typer.BadParameter.__bases__[0]
_ClickException: Any = _UsageError.__bases__[0]

#: command → (module, attribute, one line of help), in the order of `assay --help`
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("assay.network_cli", "up", "Start a local network: chain, contracts, providers."),
    "down": ("assay.network_cli", "down", "Stop the local network; its state is kept."),
    "doctor": ("assay.doctor", "app", "Say what is missing on this machine."),
    "demo": ("assay.demo_cli", "app", "A whole job on a fresh local chain, then one with a liar."),
    "quote": ("client.cli", "quote_app", "Ask providers for prices; no money moves."),
    "job": ("client.cli", "job_app", "Post, list, show, watch or cancel jobs."),
    "dispute": ("assay.dispute_cli", "app", "Dispute an answer on chain, or defend one."),
    "watch": ("assay.watch_cli", "app", "Compute public answers again and dispute what is wrong."),
    "key": ("market.key_cli", "app", "Make, import and show your encrypted key."),
    "balance": ("client.cli", "balance_app", "What you hold, owe and may withdraw."),
    "withdraw": ("client.cli", "withdraw_app", "Take your credit out of the vault."),
    "provider": ("provider.cli", "app", "Run a provider agent and look after its income."),
    "chain": ("assay.chain_cli", "app", "Deploy a market on a chain, verify one, known networks."),
    "model": ("market.proofs.cli", "app", "Pack, show and verify model packs; set up proofs."),
}


class Commands(TyperGroup):
    """Loads each command from its module on first use; `--help` lists them without loading any."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's signature
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = get_command(getattr(importlib.import_module(module), attribute))
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        console = Console()
        console.print("Usage: [bold]assay[/] COMMAND [OPTIONS]\n")
        console.print("A marketplace for AI inference, settled on a blockchain.\n")
        for name, (_, _, text) in COMMANDS.items():
            console.print(f"  [cyan]{name:<10}[/] {text}")
        console.print("\nEach command has --help with examples; most take --json. Exit codes: docs/cli.md.")
        console.print("A first look: [bold]assay up[/], then [bold]assay job post 'What is the capital of France?'[/]")


def version(value: bool) -> None:
    if value:
        from importlib.metadata import version as installed

        typer.echo(f"assay {installed('assay')}")
        raise typer.Exit


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False)


@app.callback()
def root(
    show_version: bool = typer.Option(False, "--version", callback=version, is_eager=True, help="Show the version."),
) -> None:
    """A marketplace for AI inference, settled on a blockchain."""


def main() -> NoReturn:
    """Runs the command line. Errors become one message (or one JSON document) and an exit code, never a traceback."""
    as_json = "--json" in sys.argv[1:]
    try:
        code = get_command(app).main(standalone_mode=False, prog_name="assay")
        sys.exit(code if isinstance(code, int) else 0)
    except AssayError as error:
        report(error.as_json(), error.message, error.hint, as_json=as_json)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        report(_plain("Interrupted"), "Interrupted.", "", as_json=as_json)
        sys.exit(130)
    except _UsageError as error:
        report(_plain("Usage", error.format_message()), error.format_message(), "See --help.", as_json=as_json)
        sys.exit(2)
    except _ClickException as error:
        report(_plain("Usage", error.format_message()), error.format_message(), "", as_json=as_json)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - the last border: a user must never see a traceback unasked
        if os.environ.get("ASSAY_DEBUG"):
            traceback.print_exc()
        text = f"Something unexpected went wrong: {type(error).__name__}: {error}"
        report(_plain("Unexpected", text), text, "Set ASSAY_DEBUG=1 to see where, and report it.", as_json=as_json)
        sys.exit(1)


def report(document: dict[str, Any], message: str, hint: str, *, as_json: bool) -> None:
    """Prints an error: to standard output as one JSON document with --json, else to standard error.

    Messages may carry names that strangers chose (from the chain, from a provider): what a terminal would obey in them
    is taken out. JSON escapes such characters itself.
    """
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[red]error:[/] {_escape(message)}")
    if hint:
        console.print(f"  [dim]{_escape(hint)}[/]")


def _plain(code: str, message: str = "Interrupted.") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "details": {}}}


def _escape(text: str) -> str:
    """Plain text for rich: no control, format or surrogate character but the line feed, and no markup."""
    kept = (character for character in text if character == "\n" or not unicodedata.category(character).startswith("C"))
    return escape("".join(kept))
