"""The shipped contracts' ABIs: encoding calls, decoding results, events and errors.

Values are what eth_abi takes and gives: `int`, `bytes`, `bool`, `str`, tuples for structs, checksummed addresses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib import resources
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.codec import ABIDecoder
from eth_abi.decoding import StringDecoder
from eth_abi.registry import BaseEquals
from eth_abi.registry import registry as eth_abi_types
from eth_utils.address import to_checksum_address

from market.code import NO_CODE, Code
from market.errors import ConfigError
from market.hashing import keccak256

LIBRARIES = ("Draws", "Seeds", "Settlements", "Demands", "Verdicts")
"""Jobs runs their functions in its own storage; its code names their addresses."""
STEPS = (
    *("Embedding", "Norm", "Matrix", "Rotary", "Scores", "Softmax"),
    *("MixSum", "Mix", "QuantiseMix", "Activation", "Choice"),
)
"""The judge runs them to compute an element again; its code names their addresses."""
SHIPPED = (
    "Vault",
    "Registry",
    *STEPS,
    "Judge",
    "Disputes",
    *LIBRARIES,
    "Jobs",
    "EzklVerifier",
    "ProofJobs",
    "TestToken",
)


@dataclass(frozen=True)
class Parameter:
    """One input or output. `kind` is the canonical type, structs written out: `(address,uint256)[]`."""

    name: str
    kind: str
    internal: str = ""
    indexed: bool = False
    components: tuple[Parameter, ...] = ()

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> Parameter:
        components = tuple(cls.parse(part) for part in entry.get("components", ()))
        kind = str(entry["type"])
        if components:
            kind = f"({','.join(part.kind for part in components)}){kind.removeprefix('tuple')}"
        internal = entry.get("internalType", "")
        return cls(entry.get("name", ""), kind, internal, bool(entry.get("indexed")), components)

    def named(self, value: Any) -> Any:
        """A decoded value with structs as dicts by field name and addresses checksummed."""
        if self.kind.endswith("]"):
            element = Parameter(self.name, self.kind[: self.kind.rindex("[")], self.internal, False, self.components)
            return [element.named(item) for item in value]
        if self.components:
            return {part.name: part.named(item) for part, item in zip(self.components, value, strict=True)}
        return checksummed(value) if self.kind == "address" else value


@dataclass(frozen=True)
class Entry:
    """A function, event or error of an ABI."""

    contract: str
    name: str
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...] = ()

    @property
    def signature(self) -> str:
        return f"{self.name}({','.join(parameter.kind for parameter in self.inputs)})"

    @cached_property
    def topic(self) -> bytes:
        """keccak256 of the signature: an event's first topic."""
        return keccak256(self.signature.encode())

    @property
    def selector(self) -> bytes:
        """The first four bytes of a call or of a custom error."""
        return self.topic[:4]

    def encode_input(self, arguments: Sequence[Any]) -> bytes:
        return self.selector + encode_values(self.inputs, arguments)

    def decode_output(self, data: bytes) -> tuple[Any, ...]:
        return tuple(decode([parameter.kind for parameter in self.outputs], data))


@dataclass(frozen=True)
class Artefact:
    """One contract: its ABI and its code.

    Attributes:
        source_name: path of its source, as block explorers name it together with the contract.
    """

    name: str
    functions: dict[str, Entry]
    events: tuple[Entry, ...]
    errors: tuple[Entry, ...]
    constructor: tuple[Parameter, ...]
    source_name: str = ""
    creation: Code = NO_CODE
    runtime: Code = NO_CODE

    def function(self, name: str) -> Entry:
        return self.functions[name]

    @property
    def libraries(self) -> tuple[str, ...]:
        """Names of the external libraries that its code is linked to."""
        return tuple(sorted(self.creation.libraries))

    def creation_code(self, arguments: Sequence[Any], libraries: Mapping[str, str] | None = None) -> bytes:
        """Bytecode with its constructor's arguments: the data of the transaction that deploys it.

        Args:
            libraries: addresses of `self.libraries`.
        """
        return self.creation.linked(libraries or {}) + encode_values(self.constructor, arguments)


@lru_cache(maxsize=65_536)
def checksummed(address: str) -> str:
    """The address with its checksum (EIP-55); a hash each, so they are remembered."""
    return str(to_checksum_address(address))


class _LenientString(StringDecoder):
    """Contracts don't check strings: what is no UTF-8 (or is NUL, which Postgres refuses) becomes U+FFFD, or a single
    registered name of rubbish would stop every reader of events."""

    @staticmethod
    def decoder_fn(data: Any, handle_string_errors: Any = "replace") -> str:  # type: ignore[override]  # noqa: ARG004 (eth_abi's signature)
        return bytes(data).decode("utf-8", errors="replace").replace("\0", "\ufffd")


def _lenient() -> ABIDecoder:
    types: Any = eth_abi_types.copy()  # type: ignore[no-untyped-call]
    types.unregister_decoder("string")
    types.register_decoder(BaseEquals("string", with_sub=False), _LenientString, label="string")  # type: ignore[no-untyped-call]
    return ABIDecoder(types)


decode_event = _lenient().decode
"""eth_abi's `decode` that takes every string; for events, which anybody can cause."""


def encode_values(parameters: Sequence[Parameter], arguments: Sequence[Any]) -> bytes:
    """abi.encode of the arguments. Raises eth_abi's EncodingError for a value that does not fit its type."""
    return encode([parameter.kind for parameter in parameters], arguments)


@cache
def load(name: str) -> Artefact:
    """The shipped contract called `name`.

    Raises:
        ConfigError: the installation lacks it.
    """
    try:
        text = resources.files("market.abi").joinpath(f"{name}.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"The contract {name} is not in this installation.",
            hint="Reinstall the package, or run `python -m tools.build_contracts` in a checkout.",
        ) from None
    content = json.loads(text)
    return replace(
        parse(content["contractName"], content["abi"]),
        source_name=content["sourceName"],
        creation=Code.parse(content["bytecode"], content["linkReferences"]),
        runtime=Code.parse(
            content["deployedBytecode"], content["deployedLinkReferences"], content["immutableReferences"]
        ),
    )


def standard_input() -> dict[str, Any]:
    """What the shipped code was compiled from: the compiler's standard-JSON input, less the selection of outputs, and
    `compilerVersion`."""
    text = resources.files("market.abi").joinpath("standard_input.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def parse(name: str, abi: Sequence[dict[str, Any]]) -> Artefact:
    """Reads an ABI. Overloaded functions are refused: ours have none, and calls go by name."""

    def entries(kind: str) -> tuple[Entry, ...]:
        return tuple(
            Entry(
                name,
                entry.get("name", ""),
                tuple(Parameter.parse(part) for part in entry.get("inputs", ())),
                tuple(Parameter.parse(part) for part in entry.get("outputs", ())),
            )
            for entry in abi
            if entry["type"] == kind
        )

    functions = entries("function")
    by_name = {function.name: function for function in functions}
    if len(by_name) != len(functions):
        raise ConfigError(f"The ABI of {name} overloads a function.")
    constructors = entries("constructor")
    constructor = constructors[0].inputs if constructors else ()
    return Artefact(name, by_name, entries("event"), entries("error"), constructor)


def shipped() -> tuple[Artefact, ...]:
    """All contracts of this installation."""
    return tuple(load(name) for name in SHIPPED)
