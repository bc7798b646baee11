"""`assay key new|import|show`: the encrypted key of a client (`assay provider init` makes a provider's). Errors are
AssayErrors; the root command prints them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from market.config import Home
from market.errors import ConfigError
from market.keystore import (
    create_account,
    load_account,
    read_address,
    read_password,
    refuse_existing,
    save_account,
)

app = typer.Typer(no_args_is_help=True, help="Make, import and show your encrypted key.")

KEY_BYTES = 32
_STDIN = Path("-")

Keystore = Annotated[
    Path | None, typer.Option(help="The encrypted key (ASSAY_KEYSTORE).", show_default="keystore.json in ASSAY_HOME")
]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File with its password; else ASSAY_PASSWORD, else you are asked.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@app.command()
def new(keystore: Keystore = None, password_file: PasswordFile = None, as_json: Json = False) -> None:
    """Make a new key and encrypt it with a password. Nothing that exists is overwritten.

    There is no second copy: without the file or without its password the money of the address is gone.

    Examples:

        assay key new

        assay key new --keystore ~/keys/assay.json --password-file ~/keys/password --json
    """
    path = _new_path(keystore)
    account = create_account(path, _password(password_file, "Password for the key", confirm=True))
    _tell(path, str(account.address), as_json)


@app.command("import")
def import_key(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A keystore of geth or `cast wallet`, or - : 64 hex digits on standard input.",
            show_default="you are asked for the 64 hex digits",
        ),
    ] = None,
    keystore: Keystore = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Encrypt a key that you have. It is never taken from the command line, where others could read it.

    A keystore keeps its password: --password-file and ASSAY_PASSWORD are both its old and its new one.

    Examples:

        assay key import

        assay key import ~/.foundry/keystores/mine

        assay key import - --password-file ~/keys/password < hex-digits
    """
    path = _new_path(keystore)
    if source is None or source == _STDIN:
        account = _account(_digits(from_stdin=source is not None))
        password = _password(password_file, "Password for the key", confirm=True)
    else:
        read_address(source)  # a missing file is said before anybody types a password
        password = _password(password_file, f"Password of {source}")
        account = load_account(source, password)
    save_account(path, account, password)
    _tell(path, str(account.address), as_json)


@app.command()
def show(keystore: Keystore = None, as_json: Json = False) -> None:
    """The address of your key and where it lies. Asks for no password and shows no secret.

    Examples:

        assay key show

        assay key show --json | jq -r .address
    """
    path = _path(keystore)
    stated = read_address(path)
    if stated is None:
        raise ConfigError(
            f"{path} does not state its address.", hint="assay key import writes one that does.", path=str(path)
        )
    _tell(path, stated, as_json)


def _path(chosen: Path | None) -> Path:
    variable = os.environ.get("ASSAY_KEYSTORE")
    return chosen or (Path(variable) if variable else Home.of(os.environ).keystore)


def _new_path(chosen: Path | None) -> Path:
    path = _path(chosen)
    refuse_existing(path)
    return path


def _password(file: Path | None, question: str, *, confirm: bool = False) -> str:
    def ask() -> str:
        return str(typer.prompt(question, hide_input=True, confirmation_prompt=confirm, err=True))

    return read_password(password_file=file, environment=os.environ, prompt=ask if sys.stdin.isatty() else None)


def _digits(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline(1024).strip()
    if not sys.stdin.isatty():
        raise ConfigError("No key was given.", hint="Name a keystore, or - to read 64 hex digits from standard input.")
    return str(typer.prompt("The key, 64 hex digits", hide_input=True, err=True)).strip()


def _account(digits: str) -> LocalAccount:
    """Raises ConfigError; its message never holds what was typed."""
    plain = digits.removeprefix("0x")
    try:
        secret = bytes.fromhex(plain) if len(plain) == 2 * KEY_BYTES else b""
        account: LocalAccount = Account.from_key(secret)
    except ValueError:
        raise ConfigError(
            "That is no private key: it takes 64 hex digits, and not every number is a key.",
            hint="Nothing was written.",
        ) from None
    return account


def _tell(path: Path, address: str, as_json: bool) -> None:
    shown = to_checksum_address(address)
    if as_json:
        typer.echo(json.dumps({"address": shown.lower(), "keystore": str(path)}))
    else:
        typer.echo(f"address   {shown}\nkeystore  {path}")
