"""Reverts as Python errors: custom errors of every shipped ABI, decoded, with plain words.

Effects of a revert are undone by the chain, so no message speaks of lost money: at worst the gas of a mined
transaction is gone, which market.transactions says.
"""

from __future__ import annotations

import enum
from functools import cache
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError

from market.artefacts import Entry, shipped
from market.errors import ContractError
from market.revert_messages import ASK_AGAIN, MESSAGES, PANICS
from market.types import Mode
from market.views import BondState, JobState, ProofJobState, ReplicaState

_ERROR_STRING = bytes.fromhex("08c379a0")  # Error(string): require with a text
_PANIC = bytes.fromhex("4e487b71")  # Panic(uint256): https://docs.soliditylang.org/en/latest/control-structures.html
_ENUMS: dict[str, type[enum.IntEnum]] = {
    f"enum {kind.__name__}": kind for kind in (Mode, JobState, ReplicaState, BondState, ProofJobState)
}


def decode(data: bytes, label: str = "") -> ContractError:
    """The error behind a revert's return data.

    Args:
        data: what the contract returned; empty where it gave no reason.
        label: what was called, e.g. "Jobs.commit"; goes in front of the message.

    Returns:
        ContractError with `code` = the error's name and `details` = its arguments by name (bytes as hex, enums as
        their names). An unknown selector gives code "UnknownRevert" with the raw data, never an exception.
    """
    prefix = f"{label}: " if label else ""
    if not data:
        return ContractError(f"{prefix}the contract refused without a reason.", hint=ASK_AGAIN, code="Reverted")
    selector, rest = data[:4], data[4:]
    try:
        if selector == _ERROR_STRING:
            (reason,) = abi_decode(["string"], rest)
            return ContractError(f"{prefix}{reason}.", code="Reverted", reason=reason)
        if selector == _PANIC:
            (number,) = abi_decode(["uint256"], rest)
            what = PANICS.get(number, "unknown panic")
            return ContractError(f"{prefix}the contract stopped itself: {what}.", code="Panic", panic=number)
        entry = errors_by_selector().get(selector)
        if entry is not None:
            return _custom(entry, rest, prefix)
    except (DecodingError, OverflowError, UnicodeDecodeError):
        pass  # malformed arguments: told below, with the data
    return ContractError(
        f"{prefix}the contract refused with an error this version does not know.",
        hint="Compare the version of this installation with the deployment.",
        code="UnknownRevert",
        data="0x" + data.hex(),
    )


@cache
def errors_by_selector() -> dict[bytes, Entry]:
    """Every custom error of every shipped ABI, by its four-byte selector."""
    return {error.selector: error for artefact in shipped() for error in artefact.errors}


def _custom(entry: Entry, data: bytes, prefix: str) -> ContractError:
    values = abi_decode([parameter.kind for parameter in entry.inputs], data)
    details = {
        parameter.name: _plain(parameter.name, parameter.internal, parameter.named(value))
        for parameter, value in zip(entry.inputs, values, strict=True)
    }
    message, hint = MESSAGES.get(entry.name, (f"{entry.name} {details}", ""))
    # an argument may be called like one of the error's own parameters, so details are set apart
    error = ContractError(prefix + message.format(**details), hint=hint, code=entry.name)
    error.details = details
    return error


def _plain(name: str, internal: str, value: Any) -> Any:
    if internal in _ENUMS and value in iter(_ENUMS[internal]):
        return _ENUMS[internal](value).name
    if name == "field" and isinstance(value, bytes):
        return value.rstrip(b"\0").decode("ascii", "replace")
    return "0x" + value.hex() if isinstance(value, bytes) else value
