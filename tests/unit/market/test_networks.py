"""Chains by name: the shipped ones, and a user's own."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from market.chain import DEVELOPMENT_CHAIN_IDS
from market.errors import ConfigError
from market.networks import UNKNOWN_BIAS, Kind, Networks, shipped

OWN = """
[staging]
chain_id = 424242
kind = "test"
coin = "XYZ"
block_time_ms = 2000
confirmations = 2
finality = 60
rpc_variable = "STAGING_RPC_URL"
bias = "We run its only sequencer."
"""


def own(folder: Path, text: str) -> Networks:
    path = folder / "networks.toml"
    path.write_text(text, encoding="utf-8")
    return Networks(path)


def test_shipped_networks_are_told_apart_and_hold_no_url_and_no_key() -> None:
    networks = list(shipped().values())
    for field in ("name", "chain_id", "rpc_variable"):
        assert len({getattr(network, field) for network in networks}) == len(networks), field
    text = resources.files("market").joinpath("networks.toml").read_text(encoding="utf-8")
    assert not re.search(r"https?://|[0-9a-f]{24}", text)


def test_shipped_network_of_a_known_chain_has_its_published_id() -> None:
    # https://chainid.network
    known = {"sepolia": 11155111, "base-sepolia": 84532, "optimism-sepolia": 11155420, "arbitrum-sepolia": 421614}
    known |= {"ethereum": 1, "optimism": 10, "base": 8453, "arbitrum": 42161, "hoodi": 560048, "local": 31337}
    assert {name: network.chain_id for name, network in shipped().items()} == known


def test_every_network_declares_its_randomness_in_one_sentence() -> None:
    for network in shipped().values():
        assert network.random.source == "blockhash"
        assert re.fullmatch(r"[A-Z][^.]*\.", network.random.bias), network.name


def test_test_token_has_a_place_on_development_and_test_chains_alone() -> None:
    networks = Networks()
    takers = {network.name for network in networks if network.takes_test_token}
    assert takers == {"local", "sepolia", "hoodi", "base-sepolia", "optimism-sepolia", "arbitrum-sepolia"}
    assert {network.kind for network in networks if not network.takes_test_token} == {Kind.MAIN}


@pytest.mark.parametrize("chain_id", DEVELOPMENT_CHAIN_IDS)
def test_development_chain_is_the_local_network(chain_id: int) -> None:
    assert Networks().of(chain_id).name == "local"


def test_unknown_chain_takes_nothing_for_granted() -> None:
    network = Networks().of(999_999)
    assert (network.kind, network.takes_test_token) == (Kind.UNKNOWN, False)
    assert network.confirmations >= max(entry.confirmations for entry in shipped().values() if entry.chain_id == 1)
    assert network.random.bias == UNKNOWN_BIAS


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="sepolia") as refused:
        Networks().named("moon")
    assert refused.value.code == "UnknownNetwork"


def test_own_network_is_known_by_name_and_id(tmp_path: Path) -> None:
    networks = own(tmp_path, OWN)
    assert networks.named("staging") == networks.of(424242)
    assert networks.of(424242).coin == "XYZ"
    assert len(list(networks)) == len(shipped()) + 1


def test_own_file_that_is_not_there_changes_nothing(tmp_path: Path) -> None:
    assert list(Networks(tmp_path / "none.toml")) == list(shipped().values())


@pytest.mark.parametrize(
    "text",
    [OWN.replace("424242", "1"), OWN.replace("[staging]", "[ethereum]"), OWN.replace("424242", "8453")],
    ids=["id of ethereum", "name of ethereum", "id of base"],
)
def test_main_chain_cannot_be_declared_a_test_chain(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        own(tmp_path, text)
    assert refused.value.code == "NetworkRedefined"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x", "cannot be used"),
        ("x = 1", "cannot be used"),
        (OWN.replace("test", "toy"), "kind"),
        (OWN.replace("= 424242", "= -1"), "chain_id"),
        (OWN + 'rpc = "https://key"', "rpc: there is no such setting"),
        (OWN.replace('coin = "XYZ"', ""), "coin"),
    ],
    ids=lambda value: value[-20:],
)
def test_own_file_that_is_malformed_is_refused_with_the_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        own(tmp_path, text)
    assert refused.value.code == "BadNetworks"
