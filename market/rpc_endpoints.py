"""The RPC endpoints of one chain, in the order they are wanted: failover, and the way back.

Questions go to the first endpoint that works. One that fails rests and is looked at again by a scout (a short thread of
its own, so that no question waits for it); once it answers, serves the right chain and is not behind, questions go back
to it. An endpoint takes over only when it knows every block that the one before it has shown: what was read once
is never unread.
"""

from __future__ import annotations

import contextlib
import email.utils
import itertools
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from market.errors import ChainUnreachable, ConfigError, WrongChain
from market.urls import origin_of

if TYPE_CHECKING:
    from web3 import HTTPProvider

_LOG = logging.getLogger(__name__)
LAG_BLOCKS = 3
"""How many blocks an endpoint may be behind the best before questions leave it."""
SCOUT_EVERY = 30.0  # seconds between comparisons of all endpoints' heads
REST_FIRST, REST_LONGEST = 1.0, 30.0  # seconds that an endpoint rests after a failure, doubled each time
REST_OUTCAST = 300.0  # seconds until one that serves another chain, or refuses its access key, is looked at again
PAUSE_LONGEST = 5.0  # seconds that a question waits for a busy endpoint where there is no other
_RETRIED_STATUS = (429, 500, 502, 503, 504)
_BUSY = re.compile(r"rate.?limit|too many requests", re.IGNORECASE)
_BETWEEN_URLS = re.compile(r"[\s,]+(?=[a-z]+://)|\s*,\s*$", re.IGNORECASE)


def rpc_urls(given: str | Sequence[str]) -> tuple[str, ...]:
    """The URLs of a list, or of one text with commas between them.

    Raises:
        ConfigError: there is none, or one is no http or https URL.
    """
    texts = [given] if isinstance(given, str) else list(given)
    urls = tuple(dict.fromkeys(url.strip() for text in texts for url in _BETWEEN_URLS.split(text) if url.strip()))
    for url in urls or ("",):
        if not url.startswith(("http://", "https://")):
            shown = origin_of(url)
            raise ConfigError(f"The RPC URL takes http or https, not {shown}.", hint="Nothing was sent.", rpc_url=shown)
    return urls


class EndpointLost(ChainUnreachable):
    """The endpoint that a pinned series of questions went to failed in its middle; ask the series again."""


class Transient(Exception):
    """A failure worth asking again: no connection, time-out, 429, 5xx. `retry_after`: seconds, where it was told."""

    def __init__(self, cause: str, retry_after: float | None = None) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


