"""The RPC border: what it answers, and what it says when an endpoint is dead, wrong, slow or lying."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import Any

import pytest

from market.anvil import Anvil
from market.chain import Call, Chain, RpcError, same_address
from market.errors import AssayError, ChainError, ChainUnreachable, ConfigError, ContractError, WrongChain
from tests.integration.chain.world import DEPLOYER, World
from tests.rpc_proxy import Fault, FaultProxy, Question


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_chain_reads_blocks_balances_and_code(calm_world: World) -> None:
    chain = calm_world.chain
    head = chain.head()
    assert chain.block(head.number) == head
    assert chain.block(head.number - 1).hash == head.parent_hash
    assert head.timestamp > 0
    assert chain.balance(calm_world.account(9).address) == 10_000 * 10**18
    assert chain.code(calm_world.vault.address)
    assert chain.code("0x" + "99" * 20) == b""
    assert chain.web3.eth.chain_id == chain.chain_id


def test_chain_without_such_a_block_says_so(calm_world: World) -> None:
    with pytest.raises(ChainError) as missing:
        calm_world.chain.block(10**9)
    assert missing.value.code == "UnknownBlock"


def test_chain_of_another_id_is_refused_at_once(calm_world: World) -> None:
    with pytest.raises(WrongChain) as refused:
        Chain(calm_world.anvil.rpc_url, expected_chain_id=1)
    assert refused.value.details == {"expected": 1, "got": 31337}
    assert "nothing was sent" in refused.value.message


def test_chain_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(ChainUnreachable, match="No answer") as dead:
        Chain(f"http://127.0.0.1:{_free_port()}")
    assert dead.value.exit_code == 3


@pytest.mark.parametrize("url", ["", "localhost:8545", "ftp://x", "ws://127.0.0.1:1"])
def test_chain_with_a_url_that_is_none_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        Chain(url)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_chain_that_is_busy_for_a_moment_is_asked_again(proxy: FaultProxy, status: int) -> None:
    chain = Chain(proxy.rpc_url)
    proxy.fail_times(2, Fault(status=status))
    assert chain.head().number == 0
    assert proxy.asked["eth_getBlockByNumber"] == 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429),
        Fault(lose_answer=True),
        Fault(body="<html>welcome</html>"),
        Fault(body="[1]"),
        Fault(body="{}"),
        Fault(body="null"),
    ],
    ids=["429", "broken", "html", "list", "empty", "null"],
)
def test_chain_that_stays_busy_or_talks_nonsense_is_unreachable(proxy: FaultProxy, fault: Fault) -> None:
    chain = Chain(proxy.rpc_url, attempts=2)
    proxy.fault = lambda _: fault
    with pytest.raises(ChainUnreachable):
        chain.head()
    assert proxy.asked["eth_getBlockByNumber"] == 2


def test_chain_that_wants_another_key_is_not_asked_again(proxy: FaultProxy) -> None:
    chain = Chain(proxy.rpc_url)
    proxy.fault = lambda _: Fault(status=401)
    with pytest.raises(ChainUnreachable, match="401"):
        chain.head()
    assert proxy.asked["eth_getBlockByNumber"] == 1


CANARIES = ("CanaryUser", "CanaryWord", "CanaryPath", "CanaryQuery")


def _with_canaries(url: str) -> str:
    """The same endpoint with everything an access key is given in: user information, path and query."""
    return url.replace("http://", "http://CanaryUser:CanaryWord@") + "/v3/CanaryPath?key=CanaryQuery"


def _assert_shows_origin_only(error: AssayError, origin: str) -> None:
    shown = [error.message, str(error), repr(error), repr(error.args), json.dumps(error.as_json(), default=str)]
    assert [canary for canary in CANARIES for text in shown if canary in text] == []
    assert error.__cause__ is None  # nor does a traceback go on to the HTTP library's words
    assert origin in error.message


def test_chain_that_is_not_there_shows_no_access_key() -> None:
    origin = f"http://127.0.0.1:{_free_port()}"
    with pytest.raises(ChainUnreachable) as dead:
        Chain(_with_canaries(origin), attempts=1)
    _assert_shows_origin_only(dead.value, origin)


@pytest.mark.parametrize("status", [401, 429, 503])
def test_chain_that_refuses_the_access_key_does_not_show_it(proxy: FaultProxy, status: int) -> None:
    proxy.fault = lambda _: Fault(status=status, body="CanaryPath is out of credit")
    with pytest.raises(ChainUnreachable) as refused:
        Chain(_with_canaries(proxy.rpc_url), attempts=1)
    _assert_shows_origin_only(refused.value, proxy.rpc_url)


def test_wrong_chain_shows_no_access_key(proxy: FaultProxy, world: World) -> None:
    with pytest.raises(WrongChain) as refused:
        Chain(_with_canaries(proxy.rpc_url), expected_chain_id=1)
    _assert_shows_origin_only(refused.value, proxy.rpc_url)
    chain = Chain(_with_canaries(proxy.rpc_url))
    assert repr(chain) == f"Chain({proxy.rpc_url})"
    with pytest.raises(WrongChain) as other:
        replace(world.deployment, chain_id=1).check(chain)
    _assert_shows_origin_only(other.value, proxy.rpc_url)


def test_endpoint_that_quotes_its_access_key_is_quoted_without_it(proxy: FaultProxy) -> None:
    chain = Chain(_with_canaries(proxy.rpc_url))
    message = "project CanaryPath (CanaryQuery of CanaryUser:CanaryWord) is over its limit"
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": message}})
    proxy.fault = lambda _: Fault(body=body)
    with pytest.raises(RpcError, match="over its limit") as refused:
        chain.head()
    _assert_shows_origin_only(refused.value, "eth_getBlockByNumber")


@pytest.mark.parametrize("url", ["localhost/CanaryPath", "ws://CanaryUser:CanaryWord@h/CanaryPath?key=CanaryQuery"])
def test_chain_with_a_url_that_is_none_shows_no_access_key(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Chain(url)
    _assert_shows_origin_only(refused.value, "The RPC URL")


def test_chain_that_does_not_answer_in_time_is_unreachable() -> None:
    with socket.socket() as listener:  # accepts, says nothing
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(ChainUnreachable):
            Chain(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.1, attempts=2)


def test_endpoint_that_refuses_a_method_is_quoted(anvil: Anvil) -> None:
    with pytest.raises(RpcError, match="nowhere_method"):
        Chain(anvil.rpc_url).rpc("nowhere_method")


def test_call_that_reverts_is_decoded(calm_world: World) -> None:
    with pytest.raises(ContractError) as reverted:
        calm_world.jobs.job(b"\1" * 32)
    assert reverted.value.code == "UnknownJob"
    assert reverted.value.details == {"jobId": "0x" + "01" * 32}
    assert reverted.value.message.startswith("Jobs.job: ")


def test_call_with_revert_data_nested_deeper_is_decoded(world: World, proxy: FaultProxy) -> None:
    """Some endpoints put the data into an object: {"data": {"data": "0x…"}}."""

    def nest(answer: dict[str, Any]) -> dict[str, Any]:
        answer["error"]["data"] = {"message": "reverted", "data": answer["error"]["data"]}
        return answer

    chain = Chain(proxy.rpc_url)
    proxy.fail_times(1, Fault(rewrite=nest), "eth_call")
    with pytest.raises(ContractError) as reverted:
        chain.call(Call(world.jobs.address, world.jobs.settle(b"\1" * 32).data, "Jobs.settle"))
    assert reverted.value.code == "UnknownJob"


def test_call_that_reverts_without_data_is_still_a_contract_error(world: World, proxy: FaultProxy) -> None:
    def strip(answer: dict[str, Any]) -> dict[str, Any]:
        answer["error"] = {"code": -32000, "message": "execution reverted"}
        return answer

    chain = Chain(proxy.rpc_url)
    proxy.fail_times(1, Fault(rewrite=strip), "eth_call")
    with pytest.raises(ContractError) as reverted:
        chain.call(world.jobs.settle(b"\1" * 32))
    assert reverted.value.code == "Reverted"


def test_logs_of_a_range_the_endpoint_refuses_are_asked_in_parts(world: World, proxy: FaultProxy) -> None:
    for amount in range(1, 8):
        world.send(DEPLOYER, world.token.mint(world.account(0).address, amount))

    def at_most_three_blocks(question: Question) -> Fault | None:
        if question["method"] != "eth_getLogs":
            return None
        filter_ = question["params"][0]
        if int(filter_["toBlock"], 16) - int(filter_["fromBlock"], 16) < 3:
            return None
        return Fault(body='{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"range too large"}}')

    proxy.fault = at_most_three_blocks
    head = world.chain.head().number
    found = Chain(proxy.rpc_url).logs([world.token.address], 0, head)
    assert found == world.chain.logs([world.token.address], 0, head)
    assert len(found) == 7
    assert proxy.asked["eth_getLogs"] > 3


def test_logs_of_an_empty_range_are_none(calm_world: World) -> None:
    assert calm_world.chain.logs([calm_world.token.address], 5, 4) == []


def test_addresses_are_compared_as_bytes(calm_world: World) -> None:
    address = calm_world.token.address
    assert same_address(address, address.lower())
    assert not same_address(address, calm_world.vault.address)
