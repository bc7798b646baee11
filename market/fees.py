"""EIP-1559 fees (https://eips.ethereum.org/EIPS/eip-1559) with an explicit ceiling, and the replacement rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median_low

from market.chain import Chain
from market.errors import ChainError

GWEI = 10**9
BLOCKS = 5
"""How many blocks the priority fee is learnt from."""


@dataclass(frozen=True)
class Fees:
    """What one transaction offers, wei per gas; priority_fee ≤ max_fee."""

    max_fee: int
    priority_fee: int


class FeeAboveCap(ChainError):
    """The chain's price of gas is above the sender's own ceiling."""


@dataclass(frozen=True)
class FeePolicy:
    """How much a sender is ready to pay for gas.

    Attributes:
        ceiling: wei per gas that no transaction ever exceeds, replacements included.
        min_priority_fee: wei per gas offered to block producers even when recent blocks paid less.
    """

    ceiling: int = 300 * GWEI
    min_priority_fee: int = GWEI // 10

    def up_to(self, ceiling: int) -> FeePolicy:
        """With this ceiling, where it is the higher one."""
        return replace(self, ceiling=max(self.ceiling, ceiling))

    def suggest(self, chain: Chain) -> Fees:
        """Fees for a transaction sent now: room for the base fee to double, median tip of recent blocks.

        Raises:
            FeeAboveCap: even the next block's base fee does not fit under the ceiling; nothing was sent.
        """
        history = chain.rpc("eth_feeHistory", hex(BLOCKS), "latest", [50.0])
        rewards = [int(row[0], 16) for row in history.get("reward") or () if row]
        return self.choose(int(history["baseFeePerGas"][-1], 16), rewards)

    def choose(self, base_fee: int, rewards: Sequence[int]) -> Fees:
        """Fees for the next block's base fee (wei per gas) and the tips that recent blocks took."""
        tip = max(self.min_priority_fee, median_low(rewards) if rewards else 0)
        tip = min(tip, max(self.ceiling - base_fee, 0))
        if base_fee + min(tip, self.min_priority_fee) > self.ceiling or tip == 0:
            raise FeeAboveCap(
                f"Gas costs {base_fee} wei now; your limit is {self.ceiling} wei. Nothing was sent.",
                hint="Wait until the chain is cheaper, or raise the limit.",
                base_fee=base_fee,
                ceiling=self.ceiling,
            )
        return Fees(min(2 * base_fee + tip, self.ceiling), tip)

    def replacement(self, previous: Fees, now: Fees) -> Fees | None:
        """Fees that nodes accept in place of `previous`: at least 12.5 % more in both fields, or today's if higher.

        Nodes demand 10 % (geth, https://geth.ethereum.org/docs/fundamentals/command-line-options `txpool.pricebump`)
        or 12.5 % (Nethermind and others) on both fields. Returns None where that would exceed the ceiling.
        """
        max_fee = max(_raised(previous.max_fee), now.max_fee)
        priority_fee = max(_raised(previous.priority_fee), now.priority_fee)
        if max_fee > self.ceiling:
            return None
        return Fees(max_fee, min(priority_fee, max_fee))


def _raised(wei: int) -> int:
    """12.5 % more, rounded up, and never the same."""
    return max(-(-wei * 9 // 8), wei + 1)
