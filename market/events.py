"""Events: decoded logs, a follower that notices reorgs, and a waker that says when to look.

The truth is always read over HTTP; the WebSocket only saves waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from market.artefacts import Entry, checksummed, decode_event, shipped
from market.chain import Block, Chain, RpcError
from market.errors import ChainError
from market.rpc_endpoints import EndpointLost
from market.types import WireStruct

_LOG = logging.getLogger(__name__)
MARKS_KEPT = 128
"""How many block hashes a follower remembers; a reorg deeper than all of them starts again from the first block."""
BLOCKS_PER_POLL = 20_000
TRIES = 3

S = TypeVar("S", bound=WireStruct)


@dataclass(frozen=True)
class Event:
    """A decoded log of one of our contracts.

    Attributes:
        name: the event's name.
        args: by their Solidity names; bytes32 as bytes, addresses checksummed, structs as dicts (see `struct_of`).
        block_hash, transaction_hash: 0x-prefixed hex.
    """

    name: str
    args: dict[str, Any]
    address: str
    block_number: int
    block_hash: str
    transaction_hash: str
    log_index: int
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)  # the log it was read from


@dataclass(frozen=True)
class Rewind:
    """The chain was reorganised: everything from blocks above `to_block` never happened. Undo it, then go on."""

    to_block: int


@dataclass(frozen=True)
class Mark:
    """A block that was read, by number and hash."""

    number: int
    hash: str


class CursorStore(Protocol):
    """Where a follower keeps how far it came; oldest mark first, at most MARKS_KEPT of them."""

    def load(self) -> Sequence[Mark]: ...
    def save(self, marks: Sequence[Mark]) -> None: ...


class MemoryCursor:
    """Forgets with the process: the next one reads everything again."""

    def __init__(self) -> None:
        self._marks: tuple[Mark, ...] = ()

    def load(self) -> Sequence[Mark]:
        return self._marks

    def save(self, marks: Sequence[Mark]) -> None:
        self._marks = tuple(marks)


def decode_log(raw: Mapping[str, Any]) -> Event | None:
    """Reads a log as JSON-RPC gives it. None for an event that no shipped contract has.

    Raises:
        ChainError: code BadLog: a known event whose data do not fit its type, so the endpoint lies.
    """
    topics = [bytes.fromhex(topic[2:]) for topic in raw["topics"]]
    entry = events_by_topic().get(topics[0]) if topics else None
    if entry is None:
        return None
    indexed = [parameter for parameter in entry.inputs if parameter.indexed]
    plain = [parameter for parameter in entry.inputs if not parameter.indexed]
    if len(indexed) != len(topics) - 1:
        return None  # the same signature with other indexed fields: another contract's event
    try:
        # one word each: an indexed string would be its hash, and none of ours is indexed
        words = decode_event([parameter.kind for parameter in indexed], b"".join(topics[1:]))
        values = {parameter.name: parameter.named(value) for parameter, value in zip(indexed, words, strict=True)}
        data = decode_event([parameter.kind for parameter in plain], bytes.fromhex(raw["data"][2:]))
        values |= {parameter.name: parameter.named(value) for parameter, value in zip(plain, data, strict=True)}
    except (DecodingError, OverflowError, ValueError) as error:
        raise ChainError(f"The endpoint sent a malformed {entry.name} event: {error}.", code="BadLog") from None
    return Event(
        name=entry.name,
        args={parameter.name: values[parameter.name] for parameter in entry.inputs},
        address=checksummed(raw["address"]),
        block_number=int(raw["blockNumber"], 16),
        block_hash=raw["blockHash"],
        transaction_hash=raw["transactionHash"],
        log_index=int(raw["logIndex"], 16),
        raw=raw,
    )


def decode_logs(logs: Iterable[Mapping[str, Any]]) -> list[Event]:
    """The known events among logs, e.g. of `Sent.logs`."""
    return [event for event in map(decode_log, logs) if event is not None]


def struct_of(kind: type[S], values: Mapping[str, Any]) -> S:
    """A wire struct out of an event's argument, e.g. `struct_of(Quote, event.args["terms"])`."""
    return kind(**{attribute: values[name] for attribute, name, _ in kind.members()})


