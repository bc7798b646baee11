"""A market without a chain: offers in a list, providers as functions behind a real HTTP client."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from client.endpoints import Reach
from client.job_options import ChainLimits, JobOptions, Prompt
from client.model_files import ModelFiles
from client.negotiation import Bargain, Market, Negotiator
from client.progress import silent
from client.provider_http import ProviderHttp
from client.results import TokenInfo
from client.rfq import RfqPolicy
from client.signatures import SignatureChecker
from client.steps import StepClock
from market.api import SignedQuoteBody
from market.hashing import keccak256
from market.index import UnknownModel
from market.models.pack import Pack
from market.signing import Domain, sign
from market.types import Model, Quote, Request
from tests.unit.client.examples import (
    CLIENT,
    DOMAIN,
    NOW,
    SHARE_BPS,
    TOKEN,
    Listed,
    NoContracts,
    account,
    listed,
    offer,
)

Answer = Callable[[httpx.Request], httpx.Response]


@dataclass(frozen=True)
class ListedModel:
    model_id: bytes
    roots: Model
    name: str


class Directory:
    """An index whose content is given."""

    def __init__(self, model: ListedModel, offers: list[Listed]) -> None:
        self.model = model
        self.listed = offers

    def sync(self) -> int:
        return 0

    def models(self) -> list[ListedModel]:
        return [self.model]

    def find_model(self, name_or_id: str | bytes) -> ListedModel:
        if name_or_id not in (self.model.name, self.model.model_id):
            raise UnknownModel(f"No published model is called {name_or_id!r}.")
        return self.model

    def offers(self, model_id: bytes) -> list[Listed]:
        return self.listed if model_id == self.model.model_id else []


def honest_quote(number: int, request: Request, **changes: Any) -> Quote:
    """What an honest provider quotes: 10 + 1 a prompt token + 2 an output token."""
    cost = 10 + request.input_tokens + 2 * request.max_output_tokens
    base = Quote(
        provider=account(number).address,
        client=CLIENT,
        model_id=request.model_id,
        request_hash=request.request_hash,
        mode=1,
        token=TOKEN,
        base_fee=10,
        price_per_m_input=1_000_000,
        price_per_m_output=2_000_000,
        kill_fee=1,
        miss_fee=cost,
        bond=2 * cost,
        max_input_tokens=request.input_tokens,
        max_output_tokens=request.max_output_tokens,
        valid_until=NOW + 60,
        nonce=number,
    )
    return dataclasses.replace(base, **changes)


def quoting(number: int, domain: Domain = DOMAIN, **changes: Any) -> Answer:
    """A provider that answers POST /v1/quotes."""

    def answer(asked: httpx.Request) -> httpx.Response:
        request = Request.from_json(json.loads(asked.content)["request"])
        quote = honest_quote(number, request, **changes)
        body = SignedQuoteBody(quote=quote, signature=sign(domain, quote, account(number)))
        return httpx.Response(200, json=body.to_json())

    return answer


class Street:
    """Providers by port, as an httpx transport. A provider that is not there refuses connections."""

    def __init__(self, providers: dict[int, Answer]) -> None:
        self.providers = providers
        self.asked: list[httpx.Request] = []

    def __call__(self, asked: httpx.Request) -> httpx.Response:
        self.asked.append(asked)
        provider = self.providers.get((asked.url.port or 0) - 9000)
        if provider is None:
            raise httpx.ConnectError("refused", request=asked)
        return provider(asked)

    @property
    def http(self) -> ProviderHttp:
        return ProviderHttp(httpx.AsyncClient(transport=httpx.MockTransport(self)))


async def negotiate(
    pack: Pack, street: Street, cache: Path, *, count: int = 3, used: frozenset[bytes] = frozenset(), **changes: Any
) -> Bargain:
    """Negotiates one prompt with providers 0 … count − 1."""
    model = ListedModel(pack.model_id, pack.roots, pack.name)
    offers = [listed(number, offer=offer(max_output_tokens=64)) for number in range(count)]
    negotiator = Negotiator(
        Directory(model, offers),
        Market(CLIENT, TokenInfo(TOKEN, "tUSD", 6), SHARE_BPS, ChainLimits(30, 86400, 7), reach=Reach.LOOPBACK),
        ModelFiles(street.http, cache, [pack.path]),
        street.http,
        SignatureChecker(DOMAIN, NoContracts()),
        now=lambda: NOW,
        is_used=lambda digest: digest in used,
        random=lambda n: keccak256(b"random")[:n],
        policy=RfqPolicy(timeout=1.5),
    )
    options = dataclasses.replace(JobOptions(max_output_tokens=8), **changes)
    return await negotiator.negotiate(Prompt.of("the cat"), options, StepClock(), silent)
