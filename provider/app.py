"""The HTTP API (docs/protocol.md, "JSON and HTTP"): parses, asks the desk, answers. Everything it needs is passed in.

Errors have the shape {"error": {"code", "message", "details"}} and never repeat what was sent: it may be a prompt.
Nor do they tell how this machine reaches the chain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from market.api import (
    AcceptanceBody,
    Body,
    DeliveryBody,
    ErrorBody,
    HealthBody,
    ModelBody,
    ModelsBody,
    OfferBody,
    OutputBody,
    QuoteRequest,
    SignedQuoteBody,
)
from market.errors import AssayError, BadSignature, ChainError, ContractError, MarketError, WireError
from market.hashing import ZERO32
from market.types import OutputAccess, parse_bytes32
from provider.catalogue import Catalogue, Served
from provider.desk import Desk
from provider.errors import Refusal, Stopping
from provider.limits import Buckets, Gate, headers_of, status_of
from provider.metrics import Metrics
from provider.pricing import Ask, Shop, unknown_model

OTHERS_SAY = ("InsufficientStake", "DRAINING")
ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorBody, "description": "Refused, with a reason."}}


def create_app(
    desk: Desk,
    catalogue: Catalogue,
    shop: Shop,
    unready: Callable[[], list[str]],
    metrics: Metrics | None = None,
) -> ASGIApp:
    """The application behind its limits.

    Args:
        unready: why no job can be taken now; empty when one can. Must not block.
        metrics: counts what is answered and refused.
    """
    metrics = metrics or Metrics()
    limits = shop.limits
    return Gate(
        create_api(desk, catalogue, shop, unready, metrics),
        body_limit=limits.request_bytes,
        concurrency=limits.http_concurrency,
        body_seconds=limits.body_seconds,
        bucket=Buckets(
            limits.requests_per_second,
            limits.request_burst,
            total_per_second=limits.total_requests_per_second,
            total_burst=limits.total_request_burst,
        ),
        refused=metrics.refused,
        answered=metrics.answered,
    )


def create_api(
    desk: Desk,
    catalogue: Catalogue,
    shop: Shop,
    unready: Callable[[], list[str]],
    metrics: Metrics | None = None,
) -> FastAPI:
    """The application without its limits: for its OpenAPI description, and for `create_app`."""
    api = FastAPI(title="Assay provider", version="1", docs_url=None, redoc_url=None, responses=ERRORS)
    metrics = metrics or Metrics()
    answer_errors(api, metrics.refused)
    # handlers without `async` run on worker threads: the desk blocks for its journal and for the chain

    @api.post("/v1/quotes", response_model=SignedQuoteBody)
    def quotes(body: QuoteRequest) -> Response:
        # too little stake and draining are the desk's to say, with its numbers and its code
        if codes := [reason for reason in unready() if not reason.startswith(OTHERS_SAY)]:
            message = f"This provider cannot follow the chain now ({', '.join(codes)}), so it promises nothing."
            raise Refusal("NOT_READY", message, status=503, retry_after=5)
        ask = Ask(body.client, body.mode, body.request, body.model_id or ZERO32)
        quote, signature = desk.quote(ask)
        metrics.quoted()
        return _answer(SignedQuoteBody(quote=quote, signature=signature))

    @api.put("/v1/requests/{request_hash}", response_model=AcceptanceBody)
    def requests(request_hash: str, body: DeliveryBody) -> Response:
        promised = parse_bytes32("requestHash", request_hash)
        messages = None if body.messages is None else [message.to_json() for message in body.messages]
        acceptance, signature = desk.accept(
            promised, body.subject_id, body.request, body.ids, messages, body.log_probabilities
        )
        return _answer(AcceptanceBody(acceptance=acceptance, signature=signature))

    @api.get("/v1/outputs/{subject_id}", response_model=OutputBody)
    def outputs(
        subject_id: str,
        x_assay_client: Annotated[str | None, Header()] = None,
        x_assay_valid_until: Annotated[str | None, Header()] = None,
        x_assay_signature: Annotated[str | None, Header()] = None,
    ) -> Response:
        subject = parse_bytes32("subjectId", subject_id)
        access, signature = _access(subject, x_assay_client, x_assay_valid_until, x_assay_signature)
        delivered = desk.output(subject, access, signature)
        return _answer(
            OutputBody(
                output=delivered.output,
                ids=list(delivered.ids),
                receipt=delivered.receipt,
                signature=delivered.signature,
                inference_ms=delivered.inference_ms,
                log_probabilities=delivered.log_probabilities,
            )
        )

    @api.get("/v1/models", response_model=ModelsBody)
    async def list_models() -> Response:
        return _answer(ModelsBody(models=[_model(served, shop) for served in catalogue.values()]))

    @api.get("/v1/models/{model_id}/tokenizer.json", response_class=Response)
    async def tokenizer(model_id: str) -> Response:
        return Response(_served(catalogue, model_id).tokenizer, media_type="application/json")

    @api.get("/v1/models/{model_id}/template.jinja", response_class=Response)
    async def template(model_id: str) -> Response:
        return Response(_served(catalogue, model_id).template, media_type="text/plain; charset=utf-8")

    @api.get("/healthz", response_model=HealthBody)
    async def healthz() -> Response:
        return _answer(HealthBody(status="ok"))

    @api.get("/readyz", response_model=HealthBody, responses={503: {"model": HealthBody}})
    async def readyz() -> Response:
        reasons = unready()
        return _answer(HealthBody(status="unready" if reasons else "ok", reasons=reasons), 503 if reasons else 200)

    return api


def _model(served: Served, shop: Shop) -> ModelBody:
    product, limits, terms = served.product, shop.limits, shop.terms
    return ModelBody(
        model_id=product.model_id,
        name=product.name,
        uri=product.uri,
        context=product.context,
        vocabulary=product.vocabulary,
        stop_tokens=list(served.stop_tokens),
        roots=served.roots,
        offer=OfferBody(
            token=shop.token,
            base_fee=product.prices.base_fee,
            pricePerMInput=product.prices.per_m_input,
            pricePerMOutput=product.prices.per_m_output,
            max_input_tokens=min(limits.max_input_tokens, product.context - 1),
            max_output_tokens=min(limits.max_output_tokens, product.context - 1),
            bond=terms.bond,
            kill_fee_bps=terms.kill_fee_bps,
            miss_fee_bps=terms.miss_fee_bps,
        ),
        modes=[int(mode) for mode in shop.modes_of(product)],
    )


def _served(catalogue: Catalogue, model_id: str) -> Served:
    parsed = parse_bytes32("modelId", model_id)
    served = catalogue.get(parsed)
    if served is None:
        raise unknown_model(parsed, status=404)
    return served


def _access(
    subject: bytes, client: str | None, valid_until: str | None, signature: str | None
) -> tuple[OutputAccess | None, bytes]:
    """The three headers as a struct and its signature; (None, b"") when none of them came."""
    if client is None and valid_until is None and signature is None:
        return None, b""
    try:
        access = OutputAccess.from_json(
            {"subjectId": "0x" + subject.hex(), "client": client, "validUntil": valid_until}
        )
        return access, bytes.fromhex((signature or "").removeprefix("0x"))
    except (WireError, ValueError):
        raise BadSignature(
            "X-Assay-Client, X-Assay-Valid-Until and X-Assay-Signature go together: an address, unix seconds, hex."
        ) from None


def _answer(body: Body, status: int = 200) -> Response:
    return JSONResponse(body.to_json(), status)


def answer_errors(api: FastAPI, refused: Callable[[str], None]) -> None:
    """Gives every error of an API of ours its one shape; `refused` is told each code."""
    for kind, told in ((AssayError, _assay_error), (HTTPException, _http_error), (RequestValidationError, _malformed)):
        api.add_exception_handler(kind, _answers(told, refused))


def _answers(
    tell: Callable[[Any], tuple[AssayError, int, Mapping[str, str] | None]], refused: Callable[[str], None]
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """An exception handler: `tell` makes error, status and headers out of an exception."""

    async def handle(_: Request, raised: Exception) -> Response:
        error, status, headers = tell(raised)
        refused(error.code)
        return JSONResponse(error.as_json(), status, headers)

    return handle


def _assay_error(error: AssayError) -> tuple[AssayError, int, Mapping[str, str] | None]:
    return for_strangers(error), status_of(error), headers_of(error)


def for_strangers(error: AssayError) -> AssayError:
    """What somebody outside may read of an error: a refusal as it is, this machine's own troubles by their code alone.

    The text of a ChainError may name the operator's RPC endpoint, that of a JournalError or ConfigError a path here.
    """
    if isinstance(error, WireError | MarketError | ContractError | Stopping):
        return error
    if isinstance(error, ChainError):
        return ChainError("The chain cannot be asked right now; try again later.", code=error.code)
    return AssayError("This provider cannot answer right now; try again later.", code=error.code)


def _malformed(error: RequestValidationError) -> tuple[AssayError, int, Mapping[str, str] | None]:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return WireError(f"{field}: {first['msg']}.", code="MALFORMED", field=field), 400, None


def _http_error(error: HTTPException) -> tuple[AssayError, int, Mapping[str, str] | None]:
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "MALFORMED")
    return Refusal(code, f"{error.detail}.", hint="See GET /openapi.json."), error.status_code, error.headers
