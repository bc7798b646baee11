"""The HTTP bodies between client and provider, strict on both sides (docs/protocol.md, "JSON and HTTP").

Python names are snake_case, JSON names are the wire's. Unknown fields are refused. Structs of the wire are the
dataclasses of market.types; their JSON form and its checks are `to_json` and `from_json` there. Everything has a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Self, TypeVar

from eth_utils.address import is_address, to_checksum_address
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import core_schema

from market.errors import WireError
from market.hashing import STOP_TOKENS_MAX, UNUSED_TOKEN
from market.inference.log_probabilities import ENTRIES_LIMIT, TOP_LIMIT, PositionLogProbabilities
from market.types import Acceptance, Model, Output, Quote, Receipt, Request, WireStruct, parse_bytes32

BODY_LIMIT = 1 << 20
"""Bytes of a request or answer body."""
IDS_LIMIT = 131_072
MESSAGES_LIMIT = 256
CONTENT_LIMIT = 262_144
"""Characters of one message."""
SIGNATURE_LIMIT = 4096
"""Bytes; 65 for a key, more only for an ERC-1271 contract."""
MODELS_LIMIT = 256
NAME_LIMIT = 128
URI_LIMIT = 256

_OURS: Any = object()
"""Validation context of values that our own code hands over, which may be Python's instead of JSON's."""

T = TypeVar("T", bound=WireStruct)


def _read(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A parser that raises WireError as a validator: pydantic takes ValueError."""

    def validate(value: Any) -> Any:
        try:
            return parse(value)
        except WireError as error:
            raise ValueError(str(error)) from None

    return validate


def _struct_schema(kind: type[WireStruct]) -> dict[str, Any]:
    """JSON schema of a struct's JSON form, for OpenAPI."""
    properties = {name: _member_schema(solidity) for _, name, solidity in kind.members()}
    return {
        "title": kind.__name__,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _member_schema(solidity: str) -> dict[str, Any]:
    if solidity == "address":
        return {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}
    if solidity == "bytes32":
        return {"type": "string", "pattern": "^0x[0-9a-fA-F]{64}$"}
    bits = int(solidity.removeprefix("uint"))
    if bits >= 64:
        return {"type": "string", "pattern": "^[0-9]{1,78}$"}
    return {"type": "integer", "minimum": 0, "maximum": (1 << bits) - 1}


def _struct(kind: type[T]) -> GetPydanticSchema:
    """Annotation: the struct itself or its JSON form in, the dataclass inside, the JSON form out."""

    def parse(value: Any) -> T:
        return value if isinstance(value, kind) else kind.from_json(value)

    def schema(_source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _read(parse),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.to_json()),
            metadata={"pydantic_js_functions": [lambda _core, _handler: _struct_schema(kind)]},
        )

    return GetPydanticSchema(schema)


def _parse_hash(value: Any) -> bytes:
    if isinstance(value, bytes) and len(value) == 32:
        return value
    return parse_bytes32("hash", value)


def _parse_signature(value: Any) -> bytes:
    if isinstance(value, bytes):
        data = value
    else:
        if not (isinstance(value, str) and value.startswith("0x") and len(value) <= 2 + 2 * SIGNATURE_LIMIT):
            raise WireError("a signature is 0x and hex digits")
        try:
            data = bytes.fromhex(value[2:])
        except ValueError:
            raise WireError("a signature is 0x and hex digits") from None
    if not 0 < len(data) <= SIGNATURE_LIMIT:
        raise WireError(f"a signature has 1 to {SIGNATURE_LIMIT} bytes")
    return data


def _parse_address(value: Any) -> str:
    if not (isinstance(value, str) and value.startswith("0x") and is_address(value)):
        raise WireError("not an address")
    return to_checksum_address(value)


def _parse_amount(value: Any, info: ValidationInfo) -> int:
    if info.context is _OURS and isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 39:
        number = int(value)
    else:
        raise ValueError("an amount is a decimal string of base units")
    if not 0 <= number < 1 << 128:
        raise ValueError("an amount fits 128 bits")
    return number


def _as_hex(value: bytes) -> str:
    return "0x" + value.hex()


def _schema(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern})


Hash = Annotated[bytes, PlainValidator(_read(_parse_hash)), PlainSerializer(_as_hex), _schema("^0x[0-9a-fA-F]{64}$")]
Signature = Annotated[
    bytes, PlainValidator(_read(_parse_signature)), PlainSerializer(_as_hex), _schema("^0x([0-9a-fA-F]{2})+$")
]
Address = Annotated[
    str,
    PlainValidator(_read(_parse_address)),
    PlainSerializer(lambda value: value.lower()),
    _schema("^0x[0-9a-fA-F]{40}$"),
]
Amount = Annotated[int, PlainValidator(_parse_amount), PlainSerializer(str), _schema("^[0-9]{1,39}$")]
TokenId = Annotated[int, Field(strict=True, ge=0, lt=UNUSED_TOKEN)]
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 32)]
ModeNumber = Annotated[int, Field(strict=True, ge=0, le=3)]
Ids = Annotated[list[TokenId], Field(max_length=IDS_LIMIT)]
LnQ16 = Annotated[int, Field(strict=True, ge=-(1 << 64), le=0)]


