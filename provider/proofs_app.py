"""The HTTP API of a provider of proofs: quotes, private inputs, what is sold. Parses, asks the desk, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.types import ASGIApp

from market.api import Body, HealthBody, QuoteRequest, SignedQuoteBody
from market.errors import WireError
from market.hashing import ZERO32
from market.proofs.api import PrivateInputBody
from market.types import parse_bytes32
from provider.app import ERRORS, answer_errors
from provider.config import Limits
from provider.limits import Buckets, Gate
from provider.proofs import ProofDesk


class ProvedModelBody(Body):
    """A model that proofs are sold of."""

    model_id: Annotated[str, Field(pattern="^0x[0-9a-f]{64}$")]
    name: str
    inputs: int
    outputs: int
    input_form: str
    labels: list[str]


class ProvedModelsBody(Body):
    """All of them."""

    models: list[ProvedModelBody]


def create_proofs_app(desk: ProofDesk, limits: Limits) -> ASGIApp:
    """The application behind its limits."""
    return Gate(
        create_proofs_api(desk),
        body_limit=limits.request_bytes,
        concurrency=limits.http_concurrency,
        body_seconds=limits.body_seconds,
        bucket=Buckets(
            limits.requests_per_second,
            limits.request_burst,
            total_per_second=limits.total_requests_per_second,
            total_burst=limits.total_request_burst,
        ),
        refused=lambda _code: None,
        answered=lambda *_seen: None,
    )


def create_proofs_api(desk: ProofDesk) -> FastAPI:
    """The application without its limits."""
    api = FastAPI(title="Assay provider of proofs", version="1", docs_url=None, redoc_url=None, responses=ERRORS)

    answer_errors(api, lambda _code: None)

    @api.post("/v1/quotes", response_model=SignedQuoteBody)
    def quotes(body: QuoteRequest) -> JSONResponse:
        quote, signature = desk.quote(body.client, body.mode, body.request, body.model_id or ZERO32)
        return _answer(SignedQuoteBody(quote=quote, signature=signature))

    @api.put("/v1/requests/{request_hash}", response_model=HealthBody)
    def requests(request_hash: str, body: PrivateInputBody) -> JSONResponse:
        promised = parse_bytes32("requestHash", request_hash)
        if promised != body.request.request_hash:
            raise WireError("The path names another request than the body.", code="HashMismatch")
        desk.accept(body.request, body.ids, int.from_bytes(body.blinding))
        return _answer(HealthBody(status="ok"))

    @api.get("/v1/models", response_model=ProvedModelsBody)
    async def models() -> JSONResponse:
        listed = [
            ProvedModelBody(
                model_id="0x" + model_id.hex(),
                name=artefact.name,
                inputs=artefact.program.inputs,
                outputs=artefact.program.outputs,
                input_form=artefact.manifest["inputForm"],
                labels=list(artefact.labels),
            )
            for model_id, artefact in desk.shop.artefacts.items()
        ]
        return _answer(ProvedModelsBody(models=listed))

    @api.get("/healthz", response_model=HealthBody)
    async def healthz() -> JSONResponse:
        return _answer(HealthBody(status="ok"))

    return api


def _answer(body: Body) -> JSONResponse:
    return JSONResponse(body.to_json(), 200)
