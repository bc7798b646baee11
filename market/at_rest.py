"""Encryption of what a program must keep and nobody else may read: prompts, answers, private inputs.

AES-256-GCM (NIST SP 800-38D) under a key that HKDF-SHA256 (RFC 5869) makes of the account's private key, which itself
lies in an encrypted keystore only. A copy of a database is worth nothing without the keystore and its password; whoever
has these can read it on any machine. The cipher hides contents, not that there is a row, nor how long its content is.
"""

from __future__ import annotations

import secrets
import sqlite3
from typing import cast

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from eth_account.signers.local import LocalAccount

from market.errors import ConfigError

VERSION = b"\x01"
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD = len(VERSION) + NONCE_BYTES + TAG_BYTES
"""By so many bytes the encrypted content is longer."""


class Undecipherable(ConfigError):
    """What was read was encrypted under another key, for another place, or is damaged."""

    assurance = "It was left as it is."


class Cipher:
    """Encrypts under one account's key. Thread-safe.

    Args:
        purpose: which store it is for; another purpose is another key.
    """

    def __init__(self, account: LocalAccount, purpose: str) -> None:
        self.address = account.address
        context = b"assay/at-rest/1/" + purpose.encode()
        self._key = cast(bytes, HKDF(bytes(account.key), 32, b"", SHA256, context=context))  # one: not a tuple of keys

    def encrypt(self, content: bytes, place: bytes) -> bytes:
        """`content` for one place (a table and a row's key): version, nonce, ciphertext, tag.

        Nonces are random: one key is good for 2³² contents (SP 800-38D §8.3).
        """
        nonce = secrets.token_bytes(NONCE_BYTES)
        cipher = AES.new(self._key, AES.MODE_GCM, nonce=nonce, mac_len=TAG_BYTES)
        cipher.update(VERSION + place)
        ciphertext, tag = cipher.encrypt_and_digest(content)
        return VERSION + nonce + ciphertext + tag

    def decrypt(self, encrypted: bytes, place: bytes) -> bytes:
        """What `encrypt` was given.

        Raises:
            Undecipherable: another key, purpose or place, or changed bytes.
        """
        nonce, rest = encrypted[1 : 1 + NONCE_BYTES], encrypted[1 + NONCE_BYTES :]
        if encrypted[:1] != VERSION or len(encrypted) < OVERHEAD:
            raise self._undecipherable()
        cipher = AES.new(self._key, AES.MODE_GCM, nonce=nonce, mac_len=TAG_BYTES)
        cipher.update(VERSION + place)
        try:
            return cipher.decrypt_and_verify(rest[:-TAG_BYTES], rest[-TAG_BYTES:])
        except ValueError:
            raise self._undecipherable() from None

    def _undecipherable(self) -> Undecipherable:
        return Undecipherable(
            f"What is kept here was not encrypted with the key of {self.address}, or it is damaged.",
            hint="Use the keystore that it was made with, or restore it from a backup.",
        )


def emptied_log(database: sqlite3.Connection, busy_milliseconds: int) -> bool:
    """Brings the write-ahead log into the file and cuts it to nothing: what was overwritten is nowhere any more.

    Args:
        busy_milliseconds: the connection's time-out for locks, put back afterwards: this waits for nobody.

    Returns:
        False where a reader holds the log: it is to be tried again later.

    Raises:
        sqlite3.Error: the disk is full, or the file is damaged.
    """
    database.execute("PRAGMA busy_timeout = 0")
    try:
        busy, _, _ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        database.execute(f"PRAGMA busy_timeout = {busy_milliseconds}")
    return not busy
