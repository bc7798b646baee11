"""One provider's HTTP API as the client sees it: bounded, strict, never trusted (docs/protocol.md, "JSON and HTTP").

What a provider sends is parsed strictly and checked by the caller against signatures and hashes; its words are
stripped of control characters before anybody prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import httpx
from pydantic import ValidationError

from market.api import (
    BODY_LIMIT,
    AcceptanceBody,
    Body,
    DeliveryBody,
    ErrorBody,
    HealthBody,
    Message,
    ModelBody,
    ModelsBody,
    OutputBody,
    QuoteRequest,
    SignedQuoteBody,
)
from market.errors import WireError
from market.proofs.api import PrivateInputBody
from market.types import Acceptance, Quote, Request

FILE_LIMIT = 64 << 20
"""Bytes of a tokenizer or template."""

B = TypeVar("B", bound=Body)


class ProviderUnreachable(WireError):
    """No HTTP answer in time, or a broken connection."""


class ProviderRefused(WireError):
    """The provider said no; `code` is its code, `details["status"]` the HTTP status."""

    @property
    def is_final(self) -> bool:
        """Whether asking again the same way is pointless."""
        return bool(self.details["status"] < 500 and self.details["status"] != 429)


def printable(text: str, limit: int = 300) -> str:
    """Foreign text that is safe to print: no control or escape characters, bounded."""
    return "".join(c if c.isprintable() else " " for c in text[:limit])


class ProviderHttp:
    """The endpoints of one or many providers over one HTTP client.

    Raises (every method): ProviderUnreachable, ProviderRefused, UnsafeEndpoint, WireError (an answer that is none).
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def quote(self, endpoint: str, request: Request, client: str, mode: int) -> tuple[Quote, bytes]:
        """Asks for a price for exactly this request."""
        body = QuoteRequest(request=request, client=client, mode=mode)
        answer = await self._ask(SignedQuoteBody, "POST", endpoint, "/v1/quotes", body)
        return answer.quote, answer.signature

    async def deliver(
        self,
        endpoint: str,
        subject_id: bytes,
        request: Request,
        ids: Sequence[int],
        messages: Sequence[dict[str, str]] | None,
        log_probabilities: int = 0,
    ) -> tuple[Acceptance, bytes]:
        """Hands over the prompt; repeating it is harmless. `log_probabilities`: likeliest tokens to be told of."""
        turns = None if messages is None else [Message.model_validate(message) for message in messages]
        body = DeliveryBody(
            subject_id=subject_id,
            request=request,
            ids=list(ids),
            messages=turns,
            log_probabilities=log_probabilities,
        )
        path = f"/v1/requests/0x{request.request_hash.hex()}"
        answer = await self._ask(AcceptanceBody, "PUT", endpoint, path, body)
        return answer.acceptance, answer.signature

    async def deliver_input(self, endpoint: str, body: PrivateInputBody) -> None:
        """Hands a private input over to a provider of proofs; repeating it is harmless."""
        await self._ask(HealthBody, "PUT", endpoint, f"/v1/requests/0x{body.request.request_hash.hex()}", body)

    async def output(
        self, endpoint: str, subject_id: bytes, client: str, valid_until: int, signature: bytes
    ) -> OutputBody:
        """Reads an output; `signature` is the client's OutputAccess. Nothing in the answer is checked yet."""
        headers = {
            "X-Assay-Client": client.lower(),
            "X-Assay-Valid-Until": str(valid_until),
            "X-Assay-Signature": "0x" + signature.hex(),
        }
        return await self._ask(OutputBody, "GET", endpoint, f"/v1/outputs/0x{subject_id.hex()}", headers=headers)

    async def models(self, endpoint: str) -> list[ModelBody]:
        """What the provider says it serves: its word only."""
        return (await self._ask(ModelsBody, "GET", endpoint, "/v1/models")).models

    async def file(self, endpoint: str, model_id: bytes, name: str) -> bytes:
        """tokenizer.json or template.jinja of a model; the caller checks its hash."""
        return await self._bytes("GET", endpoint, f"/v1/models/0x{model_id.hex()}/{name}", FILE_LIMIT)

    # --------------------------------------------------------------------------------------------------- plumbing

    async def _ask(
        self,
        kind: type[B],
        method: str,
        endpoint: str,
        path: str,
        body: Body | None = None,
        headers: dict[str, str] | None = None,
    ) -> B:
        content = await self._bytes(method, endpoint, path, BODY_LIMIT, body, headers)
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            raise WireError(
                f"its answer is malformed at {printable(where, 60)}: {printable(first['msg'], 120)}", code="malformed"
            ) from None

    async def _bytes(
        self,
        method: str,
        endpoint: str,
        path: str,
        limit: int,
        body: Body | None = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        url = endpoint.rstrip("/") + path
        content = bytearray()
        try:
            document = None if body is None else body.to_json()
            async with self._http.stream(method, url, json=document, headers=headers) as response:
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > limit:
                        raise WireError(f"its answer is larger than {limit} bytes", code="too_large")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = type(error).__name__
            raise ProviderUnreachable(f"it cannot be reached ({reason})", code="unreachable", reason=reason) from None
        if response.status_code != 200:
            raise _refusal(response.status_code, bytes(content))
        return bytes(content)


def _refusal(status: int, content: bytes) -> ProviderRefused:
    try:
        error = ErrorBody.model_validate_json(content).error
    except ValidationError:
        return ProviderRefused(f"it answered with HTTP status {status}", code=f"HTTP_{status}", status=status)
    return ProviderRefused(printable(error.message), code=printable(error.code, 60), status=status)
