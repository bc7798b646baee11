"""What the client's commands have in common: where the market is, who pays, how to print."""

from __future__ import annotations

import functools
import getpass
import inspect
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer
from rich.console import Console

from client.client import Client
from client.config import ClientConfig, load_config
from client.errors import NotConfirmed
from client.opening import open_client
from market.keystore import PASSWORD_VARIABLE, WrongPassword, load_account, read_address, read_password

_PANEL = "Connection"


def _option(name: str, text: str, variable: str) -> Any:
    return typer.Option(None, name, help=f"{text} ({variable})", rich_help_panel=_PANEL, show_default=False)


@dataclass(frozen=True)
class Connection:
    """The options of every command, read but not yet used."""

    config: ClientConfig
    as_json: bool
    quiet: bool

    def open_to_read(self) -> Client:
        """A client that only looks; with its key where a password is at hand, so that it sees its prompts and answers.

        Nobody is asked for one, and one that does not fit is not an error: it may be another key's. Raises as `open`.
        """
        keystore, is_given = self.config.keystore, PASSWORD_VARIABLE in os.environ
        if keystore is not None and keystore.exists() and (is_given or self.config.password_file is not None):
            with suppress(WrongPassword):
                return self.open(with_key=True)
        return self.open(with_key=False)

    def open(self, *, with_key: bool) -> Client:
        """A client; with its key unlocked, or only with its address for looking.

        Raises:
            ConfigError: something is missing; WrongPassword; ChainUnreachable, WrongChain, ChainError.
        """
        config = self.config
        if config.rpc is None or config.deployment is None:
            return open_client(config)  # says which of them is missing, before anybody types a password
        account = address = None
        if with_key:
            account = load_account(config.keystore or Path(), self.password())
        elif config.keystore is not None and config.keystore.exists():
            address = read_address(config.keystore)
        return open_client(config, account=account, address=address)

    def password(self) -> str:
        """The keystore's password: from its file, ASSAY_PASSWORD, or whoever sits there. Raises ConfigError."""
        keystore = self.config.keystore
        if keystore is not None:
            read_address(keystore)  # a missing keystore is said before anybody types a password
        ask = (lambda: getpass.getpass(f"Password of {keystore}: ")) if sys.stdin.isatty() else None
        return read_password(password_file=self.config.password_file, environment=os.environ, prompt=ask)

    @property
    def console(self) -> Console:
        """Where people read: standard error, so that standard output is the answer alone."""
        return Console(stderr=True, highlight=False, soft_wrap=True, quiet=self.quiet)

    def emit(self, document: Any) -> None:
        """Prints the one JSON document of --json."""
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")

    def confirm(self, question: str, *, yes: bool) -> None:
        """Asks before money moves. Raises NotConfirmed."""
        self.must_be_able_to_ask(yes=yes)
        if not yes and not typer.confirm(question, default=False, err=True):
            raise NotConfirmed("Not confirmed; nothing was spent.")

    @staticmethod
    def must_be_able_to_ask(*, yes: bool) -> None:
        """Raises NotConfirmed where nobody sits there to say yes, before anything is asked of the market."""
        if not yes and not sys.stdin.isatty():
            raise NotConfirmed(
                "This moves money, and nobody is there to confirm it.", hint="Nothing was spent. Add --yes to agree."
            )


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the connection's options; it receives them as `connection`."""

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        options = {name: values.pop(name) for name in _CONNECTION}
        as_json, quiet, config_file = values.pop("as_json"), values.pop("quiet"), values.pop("config_file")
        if not options["packs"]:
            options["packs"] = None
        config = load_config(options, os.environ, config_file)
        command(connection=Connection(config, as_json, quiet), **values)

    own = inspect.signature(command).parameters
    hints = get_type_hints(command) | _HINTS
    parameters = [parameter for name, parameter in own.items() if name != "connection"]
    for name, default in {**_CONNECTION, **_PRINTING}.items():
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
    typed = [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in parameters
    ]
    wrapper.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in typed}
    del wrapper.__wrapped__  # typer must read the new signature
    return wrapper


_CONNECTION: dict[str, Any] = {
    "rpc": _option("--rpc", "HTTP URL of the chain; several, in order of preference, with commas.", "ASSAY_RPC"),
    "ws": _option("--ws", "WebSocket URL of the chain: answers are noticed sooner.", "ASSAY_WS"),
    "deployment": _option("--deployment", "Manifest of the market.", "ASSAY_DEPLOYMENT"),
    "keystore": _option("--keystore", "Your encrypted key.", "ASSAY_KEYSTORE"),
    "password_file": _option(
        "--password-file",
        "File with its password; else the variable ASSAY_PASSWORD, else you are asked.",
        "ASSAY_PASSWORD_FILE",
    ),
    "data_dir": _option("--data-dir", "Where jobs, queue and index are kept.", "ASSAY_DATA_DIR"),
    "index_url": _option(
        "--index-url", "SQLAlchemy URL of the index: sqlite:///… or postgresql://….", "ASSAY_INDEX_URL"
    ),
    "quote_timeout": _option("--quote-timeout", "Seconds that providers have for a quote.", "ASSAY_QUOTE_TIMEOUT"),
    "packs": _option("--pack", "Folder of a local model pack; repeatable.", "ASSAY_PACKS, a JSON list"),
    "allow_private_endpoints": typer.Option(
        None,
        "--allow-private-endpoints/--public-endpoints",
        help="Talk to providers in private networks. Default: a development chain allows this machine, no more.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
}
_PRINTING: dict[str, Any] = {
    "config_file": typer.Option(
        None, "--config", help="TOML file with these settings.", rich_help_panel=_PANEL, show_default=False
    ),
    "as_json": typer.Option(False, "--json", help="One JSON document on standard output."),
    "quiet": typer.Option(False, "--quiet", "-q", help="Nothing on standard error but errors."),
}
_HINTS: dict[str, Any] = {
    "rpc": str | None,
    "ws": str | None,
    "deployment": Path | None,
    "keystore": Path | None,
    "password_file": Path | None,
    "data_dir": Path | None,
    "index_url": str | None,
    "quote_timeout": float | None,
    "packs": list[Path] | None,
    "allow_private_endpoints": bool | None,
    "config_file": Path | None,
    "as_json": bool,
    "quiet": bool,
}
