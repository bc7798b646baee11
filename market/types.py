"""The wire's structs, once: field for field those of contracts/interfaces/Wire.sol.

Addresses are 0x-prefixed checksummed strings, bytes32 are `bytes`, everything else is `int`. JSON uses the Solidity
names; bytes are lower-case hex; integers of 64 bits and more are decimal strings (docs/protocol.md).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Self

from market.errors import WireError
from market.hashing import ZERO32, Struct

ZERO_ADDRESS = "0x" + "00" * 20


class Mode(enum.IntEnum):
    """How an answer is verified before money moves."""

    NONE = 0
    QUORUM = 1
    OPTIMISTIC = 2
    PROOF = 3


class Finish(enum.IntEnum):
    """Why an output ended. A job pays for STOP and LENGTH only."""

    STOP = 1
    LENGTH = 2
    CANCELLED = 3
    ERROR = 4


class Sampler(enum.IntEnum):
    """How tokens are chosen; GREEDY takes no parameters and no seed, SEEDED_BY_CHAIN no seed."""

    GREEDY = 0
    SEEDED_BY_REQUEST = 1
    SEEDED_BY_CHAIN = 2


def _member(name: str, kind: str, **options: Any) -> Any:
    return field(metadata={"name": name, "kind": kind}, **options)


@dataclass(frozen=True)
class WireStruct(Struct):
    """A struct with a JSON form. `from_json` refuses unknown, missing, mistyped and out-of-range fields."""

    def to_json(self) -> dict[str, Any]:
        return {name: _to_json(kind, getattr(self, attribute)) for attribute, name, kind in self.members()}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads the JSON form.

        Raises:
            WireError: the data is no object of exactly these fields, each in its type's form and range.
        """
        if not isinstance(data, dict):
            raise WireError(f"{cls.__name__}: expected an object, got {type(data).__name__}.")
        names = {name for _, name, _ in cls.members()}
        if names != set(data):
            odd = sorted(names.symmetric_difference(data))
            raise WireError(f"{cls.__name__}: unknown or missing fields: {', '.join(map(str, odd))}.")
        return cls(
            **{
                attribute: _from_json(f"{cls.__name__}.{name}", kind, data[name])
                for attribute, name, kind in cls.members()
            }
        )


def _to_json(kind: str, value: Any) -> Any:
    if kind == "address":
        return str(value).lower()
    if kind == "bytes32":
        return "0x" + value.hex()
    return str(value) if int(kind.removeprefix("uint")) >= 64 else int(value)


def _from_json(path: str, kind: str, value: Any) -> Any:
    if kind == "address":
        from eth_utils.address import is_address, to_checksum_address  # slow to import, and no engine needs it

        if not (isinstance(value, str) and value.startswith("0x") and is_address(value)):
            raise WireError(f"{path}: not an address.")
        return to_checksum_address(value)
    if kind == "bytes32":
        return parse_bytes32(path, value)
    bits = int(kind.removeprefix("uint"))
    if bits >= 64:
        if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 78):
            raise WireError(f"{path}: expected a decimal string.")
        value = int(value)
    elif isinstance(value, bool) or not isinstance(value, int):
        raise WireError(f"{path}: expected a number.")
    if not 0 <= value < 1 << bits:
        raise WireError(f"{path}: {value} does not fit {kind}.")
    return value


def parse_bytes32(path: str, value: Any) -> bytes:
    """0x + 64 lower-case or upper-case hex digits → 32 bytes.

    Raises:
        WireError: anything else; `path` names the field in the message.
    """
    if not (isinstance(value, str) and len(value) == 66 and value.startswith("0x")):
        raise WireError(f"{path}: expected 0x and 64 hex digits.")
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise WireError(f"{path}: expected 0x and 64 hex digits.") from None


@dataclass(frozen=True)
class Model(WireStruct):
    """The five roots that name a model."""

    weights_root: bytes = _member("weightsRoot", "bytes32")
    program_root: bytes = _member("programRoot", "bytes32")
    tables_root: bytes = _member("tablesRoot", "bytes32")
    tokenizer_hash: bytes = _member("tokenizerHash", "bytes32")
    template_hash: bytes = _member("templateHash", "bytes32")

    @property
    def model_id(self) -> bytes:
        return self.hash_struct()


