"""The code that the chain has, rebuilt from what the compiler gave: immutables, linked libraries, a library itself."""

from __future__ import annotations

from typing import Any

import pytest
from eth_abi.abi import encode

from market.anvil import Anvil
from market.chain import CREATE, Call, Chain
from market.code import Code, word
from market.hashing import keccak256
from market.transactions import Transactions
from tools.compiler import SOLC_VERSION, Artefact, compile_sources

SOURCE = f"""// SPDX-License-Identifier: Apache-2.0
pragma solidity {SOLC_VERSION};

library Twice {{
    function twice(uint256 x) external pure returns (uint256) {{
        return 2 * x;
    }}
}}

contract Uses {{
    uint256 public immutable size;
    address public immutable owner;
    bytes4 public immutable mark;

    constructor(uint256 size_, address owner_, bytes4 mark_) {{
        size = size_;
        owner = owner_;
        mark = mark_;
    }}

    function doubled() external view returns (uint256) {{
        return Twice.twice(size) + Twice.twice(1);
    }}
}}
"""
OWNER = "0x" + "ab" * 20


@pytest.fixture(scope="module")
def compiled() -> dict[str, Artefact]:
    return compile_sources({"contracts/test/Linked.sol": SOURCE})["contracts/test/Linked.sol"]


def runtime(artefact: Artefact) -> Code:
    return Code.parse(artefact["deployedBytecode"], artefact["deployedLinkReferences"], artefact["immutableReferences"])


def create(anvil: Anvil, data: bytes) -> str:
    with Transactions(Chain(anvil.rpc_url), anvil.accounts[0], ":memory:") as transactions:
        address = transactions.send(Call(CREATE, data, "creation")).contract_address
    assert address is not None
    return address


def test_code_of_a_library_and_of_what_is_linked_to_it_is_rebuilt(anvil: Anvil, compiled: dict[str, Artefact]) -> None:
    chain = Chain(anvil.rpc_url)
    library, user = compiled["Twice"], compiled["Uses"]
    at = create(anvil, Code.parse(library["bytecode"], {}).linked({}))
    assert chain.code(at) == runtime(library).deployed(at, {}, {})

    creation = Code.parse(user["bytecode"], user["linkReferences"])
    assert list(creation.libraries) == ["Twice"]
    arguments = encode(["uint256", "address", "bytes4"], [21, OWNER, b"mark"])
    address = create(anvil, creation.linked({"Twice": at}) + arguments)
    values = {"size": word("uint256", 21), "owner": word("address", OWNER), "mark": word("bytes4", b"mark")}
    assert chain.code(address) == runtime(user).deployed(address, values, {"Twice": at})
    doubled = chain.call(Call(address, keccak256(b"doubled()")[:4], "doubled"))
    assert int.from_bytes(doubled) == 44

    other = {**values, "size": word("uint256", 22)}
    assert chain.code(address) != runtime(user).deployed(address, other, {"Twice": at})
    assert chain.code(address) != runtime(user).deployed(address, values, {"Twice": OWNER})


@pytest.mark.parametrize("missing", ["size", "Twice"])
def test_code_with_a_blank_that_nobody_fills_is_not_rebuilt(compiled: dict[str, Artefact], missing: str) -> None:
    values = {"size": bytes(32), "owner": bytes(32), "mark": bytes(32)}
    libraries: dict[str, Any] = {"Twice": OWNER}
    values.pop(missing, None)
    libraries.pop(missing, None)
    with pytest.raises(KeyError, match=missing):
        runtime(compiled["Uses"]).deployed(OWNER, values, libraries)
