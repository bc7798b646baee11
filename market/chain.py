"""One chain by JSON-RPC: reads, simulation, broadcasting; transport errors become ours here.

JSON-RPC goes through market.rpc_endpoints, which fails over between several URLs; a Chain may be shared by threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eth_utils.address import to_checksum_address

from market.errors import ChainError, ContractError, WrongChain
from market.reverts import decode as decode_revert
from market.rpc_endpoints import LAG_BLOCKS, REST_FIRST, SCOUT_EVERY, Endpoints, rpc_urls
from market.urls import without_secrets

if TYPE_CHECKING:
    from web3 import Web3

CREATE = ""
"""`Call.to` of a transaction that creates a contract."""
DEVELOPMENT_CHAIN_IDS = frozenset({1337, 31337})
"""Chains that hold nothing of value and may start again from nothing."""
ATTEMPTS = 4
"""How often one question is asked before the chain counts as unreachable."""
LOG_BLOCKS = 20_000
"""Most blocks that one question for logs names."""


@dataclass(frozen=True)
class Call:
    """A call to a contract that nobody has sent yet. `label` is for people: "Jobs.commit"."""

    to: str
    data: bytes
    label: str
    value: int = 0  # wei


@dataclass(frozen=True)
class Block:
    """A block header; hashes are 0x-prefixed lower-case hex."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int  # unix seconds
    base_fee: int = 0  # wei per gas


class RpcError(ChainError):
    """The endpoint answered with a JSON-RPC error that is no revert; `details` has rpc_code and method."""