@dataclass(frozen=True)
class Request(WireStruct):
    """What a client asks for."""

    model_id: bytes = _member("modelId", "bytes32")
    input_root: bytes = _member("inputRoot", "bytes32")
    input_tokens: int = _member("inputTokens", "uint32")
    max_output_tokens: int = _member("maxOutputTokens", "uint32")
    stop_tokens: bytes = _member("stopTokens", "bytes32")
    sampler: int = _member("sampler", "uint8")
    temperature_q16: int = _member("temperatureQ16", "uint32")
    top_k: int = _member("topK", "uint32")
    top_p_q16: int = _member("topPQ16", "uint32")
    seed: bytes = _member("seed", "bytes32")
    nonce: bytes = _member("nonce", "bytes32")

    @property
    def request_hash(self) -> bytes:
        return self.hash_struct()

    @property
    def is_plain_greedy(self) -> bool:
        """Greedy with every sampling field and the seed at zero, as the wire demands of sampler 0."""
        parameters = (self.sampler, self.temperature_q16, self.top_k, self.top_p_q16)
        return parameters == (Sampler.GREEDY, 0, 0, 0) and self.seed == ZERO32


@dataclass(frozen=True)
class Output(WireStruct):
    """What a provider answers."""

    output_root: bytes = _member("outputRoot", "bytes32")
    output_tokens: int = _member("outputTokens", "uint32")
    finish: int = _member("finish", "uint8")

    @property
    def output_hash(self) -> bytes:
        return self.hash_struct()


@dataclass(frozen=True)
class Quote(WireStruct):
    """A provider's signed price for a request or for a model."""

    provider: str = _member("provider", "address")
    client: str = _member("client", "address")
    model_id: bytes = _member("modelId", "bytes32")
    request_hash: bytes = _member("requestHash", "bytes32")
    mode: int = _member("mode", "uint8")
    token: str = _member("token", "address")
    base_fee: int = _member("baseFee", "uint128")
    price_per_m_input: int = _member("pricePerMInput", "uint128")
    price_per_m_output: int = _member("pricePerMOutput", "uint128")
    kill_fee: int = _member("killFee", "uint128")
    miss_fee: int = _member("missFee", "uint128")
    bond: int = _member("bond", "uint128")
    max_input_tokens: int = _member("maxInputTokens", "uint32")
    max_output_tokens: int = _member("maxOutputTokens", "uint32")
    valid_until: int = _member("validUntil", "uint64")
    nonce: int = _member("nonce", "uint256")


@dataclass(frozen=True)
class Commitment(WireStruct):
    """What a replica hides until the reveal."""

    job_id: bytes = _member("jobId", "bytes32")
    provider: str = _member("provider", "address")
    output_hash: bytes = _member("outputHash", "bytes32")
    salt: bytes = _member("salt", "bytes32")


@dataclass(frozen=True)
class Receipt(WireStruct):
    """A provider's signed statement "for this request, this is the output"."""

    subject_id: bytes = _member("subjectId", "bytes32")
    index: int = _member("index", "uint64")
    request_hash: bytes = _member("requestHash", "bytes32")
    output_root: bytes = _member("outputRoot", "bytes32")
    output_tokens: int = _member("outputTokens", "uint32")
    finish: int = _member("finish", "uint8")
    charged: int = _member("charged", "uint128")
    issued_at: int = _member("issuedAt", "uint64")


@dataclass(frozen=True)
class Acceptance(WireStruct):
    """A provider's signed statement "I hold this request"."""

    subject_id: bytes = _member("subjectId", "bytes32")
    request_hash: bytes = _member("requestHash", "bytes32")
    accepted_at: int = _member("acceptedAt", "uint64")


@dataclass(frozen=True)
class OutputAccess(WireStruct):
    """A client's signed request to read the output of its own job over HTTP until `valid_until`."""

    subject_id: bytes = _member("subjectId", "bytes32")
    client: str = _member("client", "address")
    valid_until: int = _member("validUntil", "uint64")
