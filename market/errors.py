"""The root of every error a user can meet.

AssayError
├── ConfigError        a file or option is missing, unreadable or contradictory
│   └── BadAmount      a sum of money that a person wrote and that is none
├── ChainError         the chain said no, or could not be asked
│   ├── ChainUnreachable
│   ├── WrongChain
│   └── ContractError  a custom error of one of our contracts, decoded (market/contracts)
├── WireError          bytes from somebody else do not mean what they should
│   ├── BadSignature
│   └── HashMismatch
└── MarketError        no offer, no quote, no agreement: nobody did anything wrong technically
"""

from __future__ import annotations

from typing import Any, ClassVar


class AssayError(Exception):
    """Says what happened, what it cost (nothing, unless it says so) and what to do next.

    Attributes:
        code: stable name for machines, the Solidity error name where one exists.
        details: values behind the message, JSON-serialisable.
        hint: what to do next, or "".
        exit_code: what a command exits with (sysexits-like, see docs/cli.md).
        assurance: what every error of a class leaves untouched; put before the hint where the words do not say it.
    """

    exit_code: ClassVar[int] = 1
    assurance: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "", code: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        said = "othing" in message + hint or "left as it" in message + hint
        self.hint = hint if said else f"{self.assurance} {hint}".strip()
        self.code = code or type(self).__name__
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def as_json(self) -> dict[str, Any]:
        """The error's shape on every HTTP API and behind --json (wire format: docs/protocol.md)."""
        return {"error": {"code": self.code, "message": str(self), "details": self.details}}


class ConfigError(AssayError):
    """A file or an option is missing, unreadable or contradictory."""

    exit_code = 2
    assurance = "Nothing was done."


class BadAmount(ConfigError):
    """A sum of money that cannot be read, or not be held by the token."""


class ChainError(AssayError):
    """The chain refused, or could not be asked."""

    exit_code = 3


class ChainUnreachable(ChainError):
    """No answer from the RPC endpoint."""


class WrongChain(ChainError):
    """The RPC endpoint serves another chain than the manifest names."""


class ContractError(ChainError):
    """A contract reverted; `code` is the custom error's name, `details` its arguments."""


class WireError(AssayError):
    """Bytes from another party do not mean what they should."""

    exit_code = 4


class BadSignature(WireError):
    """A signature is malformed or by somebody else."""


class HashMismatch(WireError):
    """Content does not hash to what was promised."""


class MarketError(AssayError):
    """No offer, no quote, no agreement."""

    exit_code = 5
