"""How the doctor sees RPC endpoints: over real sockets, through a proxy that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assay.doctor import app, check_endpoints
from market.anvil import Anvil
from market.rpc_survey import EndpointState, survey
from tests.rpc_proxy import Fault, FaultProxy, answers, only, stuck_at


@pytest.fixture
def second(anvil: Anvil) -> Iterator[FaultProxy]:
    with FaultProxy(anvil.rpc_url) as running:
        yield running


def settings(tmp_path: Path, *urls: str) -> dict[str, str]:
    return {"ASSAY_HOME": str(tmp_path), "ASSAY_RPC": ",".join(urls)}


def of(proxy: FaultProxy, states: list[EndpointState]) -> EndpointState:
    return next(state for state in states if state.origin == proxy.rpc_url)


def test_endpoints_that_work_are_shown_with_chain_head_and_lag(
    anvil: Anvil, proxy: FaultProxy, second: FaultProxy
) -> None:
    anvil.mine(5)
    second.fault = stuck_at(3)
    states = survey([proxy.rpc_url, second.rpc_url], chain_id=31337)
    first, other = of(proxy, states), of(second, states)
    assert (first.reachable, first.chain_id, first.head, first.lag, first.trouble) == (True, 31337, 5, 0, "")
    assert (other.head, other.lag, other.ok) == (3, 2, True)


def test_endpoint_far_behind_another_chain_dead_or_with_a_bad_key_is_told(
    anvil: Anvil, proxy: FaultProxy, second: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anvil.mine(20)
    second.fault = stuck_at(3)
    states = survey([proxy.rpc_url, second.rpc_url], chain_id=31337)
    assert of(second, states).trouble == "it is 17 blocks behind another"
    second.fault = only("eth_chainId", answers("0x1"))
    states = survey([proxy.rpc_url, second.rpc_url], chain_id=31337)
    assert of(second, states).trouble == "it serves chain 1, not chain 31337"
    assert (of(proxy, states).lag, of(second, states).lag) == (0, None)
    second.fault = lambda _: Fault(status=401)
    monkeypatch.setenv("ASSAY_RPC", f"{proxy.rpc_url},{second.rpc_url}/v3/secretkey")
    findings, states = check_endpoints(None, {"ASSAY_HOME": str(tmp_path)})
    assert [finding.ok for finding in findings] == [True, False]
    assert "HTTP status 401" in findings[1].found
    assert "secretkey" not in json.dumps([finding.found + finding.check for finding in findings])
    second.down()
    assert not of(second, survey([second.rpc_url], chain_id=None)).reachable


def test_command_reports_every_endpoint_and_fails_where_one_does(
    proxy: FaultProxy, second: FaultProxy, tmp_path: Path
) -> None:
    second.down()
    run = CliRunner().invoke(app, ["--json"], env=settings(tmp_path, proxy.rpc_url, second.rpc_url))
    assert run.exit_code == 1
    found: dict[str, Any] = json.loads(run.stdout)
    assert [(state["origin"], state["reachable"]) for state in found["endpoints"]] == [
        (proxy.rpc_url, True),
        (second.rpc_url, False),
    ]
    assert {check["check"]: check["ok"] for check in found["checks"]}[f"RPC {second.rpc_url}"] is False
    assert second.rpc_url in CliRunner().invoke(app, [], env=settings(tmp_path, second.rpc_url)).stdout


def test_stopped_local_network_is_no_fault_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    note = {"rpc_url": "http://127.0.0.1:1", "ws_url": "ws://127.0.0.1:1", "deployment": str(tmp_path / "none.json")}
    note |= {"client_keystore": "k", "password_file": "p"}
    (tmp_path / "network" / "network.json").write_text(json.dumps(note), encoding="utf-8")
    (finding,), (state,) = check_endpoints(None, {"ASSAY_HOME": str(tmp_path)})
    assert finding.ok
    assert not state.reachable
    assert "no answer" in finding.found


def test_nothing_configured_and_settings_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (nothing,), states = check_endpoints(None, {"ASSAY_HOME": str(tmp_path)})
    assert (nothing.ok, states) == (True, [])
    (tmp_path / "client.toml").write_text("rpc = 7 7", encoding="utf-8")
    (broken,), _ = check_endpoints(None, {"ASSAY_HOME": str(tmp_path)})
    assert not broken.ok
    assert "client.toml" in broken.found
    (missing,), _ = check_endpoints(tmp_path / "provider.toml", {})
    assert "There is no configuration" in missing.found