class Endpoint:
    """One URL. `ask` is one HTTP request by web3.py's provider (a pooled session per thread)."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.origin = origin_of(url)
        self._timeout = timeout

    @cached_property
    def provider(self) -> HTTPProvider:
        from web3 import HTTPProvider  # half a second of imports that a command without a chain never pays

        return HTTPProvider(self.url, request_kwargs={"timeout": self._timeout}, exception_retry_configuration=None)

    def ask(self, method: str, parameters: Sequence[Any]) -> dict[str, Any]:
        """The answer as JSON, an error's included.

        Raises:
            Transient: no usable answer now.
            ChainUnreachable: it refuses us: asking again is no use.
        """
        import requests

        try:
            answer: Any = self.provider.make_request(method, list(parameters))
        except requests.HTTPError as error:
            raise self._status(error, method) from None
        except requests.RequestException as error:
            raise Transient(type(error).__name__) from None
        except (ValueError, TypeError):
            raise Transient("the answer is no JSON-RPC") from None
        if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
            raise Transient("the answer is no JSON-RPC")
        failure = answer.get("error")
        if isinstance(failure, dict) and (failure.get("code") == 429 or _BUSY.search(str(failure.get("message")))):
            raise Transient("it limits our rate")
        return answer

    def _status(self, error: Any, method: str) -> Exception:
        status = error.response.status_code if error.response is not None else 0
        if status in _RETRIED_STATUS:
            return Transient(f"HTTP status {status}", _seconds(error.response.headers.get("retry-after")))
        return ChainUnreachable(
            f"{self.origin} answered {method} with HTTP status {status}; nothing was sent.",
            hint="Check the RPC URL and its access key.",
            rpc_url=self.origin,
            status=status,
        )

    def number(self, method: str) -> int:
        """The answer of a method without parameters that is a number (eth_chainId, eth_blockNumber).

        Raises:
            Transient: none came.
        """
        try:
            return int(str(self.ask(method, ()).get("result")), 16)
        except ValueError:
            raise Transient(f"no number in answer to {method}") from None


@dataclass
class _Member:
    """An endpoint and what is known of it; monotonic seconds."""

    endpoint: Endpoint
    proven: bool = False  # it answered, with the right chain id, since its last failure
    foreign: int | None = None  # the id of the other chain it serves
    rests_until: float = 0.0
    told: bool = False  # it said itself how long
    strikes: int = 0
    trouble: str = ""

    def rest(self, seconds: float, trouble: str, *, told: bool = False) -> None:
        if self.proven or not self.trouble:
            _LOG.warning("RPC endpoint %s is left for %.0f s: %s", self.endpoint.origin, seconds, trouble)
        self.proven = False
        self.rests_until, self.told, self.trouble = time.monotonic() + seconds, told, trouble
        self.strikes += 1


class Endpoints:
    """See the module. Thread-safe.

    Args:
        urls: in order of preference.
        chain_id: refuse endpoints of any other chain; None = the first that answers decides.
        timeout: seconds for one request.
        attempts: how often all endpoints are tried in turn, with waits of 0.1, 0.2, 0.4 … s (at most 2 s) between.
        lag_blocks, scout_every, rest_first: see LAG_BLOCKS, SCOUT_EVERY, REST_FIRST.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        chain_id: int | None,
        timeout: float,
        attempts: int,
        lag_blocks: int = LAG_BLOCKS,
        scout_every: float = SCOUT_EVERY,
        rest_first: float = REST_FIRST,
    ) -> None:
        self._members = [_Member(Endpoint(url, timeout)) for url in urls]
        self._chain_id = chain_id
        self._timeout = timeout
        self._attempts = attempts
        self._lag_blocks = lag_blocks
        self._scout_every = scout_every
        self._rest_first = rest_first
        self._lock = threading.Lock()
        self._floor = 0  # the highest block that anybody was shown
        self._active = self._members[0]
        self._pin = threading.local()
        self._scouting = False
        self._next_scout = time.monotonic() + scout_every

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(member.endpoint.url for member in self._members)

    @property
    def origins(self) -> str:
        """Where the endpoints are, for messages: no access key in it."""
        return ", ".join(member.endpoint.origin for member in self._members)

    @property
    def active(self) -> Endpoint:
        """The endpoint that answered last."""
        return self._active.endpoint

    def saw(self, number: int) -> None:
        """A caller was shown this block: no endpoint that lacks it takes over."""
        with self._lock:
            self._floor = max(self._floor, number)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """This thread's questions inside go to one endpoint: answers that are compared must not mix two views.

        Raises:
            EndpointLost: (the questions inside) that endpoint failed.
        """
        if len(self._members) == 1 or getattr(self._pin, "held", False):
            yield
            return
        self._pin.held, self._pin.member = True, None
        try:
            yield
        finally:
            self._pin.held, self._pin.member = False, None

    def ask(self, method: str, parameters: Sequence[Any]) -> dict[str, Any]:
        """The answer as JSON, an error's included.

        Raises:
            ChainUnreachable: no endpoint gave one. WrongChain: those that answer serve another chain.
            EndpointLost: see `pinned`.
        """
        pinned: _Member | None = getattr(self._pin, "member", None)
        if pinned is not None:
            return self._ask_pinned(pinned, method, parameters)
        started = time.monotonic()
        for turn in itertools.count(1):
            failures: dict[str, Exception] = {}
            for member in self._candidates():
                self._wait_if_told(member)
                try:
                    if len(self._members) > 1:
                        self._admit(member)
                    answer = member.endpoint.ask(method, parameters)
                except (Transient, ChainUnreachable, WrongChain) as failure:
                    self._fail(member, failure)
                    failures[member.endpoint.origin] = failure
                    continue
                self._took(member)
                return answer
            self._give_up(failures, method, turn, started)
            time.sleep(min(0.1 * 2 ** (turn - 1), 2.0))
        raise AssertionError("unreachable")

    def _ask_pinned(self, member: _Member, method: str, parameters: Sequence[Any]) -> dict[str, Any]:
        try:
            return member.endpoint.ask(method, parameters)
        except (Transient, ChainUnreachable) as failure:
            self._fail(member, failure)
            raise EndpointLost(
                f"{member.endpoint.origin} failed ({failure}) in the middle of questions that belong together.",
                hint="They are asked again by themselves, of another endpoint.",
                rpc_url=member.endpoint.origin,
            ) from None

    # ----------------------------------------------------------------------------------------------- who is asked

    def _candidates(self) -> list[_Member]:
        """Who is asked next: the proven, in their order; then those nobody knows yet; those that rest come last."""
        now = time.monotonic()
        ours = [member for member in self._members if member.foreign is None]
        return sorted(ours, key=lambda member: (not member.proven, member.rests_until > now)) or self._members[:1]

    def _wait_if_told(self, member: _Member) -> None:
        if member.told:
            time.sleep(min(max(member.rests_until - time.monotonic(), 0.0), PAUSE_LONGEST))

    def _admit(self, member: _Member) -> None:
        """Whether questions may go to it: the right chain, and no block missing that was shown before.

        Raises:
            WrongChain, Transient, ChainUnreachable.
        """
        if not member.proven:
            self._check_chain(member)
        if member is not self._active and self._floor:
            number = member.endpoint.number("eth_blockNumber")
            if number < self._floor:
                raise _Behind(f"it knows block {number}, block {self._floor} was seen before")

    def _check_chain(self, member: _Member) -> None:
        got = member.endpoint.number("eth_chainId")
        with self._lock:
            self._chain_id = self._chain_id or got
        if got == self._chain_id:
            member.foreign = None
            return
        member.foreign = got
        raise WrongChain(
            f"{member.endpoint.origin} serves chain {got}, not chain {self._chain_id}; nothing was sent.",
            hint="Check the RPC URL against the deployment manifest.",
            expected=self._chain_id,
            got=got,
        )

    def _took(self, member: _Member) -> None:
        with self._lock:
            if member is not self._active:
                _LOG.warning("RPC endpoint %s takes over", member.endpoint.origin)
            self._active = member
            member.proven, member.strikes, member.trouble, member.told = True, 0, "", False
        if getattr(self._pin, "held", False):
            self._pin.member = member
        self._send_scout()

    def _fail(self, member: _Member, failure: Exception) -> None:
        """Leaves it alone for a while. An only endpoint rests only as long as it asked for."""
        told = failure.retry_after if isinstance(failure, Transient) else None
        if len(self._members) == 1 and told is None:
            return
        with self._lock:
            if told is not None:
                member.rest(told, str(failure), told=True)
            elif isinstance(failure, Transient):
                member.rest(min(self._rest_first * 2 ** min(member.strikes, 10), REST_LONGEST), str(failure))
            else:
                member.rest(REST_OUTCAST, str(failure))

    def _give_up(self, failures: dict[str, Exception], method: str, turn: int, started: float) -> None:
        """Raises once another turn is no use."""
        for kind in (WrongChain, ChainUnreachable):
            if failures and all(isinstance(failure, kind) for failure in failures.values()):
                raise next(iter(failures.values())) from None
        behind = any(isinstance(failure, _Behind) for failure in failures.values())
        if turn < self._attempts or (behind and time.monotonic() - started < self._timeout):
            return
        foreign = {member.endpoint.origin: member.trouble for member in self._members if member.foreign is not None}
        said = "; ".join(f"{origin} ({failure})" for origin, failure in (foreign | failures).items())
        raise ChainUnreachable(
            f"No answer from the chain at {said} to {method}, asked {turn} times.",
            hint="Check that the node runs and the URL is right; whatever was sent before stays queued.",
            rpc_url=self.origins,
            method=method,
        ) from None

    # ------------------------------------------------------------------------------------------------- the scout

    def _send_scout(self) -> None:
        """Looks at the endpoints nobody asks, where one better than the active may be back or it is time to compare."""
        if len(self._members) == 1:
            return
        now = time.monotonic()
        with self._lock:
            preferred = self._members[: self._members.index(self._active)]
            back = any(not member.proven and member.rests_until <= now for member in preferred)
            if self._scouting or not (back or now >= self._next_scout):
                return
            self._scouting = True
        threading.Thread(target=self._scout, name="rpc scout", daemon=True).start()

    def _scout(self) -> None:
        try:
            heads: dict[int, int] = {}
            for place, member in enumerate(self._members):
                if member.rests_until > time.monotonic():
                    continue
                try:
                    if not member.proven:
                        self._check_chain(member)
                    heads[place] = member.endpoint.number("eth_blockNumber")
                except (Transient, ChainUnreachable, WrongChain) as failure:
                    self._fail(member, failure)
            best = max([*heads.values(), self._floor])
            for place, head in heads.items():
                self._judge(self._members[place], head, best)
        finally:
            with self._lock:
                self._scouting = False
                self._next_scout = time.monotonic() + self._scout_every

    def _judge(self, member: _Member, head: int, best: int) -> None:
        with self._lock:
            if best - head > self._lag_blocks:
                member.rest(self._scout_every, f"it lags: block {head}, while another is at block {best}")
            elif not member.proven:
                member.proven, member.strikes, member.trouble, member.told = True, 0, "", False


class _Behind(Transient):
    """The endpoint lacks blocks that were seen before."""


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3): a number, or a date."""
    if not retry_after:
        return None
    with contextlib.suppress(ValueError):
        return max(float(int(retry_after)), 0.0)
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
