"""A chain that charges gas as a real one does: anvil in a process of its own, deterministic to the unit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from web3 import HTTPProvider

from market.anvil import Anvil
from tests.unit.contracts.abi import CHAIN_ID, GAS_LIMIT, START, Chain
from tools.compiler import ROOT, Artefact

ANVIL = ROOT / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"
RICH = 10**24


class AnvilChain(Chain):
    """Anyone may send (auto-impersonation); every transaction is a block of its own at `now`."""

    def __init__(self, artefacts: Sequence[Artefact], url: str) -> None:
        super().__init__(artefacts)
        self._provider = HTTPProvider(url)
        self._now = START
        self._rich: set[str] = set()

    @property
    def now(self) -> int:
        return self._now

    @now.setter
    def now(self, timestamp: int) -> None:
        self._now = timestamp

    def run_deploy(self, sender: str, code: bytes) -> str:
        receipt = self._send({"from": sender, "data": "0x" + code.hex(), "gas": hex(GAS_LIMIT // 2)})
        return str(receipt["contractAddress"])

    def run_call(self, sender: str, to: str, data: bytes, static: bool) -> bytes:
        call = {"from": sender, "to": to, "data": "0x" + data.hex(), "gas": hex(GAS_LIMIT // 2)}
        number = int(self._rpc("eth_blockNumber"), 16) + 1  # as in the transaction: a call alone is in the last block
        answer = self._rpc("eth_call", call, "latest", {}, {"time": hex(self._now), "number": hex(number)})
        if not static:
            receipt = self._send(call)
            self.gas_used = int(receipt["gasUsed"], 16)
            logs = receipt["logs"]
            self.emitted(
                lambda: ((log["address"], [_bytes(t) for t in log["topics"]], _bytes(log["data"])) for log in logs)
            )
        return _bytes(answer)

    def block_hash(self, number: int) -> bytes:
        return _bytes(self._rpc("eth_getBlockByNumber", hex(number), False)["hash"])

    def _send(self, call: dict[str, str]) -> dict[str, Any]:
        if call["from"] not in self._rich:
            self._rpc("anvil_setBalance", call["from"], hex(RICH))
            self._rich.add(call["from"])
        self._rpc("evm_setNextBlockTimestamp", self._now)
        self._now += 1  # a block is later than the one before
        identity = self._rpc("eth_sendTransaction", call)
        while (receipt := self._rpc("eth_getTransactionReceipt", identity)) is None:
            time.sleep(0.001)
        assert receipt["status"] == "0x1", receipt
        found: dict[str, Any] = receipt
        return found

    def _rpc(self, method: str, *arguments: Any) -> Any:
        answer: Any = self._provider.make_request(method, list(arguments))  # type: ignore[arg-type]
        if "error" in answer:
            data = answer["error"].get("data")
            raise self.reverted(_bytes(data) if isinstance(data, str) else b"", str(answer["error"]))
        return answer["result"]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


@contextmanager
def anvil() -> Iterator[str]:
    """Runs anvil on a port that it chooses itself, and stops it. Gives its URL."""
    options = ("--timestamp", str(START - 1), "--gas-limit", str(GAS_LIMIT), "--base-fee", "0", "--auto-impersonate")
    with Anvil.start(chain_id=CHAIN_ID, binary=ANVIL, options=options) as running:
        yield running.rpc_url
