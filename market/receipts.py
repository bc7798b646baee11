"""Receipts as files that people keep: everything a stranger needs to check one, without a chain and without us.

The form is `{domain, provider, request, receipt, signature, ids}` (docs/protocol.md, "Wire format"); `ids` are those of
the output, structs and integers are in the wire's JSON form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from eth_utils.address import is_address, to_checksum_address

from market.errors import HashMismatch, WireError
from market.hashing import UNUSED_TOKEN, tokens_root
from market.signing import Domain, verify
from market.types import Receipt, Request

_FIELDS = {"domain", "provider", "request", "receipt", "signature", "ids"}
_DOMAIN_FIELDS = {"name", "version", "chainId", "verifyingContract"}


@dataclass(frozen=True)
class ReceiptDocument:
    """A receipt with all it refers to. Nothing in it is checked before `verify`.

    Attributes:
        provider: who is said to have signed, checksummed.
        request: None where it is not known here (a job posted by another machine); such a file cannot be verified.
        signature: r‖s‖v, 65 bytes.
        ids: token ids of the output.
    """

    domain: Domain
    provider: str
    request: Request | None
    receipt: Receipt
    signature: bytes
    ids: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "domain": {
                "name": self.domain.name,
                "version": self.domain.version,
                "chainId": str(self.domain.chain_id),
                "verifyingContract": self.domain.verifying_contract.lower(),
            },
            "provider": self.provider.lower(),
            "request": None if self.request is None else self.request.to_json(),
            "receipt": self.receipt.to_json(),
            "signature": "0x" + self.signature.hex(),
            "ids": list(self.ids),
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads the JSON form.

        Raises:
            WireError: unknown, missing or mistyped fields.
        """
        if not isinstance(data, dict) or set(data) != _FIELDS:
            raise WireError(f"A receipt's file has exactly the fields {', '.join(sorted(_FIELDS))}.")
        return cls(
            domain=_domain(data["domain"]),
            provider=_address("provider", data["provider"]),
            request=None if data["request"] is None else Request.from_json(data["request"]),
            receipt=Receipt.from_json(data["receipt"]),
            signature=_signature(data["signature"]),
            ids=_ids(data["ids"]),
        )

    def verify(self) -> None:
        """Checks that `provider` signed, for this domain, that these ids answer this request.

        Raises:
            HashMismatch: the receipt is for another request or for other ids.
            BadSignature: the provider's key did not sign it. A provider that is a contract (ERC-1271) signs with no
                key of its own: only the chain can check it.
            WireError: the request is not in the file.
        """
        if self.request is None:
            raise WireError(
                "The file lacks the request, so what the receipt answers cannot be checked.",
                hint="Make the file again on the machine that posted the job.",
            )
        if self.request.request_hash != self.receipt.request_hash:
            raise HashMismatch("The receipt is for another request than the one in the file.")
        if len(self.ids) != self.receipt.output_tokens or tokens_root(self.ids) != self.receipt.output_root:
            raise HashMismatch("The receipt is for other token ids than those in the file.")
        verify(self.domain, self.receipt, self.signature, self.provider)


def verify_receipt(document: Any) -> ReceiptDocument:
    """Checks a receipt's file (its parsed JSON), offline.

    It proves what the provider said, not who asked or that the market is the one you mean: compare `provider` and
    `domain` of what is returned with those you know.

    Raises:
        WireError, HashMismatch, BadSignature: malformed, or not true; see `ReceiptDocument`.
    """
    read = ReceiptDocument.from_json(document)
    read.verify()
    return read


def _domain(data: Any) -> Domain:
    if not isinstance(data, dict) or set(data) != _DOMAIN_FIELDS:
        raise WireError(f"domain: expected exactly {', '.join(sorted(_DOMAIN_FIELDS))}.")
    name, version, chain_id = data["name"], data["version"], data["chainId"]
    if not (isinstance(name, str) and isinstance(version, str)):
        raise WireError("domain: name and version are text.")
    if not (isinstance(chain_id, str) and chain_id.isascii() and chain_id.isdigit() and len(chain_id) <= 77):
        raise WireError("domain.chainId: expected a decimal string.")
    contract = _address("domain.verifyingContract", data["verifyingContract"])
    return Domain(int(chain_id), contract, name, version)


def _address(path: str, value: Any) -> str:
    if not (isinstance(value, str) and value.startswith("0x") and is_address(value)):
        raise WireError(f"{path}: not an address.")
    return str(to_checksum_address(value))


def _signature(value: Any) -> bytes:
    if not (isinstance(value, str) and value.startswith("0x")):
        raise WireError("signature: expected 0x and hex digits.")
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise WireError("signature: expected 0x and hex digits.") from None


def _ids(value: Any) -> tuple[int, ...]:
    if not (isinstance(value, list) and all(type(token) is int and 0 <= token < UNUSED_TOKEN for token in value)):
        raise WireError("ids: expected a list of token ids.")
    return tuple(value)
