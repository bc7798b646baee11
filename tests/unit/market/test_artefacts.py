"""The shipped ABIs, and that the typed views have exactly their fields."""

from __future__ import annotations

import dataclasses
import re

import pytest

from market.artefacts import Parameter, load, parse, shipped
from market.errors import ConfigError
from market.hashing import keccak256
from market.settlement import BondState
from market.types import Mode, Model, Output, Quote, Request
from market.views import Exit, JobParams, JobView, Offer, ProviderView, ReplicaView, SignedQuote, modes_mask


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", name).lower()


def _output(contract: str, function: str) -> Parameter:
    return load(contract).function(function).outputs[0]


def _input(contract: str, function: str, index: int) -> Parameter:
    return load(contract).function(function).inputs[index]


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [
        (JobView, _output("Jobs", "job")),
        (ReplicaView, _output("Jobs", "replicas")),
        (JobParams, _input("Jobs", "post", 0)),
        (SignedQuote, _input("Jobs", "post", 0).components[6]),
        (Quote, _input("Jobs", "post", 0).components[6].components[0]),
        (Request, _input("Jobs", "post", 0).components[5]),
        (Output, _input("Jobs", "reveal", 1)),
        (Model, _output("Registry", "models")),
        (Offer, _output("Registry", "offers")),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_python_struct_has_the_fields_of_the_abi_in_order(kind: type, parameter: Parameter) -> None:
    fields = [field.name for field in dataclasses.fields(kind)]
    assert fields == [_snake(part.name) for part in parameter.components]


@pytest.mark.parametrize(("kind", "function"), [(Exit, "exits"), (ProviderView, "providers")])
def test_python_result_has_the_outputs_of_the_abi_in_order(kind: type, function: str) -> None:
    contract = "Vault" if function == "exits" else "Registry"
    outputs = [_snake(output.name) for output in load(contract).function(function).outputs]
    assert [field.name for field in dataclasses.fields(kind)] == outputs


def test_selectors_are_the_standards() -> None:
    # https://eips.ethereum.org/EIPS/eip-20 as every tool prints them
    assert load("TestToken").function("transfer").selector.hex() == "a9059cbb"
    assert load("TestToken").function("balanceOf").selector.hex() == "70a08231"
    transfer = next(event for event in load("TestToken").events if event.name == "Transfer")
    assert transfer.topic == keccak256(b"Transfer(address,address,uint256)")


def test_struct_types_are_written_out() -> None:
    seal = load("Vault").function("seal")
    assert seal.signature == "seal(address[])"
    assert load("Vault").constructor[3].kind == "(address,uint256)[]"


def test_named_values_have_structs_as_dicts_and_checksummed_addresses() -> None:
    parameter = load("Vault").constructor[3]
    named = parameter.named([("0x" + "ab" * 20, 7)])
    assert named == [{"token": "0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB", "cap": 7}]


def test_artefact_that_is_not_shipped_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="Nowhere"):
        load("Nowhere")


def test_abi_with_an_overloaded_function_is_refused() -> None:
    entry = {"type": "function", "name": "f", "inputs": [], "outputs": []}
    with pytest.raises(ConfigError, match="overloads"):
        parse("Twice", [entry, {**entry, "inputs": [{"name": "x", "type": "uint256"}]}])


def test_shipped_contracts_can_be_deployed() -> None:
    for artefact in shipped():
        assert artefact.creation.code
        assert len(artefact.creation.code) < 2 * 24_576


def test_modes_mask_has_a_bit_per_mode() -> None:
    mask = modes_mask((Mode.QUORUM, Mode.NONE, Mode.QUORUM))
    offer = Offer("0x" + "11" * 20, 0, 0, 0, 1, 1, mask)
    assert mask == 0b11
    assert offer.offers(Mode.QUORUM)
    assert not offer.offers(Mode.PROOF)


def test_views_and_settlement_share_their_states() -> None:
    from market import views

    assert views.BondState is BondState
