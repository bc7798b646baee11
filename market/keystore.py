"""Encrypted keys on disk: Web3 Secret Storage v3, as geth, `cast wallet` and eth-account read and write it.

https://ethereum.org/en/developers/docs/data-structures-and-encoding/web3-secret-storage/
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount

from market.errors import ConfigError
from market.files import write_atomically

PASSWORD_VARIABLE = "ASSAY_PASSWORD"  # noqa: S105 (the name of the variable)
SCRYPT_N = 1 << 18
"""Work factor of a real keystore: about a second a try."""
LIGHT_SCRYPT_N = 1 << 12
"""For development keys, which everybody knows anyway."""
FILE_LIMIT = 64 << 10
MIN_PASSWORD = 8


class KeystoreError(ConfigError):
    """The keystore is missing, malformed, or already there."""


class WrongPassword(ConfigError):
    """The password does not open the keystore."""


def create_account(path: Path, password: str, *, light: bool = False) -> LocalAccount:
    """Makes a new key and writes its keystore (permissions 0600).

    Args:
        light: cheap encryption, for development keys only.

    Raises:
        KeystoreError: the file is there already (it is never overwritten), or cannot be written.
        ConfigError: the password is shorter than 8 characters.
    """
    account: LocalAccount = Account.from_key(secrets.token_bytes(32))
    save_account(path, account, password, light=light)
    return account


def save_account(path: Path, account: LocalAccount, password: str, *, light: bool = False) -> None:
    """Writes an existing key's keystore. Raises like `create_account`."""
    if len(password) < MIN_PASSWORD:
        raise ConfigError(f"A keystore's password has at least {MIN_PASSWORD} characters.", hint="Choose a longer one.")
    refuse_existing(path)
    content = Account.encrypt(account.key, password, kdf="scrypt", iterations=LIGHT_SCRYPT_N if light else SCRYPT_N)
    try:
        write_atomically(path, json.dumps(content).encode() + b"\n", mode=0o600, overwrite=False)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise KeystoreError(f"The keystore {path} cannot be written: {error.strerror}.", path=str(path)) from None


def refuse_existing(path: Path) -> None:
    """Raises KeystoreError where a file is in the way; call it before anybody chooses a password."""
    if path.exists():
        raise _exists(path)


def load_account(path: Path, password: str) -> LocalAccount:
    """Opens a keystore.

    Raises:
        KeystoreError: missing or malformed.
        WrongPassword: it opens with another password.
    """
    content = _read(path)
    try:
        key = Account.decrypt(content, password)
    except ValueError as error:
        if "mac" in str(error).lower():
            raise WrongPassword(
                f"The password does not open {path}.",
                hint=f"Try again, or set {PASSWORD_VARIABLE} or --password-file.",
                path=str(path),
            ) from None
        raise _malformed(path) from None
    except (KeyError, TypeError, NotImplementedError, AttributeError, OverflowError):
        raise _malformed(path) from None
    account: LocalAccount = Account.from_key(key)
    return account


def read_address(path: Path) -> str | None:
    """The address a keystore states, without opening it; None where it states none (`cast wallet` files).

    Raises:
        KeystoreError: missing or malformed.
    """
    address = _read(path).get("address")
    return "0x" + address.removeprefix("0x").lower() if isinstance(address, str) else None


def read_password(
    *,
    password_file: Path | None,
    environment: Mapping[str, str],
    prompt: Callable[[], str] | None = None,
) -> str:
    """The password, from a file, else from ASSAY_PASSWORD, else from a prompt; never from the command line.

    Args:
        prompt: asks a person without echo; None where nobody sits there.

    Raises:
        ConfigError: the file is unreadable, or there is no source at all.
    """
    if password_file is not None:
        try:
            text = password_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"The password file {password_file} is unreadable: {error}.", path=str(password_file)
            ) from None
        return text.rstrip("\r\n")
    if PASSWORD_VARIABLE in environment:
        return environment[PASSWORD_VARIABLE]
    if prompt is None:
        raise ConfigError(
            "No password for the keystore was given.",
            hint=f"Set {PASSWORD_VARIABLE}, or name a file with --password-file.",
        )
    return prompt()


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_LIMIT + 1)
    except FileNotFoundError:
        raise KeystoreError(
            f"There is no keystore at {path}.",
            hint="Make or import a key first: assay key new, assay key import.",
            path=str(path),
        ) from None
    except OSError as error:
        raise KeystoreError(f"The keystore {path} is unreadable: {error.strerror}.", path=str(path)) from None
    try:
        content = json.loads(raw) if len(raw) <= FILE_LIMIT else None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("version") != 3:
        raise _malformed(path)
    return content


def _malformed(path: Path) -> KeystoreError:
    return KeystoreError(
        f"{path} is no version 3 keystore, or it is damaged.", hint="Restore it from a backup.", path=str(path)
    )


def _exists(path: Path) -> KeystoreError:
    return KeystoreError(
        f"There is a keystore at {path} already; it was left as it is.",
        hint="Use it, or choose another file: an overwritten key is gone with all its money.",
        code="KeystoreExists",
        path=str(path),
    )
