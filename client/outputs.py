"""Reading the agreed output from the replicas that were paid for it, and holding it against the chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import anyio
from anyio.abc import TaskGroup
from eth_account.signers.local import LocalAccount

from client.errors import UnsafeEndpoint
from client.log_probabilities import TokenLogProbabilities, read
from client.provider_http import ProviderHttp, ProviderRefused, ProviderUnreachable, printable
from client.results import SignedReceipt
from client.signatures import SignatureChecker
from market.api import OutputBody
from market.errors import AssayError, HashMismatch, WireError
from market.hashing import tokens_root
from market.signing import Domain, sign
from market.types import OutputAccess
from market.views import JobState, JobView, ReplicaView

ACCESS_SECONDS = 120
"""How long a signed OutputAccess is good for."""
ATTEMPT_SECONDS = 5.0
FIRST_WAIT, MOST_WAIT = 0.02, 0.5  # seconds between attempts at a provider that has not seen the settlement yet
NOT_SETTLED = "NOT_SETTLED"
_NOT_YET = frozenset({NOT_SETTLED, "UnknownJob", "WrongState"})


@dataclass(frozen=True)
class Source:
    """A replica that was paid for the agreed output, and where it is reached."""

    replica: ReplicaView
    endpoint: str


@dataclass
class FetchedOutput:
    """What was read and verified; `ids` is None when nobody served it."""

    ids: tuple[int, ...] | None = None
    finish: int = 0
    receipts: list[SignedReceipt] = field(default_factory=list)
    inference_ms: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    log_probabilities: tuple[TokenLogProbabilities, ...] = ()  # as the first provider that told them
    answered_at: float | None = None  # monotonic seconds of the first verified output


@dataclass(frozen=True)
class Patience:
    """Seconds: `whole` for a first verified output, then `rest` for the receipts of the others."""

    whole: float = 20.0
    rest: float = 1.0


class OutputReader:
    """Reads outputs for one client."""

    def __init__(
        self,
        http: ProviderHttp,
        signatures: SignatureChecker,
        account: LocalAccount,
        patience: Patience | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._http = http
        self._signatures = signatures
        self._account = account
        self._patience = patience or Patience()

    @property
    def _domain(self) -> Domain:
        return self._signatures.domain

    async def fetch(self, job_id: bytes, job: JobView, sources: Sequence[Source], now: int) -> FetchedOutput:
        """Asks all sources at once; the first output that matches the chain is the answer.

        Args:
            now: unix seconds by the chain's clock.
        """
        result = FetchedOutput()
        access = OutputAccess(job_id, self._account.address, now + ACCESS_SECONDS)
        signature = sign(self._domain, access, self._account)
        first = anyio.Event()

        async def read(source: Source) -> None:
            while True:
                wait = await self._attempt(job_id, job, source, access, signature, result)
                if wait == 0.0:
                    break
                await anyio.sleep(wait)
            if result.ids is not None:
                first.set()

        with anyio.move_on_after(self._patience.whole):
            async with anyio.create_task_group() as group:
                group.start_soon(self._stop_after_rest, first, group)
                async with anyio.create_task_group() as readers:
                    for source in sources:
                        readers.start_soon(read, source)
                group.cancel_scope.cancel()
        return result

    async def _stop_after_rest(self, first: anyio.Event, group: TaskGroup) -> None:
        await first.wait()
        await anyio.sleep(self._patience.rest)
        group.cancel_scope.cancel()

    async def _attempt(
        self,
        job_id: bytes,
        job: JobView,
        source: Source,
        access: OutputAccess,
        signature: bytes,
        result: FetchedOutput,
    ) -> float:
        """Reads once. Returns seconds after which to try again, 0 when this source is done with."""
        provider = source.replica.provider
        try:
            with anyio.fail_after(ATTEMPT_SECONDS):
                answer = await self._http.output(
                    source.endpoint, job_id, self._account.address, access.valid_until, signature
                )
            check_output(job_id, job, source.replica, answer)
            await anyio.to_thread.run_sync(self._signatures.check, answer.receipt, answer.signature, provider)
        except ProviderRefused as refused:
            # of a job that ended without a payment nobody who keeps to that code will ever say more
            never = refused.code == NOT_SETTLED and job.state.is_final and job.state is not JobState.SETTLED
            if not never and (refused.code in _NOT_YET or not refused.is_final):
                return FIRST_WAIT if refused.code in _NOT_YET else MOST_WAIT
            result.problems.append(f"{provider.lower()}: {refused.code}: {refused.message}")
            return 0.0
        except (ProviderUnreachable, TimeoutError):
            return MOST_WAIT
        except (UnsafeEndpoint, AssayError) as error:
            result.problems.append(f"{provider.lower()}: {printable(error.message)}")
            return 0.0
        if result.ids is None:
            result.ids, result.finish, result.answered_at = tuple(answer.ids), answer.output.finish, self._clock()
        result.receipts.append(SignedReceipt(provider, answer.receipt, answer.signature))
        result.inference_ms.append(answer.inference_ms or 0)
        _note_log_probabilities(answer, provider, result)
        return 0.0


def _note_log_probabilities(answer: OutputBody, provider: str, result: FetchedOutput) -> None:
    """Keeps what was told first; nobody proves it, but whoever was paid for the same answer must say the same."""
    if answer.log_probabilities is None:
        return
    try:
        told = read(answer.log_probabilities, answer.ids)
    except WireError as error:
        result.problems.append(f"{provider.lower()}: log-probabilities left out: {error.message}")
        return
    if not result.log_probabilities:
        result.log_probabilities = told
    elif told != result.log_probabilities and _widths(told) == _widths(result.log_probabilities):
        result.problems.append(
            f"{provider.lower()}: it tells other log-probabilities than are shown; one of both is wrong"
        )


def _widths(told: Sequence[TokenLogProbabilities]) -> list[int]:
    return [len(each.top) for each in told]


def check_output(job_id: bytes, job: JobView, replica: ReplicaView, answer: OutputBody) -> None:
    """Holds an answer against the output hash agreed on chain, and its receipt against both.

    Raises:
        HashMismatch: the ids, the output or the receipt are not those of this job.
    """
    output, receipt = answer.output, answer.receipt
    if output.output_hash != job.output_hash:
        raise HashMismatch("it served an output that is not the one agreed on chain")
    if len(answer.ids) != output.output_tokens or tokens_root(answer.ids) != output.output_root:
        raise HashMismatch("the ids it served do not match the output agreed on chain")
    expected = (
        job_id,
        0,
        job.request_hash,
        output.output_root,
        output.output_tokens,
        output.finish,
        replica.charge(job),
    )
    got = (
        receipt.subject_id,
        receipt.index,
        receipt.request_hash,
        receipt.output_root,
        receipt.output_tokens,
        receipt.finish,
        receipt.charged,
    )
    if got != expected:
        raise HashMismatch("its receipt is not for this job, output and payment")
