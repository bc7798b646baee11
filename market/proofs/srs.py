"""Powers of tau: the common reference string that keys and proofs are made with.

Whoever knows its secret can prove anything. A ceremony destroys it; a string that was generated here for development is
only as good as the machine it was made on.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from market.proofs.errors import SrsError

DEVELOPMENT, CEREMONY = "development-unsafe", "ceremony"
UNSAFE = (
    "UNSAFE: these powers of tau were generated on this machine, which knows their secret: whoever has it can prove "
    "any answer. For development only; name a ceremony's file with --srs and --srs-sha256 before money depends on it."
)


@dataclass(frozen=True)
class Ceremony:
    """A powers-of-tau file, and the hash that the ceremony published of it."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Srs:
    """The file that an artefact uses. `kind` is DEVELOPMENT or CEREMONY."""

    path: Path
    kind: str
    sha256: str


def sha256_of(path: Path) -> str:
    """Hex, of the whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def take(ceremony: Ceremony, log_rows: int, into: Path) -> Srs:
    """Copies a ceremony's file into an artefact once it is what it should be.

    Raises:
        SrsError: code SrsMissing, SrsMismatch (other bytes) or SrsSize (for another number of rows).
    """
    if not ceremony.path.is_file():
        raise SrsError(f"There is no file {ceremony.path}.", code="SrsMissing", path=str(ceremony.path))
    found = sha256_of(ceremony.path)
    if found != ceremony.sha256.lower().removeprefix("0x"):
        raise SrsError(
            f"{ceremony.path} is not the file that was named: its SHA-256 is {found}.",
            hint="Get the file again, and its hash from the ceremony itself.",
            code="SrsMismatch",
            expected=ceremony.sha256,
            got=found,
        )
    check_size(ceremony.path, log_rows)
    shutil.copyfile(ceremony.path, into)
    return Srs(into, CEREMONY, found)


def check_size(path: Path, log_rows: int) -> None:
    """A file of more powers would do, but is cut down anew, in seconds, at every proof.

    Raises:
        SrsError: code SrsSize.
    """
    with path.open("rb") as file:
        has = int.from_bytes(file.read(4), "little")
    if has != log_rows:
        raise SrsError(
            f"{path} has 2^{has} powers, this circuit takes 2^{log_rows}.",
            hint=f"Use the ceremony's file for k = {log_rows}.",
            code="SrsSize",
            expected=log_rows,
            got=has,
        )
