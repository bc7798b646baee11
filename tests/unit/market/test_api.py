"""The HTTP bodies: strict in both directions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from market.api import (
    IDS_LIMIT,
    MESSAGES_LIMIT,
    AcceptanceBody,
    Body,
    DeliveryBody,
    ErrorBody,
    HealthBody,
    LogProbabilitiesBody,
    Message,
    ModelBody,
    ModelsBody,
    OfferBody,
    OutputBody,
    QuoteRequest,
    SignedQuoteBody,
)
from market.errors import AssayError
from market.types import Acceptance, Output, Receipt
from tests.unit.market.test_wire import CLIENT, MODEL, OUTPUT, QUOTE, RECEIPT, REQUEST, TOKEN, h

SIGNATURE = b"\x05" * 65
OFFER = OfferBody(
    token=TOKEN,
    base_fee=1,
    price_per_m_input=2,
    price_per_m_output=(1 << 128) - 1,
    max_input_tokens=3,
    max_output_tokens=4,
    bond=5,
    kill_fee_bps=6,
    miss_fee_bps=10_000,
)
BODIES: list[Body] = [
    QuoteRequest(request=REQUEST, client=CLIENT, mode=1),
    QuoteRequest(model_id=MODEL.model_id, client=CLIENT, mode=0),
    SignedQuoteBody(quote=QUOTE, signature=SIGNATURE),
    DeliveryBody(subject_id=h("job"), request=REQUEST, ids=[1, 2, 3]),
    DeliveryBody(subject_id=h("job"), request=REQUEST, ids=[], messages=[Message(role="user", content="hé")]),
    AcceptanceBody(acceptance=Acceptance(h("job"), REQUEST.request_hash, 1), signature=SIGNATURE),
    OutputBody(output=OUTPUT, ids=[7, 8, 2], receipt=RECEIPT, signature=SIGNATURE, inference_ms=12),
    DeliveryBody(subject_id=h("job"), request=REQUEST, ids=[1], log_probabilities=20),
    OutputBody(
        output=OUTPUT,
        ids=[7, 8],
        receipt=RECEIPT,
        signature=SIGNATURE,
        log_probabilities=LogProbabilitiesBody(chosen=[-5, 0], top_ids=[[9, 7], [8]], top=[[-4, -5], [0]]),
    ),
    ModelsBody(
        models=[
            ModelBody(
                model_id=MODEL.model_id,
                name="toy",
                context=64,
                vocabulary=100,
                stop_tokens=[2],
                roots=MODEL,
                offer=OFFER,
                modes=[0, 1],
            )
        ]
    ),
    ErrorBody.model_validate(AssayError("it broke", code="Broken", number=1).as_json()),
    HealthBody(status="unready", reasons=["no chain"]),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_body_through_json_text_is_the_same(body: Body) -> None:
    text = json.dumps(body.to_json())
    assert type(body).model_validate(json.loads(text)) == body
    assert type(body).model_validate_json(text) == body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_body_with_an_unknown_field_is_refused(body: Body) -> None:
    with pytest.raises(ValidationError):
        type(body).model_validate({**body.to_json(), "extra": 1})


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_body_in_its_schema_names_every_field(body: Body) -> None:
    properties = type(body).model_json_schema()["properties"]
    assert set(body.to_json()) == set(properties)


def test_names_on_the_wire_are_the_wires_only() -> None:
    document = QuoteRequest(model_id=MODEL.model_id, client=CLIENT, mode=0).to_json()
    assert set(document) == {"request", "modelId", "client", "mode"}
    assert set(OFFER.to_json()) >= {"baseFee", "pricePerMInput", "pricePerMOutput", "killFeeBps"}
    document["model_id"] = document.pop("modelId")
    with pytest.raises(ValidationError):
        QuoteRequest.model_validate(document)


def test_amounts_on_the_wire_are_decimal_strings() -> None:
    document = OFFER.to_json()
    assert document["pricePerMOutput"] == str((1 << 128) - 1)
    for wrong in (5, "0x5", "-1", "1.0", "", str(1 << 128), None, True, "٣"):
        with pytest.raises(ValidationError):
            OfferBody.model_validate({**document, "bond": wrong})


@pytest.mark.parametrize(("request_", "model_id"), [(None, None), (REQUEST, MODEL.model_id)])
def test_quote_request_without_exactly_one_subject_is_refused(request_: Any, model_id: Any) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        QuoteRequest(request=request_, model_id=model_id, client=CLIENT, mode=1)


@pytest.mark.parametrize("mode", [-1, 4, 1.0, "1", True, None])
def test_quote_request_with_a_mode_that_is_none_is_refused(mode: Any) -> None:
    with pytest.raises(ValidationError):
        QuoteRequest.model_validate({**QuoteRequest(request=REQUEST, client=CLIENT, mode=1).to_json(), "mode": mode})


def _delivery(**changes: Any) -> dict[str, Any]:
    return {**DeliveryBody(subject_id=h("job"), request=REQUEST, ids=[1]).to_json(), **changes}


@pytest.mark.parametrize(
    "ids", [None, "1", [-1], [1 << 32], [(1 << 32) - 1], [1.0], ["1"], [True], [1] * (IDS_LIMIT + 1)]
)
def test_delivery_with_malformed_ids_is_refused(ids: Any) -> None:
    with pytest.raises(ValidationError):
        DeliveryBody.model_validate(_delivery(ids=ids))


@pytest.mark.parametrize(
    "messages",
    [
        "hi",
        [{"role": "user"}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": 1}],
        [{"role": "user", "content": "x", "name": "n"}],
        [{"role": "user", "content": "x" * 262_145}],
        [{"role": "user", "content": ""}] * (MESSAGES_LIMIT + 1),
    ],
)
def test_delivery_with_malformed_messages_is_refused(messages: Any) -> None:
    with pytest.raises(ValidationError):
        DeliveryBody.model_validate(_delivery(messages=messages))


def test_delivery_at_its_limits_is_taken() -> None:
    messages = [{"role": "user", "content": ""}] * MESSAGES_LIMIT
    assert len(DeliveryBody.model_validate(_delivery(ids=[1] * IDS_LIMIT, messages=messages)).ids) == IDS_LIMIT


@pytest.mark.parametrize("signature", [None, "", "0x", "0x1", "0xzz", "11" * 65, "0x" + "11" * 4097, 7])
def test_signature_in_a_body_that_is_none_is_refused(signature: Any) -> None:
    document = SignedQuoteBody(quote=QUOTE, signature=SIGNATURE).to_json()
    with pytest.raises(ValidationError):
        SignedQuoteBody.model_validate({**document, "signature": signature})


def test_body_that_is_refused_does_not_repeat_the_prompt() -> None:
    with pytest.raises(ValidationError) as refused:
        DeliveryBody.model_validate(_delivery(messages=[{"role": "user", "content": ["canary prompt"]}]))
    assert "canary" not in str(refused.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner)))
def test_body_that_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(ValidationError):
        OutputBody.model_validate(document)


def test_structs_inside_bodies_are_the_dataclasses() -> None:
    body = OutputBody.model_validate(
        {
            "output": OUTPUT.to_json(),
            "ids": [],
            "receipt": RECEIPT.to_json(),
            "signature": "0x" + SIGNATURE.hex(),
        }
    )
    assert isinstance(body.output, Output)
    assert isinstance(body.receipt, Receipt)
    assert body.inference_ms is None
