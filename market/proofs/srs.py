"""Powers of tau: the common reference string that keys and proofs are made with.

Whoever knows its secret can prove anything. A ceremony destroys it; a string that was generated here for development is
only as good as the machine it was made on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from market.proofs.errors import SrsError

DEVELOPMENT, CEREMONY = "development-unsafe", "ceremony"
UNSAFE = (
    "UNSAFE: these powers of tau were generated on this machine, which knows their secret: whoever has it can prove "
    "any answer. For development only; name a ceremony's file with --srs and --srs-sha256 before money depends on it."
)


_PTAU = b"ptau"
_POINT_G2 = 128  # bytes: x and y, each of two numbers in Montgomery form, R = 2^256
_BASE = 21888242871839275222246405745257275088696311157297823662689037894645226208583
"""The field of the curve's coordinates."""
_MOST_ROWS = 28
"""The field has no larger domain."""


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
        SrsError: code SrsMissing, SrsMismatch (other bytes), SrsSize (for another number of rows) or SrsMalformed.
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
        SrsError: code SrsSize, or SrsMalformed: of another format, or not whole.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head == _PTAU:
        raise SrsError(
            f"{path} is a .ptau file of snarkjs, which the prover does not read.",
            hint="Take the ceremony's file in halo2's raw format (kzg….srs), or convert it.",
            code="SrsMalformed",
        )
    has = int.from_bytes(head, "little")
    if len(head) < 4 or has > _MOST_ROWS:
        raise SrsError(f"{path} is no file of powers of tau in halo2's raw format.", code="SrsMalformed")
    if has != log_rows:
        raise SrsError(
            f"{path} has 2^{has} powers, this circuit takes 2^{log_rows}.",
            hint=f"Use the ceremony's file for k = {log_rows}.",
            code="SrsSize",
            expected=log_rows,
            got=has,
        )
    size, whole = path.stat().st_size, file_size(log_rows)
    if size != whole:
        raise SrsError(
            f"{path} has {size:,} bytes, a file of 2^{log_rows} powers has {whole:,}.",
            hint="It was cut off, or something hangs on to it: get it again.",
            code="SrsMalformed",
            expected=whole,
            got=size,
        )


def is_in_verifier(path: Path, runtime: bytes) -> bool:
    """Whether a verifier's code has the tau·G2 of this file as constants (y negated), as generated ones have.

    Says that both were made together, not that the rest of the code is what the generator wrote.
    """
    with path.open("rb") as file:
        file.seek(-_POINT_G2, os.SEEK_END)
        raw = file.read()
    parts = [
        int.from_bytes(raw[at : at + 32], "little") * pow(2, -256, _BASE) % _BASE for at in range(0, _POINT_G2, 32)
    ]
    constants = (*parts[:2], *(-part % _BASE for part in parts[2:]))
    return all(value.to_bytes((value.bit_length() + 7) // 8) in runtime for value in constants)


def file_size(log_rows: int) -> int:
    """Bytes of halo2's raw format: k, the powers and the Lagrange polynomials in G1, two points in G2."""
    return 4 + 2 * 64 * (1 << log_rows) + 2 * 128
