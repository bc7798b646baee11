"""Signatures of providers: plain keys (EIP-712) or contracts (ERC-1271, https://eips.ethereum.org/EIPS/eip-1271)."""

from __future__ import annotations

from typing import Protocol

from eth_abi.abi import encode

from market.chain import Call
from market.errors import BadSignature, ContractError
from market.hashing import Struct, keccak256
from market.signing import Domain, verify

_VALID = keccak256(b"isValidSignature(bytes32,bytes)")[:4]


class AccountReader(Protocol):
    """The two questions asked of the chain (market.chain.Chain) when a signature is not by a plain key."""

    def code(self, address: str) -> bytes: ...

    def call(self, call: Call) -> bytes: ...


class SignatureChecker:
    """Checks that an account signed a struct for one domain. Asks the chain only when the key does not match."""

    def __init__(self, domain: Domain, accounts: AccountReader) -> None:
        self.domain = domain
        self._accounts = accounts

    def check(self, value: Struct, signature: bytes, expected: str) -> None:
        """Raises BadSignature unless `expected` (a key, or a contract that says so) signed `value`."""
        try:
            verify(self.domain, value, signature, expected)
        except BadSignature:
            if not self._accounts.code(expected) or not self._contract_agrees(value, signature, expected):
                raise

    def _contract_agrees(self, value: Struct, signature: bytes, expected: str) -> bool:
        data = _VALID + encode(["bytes32", "bytes"], [self.domain.digest(value), signature])
        try:
            answer = self._accounts.call(Call(expected, data, "isValidSignature"))
        except ContractError:
            return False
        return answer == _VALID + bytes(28)
