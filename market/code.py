"""Compiled code with its blanks: addresses of libraries, and values that the constructor writes into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from eth_abi.abi import encode
from eth_utils.address import to_canonical_address

from market.hashing import keccak256
from market.signing import Domain

Places = tuple[tuple[int, int], ...]
"""(start, length) in bytes of each place where one value stands."""
_LIBRARY_HEAD = bytes([0x73, *bytes(20), 0x30, 0x14])
"""How a library's code begins: PUSH20 (its own address, written when it is deployed) ADDRESS EQ. Its functions refuse
direct calls by it (https://docs.soliditylang.org/en/latest/contracts.html#call-protection-for-libraries)."""


@dataclass(frozen=True)
class Code:
    """Creation or runtime bytecode as the compiler gave it; blanks are zero bytes.

    Attributes:
        libraries: name of an external library → places of its address.
        immutables: name of an immutable → places of its value.
    """

    code: bytes = b""
    libraries: Mapping[str, Places] = field(default_factory=dict)
    immutables: Mapping[str, Places] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        text: str,
        libraries: Mapping[str, Sequence[Sequence[int]]],
        immutables: Mapping[str, Sequence[Sequence[int]]] | None = None,
    ) -> Self:
        """Reads an artefact's hex; where a library's address belongs the compiler wrote a placeholder that is no hex
        (https://docs.soliditylang.org/en/latest/using-the-compiler.html#library-linking)."""
        digits = text.removeprefix("0x")
        places = {name: _places(found) for name, found in libraries.items()}
        for start, length in (place for found in places.values() for place in found):
            digits = digits[: 2 * start] + "00" * length + digits[2 * (start + length) :]
        values = {name: _places(found) for name, found in (immutables or {}).items()}
        return cls(bytes.fromhex(digits), places, values)

    def linked(self, addresses: Mapping[str, str]) -> bytes:
        """The code with its libraries' addresses.

        Raises:
            KeyError: a library it needs is not among `addresses`.
        """
        return self._filled({}, addresses)

    def deployed(self, address: str, values: Mapping[str, bytes], addresses: Mapping[str, str]) -> bytes:
        """Runtime code as the chain has it at `address`.

        Args:
            values: 32 bytes for each immutable.
            addresses: of its libraries.

        Raises:
            KeyError: an immutable or a library is missing.
        """
        code = self._filled(values, addresses)
        if code.startswith(_LIBRARY_HEAD):
            return code[:1] + to_canonical_address(address) + code[21:]
        return code

    def _filled(self, values: Mapping[str, bytes], addresses: Mapping[str, str]) -> bytes:
        filled = bytearray(self.code)
        blanks: list[tuple[Places, bytes]] = [
            (places, to_canonical_address(addresses[name])) for name, places in self.libraries.items()
        ]
        blanks += [(places, values[name]) for name, places in self.immutables.items()]
        for places, value in blanks:
            for start, length in places:
                filled[start : start + length] = value.rjust(length, b"\0")
        return bytes(filled)


NO_CODE = Code()


def word(kind: str, value: Any) -> bytes:
    """A value of an elementary type as 32 bytes."""
    return encode([kind], [value])


def domain_immutables(domain: Domain) -> dict[str, bytes]:
    """What OpenZeppelin's EIP712 (5.x) writes into the code of a contract with this domain."""
    name, version = domain.name.encode(), domain.version.encode()
    return {
        "_cachedDomainSeparator": domain.separator,
        "_cachedChainId": word("uint256", domain.chain_id),
        "_cachedThis": word("address", domain.verifying_contract),
        "_hashedName": keccak256(name),
        "_hashedVersion": keccak256(version),
        "_name": _short_string(name),
        "_version": _short_string(version),
    }


def _short_string(text: bytes) -> bytes:
    """OpenZeppelin's ShortString: up to 31 bytes on the left, their number in the last byte."""
    return text.ljust(31, b"\0") + bytes([len(text)])


def _places(found: Sequence[Sequence[int]]) -> Places:
    return tuple((start, length) for start, length in found)
