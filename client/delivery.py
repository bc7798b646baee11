"""Bringing the prompt to the chosen replicas: all at once, repeated until accepted, every Acceptance verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import anyio

from client.errors import UnsafeEndpoint
from client.provider_http import ProviderHttp, ProviderRefused, printable
from client.signatures import SignatureChecker
from client.store import StoredAcceptance
from market.errors import AssayError, BadSignature, WireError
from market.types import Request

ATTEMPT_SECONDS = 5.0
FIRST_WAIT, MOST_WAIT = 0.1, 2.0  # seconds between attempts


@dataclass(frozen=True)
class Parcel:
    """What is delivered."""

    job_id: bytes
    request: Request
    ids: tuple[int, ...]
    messages: tuple[dict[str, str], ...] | None
    log_probabilities: int = 0


@dataclass
class Deliveries:
    """How far it got; `last_at` is the clock's reading when the last provider accepted so far."""

    accepted: dict[str, StoredAcceptance] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    last_at: float = 0.0


class Courier:
    """Delivers one parcel to providers.

    Args:
        on_change: called with (provider, message) when one has accepted or finally refused.
    """

    def __init__(
        self,
        http: ProviderHttp,
        signatures: SignatureChecker,
        parcel: Parcel,
        *,
        on_change: Callable[[str, str], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._http = http
        self._signatures = signatures
        self._parcel = parcel
        self._on_change = on_change
        self._clock = clock
        self.state = Deliveries()
        self._round_done = anyio.Event()
        self._scope = anyio.CancelScope()
        self._waiting = 0

    async def deliver(self, targets: Sequence[tuple[str, str]]) -> None:
        """Tries until every target (provider, endpoint) has accepted or finally refused, or until `stop`. Once only."""
        self._waiting = len(targets)
        if not targets:
            self._round_done.set()
        with self._scope:
            async with anyio.create_task_group() as group:
                for provider, endpoint in targets:
                    group.start_soon(self._until_accepted, provider, endpoint)

    def stop(self) -> None:
        """Gives up on whoever has not accepted."""
        self._scope.cancel()

    async def first_round(self) -> None:
        """Returns once every target has answered, or failed once."""
        await self._round_done.wait()

    async def _until_accepted(self, provider: str, endpoint: str) -> None:
        wait, first = FIRST_WAIT, True
        while True:
            is_done = await self._attempt(provider, endpoint)
            if first:
                first, self._waiting = False, self._waiting - 1
                if self._waiting == 0:
                    self._round_done.set()
            if is_done:
                return
            await anyio.sleep(wait)
            wait = min(2 * wait, MOST_WAIT)

    async def _attempt(self, provider: str, endpoint: str) -> bool:
        """One PUT. Returns whether trying again is pointless."""
        key, parcel = provider.lower(), self._parcel
        try:
            with anyio.fail_after(ATTEMPT_SECONDS):
                acceptance, signature = await self._http.deliver(
                    endpoint, parcel.job_id, parcel.request, parcel.ids, parcel.messages, parcel.log_probabilities
                )
            if (acceptance.subject_id, acceptance.request_hash) != (parcel.job_id, parcel.request.request_hash):
                raise WireError("its acceptance is for something else")
            await anyio.to_thread.run_sync(self._signatures.check, acceptance, signature, provider)
        except ProviderRefused as refused:
            self._note(key, f"{refused.code}: {refused.message}", final=refused.is_final)
            return refused.is_final
        except (UnsafeEndpoint, BadSignature) as error:
            self._note(key, error.message, final=True)
            return True
        except TimeoutError:
            self._note(key, f"it did not answer within {ATTEMPT_SECONDS:g} s", final=False)
            return False
        except AssayError as error:
            self._note(key, printable(error.message), final=False)
            return False
        self.state.accepted[key] = StoredAcceptance(acceptance, signature)
        self.state.refused.pop(key, None)
        self.state.last_at = self._clock()
        self._on_change(provider, "accepted")
        return True

    def _note(self, key: str, message: str, *, final: bool) -> None:
        self.state.refused[key] = message
        if final:
            self._on_change(key, message)