class Chain:
    """Reads one chain over HTTP.

    Args:
        rpc_url: http or https URL; or several, in order of preference: a list, or one text with commas between them.
            An access key in one is never shown, `origin` is.
        expected_chain_id: refuse any other chain. With several URLs, one of another chain is left out.
        timeout: seconds for one request.
        attempts: how often a transient failure is tried (at all endpoints in turn, where there are several), with waits
            of 0.1, 0.2, 0.4 … s (at most 2 s) between.
        lag_blocks, scout_every, rest_first: how several endpoints are compared (market.rpc_endpoints).

    Raises (constructor and every method):
        ChainUnreachable: no usable answer after all attempts.
        WrongChain: (constructor) every endpoint that answers serves another chain.
        ConfigError: (constructor) a URL is none.
    """

    def __init__(
        self,
        rpc_url: str | Sequence[str],
        *,
        expected_chain_id: int | None = None,
        timeout: float = 10.0,
        attempts: int = ATTEMPTS,
        lag_blocks: int = LAG_BLOCKS,
        scout_every: float = SCOUT_EVERY,
        rest_first: float = REST_FIRST,
    ) -> None:
        self._endpoints = Endpoints(
            rpc_urls(rpc_url),
            chain_id=expected_chain_id,
            timeout=timeout,
            attempts=attempts,
            lag_blocks=lag_blocks,
            scout_every=scout_every,
            rest_first=rest_first,
        )
        self.origin = self._endpoints.origins
        self._log_blocks = LOG_BLOCKS
        self.chain_id = int(self.rpc("eth_chainId"), 16)
        if expected_chain_id is not None and self.chain_id != expected_chain_id:
            raise WrongChain(
                f"{self.origin} serves chain {self.chain_id}, not chain {expected_chain_id}; nothing was sent.",
                hint="Check the RPC URL against the deployment manifest, or the network that you named.",
                expected=expected_chain_id,
                got=self.chain_id,
            )

    def __repr__(self) -> str:
        return f"Chain({self.origin})"

    @property
    def web3(self) -> Web3:
        """web3.py on the endpoint that answered last, for what this class does not offer; it does not fail over."""
        from web3 import Web3

        return Web3(self._endpoints.active.provider)

    def pinned(self) -> AbstractContextManager[None]:
        """Questions of this thread inside go to one endpoint, for answers that are compared with one another.

        Raises:
            EndpointLost: (the questions inside) it failed meanwhile: ask them all again.
        """
        return self._endpoints.pinned()

    # ------------------------------------------------------------------------------------------------ questions

    def head(self) -> Block:
        """The newest block."""
        return self.block("latest")

    def block(self, number: int | str) -> Block:
        """The block with this number ("latest" and the other tags are taken too).

        Raises:
            ChainError: code UnknownBlock where there is none (yet, or any more).
        """
        tag = hex(number) if isinstance(number, int) else number
        raw = self.rpc("eth_getBlockByNumber", tag, False)
        if raw is None:
            raise ChainError(f"The chain has no block {number}.", code="UnknownBlock", block=number)
        block = _block(raw)
        if tag != "pending":
            self._endpoints.saw(block.number)
        return block

    def balance(self, address: str) -> int:
        """Wei of `address`."""
        return int(self.rpc("eth_getBalance", address, "latest"), 16)

    def code(self, address: str) -> bytes:
        """Runtime code at `address`; empty where there is no contract."""
        return _bytes(self.rpc("eth_getCode", address, "latest"))

    def transaction_count(self, address: str, block: str = "latest") -> int:
        """Transactions `address` has sent: its next nonce at `block` ("pending" counts the endpoint's pool)."""
        return int(self.rpc("eth_getTransactionCount", address, block), 16)

    def receipt(self, transaction_hash: str) -> dict[str, Any] | None:
        """The receipt as JSON-RPC gives it, or None while the transaction is not in a block."""
        receipt: dict[str, Any] | None = self.rpc("eth_getTransactionReceipt", transaction_hash)
        if not receipt or not receipt.get("blockHash"):
            return None
        self._endpoints.saw(int(receipt["blockNumber"], 16))
        return receipt

    def is_known(self, transaction_hash: str) -> bool:
        """Whether the endpoint has the transaction, in its pool or in a block."""
        return self.rpc("eth_getTransactionByHash", transaction_hash) is not None

    def call(self, call: Call, sender: str | None = None, block: int | str = "latest") -> bytes:
        """Runs a call without sending it. Returns what the contract returns.

        Raises:
            ContractError: it reverts, decoded.
        """
        return _bytes(self._run("eth_call", call, sender, block))

    def estimate_gas(
        self, call: Call, sender: str, block: int | str = "pending", *, supposing: Mapping[str, bytes] | None = None
    ) -> int:
        """Gas the call would take now; at the same time its simulation.

        Args:
            supposing: address → code that is taken to be there (a state override; not every endpoint does this).

        Raises:
            ContractError: it reverts, decoded.
        """
        overrides = {address: {"code": "0x" + code.hex()} for address, code in (supposing or {}).items()}
        return int(self._run("eth_estimateGas", call, sender, block, *([overrides] if overrides else [])), 16)

    def logs(
        self,
        addresses: Sequence[str],
        from_block: int | None = None,
        to_block: int | None = None,
        *,
        block_hash: str | None = None,
    ) -> list[dict[str, Any]]:
        """Logs of these contracts as JSON-RPC gives them: of a range (both ends included), or of one block by hash.

        A range that the endpoint refuses is asked in smaller ones, and so are later ones: their size is remembered.
        """
        where = {"address": list(addresses)}
        if block_hash is not None:
            return _list(self.rpc("eth_getLogs", {**where, "blockHash": block_hash}))
        if from_block is None or to_block is None:
            raise ValueError("logs takes a range or a block hash")
        found: list[dict[str, Any]] = []
        first = from_block
        while first <= to_block:
            last = min(first + self._log_blocks - 1, to_block)
            try:
                found += _list(self.rpc("eth_getLogs", {**where, "fromBlock": hex(first), "toBlock": hex(last)}))
            except RpcError:
                if first == last:
                    raise
                self._log_blocks = max((last - first + 1) // 2, 1)
                continue
            if last - first + 1 == self._log_blocks:  # a limit of results, not of blocks, may allow more here
                self._log_blocks = min(self._log_blocks + self._log_blocks // 8 + 1, LOG_BLOCKS)
            first = last + 1
        return found

    # --------------------------------------------------------------------------------------------- broadcasting

    def broadcast(self, raw_transaction: bytes) -> str:
        """Hands a signed transaction to the endpoint. Returns its hash. Safe to repeat.

        Raises:
            RpcError: the endpoint refused it ("already known" and the like included; the caller judges).
        """
        return str(self.rpc("eth_sendRawTransaction", "0x" + raw_transaction.hex()))

    # -------------------------------------------------------------------------------------------------- the wire

    def rpc(self, method: str, *parameters: Any) -> Any:
        """Asks the chain; `result` as JSON. Transient failures are tried again, at other endpoints too.

        Raises:
            RpcError: the endpoint answered with an error; ContractError is made of it by `call` and `estimate_gas`.
        """
        answer = self._endpoints.ask(method, parameters)
        error = answer.get("error")
        if error is None:
            return answer.get("result")
        message = str(error.get("message", error)) if isinstance(error, dict) else str(error)
        for url in self._endpoints.urls:
            message = without_secrets(message, url)
        failure = RpcError(
            f"The RPC endpoint refused {method}: {message}.",
            rpc_code=error.get("code") if isinstance(error, dict) else None,
            method=method,
            reason=message,
        )
        failure.details["data"] = _revert_data(error)
        raise failure

    def _run(self, method: str, call: Call, sender: str | None, block: int | str, *rest: Any) -> Any:
        question: dict[str, Any] = {"data": "0x" + call.data.hex()}
        if call.to != CREATE:
            question["to"] = call.to
        if call.value:
            question["value"] = hex(call.value)
        if sender is not None:
            question["from"] = sender
        try:
            return self.rpc(method, question, hex(block) if isinstance(block, int) else block, *rest)
        except RpcError as error:
            data = error.details["data"]
            if data is None and "revert" not in error.details["reason"].lower():
                raise
            raise _contract_error(data, error.details["reason"], call.label) from None


def _contract_error(data: bytes | None, reason: str, label: str) -> ContractError:
    if data:
        return decode_revert(data, label)
    error = decode_revert(b"", label)
    if reason.lower() not in ("execution reverted", "reverted"):
        error.details["reason"] = reason
    return error


def _revert_data(error: Any) -> bytes | None:
    """Return data inside a JSON-RPC error: `data` is the hex itself, or an object that holds it one level down."""
    data = error.get("data") if isinstance(error, dict) else None
    if isinstance(data, dict):
        data = next((value for value in data.values() if isinstance(value, str) and value.startswith("0x")), None)
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2:])
        except ValueError:
            return None
    return None


def _block(raw: dict[str, Any]) -> Block:
    return Block(
        number=int(raw["number"], 16),
        hash=str(raw["hash"]),
        parent_hash=str(raw["parentHash"]),
        timestamp=int(raw["timestamp"], 16),
        base_fee=int(raw.get("baseFeePerGas") or "0x0", 16),
    )


def _list(logs: Any) -> list[dict[str, Any]]:
    if not isinstance(logs, list):
        raise ChainError(
            "The endpoint sent something else than logs; nothing was taken over.",
            hint="Use another RPC endpoint.",
            code="BadLog",
        )
    return logs


def _bytes(value: str) -> bytes:
    return bytes.fromhex(value.removeprefix("0x"))


def same_address(first: str, second: str) -> bool:
    """Addresses are compared as bytes, whatever their case."""
    return to_checksum_address(first) == to_checksum_address(second)
