"""The keys under which a provider's transactions for a job are sent at most once; the earnings report reads them."""

from __future__ import annotations

import enum
import re


class JobKey(enum.StrEnum):
    """What a transaction for a job does."""

    DRAW = "draw"
    FIX_SEED = "seed"
    COMMIT = "commit"
    REVEAL = "reveal"
    LATE_REVEAL = "late-reveal"
    SETTLE = "settle"
    PUBLISH = "publish"
    RELEASE = "release"

    def of(self, job_id: bytes, number: int) -> str:
        """Another `number` (of an attempt, or of the block that a draw or a seed comes from) is another transaction."""
        return f"{self}:{job_id.hex()}:{number}"


_JOB_KEY = re.compile(rf"(?:{'|'.join(JobKey)}):([0-9a-f]{{64}}):\d+")


def job_of(key: str | None) -> bytes | None:
    """The job that a transaction with this key belongs to; None: to none."""
    match = _JOB_KEY.fullmatch(key or "")
    return bytes.fromhex(match[1]) if match else None
