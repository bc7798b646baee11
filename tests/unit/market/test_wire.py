"""The wire's vectors in Python (tests/unit/contracts holds Solidity to the same file), and the JSON forms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_keys.constants import SECPK1_N
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from market import types
from market.errors import BadSignature, WireError
from market.hashing import (
    UNUSED_TOKEN,
    ZERO32,
    encode_static,
    job_id,
    keccak256,
    leaf_hash,
    merkle_root,
    pack_stop_tokens,
    pack_tokens,
    tokens_root,
    unpack_stop_tokens,
    unpack_tokens,
)
from market.signing import Domain, recover, sign, verify
from market.types import (
    Acceptance,
    Commitment,
    Model,
    Output,
    OutputAccess,
    Quote,
    Receipt,
    Request,
    WireStruct,
)

ROOT = Path(__file__).resolve().parents[3]
VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "wire.json").read_text(encoding="utf-8"))
STRUCTS: tuple[type[WireStruct], ...] = (
    Model,
    Request,
    Output,
    Quote,
    Commitment,
    Receipt,
    Acceptance,
    OutputAccess,
)
DOMAIN = Domain(31337, "0x" + "44" * 20)


def h(text: str) -> bytes:
    return keccak256(text.encode())


# the values of docs/protocol.md, "Vectors", written out once more so that the file cannot drift with the code
MODEL = Model(h("weights"), h("program"), h("tables"), h("tokenizer"), h("template"))
REQUEST = Request(MODEL.model_id, tokens_root([1, 2, 3]), 3, 16, pack_stop_tokens([2]), 0, 0, 0, 0, ZERO32, h("nonce"))
OUTPUT = Output(tokens_root([7, 8, 2]), 3, 1)
PROVIDER, CLIENT, TOKEN = "0x" + "11" * 20, "0x" + "22" * 20, "0x" + "33" * 20
QUOTE = Quote(
    PROVIDER, CLIENT, MODEL.model_id, REQUEST.request_hash, 1, TOKEN,
    10, 50000, 200000, 5, 6, 1000000, 4096, 256, 2000000000, 7,
)  # fmt: skip
COMMITMENT = Commitment(h("job"), PROVIDER, OUTPUT.output_hash, h("salt"))
RECEIPT = Receipt(h("job"), 0, REQUEST.request_hash, tokens_root([7, 8, 2]), 3, 1, 123, 1700000000)
PAGE = {
    "tokensRoot([1,2,3])": (tokens_root([1, 2, 3]), "b59c4afeae4c6af6a326295e19dec41e237625902d807ba9781ce78e1812ba11"),
    "tokensRoot([0..8])": (tokens_root(range(9)), "069089e0e112d0053a68f4ee292f03f972d50f5bee33bda5f6b131fdc2e828ea"),
    "modelId": (MODEL.model_id, "e9fb51aa69d3320cbdc443f1139b4a3c3f2ea25a21759d8d70a9e33ea30a3699"),
    "requestHash": (REQUEST.request_hash, "2ff7180eca27e1aacc557844d561aed15d5b6bdcf2ea85ec1b77ea47f427ac6a"),
    "outputHash": (OUTPUT.output_hash, "06475f9c9bbac1280799360f9e3afbb2f628573470572030dc5b7f006c992e9f"),
    "Commitment": (DOMAIN.digest(COMMITMENT), "27940413d27c731b0413838a5ced1d92674c469a8c0871a7560c91808af225af"),
    "Quote": (DOMAIN.digest(QUOTE), "97a719d016733fd2ec7334201b0e851cad10af23532d6000c42df0fd4a4b5727"),
    "Receipt": (DOMAIN.digest(RECEIPT), "6a0929f743013d798d9d142d1f42924a566087cf3022d683e5fd884a6cf1f4cf"),
}


@pytest.mark.parametrize("name", PAGE)
def test_vector_of_the_page_holds_in_python(name: str) -> None:
    computed, expected = PAGE[name]
    assert computed.hex() == expected


@pytest.mark.parametrize("vector", VECTORS["tokensRoot"], ids=lambda vector: str(vector["ids"]))
def test_tokens_root_equals_the_vector(vector: dict[str, Any]) -> None:
    assert "0x" + tokens_root(vector["ids"]).hex() == vector["root"]


@pytest.mark.parametrize("name", VECTORS["structs"])
def test_struct_hash_equals_the_vector(name: str) -> None:
    entry = VECTORS["structs"][name]
    value = getattr(types, name).from_json(entry["value"])
    assert "0x" + value.hash_struct().hex() == entry["hashStruct"]
    assert value.to_json() == entry["value"]


@pytest.mark.parametrize("name", VECTORS["digests"])
def test_digest_equals_the_vector(name: str) -> None:
    entry, words = VECTORS["digests"][name], VECTORS["domain"]
    domain = Domain(words["chainId"], words["verifyingContract"], words["name"], words["version"])
    value = getattr(types, name).from_json(entry["value"])
    assert "0x" + domain.digest(value).hex() == entry["digest"]
    assert value.to_json() == entry["value"]


def test_vector_file_holds_every_signed_struct_of_the_page() -> None:
    assert set(VECTORS["structs"]) == {"Model", "Request", "Output"}
    assert set(VECTORS["digests"]) >= {"Commitment", "Quote", "Receipt", "Acceptance"}


@pytest.mark.parametrize("kind", [kind for kind in STRUCTS if kind is not OutputAccess], ids=lambda kind: kind.__name__)
def test_struct_in_python_has_the_fields_of_solidity(kind: type[WireStruct]) -> None:
    source = (ROOT / "contracts" / "interfaces" / "Wire.sol").read_text(encoding="utf-8")
    body = re.search(rf"struct {kind.__name__} \{{(.*?)\}}", source, re.DOTALL)
    assert body is not None
    fields = re.findall(r"^\s*(\w+) (\w+);", body[1], re.MULTILINE)
    assert kind.type_string() == f"{kind.__name__}({','.join(f'{type_} {name}' for type_, name in fields)})"


# -------------------------------------------------------------------------------------------------------- JSON


def _value(solidity: str) -> st.SearchStrategy[Any]:
    if solidity == "address":
        return st.binary(min_size=20, max_size=20).map(lambda raw: to_checksum_address(raw))
    if solidity == "bytes32":
        return st.binary(min_size=32, max_size=32)
    return st.integers(0, (1 << int(solidity.removeprefix("uint"))) - 1)


def _structs() -> st.SearchStrategy[WireStruct]:
    return st.sampled_from(STRUCTS).flatmap(
        lambda kind: st.builds(kind, *[_value(solidity) for _, _, solidity in kind.members()])
    )


@given(_structs())
def test_json_form_through_text_gives_the_same_struct(value: WireStruct) -> None:
    assert type(value).from_json(json.loads(json.dumps(value.to_json()))) == value


@given(_structs(), st.data())
def test_hash_changes_with_every_field(value: WireStruct, data: st.DataObject) -> None:
    attribute, _, solidity = data.draw(st.sampled_from(value.members()))
    other = data.draw(_value(solidity).filter(lambda drawn: drawn != getattr(value, attribute)))
    changed = type(value)(**{**vars(value), attribute: other})
    assert changed.hash_struct() != value.hash_struct()


@given(_structs(), st.data())
def test_json_with_one_malformed_field_is_refused(value: WireStruct, data: st.DataObject) -> None:
    document = value.to_json()
    _, name, solidity = data.draw(st.sampled_from(value.members()))
    document[name] = data.draw(st.sampled_from(_malformed(solidity)))
    with pytest.raises(WireError) as refused:
        type(value).from_json(document)
    assert name in str(refused.value)


def _malformed(solidity: str) -> list[Any]:
    always = [None, [], {}, 1.5, True, "", "0x", " 1", "-1", "٣", "1e3", "0x" + "zz" * 32, "0x" + "11" * 33]
    if solidity == "address":
        return [*always, 7, "11" * 20, "0x" + "11" * 19, "0x" + "11" * 32]
    if solidity == "bytes32":
        return [*always, 7, "11" * 32, "0x" + "11" * 20, "0x" + " 1" * 32]
    bits = int(solidity.removeprefix("uint"))
    if bits >= 64:
        return [*always, 7, str(1 << bits), "1" * 79, "0x10"]
    return [*always, "7", -1, 1 << bits]


@given(_structs(), st.text(min_size=1, max_size=8))
def test_json_with_an_unknown_field_is_refused(value: WireStruct, name: str) -> None:
    document = value.to_json()
    if name not in document:
        with pytest.raises(WireError):
            type(value).from_json({**document, name: 0})


@given(_structs(), st.data())
def test_json_without_a_field_is_refused(value: WireStruct, data: st.DataObject) -> None:
    document = value.to_json()
    del document[data.draw(st.sampled_from(sorted(document)))]
    with pytest.raises(WireError):
        type(value).from_json(document)


@pytest.mark.parametrize("document", [None, [], "{}", 7])
def test_json_that_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(WireError):
        Output.from_json(document)


def test_json_address_in_any_case_is_the_same_address() -> None:
    document = COMMITMENT.to_json()
    mixed = {**document, "provider": "0x" + "aB" * 20}
    lower = {**document, "provider": "0x" + "ab" * 20}
    assert Commitment.from_json({**mixed, "provider": mixed["provider"].lower()}) == Commitment.from_json(lower)


# ------------------------------------------------------------------------------------------------------ tokens

IDS = st.lists(st.integers(0, UNUSED_TOKEN - 1), max_size=70)


@given(IDS)
def test_packed_tokens_unpacked_are_the_same(ids: list[int]) -> None:
    packed = pack_tokens(ids)
    assert len(packed) % 32 == 0
    assert unpack_tokens(packed, len(ids)) == ids


@given(IDS.filter(bool), st.data())
def test_tokens_root_changes_with_every_token(ids: list[int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(ids) - 1))
    changed = [*ids]
    changed[index] = (changed[index] + 1) % UNUSED_TOKEN
    assert tokens_root(changed) != tokens_root(ids)


@given(IDS)
def test_tokens_root_is_the_merkle_root_of_its_words(ids: list[int]) -> None:
    packed = pack_tokens(ids)
    words = [packed[start : start + 32] for start in range(0, len(packed), 32)]
    assert tokens_root(ids) == merkle_root(leaf_hash(word) for word in words)


@pytest.mark.parametrize("token", [-1, UNUSED_TOKEN, UNUSED_TOKEN + 1, 1 << 64])
def test_token_out_of_range_is_refused(token: int) -> None:
    with pytest.raises(ValueError, match="token id"):
        pack_tokens([1, token])


@pytest.mark.parametrize(
    ("packed", "count"),
    [
        (b"", 1),
        (pack_tokens([1, 2, 3]), 2),
        (pack_tokens([1, 2, 3]), 4),
        (pack_tokens([1, 2, 3]), 9),
        (pack_tokens([1, 2, 3])[:-4] + bytes(4), 3),
        (pack_tokens([1, 2, 3]) + b"\xff" * 32, 3),
    ],
)
def test_packed_tokens_that_do_not_match_the_count_are_refused(packed: bytes, count: int) -> None:
    with pytest.raises(ValueError, match=r"bytes|filler"):
        unpack_tokens(packed, count)


@given(st.sets(st.integers(0, UNUSED_TOKEN - 1), max_size=8))
def test_stop_tokens_unpacked_are_the_same(ids: set[int]) -> None:
    assert unpack_stop_tokens(pack_stop_tokens(ids)) == tuple(sorted(ids))


def test_stop_tokens_beyond_eight_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 8"):
        pack_stop_tokens(range(9))


@pytest.mark.parametrize(
    "packed",
    [
        b"\xff" * 31,
        pack_tokens([2, 1]),
        pack_tokens([2, 2]),
        b"\xff" * 4 + bytes.fromhex("00000001") + b"\xff" * 24,
    ],
)
def test_stop_tokens_out_of_order_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="stop"):
        unpack_stop_tokens(packed)


def test_leaf_of_odd_length_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        leaf_hash(b"x" * 33)


STATIC = {
    "bytes32": st.binary(min_size=32, max_size=32),
    "address": st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()),
    "int256": st.integers(-(1 << 255), (1 << 255) - 1),
    **{f"uint{bits}": st.integers(0, (1 << bits) - 1) for bits in (8, 32, 64, 128, 256)},
}


@given(st.lists(st.sampled_from(sorted(STATIC)).flatmap(lambda kind: st.tuples(st.just(kind), STATIC[kind]))))
def test_static_values_are_encoded_as_eth_abi_does(members: list[tuple[str, Any]]) -> None:
    kinds, values = [kind for kind, _ in members], [value for _, value in members]
    assert encode_static(kinds, values) == encode(kinds, values)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint8", 256),
        ("uint8", -1),
        ("uint256", 1 << 256),
        ("uint256", "1"),
        ("int256", 1 << 255),
        ("int256", -(1 << 255) - 1),
        ("bytes32", bytes(31)),
        ("bytes32", "0x" + "00" * 32),
        ("address", "0x" + "00" * 19),
        ("address", "00" * 21),
        ("address", "0x" + "zz" * 20),
        ("string", "a"),
    ],
)
def test_value_that_does_not_fit_its_type_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"does not fit|hexadecimal"):
        encode_static([kind], [value])


def test_job_id_binds_chain_contract_client_and_nonce() -> None:
    base: tuple[int, str, str, int] = (31337, TOKEN, CLIENT, 0)
    others: list[tuple[int, str, str, int]] = [
        (1, TOKEN, CLIENT, 0),
        (31337, CLIENT, CLIENT, 0),
        (31337, TOKEN, PROVIDER, 0),
        (31337, TOKEN, CLIENT, 1),
    ]
    assert len({job_id(*base), *(job_id(*other) for other in others)}) == 5


# -------------------------------------------------------------------------------------------------- signatures

ACCOUNT = Account.from_key(b"\x07" * 32)


def test_signature_recovers_to_its_signer() -> None:
    signature = sign(DOMAIN, QUOTE, ACCOUNT)
    assert recover(DOMAIN, QUOTE, signature) == ACCOUNT.address
    verify(DOMAIN, QUOTE, signature, ACCOUNT.address.lower())


@pytest.mark.parametrize(
    "domain",
    [
        Domain(1, DOMAIN.verifying_contract),
        Domain(31337, "0x" + "45" * 20),
        Domain(31337, DOMAIN.verifying_contract, "Assay Sessions"),
        Domain(31337, DOMAIN.verifying_contract, version="2"),
    ],
    ids=["chain", "contract", "name", "version"],
)
def test_signature_of_another_domain_is_refused(domain: Domain) -> None:
    signature = sign(domain, QUOTE, ACCOUNT)
    with pytest.raises(BadSignature):
        verify(DOMAIN, QUOTE, signature, ACCOUNT.address)


def test_signature_of_another_struct_is_refused() -> None:
    signature = sign(DOMAIN, QUOTE, ACCOUNT)
    with pytest.raises(BadSignature):
        verify(DOMAIN, RECEIPT, signature, ACCOUNT.address)


def _with_high_s(signature: bytes) -> bytes:
    s = SECPK1_N - int.from_bytes(signature[32:64])
    return signature[:32] + s.to_bytes(32) + bytes([27 + 28 - signature[64]])


@pytest.mark.parametrize("spoil", [lambda s: s[:64], lambda s: s + b"\0", lambda s: s[:64] + b"\1", _with_high_s])
def test_signature_in_another_form_is_refused(spoil: Any) -> None:
    with pytest.raises(BadSignature):
        verify(DOMAIN, QUOTE, spoil(sign(DOMAIN, QUOTE, ACCOUNT)), ACCOUNT.address)


@given(st.binary(min_size=65, max_size=65))
def test_signature_of_random_bytes_is_refused(signature: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(DOMAIN, QUOTE, signature, ACCOUNT.address)