class Body(BaseModel):
    """A JSON object of the API."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        serialize_by_alias=True,
        hide_input_in_errors=True,  # a prompt never ends up in a log
        protected_namespaces=(),
    )

    def __init__(self, **values: Any) -> None:
        """Takes Python names (and JSON names); `model_validate` and HTTP bodies take JSON names alone."""
        self.__pydantic_validator__.validate_python(
            values, self_instance=self, by_alias=True, by_name=True, context=_OURS
        )

    # as pydantic marks its own constructors: validation of foreign data goes past this one
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class QuoteRequest(Body):
    """POST /v1/quotes: a price for one request, or for any request of a model. Exactly one of the two is given."""

    request: Annotated[Request, _struct(Request)] | None = None
    model_id: Hash | None = None
    client: Address
    mode: ModeNumber

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.request is None) == (self.model_id is None):
            raise ValueError("give exactly one of request and modelId")
        return self


class SignedQuoteBody(Body):
    """A quote and its provider's EIP-712 signature (domain `Assay Jobs`)."""

    quote: Annotated[Quote, _struct(Quote)]
    signature: Signature


class Message(Body):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=CONTENT_LIMIT)]


class LogProbabilitiesBody(Body):
    """ln of the probability that the model gives each output token (`chosen`), and the likeliest tokens in its place
    (`top_ids`, likeliest first) with theirs (`top`). Q16 (docs/numerics.md, section 11).

    Information: not hashed, signed or paid.
    """

    chosen: Annotated[list[LnQ16], Field(max_length=ENTRIES_LIMIT)]
    top_ids: Annotated[list[Annotated[list[TokenId], Field(max_length=TOP_LIMIT)]], Field(max_length=ENTRIES_LIMIT)]
    top: Annotated[list[Annotated[list[LnQ16], Field(max_length=TOP_LIMIT)]], Field(max_length=ENTRIES_LIMIT)]

    @classmethod
    def of(cls, told: Iterable[PositionLogProbabilities]) -> Self:
        positions = list(told)
        return cls(
            chosen=[position.chosen.value_q16 for position in positions],
            top_ids=[[each.token for each in position.top] for position in positions],
            top=[[each.value_q16 for each in position.top] for position in positions],
        )


class DeliveryBody(Body):
    """PUT /v1/requests/{requestHash}: the prompt of a job, as ids and, where there are any, as the messages behind.

    `log_probabilities`: of how many likeliest tokens the answer is to tell; a provider may tell of fewer, or of none.
    """

    subject_id: Hash
    request: Annotated[Request, _struct(Request)]
    ids: Ids
    messages: Annotated[list[Message], Field(max_length=MESSAGES_LIMIT)] | None = None
    log_probabilities: Annotated[int, Field(strict=True, ge=0, le=TOP_LIMIT)] = 0


class AcceptanceBody(Body):
    """The provider holds the request."""

    acceptance: Annotated[Acceptance, _struct(Acceptance)]
    signature: Signature


class OutputBody(Body):
    """GET /v1/outputs/{subjectId}: the answer with its receipt. `inference_ms` and `log_probabilities` are information,
    not signed.
    """

    output: Annotated[Output, _struct(Output)]
    ids: Ids
    receipt: Annotated[Receipt, _struct(Receipt)]
    signature: Signature
    inference_ms: Count | None = None
    log_probabilities: LogProbabilitiesBody | None = None


class OfferBody(Body):
    """A provider's list price and terms for a model; only a signed quote binds. Prices per million tokens."""

    token: Address
    base_fee: Amount
    price_per_m_input: Amount = Field(alias="pricePerMInput")
    price_per_m_output: Amount = Field(alias="pricePerMOutput")
    max_input_tokens: Count
    max_output_tokens: Count
    bond: Amount
    kill_fee_bps: Count
    miss_fee_bps: Count


class ModelBody(Body):
    """A model this provider serves: its roots, limits, price and verification modes; where its pack can be fetched."""

    model_id: Hash
    name: Annotated[str, Field(max_length=NAME_LIMIT)]
    context: Count
    vocabulary: Count
    stop_tokens: Annotated[list[TokenId], Field(max_length=STOP_TOKENS_MAX)]
    roots: Annotated[Model, _struct(Model)]
    offer: OfferBody
    modes: Annotated[list[ModeNumber], Field(max_length=4)]
    uri: Annotated[str, Field(max_length=URI_LIMIT)] = ""


class ModelsBody(Body):
    """GET /v1/models."""

    models: Annotated[list[ModelBody], Field(max_length=MODELS_LIMIT)]


class ErrorDetail(Body):
    """What went wrong: a stable code, plain words, the numbers behind."""

    code: Annotated[str, Field(max_length=NAME_LIMIT)]
    message: Annotated[str, Field(max_length=CONTENT_LIMIT)]
    details: dict[str, Any] = {}


class ErrorBody(Body):
    """Every refusal and error of the API."""

    error: ErrorDetail


class HealthBody(Body):
    """GET /healthz and /readyz: `reasons` says what is missing while not ready."""

    status: Literal["ok", "unready"]
    reasons: Annotated[list[str], Field(max_length=64)] = []
