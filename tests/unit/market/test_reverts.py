"""Custom errors in plain words: none is missing, none lies about its arguments."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from market.artefacts import Entry, encode_values, shipped
from market.errors import ContractError
from market.revert_messages import MESSAGES, PANICS
from market.reverts import decode, errors_by_selector

ERRORS = {error.name: error for artefact in shipped() for error in artefact.errors}
SAMPLES = {"address": "0x" + "11" * 20, "bytes32": b"\x22" * 32, "string": "text"}


def _arguments(error: Entry) -> list[object]:
    return [SAMPLES.get(parameter.kind, 1) for parameter in error.inputs]


def test_every_custom_error_of_every_shipped_abi_has_plain_words() -> None:
    assert set(ERRORS) - set(MESSAGES) == set()


def test_plain_words_are_for_errors_that_exist() -> None:
    assert set(MESSAGES) - set(ERRORS) == set()


def test_selectors_of_different_errors_differ() -> None:
    assert len(errors_by_selector()) == len({error.signature for error in ERRORS.values()})


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_custom_error_is_decoded_with_its_arguments(name: str) -> None:
    entry = ERRORS[name]
    error = decode(entry.selector + encode_values(entry.inputs, _arguments(entry)), "Vault.test")
    assert isinstance(error, ContractError)
    assert error.code == name
    assert list(error.details) == [parameter.name for parameter in entry.inputs]
    assert error.message.startswith("Vault.test: ")
    assert not re.search(r"[{}]", error.message)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_plain_words_use_only_arguments_of_the_error(name: str) -> None:
    used = {field for _, field, _, _ in string.Formatter().parse(MESSAGES[name][0]) if field}
    assert used <= {parameter.name for parameter in ERRORS[name].inputs}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_plain_words_are_a_sentence(name: str) -> None:
    message, hint = MESSAGES[name]
    assert message.endswith(".")
    assert hint == "" or hint.endswith(".")


def test_error_with_states_names_them() -> None:
    entry = ERRORS["WrongState"]
    error = decode(entry.selector + encode_values(entry.inputs, [b"\1" * 32, 2, 4]))
    assert error.details["has"] == "OPEN"
    assert error.details["needs"] == "SETTLED"
    assert "OPEN" in error.message


def test_error_with_a_state_out_of_range_keeps_the_number() -> None:
    entry = ERRORS["WrongState"]
    assert decode(entry.selector + encode_values(entry.inputs, [b"\1" * 32, 99, 3])).details["has"] == 99


def test_error_about_a_field_names_it() -> None:
    entry = ERRORS["QuoteMismatch"]
    error = decode(entry.selector + encode_values(entry.inputs, ["0x" + "11" * 20, b"modelId".ljust(32, b"\0")]))
    assert error.details["field"] == "modelId"


def test_revert_with_a_text_gives_the_text() -> None:
    error = decode(bytes.fromhex("08c379a0") + encode(["string"], ["no luck"]))
    assert (error.code, error.details) == ("Reverted", {"reason": "no luck"})


@pytest.mark.parametrize("number", [*PANICS, 0x99])
def test_panic_is_told_apart(number: int) -> None:
    error = decode(bytes.fromhex("4e487b71") + encode(["uint256"], [number]))
    assert (error.code, error.details) == ("Panic", {"panic": number})


def test_revert_without_data_says_that_there_is_no_reason() -> None:
    assert decode(b"", "Jobs.settle").code == "Reverted"


def test_revert_with_an_unknown_selector_keeps_the_data() -> None:
    error = decode(b"\xde\xad\xbe\xef\x01")
    assert (error.code, error.details) == ("UnknownRevert", {"data": "0xdeadbeef01"})


@given(st.sampled_from(sorted(errors_by_selector())) | st.just(bytes.fromhex("08c379a0")), st.binary(max_size=100))
def test_revert_with_garbage_behind_a_known_selector_never_raises(selector: bytes, rest: bytes) -> None:
    assert isinstance(decode(selector + rest), ContractError)


def test_enumerations_have_the_members_of_solidity() -> None:
    from market.types import Mode
    from market.views import BondState, JobState, ReplicaState

    folder = Path(__file__).resolve().parents[3] / "contracts" / "interfaces"
    source = "".join((folder / name).read_text(encoding="utf-8") for name in ("Wire.sol", "IJobs.sol"))
    for kind in (Mode, JobState, ReplicaState, BondState):
        body = re.search(rf"enum {kind.__name__} \{{(.*?)\}}", source, re.DOTALL)
        assert body is not None
        assert re.findall(r"^\s*([A-Z]+)\b", body[1], re.MULTILINE) == [member.name for member in kind]
