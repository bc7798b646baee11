from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from market.errors import BadSignature, HashMismatch, WireError
from market.hashing import ZERO32, pack_stop_tokens, tokens_root
from market.receipts import ReceiptDocument, verify_receipt
from market.signing import Domain, sign
from market.types import Finish, Receipt, Request, Sampler

PROVIDER = Account.from_key(b"\x07" * 32)
DOMAIN = Domain(31337, "0x" + "Ab" * 20)
IDS = (7, 8, 2)
REQUEST = Request(
    model_id=b"\x01" * 32,
    input_root=tokens_root([3, 4]),
    input_tokens=2,
    max_output_tokens=9,
    stop_tokens=pack_stop_tokens([2]),
    sampler=Sampler.GREEDY,
    temperature_q16=0,
    top_k=0,
    top_p_q16=0,
    seed=ZERO32,
    nonce=b"\x05" * 32,
)
RECEIPT = Receipt(b"\x09" * 32, 0, REQUEST.request_hash, tokens_root(IDS), len(IDS), Finish.STOP, 10**20, 1_700_000_000)
DOCUMENT = ReceiptDocument(DOMAIN, PROVIDER.address, REQUEST, RECEIPT, sign(DOMAIN, RECEIPT, PROVIDER), IDS)


def changed(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT.to_json())
    *folders, name = path.split(".")
    place: Any = document
    for folder in folders:
        place = place[folder]
    place[name] = value
    return document


def test_receipt_saved_to_a_file_verifies_from_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(DOCUMENT.to_json()), encoding="utf-8")
    read = verify_receipt(json.loads(path.read_text(encoding="utf-8")))
    assert (read.provider, read.request, read.receipt, read.ids) == (PROVIDER.address, REQUEST, RECEIPT, IDS)
    assert read.domain.digest(RECEIPT) == DOMAIN.digest(RECEIPT)


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("ids", [7, 8, 3], HashMismatch),
        ("ids", [7, 8], HashMismatch),
        ("request.maxOutputTokens", 10, HashMismatch),
        ("request.nonce", "0x" + "06" * 32, HashMismatch),
        ("receipt.requestHash", "0x" + "06" * 32, HashMismatch),
        ("receipt.outputTokens", 2, HashMismatch),
        ("receipt.charged", "1", BadSignature),
        ("receipt.issuedAt", "1700000001", BadSignature),
        ("receipt.finish", 2, BadSignature),
        ("receipt.subjectId", "0x" + "08" * 32, BadSignature),
        ("provider", "0x" + "11" * 20, BadSignature),
        ("domain.chainId", "1", BadSignature),
        ("domain.verifyingContract", "0x" + "11" * 20, BadSignature),
        ("domain.name", "Other Jobs", BadSignature),
        ("signature", "0x" + "00" * 65, BadSignature),
        ("signature", "0x", BadSignature),
    ],
)
def test_receipt_with_anything_changed_is_refused(path: str, value: Any, error: type[WireError]) -> None:
    with pytest.raises(error):
        verify_receipt(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("more", 1),
        ("domain", None),
        ("domain.chainId", 31337),
        ("domain.chainId", "-1"),
        ("domain.salt", "x"),
        ("domain.name", 1),
        ("domain.verifyingContract", "0x12"),
        ("provider", 5),
        ("request", []),
        ("request", None),
        ("receipt", None),
        ("signature", "zz"),
        ("signature", "0xzz"),
        ("signature", None),
        ("ids", None),
        ("ids", [True]),
        ("ids", [-1]),
        ("ids", [0xFFFFFFFF]),
        ("ids", ["7"]),
    ],
)
def test_receipt_in_another_form_is_no_receipt(path: str, value: Any) -> None:
    with pytest.raises(WireError):
        verify_receipt(changed(path, value))


@pytest.mark.parametrize("document", [None, [], "receipt", {}, {"receipt": {}}])
def test_document_that_is_no_object_of_a_receipt_is_refused(document: Any) -> None:
    with pytest.raises(WireError, match="fields"):
        verify_receipt(document)