@cache
def events_by_topic() -> dict[bytes, Entry]:
    """Every event of every shipped ABI, by its first topic."""
    return {event.topic: event for artefact in shipped() for event in artefact.events}


def in_order(logs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Logs in the chain's order, each once: unique by (block hash, log index), removed ones left out."""
    unique = {
        (str(log["blockHash"]).lower(), int(log["logIndex"], 16)): log for log in logs if not log.get("removed", False)
    }
    return sorted(unique.values(), key=lambda log: (int(log["blockNumber"], 16), int(log["logIndex"], 16)))


class Follower:
    """Reads a market's events block by block; resumable, and never blind to a reorg.

    `poll` gives what is new; once the consumer has stored it, `commit` moves the cursor. A consumer that dies in
    between gets the same again, so storing must be idempotent (unique block hash and log index) or share its
    transaction with the store. A reorg shows as a Rewind in front: `anvil_reorg` and many endpoints send no `removed`
    logs, so the hashes of blocks that were read are compared.

    Args:
        addresses: contracts to listen to.
        confirmations: blocks that must stand on top of one before it is read.
        start_block: first block of interest (a deployment's).
        blocks_per_poll: most blocks one `poll` reads.
    """

    def __init__(
        self,
        chain: Chain,
        addresses: Sequence[str],
        store: CursorStore,
        *,
        confirmations: int = 0,
        start_block: int = 0,
        blocks_per_poll: int = BLOCKS_PER_POLL,
    ) -> None:
        self._chain = chain
        self._addresses = [to_checksum_address(address) for address in addresses]
        self._store = store
        self._confirmations = confirmations
        self._start_block = start_block
        self._blocks_per_poll = blocks_per_poll
        self._next: tuple[Mark, ...] | None = None
        self.is_abreast = False
        """Whether the last `poll` read all of the chain that it saw: another one would find only newer blocks."""

    def poll(self) -> list[Event | Rewind]:
        """New events since the committed cursor, oldest first, after at most one Rewind. Empty when nothing is new.

        At most `blocks_per_poll` blocks are read; poll again to catch up.

        Raises:
            ChainUnreachable, ChainError: nothing was moved; poll again later.
        """
        for tries_left in reversed(range(TRIES)):
            try:
                with self._chain.pinned():
                    found = self._read()
            except EndpointLost:
                if not tries_left:
                    raise
                continue
            if found is not None:
                return found
        return []  # the chain changed under each look; the next poll sees it at rest

    def commit(self) -> None:
        """Moves the cursor past what the last `poll` gave."""
        if self._next is not None:
            self._store.save(self._next)
            self._next = None

    def _read(self) -> list[Event | Rewind] | None:
        """One look; None where the chain changed while it was read."""
        self._next = None
        marks = list(self._store.load())
        target = self._target()
        self.is_abreast = True
        if target is None or (marks and marks[-1].hash == target.hash):
            return []
        kept = self._standing(marks, target)
        if kept == marks and marks and target.number <= marks[-1].number:
            return []  # the endpoint lags behind what it showed before
        items: list[Event | Rewind] = []
        if kept != marks:
            items.append(Rewind(kept[-1].number if kept else self._start_block - 1))
        first = kept[-1].number + 1 if kept else self._start_block
        if target.number < first:
            self._next = tuple(kept)
            return items
        if target.number - first >= self._blocks_per_poll:
            target = self._chain.block(first + self._blocks_per_poll - 1)
            self.is_abreast = False
        logs = self._logs(first, target)
        if logs is None:
            return None
        items += decode_logs(in_order(logs))
        self._next = self._marks(kept, first, target)
        return items

    def _marks(self, kept: list[Mark], first: int, target: Block) -> tuple[Mark, ...]:
        """The oldest mark stays for ever: it shows that a whole chain was replaced, even by a shorter one."""
        if not kept:
            kept = [Mark(first, self._hash_at(first, target))]
        newest = [mark for mark in kept[1:] if mark.number < target.number][-(MARKS_KEPT - 2) :]
        last = [Mark(target.number, target.hash)] if kept[0].number < target.number else []
        return (kept[0], *newest, *last)

    def _target(self) -> Block | None:
        head = self._chain.head()
        if self._confirmations == 0:
            return head
        number = head.number - self._confirmations
        return self._chain.block(number) if number >= 0 else None

    def _standing(self, marks: list[Mark], target: Block) -> list[Mark]:
        """The marks that are still on the chain. One proves all below it. Marks above the target stay unless one below
        it fell: a shorter chain is usually an endpoint that lags."""
        if marks and marks[-1].hash == target.parent_hash:
            return marks
        index = len(marks) - 1
        while index >= 0:
            mark = marks[index]
            if mark.number <= target.number:
                if self._hash_at(mark.number, target) == mark.hash:
                    break
                marks = marks[:index]
            index -= 1
        return marks

    def _hash_at(self, number: int, target: Block) -> str:
        return target.hash if number == target.number else self._chain.block(number).hash

    def _logs(self, first: int, target: Block) -> list[dict[str, Any]] | None:
        if first == target.number:
            try:
                return self._ours(self._chain.logs(self._addresses, block_hash=target.hash), first, target)
            except RpcError:
                return None  # the block went away; if the endpoint is to blame, the next look tells
        logs = self._chain.logs(self._addresses, first, target.number)
        # logs of a range carry no proof of which chain they are of: the end must not have moved meanwhile
        if self._chain.block(target.number).hash != target.hash:
            return None
        return self._ours(logs, first, target)

    def _ours(self, logs: list[dict[str, Any]], first: int, target: Block) -> list[dict[str, Any]]:
        try:
            for log in logs:
                number = int(log["blockNumber"], 16)
                fits = first <= number <= target.number and checksummed(log["address"]) in self._addresses
                if not fits or (number == target.number and log["blockHash"] != target.hash):
                    raise _bad_log("a log that was not asked for")
                int(log["logIndex"], 16), bytes.fromhex(log["data"][2:]), [topic[2:] for topic in log["topics"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _bad_log("something that is no log") from None
        return logs


def _bad_log(what: str) -> ChainError:
    return ChainError(
        f"The endpoint sent {what}; nothing was taken over.", hint="Use another RPC endpoint.", code="BadLog"
    )


class HeadWaker:
    """Wakes one consumer when a block appears, over `eth_subscribe` newHeads; reconnects by itself.

    Use as an async context manager in one event loop. Without a URL it only waits.

    Args:
        ws_url: ws or wss URL, or None.
        first_pause, longest_pause: seconds between attempts to connect, doubled each time.
        silence: seconds without an answer to a ping after which a connection counts as dead.
    """

    def __init__(
        self,
        ws_url: str | None,
        *,
        first_pause: float = 0.1,
        longest_pause: float = 5.0,
        silence: float = 10.0,
    ) -> None:
        self._url = ws_url
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._silence = silence
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.connected = False

    async def __aenter__(self) -> Self:
        if self._url is not None:
            self._task = asyncio.create_task(self._listen(self._url))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def wait(self, timeout: float) -> bool:
        """Waits until a block appeared since the last `wait`, or `timeout` seconds. Returns whether one did.

        A new connection counts as a block: what came while there was none was missed.
        """
        try:
            await asyncio.wait_for(self._woken.wait(), timeout)
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    async def _listen(self, url: str) -> None:
        pause = self._first_pause
        while True:
            try:
                async with connect(
                    url, open_timeout=self._silence, ping_interval=self._silence, ping_timeout=self._silence
                ) as socket:
                    await socket.send(_SUBSCRIBE)
                    async for message in socket:
                        self._take(message)
                        pause = self._first_pause
            except (OSError, WebSocketException, ValueError) as error:
                _LOG.debug("head subscription: %s", type(error).__name__)  # its text may name the URL, and its key
            self.connected = False
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._longest_pause)

    def _take(self, message: str | bytes) -> None:
        content = json.loads(message)
        if "error" in content:
            raise ValueError(f"newHeads refused: {content['error']}")
        self.connected = True
        self._woken.set()


_SUBSCRIBE = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]})
