"""Providers of proofs: found in the index, filtered by their offers, asked at once; the best quote is taken.

The same steps as for other jobs (client.negotiation), for one provider without a stake.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol, TypeVar

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

from client.endpoints import GuardedTransport, Reach
from client.errors import NotEnoughProviders
from client.matching import Candidate, Constraints, LeftOut, ListedOffer, match, summarise
from client.provider_http import ProviderHttp, ProviderRefused, printable
from client.rfq import RfqPolicy, gather_quotes
from client.selection import VerifiedQuote, select
from market.errors import AssayError, ChainError
from market.proofs.api import PrivateInputBody
from market.types import Mode, Quote, Request

HTTP_SECONDS = 30.0
T = TypeVar("T")
Check = Callable[[Quote, bytes], tuple[int, bytes]]
"""Checks a quote for the request at hand; its price and EIP-712 digest. Raises AssayError."""


class Offers(Protocol):
    """The local index (market.index.Index)."""

    def sync(self) -> int: ...
    def offers(self, model_id: bytes) -> Sequence[ListedOffer]: ...


@dataclass(frozen=True)
class ProverPolicy:
    """Who may be asked.

    Attributes:
        allow: only these providers, where not empty; deny: never these. Addresses.
        reach: how far into this machine's surroundings endpoints may lie.
    """

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    reach: Reach = Reach.PUBLIC
    rfq: RfqPolicy = field(default_factory=RfqPolicy)


@dataclass(frozen=True)
class FoundProver:
    """The quote that was taken, and everybody else with the reason."""

    quote: VerifiedQuote
    left_out: tuple[LeftOut, ...]


class Provers:
    """See the module. Connects to addresses that the policy allows only, and follows no redirects.

    Args:
        token: that jobs are paid in; client: the account that will post.
    """

    def __init__(self, offers: Offers, policy: ProverPolicy, *, token: str, client: str) -> None:
        self._offers = offers
        self._policy = policy
        self._token = token
        self._client = client

    def find(self, request: Request, name: str, check: Check, *, max_price: int | None = None) -> FoundProver:
        """The best quote for proving this request. No money moves.

        Args:
            name: of the model, for people; max_price: base units.
        Raises:
            NotEnoughProviders: nobody offers it, or nobody gave a quote that holds; `details["left_out"]` says why.
            ChainError: the index could not be brought up to date and knows of nobody.
        """
        listed = self._listed(request.model_id)
        candidates, left_out = match(listed, self._constraints(request, max_price))
        quotes, refused = self._run(lambda http: self._ask(http, candidates, request, check, max_price))
        left_out += refused
        if not quotes:
            raise NotEnoughProviders(
                f"No provider gave a quote that holds for a proof of {printable(name, 60)}: "
                f"{summarise(left_out) or 'nobody offers it'}.",
                hint="Nothing was spent. Try later, or name a provider that you know.",
                left_out=[item.to_json() for item in left_out],
            )
        chosen = select(quotes, replicas=1, seed=secrets.token_bytes(32))
        return FoundProver(chosen.chosen[0], (*left_out, *chosen.left_out))

    def deliver(self, endpoint: str, body: PrivateInputBody) -> None:
        """Hands a private input over; repeating it is harmless.

        Raises:
            WireError: it was refused, or nobody answered.
        """
        self._run(lambda http: http.deliver_input(endpoint, body))

    def _listed(self, model_id: bytes) -> Sequence[ListedOffer]:
        try:
            self._offers.sync()
        except ChainError:
            if not self._offers.offers(model_id):
                raise
        return self._offers.offers(model_id)

    def _constraints(self, request: Request, max_price: int | None) -> Constraints:
        return Constraints(
            mode=Mode.PROOF,
            input_tokens=request.input_tokens,
            max_output_tokens=request.max_output_tokens,
            token=self._token,
            share_bps=0,
            max_price=max_price,
            allow=frozenset(address.lower() for address in self._policy.allow),
            deny=frozenset(address.lower() for address in self._policy.deny),
            reach=self._policy.reach,
        )

    async def _ask(
        self,
        http: ProviderHttp,
        candidates: Sequence[Candidate],
        request: Request,
        check: Check,
        max_price: int | None,
    ) -> tuple[list[VerifiedQuote], list[LeftOut]]:
        async def ask(candidate: Candidate) -> VerifiedQuote | LeftOut:
            begin = monotonic()
            try:
                quote, signature = await http.quote(candidate.endpoint, request, self._client, int(Mode.PROOF))
                latency = round((monotonic() - begin) * 1000)
                if quote.provider.lower() != candidate.provider.lower():
                    return _left_out(candidate, "quote_provider", f"it sent a quote of {quote.provider.lower()}")
                cost, digest = await anyio.to_thread.run_sync(check, quote, signature)
            except ProviderRefused as refused:
                return _left_out(candidate, refused.code, f"it refused: {refused.message}")
            except AssayError as error:
                return _left_out(candidate, error.code, printable(error.message))
            if max_price is not None and cost > max_price:
                return _left_out(candidate, "max_price", f"it quotes {cost} base units, the cap is {max_price}")
            return VerifiedQuote.of(candidate, quote, signature, digest=digest, price=cost, latency_ms=latency)

        return await gather_quotes(candidates, ask, enough=1, policy=self._policy.rfq)

    def _run(self, work: Callable[[ProviderHttp], Awaitable[T]]) -> T:
        """In a loop of its own: callers are plain functions, and may have a loop running."""

        async def run() -> T:
            transport = GuardedTransport(self._policy.reach)
            async with httpx.AsyncClient(transport=transport, timeout=HTTP_SECONDS, trust_env=False) as session:
                return await work(ProviderHttp(session))

        with start_blocking_portal() as portal:
            return portal.call(run)


def _left_out(candidate: Candidate, constraint: str, message: str) -> LeftOut:
    return LeftOut(candidate.provider, candidate.endpoint, "negotiation", constraint, message)
