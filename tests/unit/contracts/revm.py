"""A chain inside the process (pyrevm): 30,000 calls a second, snapshots in microseconds.

One journal runs through all transactions, so storage stays warm between them: its gas figures are no transaction's
(tests/gas measures on anvil).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pyrevm import EVM, BlockEnv, CfgEnv, Env

from tests.unit.contracts.abi import CHAIN_ID, GAS_LIMIT, START, Chain, Coverage, Revert
from tools.compiler import Artefact

_REVERT_DATA = re.compile(r"output: 0x([0-9a-f]*)")


class RevmChain(Chain):
    """A fresh EVM whose clock stands still unless it is set.

    Attributes:
        code_size_limit: bytes a contract may have; None is the chain's own limit.
        made: told of every chain that is made (tools/security).
    """

    code_size_limit: ClassVar[int | None] = None
    made: ClassVar[Callable[[RevmChain], None] | None] = None

    def __init__(
        self, artefacts: Sequence[Artefact], coverage: Coverage | None = None, *, chain_id: int = CHAIN_ID
    ) -> None:
        super().__init__(artefacts, coverage)
        self.chain_id = chain_id
        self._number = 1
        self._now = START
        config = CfgEnv(chain_id=chain_id, limit_contract_code_size=self.code_size_limit)
        self._evm = EVM(env=Env(cfg=config, block=self._block()), spec_id="CANCUN")
        if RevmChain.made is not None:
            RevmChain.made(self)

    @property
    def now(self) -> int:
        return self._now

    @now.setter
    def now(self, timestamp: int) -> None:
        self._now = timestamp
        self._number += 1
        self._evm.set_block_env(self._block())

    @property
    def number(self) -> int:
        """Of the block that the next transaction is in; setting the clock begins another block."""
        return self._number

    def mine(self, blocks: int = 1) -> None:
        """Goes on by blocks, without time."""
        self._number += blocks
        self._evm.set_block_env(self._block())

    def run_deploy(self, sender: str, code: bytes) -> str:
        try:
            return self._evm.deploy(sender, code)
        except RuntimeError as error:
            raise self._revert(error) from None

    def run_call(self, sender: str, to: str, data: bytes, static: bool) -> bytes:
        self._evm.reset_transient_storage()
        try:
            answer = self._evm.message_call(sender, to, calldata=data, gas=GAS_LIMIT, is_static=static)
        except RuntimeError as error:
            raise self._revert(error) from None
        result = self._evm.result
        assert result is not None
        self.gas_used = result.gas_used
        if not static:
            logs = result.logs
            self.emitted(lambda: ((log.address, [bytes(t) for t in log.data[0]], log.data[1]) for log in logs))
        return answer

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undoes everything that happens inside, the clock too."""
        checkpoint, now, number = self._evm.snapshot(), self._now, self._number
        try:
            yield
        finally:
            self._evm.revert(checkpoint)
            self._now, self._number = now, number
            self._evm.set_block_env(self._block())

    def asked(self) -> set[str]:
        """Addresses, in lower case, of every account that anything has asked for, by calls that reverted too."""
        return {address.lower() for address in self._evm.db_accounts}

    def _block(self) -> BlockEnv:
        return BlockEnv(number=self._number, timestamp=self._now, gas_limit=GAS_LIMIT)

    def _revert(self, error: RuntimeError) -> Revert:
        found = _REVERT_DATA.search(str(error))
        return self.reverted(bytes.fromhex(found.group(1)) if found else b"", str(error))
