"""What the provider's part of a job asks of the chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from market.signing import Domain
from market.types import Output
from market.views import JobView, ReplicaView
from provider.seeds import SeedChain


class JobChain(SeedChain, Protocol):
    """What the node asks of the chain. Writes return once the transaction is mined.

    Raises (every method): ChainError; ContractError where a contract refused and nothing was changed.
    """

    @property
    def address(self) -> str: ...
    @property
    def domain(self) -> Domain: ...
    @property
    def dispute_window(self) -> int: ...
    @property
    def dispute_deadline(self) -> int: ...
    def now(self) -> int:
        """What `block.timestamp` would be about now, rather too late than too early: a guess by this machine's clock.

        Good for waking up and for refusing; nothing that costs a bond is given up because of it.
        """

    def seen(self, depth: int = 0) -> int:
        """`block.timestamp` of the newest block seen, or of the one `depth` blocks below it."""

    def job(self, job_id: bytes, depth: int = 0) -> JobView | None:
        """The job at the newest block, or as it stood `depth` blocks below it; None where it was not there."""

    def replicas(self, job_id: bytes) -> list[ReplicaView]: ...
    def stake(self) -> int:
        """Base units staked by this provider and not locked."""

    def fee_per_gas(self) -> int: ...
    def commit(self, job_id: bytes, commitment: bytes, key: str) -> None: ...
    def reveal(self, job_id: bytes, output: Output, salt: bytes, key: str) -> None: ...
    def settle(self, job_id: bytes, key: str) -> None: ...
    def publish_output(self, job_id: bytes, ids: Sequence[int], key: str) -> None: ...
    def release_bond(self, job_id: bytes, key: str) -> None: ...
