"""Contracts called by name on some chain, custom errors and events decoded. Backends: revm.py, tests/gas/anvil.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import eth_utils
from eth_abi import decode, encode

from market.code import Code
from market.hashing import keccak256
from tools.compiler import Artefact

CHAIN_ID = 31337
START = 1_700_000_000
GAS_LIMIT = 60_000_000
to_checksum_address = lru_cache(maxsize=1 << 14)(eth_utils.to_checksum_address)  # the same few, in every answer
_PLAIN = {"Error": ["string"], "Panic": ["uint256"]}


Log = tuple[str, Sequence[bytes], bytes]
"""Address, topics and data."""


class Revert(Exception):
    """A call reverted. `name` is the custom error ("" where there is no data), `values` its arguments."""

    def __init__(self, name: str, values: dict[str, Any]) -> None:
        super().__init__(f"{name}({values})")
        self.name = name
        self.values = values


@dataclass(frozen=True)
class Event:
    """A decoded log. `values` is by argument name; structs are tuples."""

    address: str
    name: str
    values: dict[str, Any]


@dataclass
class Coverage:
    """What was called and which custom errors came back, by contract name and function or error name."""

    functions: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


def abi_type(entry: dict[str, Any]) -> str:
    """Canonical type of an ABI argument, tuples spelled out."""
    kind: str = entry["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(abi_type(part) for part in entry['components'])}){kind.removeprefix('tuple')}"


def _signature(entry: dict[str, Any]) -> str:
    return f"{entry['name']}({','.join(abi_type(part) for part in entry['inputs'])})"


@dataclass(frozen=True)
class _Shape:
    """What an ABI entry comes to: its selector, and the types of its arguments and results."""

    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_shapes: dict[int, tuple[dict[str, Any], _Shape]] = {}


def _shape(entry: dict[str, Any]) -> _Shape:
    """Worked out once for each entry, which is kept: its id stays its own."""
    known = _shapes.get(id(entry))
    if known is None:
        inputs, outputs = (tuple(abi_type(part) for part in entry.get(end, ())) for end in ("inputs", "outputs"))
        known = entry, _Shape(keccak256(_signature(entry).encode())[:4], inputs, outputs)
        _shapes[id(entry)] = known
    return known[1]


def _named(entry: dict[str, Any], value: Any) -> Any:
    """A decoded value with addresses checksummed and tuples turned into dictionaries by member name."""
    kind: str = entry["type"]
    if kind.endswith("]"):
        inner = {**entry, "type": kind[: kind.rindex("[")]}
        return [_named(inner, item) for item in value]
    if kind == "tuple":
        return {part["name"]: _named(part, item) for part, item in zip(entry["components"], value, strict=True)}
    return to_checksum_address(value) if kind == "address" else value


class Contract:
    """A deployed contract: `contract.name(*arguments, sender=…)` sends or calls and returns the decoded result."""

    def __init__(self, chain: Chain, name: str, address: str, abi: Sequence[dict[str, Any]]) -> None:
        self.chain = chain
        self.name = name
        self.address = address
        self.functions = {entry["name"]: entry for entry in abi if entry["type"] == "function"}

    def __getattr__(self, name: str) -> Any:
        try:
            entry = self.functions[name]
        except KeyError:
            raise AttributeError(f"{self.name} has no function {name}") from None

        def call(*arguments: Any, sender: str | None = None) -> Any:
            return self.chain.call(self, entry, arguments, sender)

        return call

    def encode(self, name: str, *arguments: Any) -> bytes:
        """Calldata of a call."""
        return encode_call(self.functions[name], arguments)


def encode_call(entry: dict[str, Any], arguments: Sequence[Any]) -> bytes:
    shape = _shape(entry)
    return shape.selector + encode(shape.inputs, list(arguments))


class Chain(ABC):
    """A chain's clock, the log and gas of the last transaction, and what was covered so far."""

    chain_id = CHAIN_ID

    def __init__(self, artefacts: Sequence[Artefact], coverage: Coverage | None = None) -> None:
        self.coverage = coverage or Coverage()
        self._logs: list[Event] = []
        self._undecoded: Callable[[], Iterable[Log]] | None = None
        self.gas_used = 0
        entries = [entry for artefact in artefacts for entry in artefact["abi"]]
        plain = [
            {"type": "error", "name": name, "inputs": [{"name": "value", "type": kind} for kind in kinds]}
            for name, kinds in _PLAIN.items()
        ]
        self._errors = {keccak256(_signature(e).encode())[:4]: e for e in [*entries, *plain] if e["type"] == "error"}
        self._events = {keccak256(_signature(e).encode()): e for e in entries if e["type"] == "event"}

    @property
    def logs(self) -> list[Event]:
        """Of the last transaction that succeeded. Decoded when asked for: of most transactions nobody does."""
        if self._undecoded is not None:
            events = [self.event(*log) for log in self._undecoded()]
            self._logs = [event for event in events if event is not None]
            self._undecoded = None
        return self._logs

    def emitted(self, read: Callable[[], Iterable[Log]]) -> None:
        """Says where the logs of a transaction are."""
        self._undecoded = read

    @property
    @abstractmethod
    def now(self) -> int:
        """Timestamp of the next transaction."""

    @now.setter
    @abstractmethod
    def now(self, timestamp: int) -> None: ...

    @abstractmethod
    def run_deploy(self, sender: str, code: bytes) -> str:
        """Deploys; raises what `reverted` makes of revert data. Returns the address."""

    @abstractmethod
    def run_call(self, sender: str, to: str, data: bytes, static: bool) -> bytes:
        """Sends or calls; tells `emitted` and `gas_used`, raises what `reverted` makes. Returns the call's data."""

    def deploy(
        self, artefact: Artefact, *arguments: Any, sender: str, libraries: Mapping[str, str] | None = None
    ) -> Contract:
        """Deploys with constructor arguments, linked to the libraries it needs (name → address).

        Raises:
            Revert: the constructor did.
        """
        constructor = next((e for e in artefact["abi"] if e["type"] == "constructor"), {"inputs": []})
        tail = encode([abi_type(part) for part in constructor["inputs"]], list(arguments))
        code = Code.parse(artefact["bytecode"], artefact["linkReferences"]).linked(libraries or {})
        address = self.run_deploy(sender, code + tail)
        return Contract(self, artefact["contractName"], to_checksum_address(address), artefact["abi"])

    def call(self, contract: Contract, entry: dict[str, Any], arguments: Sequence[Any], sender: str | None) -> Any:
        """Runs a transaction, or a static call of a view.

        Raises:
            Revert: it did; nothing changed.
        """
        static = entry["stateMutability"] in ("view", "pure")
        self.coverage.functions[contract.name, entry["name"]] += 1
        data = encode_call(entry, arguments)
        answer = self.run_call(sender or "0x" + "aa" * 20, contract.address, data, static)
        values = decode(_shape(entry).outputs, answer)
        named = [_named(part, value) for part, value in zip(entry["outputs"], values, strict=True)]
        return named[0] if len(named) == 1 else tuple(named)

    def reverted(self, data: bytes, message: str = "") -> Revert:
        """Decodes revert data and counts the error as seen."""
        entry = self._errors.get(data[:4])
        if entry is None:
            return Revert("", {"data": data, "message": message})
        self.coverage.errors[entry["name"]] += 1
        values = decode(_shape(entry).inputs, data[4:])
        named = zip(entry["inputs"], values, strict=True)
        return Revert(entry["name"], {part["name"]: _named(part, value) for part, value in named})

    def event(self, address: str, topics: Sequence[bytes], data: bytes) -> Event | None:
        """Decodes a log, None where no known contract declares it."""
        entry = self._events.get(topics[0]) if topics else None
        if entry is None:
            return None
        indexed = [part for part in entry["inputs"] if part["indexed"]]
        plain = [part for part in entry["inputs"] if not part["indexed"]]
        values: dict[str, Any] = {}
        for part, topic in zip(indexed, topics[1:], strict=True):
            values[part["name"]] = _named(part, decode([abi_type(part)], topic)[0])
        for part, value in zip(plain, decode([abi_type(p) for p in plain], data), strict=True):
            values[part["name"]] = _named(part, value)
        return Event(to_checksum_address(address), entry["name"], values)
