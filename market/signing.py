"""EIP-712 domains, signing and recovery (https://eips.ethereum.org/EIPS/eip-712)."""

from __future__ import annotations

from dataclasses import dataclass

from eth_abi.abi import encode
from eth_account.signers.local import LocalAccount
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature as InvalidSignature
from eth_typing import Hash32
from eth_utils.exceptions import ValidationError

from market.errors import BadSignature
from market.hashing import Struct, keccak256

_DOMAIN_TYPE_HASH = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
SIGNATURE_BYTES = 65


@dataclass(frozen=True)
class Domain:
    """The EIP-712 domain of the contract that consumes a signature.

    A signature made for one chain or contract means nothing on another.
    """

    chain_id: int
    verifying_contract: str
    name: str = "Assay Jobs"
    version: str = "1"

    @property
    def separator(self) -> bytes:
        return keccak256(
            encode(
                ["bytes32", "bytes32", "bytes32", "uint256", "address"],
                [
                    _DOMAIN_TYPE_HASH,
                    keccak256(self.name.encode()),
                    keccak256(self.version.encode()),
                    self.chain_id,
                    self.verifying_contract,
                ],
            )
        )

    def digest(self, value: Struct) -> bytes:
        """The 32 bytes that are signed: keccak256(0x1901 ‖ separator ‖ hashStruct)."""
        return keccak256(b"\x19\x01" + self.separator + value.hash_struct())


def sign(domain: Domain, value: Struct, account: LocalAccount) -> bytes:
    """Signs a struct. Returns 65 bytes r‖s‖v with low s and v 27 or 28, as the contracts take it."""
    return bytes(account.unsafe_sign_hash(Hash32(domain.digest(value))).signature)


def recover(domain: Domain, value: Struct, signature: bytes) -> str:
    """Checksummed address that signed the struct.

    Raises:
        BadSignature: wrong length, high s, v other than 27 or 28, or no point on the curve.
    """
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):
        raise BadSignature("The signature is malformed: it takes 65 bytes r‖s‖v with v 27 or 28.")
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])
    if s > SECPK1_N // 2:
        raise BadSignature("The signature is malleable (high s) and therefore refused.")
    try:
        public = Signature(vrs=(signature[64] - 27, r, s)).recover_public_key_from_msg_hash(domain.digest(value))
    except (InvalidSignature, ValidationError):
        raise BadSignature("The signature does not recover to any address.") from None
    return str(public.to_checksum_address())


def verify(domain: Domain, value: Struct, signature: bytes, expected: str) -> None:
    """Checks that `expected` signed the struct.

    Raises:
        BadSignature: it did not.
    """
    signer = recover(domain, value, signature)
    if signer.lower() != expected.lower():
        raise BadSignature(
            f"The {type(value).__name__} is signed by {signer}, not by {expected}.",
            expected=expected.lower(),
            got=signer.lower(),
        )
