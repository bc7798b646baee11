from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.config import load_config
from market.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"ASSAY_HOME": str(tmp_path)}


def note(tmp_path: Path) -> None:
    folder = tmp_path / "network"
    folder.mkdir()
    names = ("rpc_url", "ws_url", "deployment", "client_keystore", "password_file")
    (folder / "network.json").write_text(json.dumps({name: f"local-{name}" for name in names}))


def test_config_of_nothing_points_into_the_home_folder(home: dict[str, str], tmp_path: Path) -> None:
    config = load_config({}, home)
    assert config.rpc is None
    assert (config.deployment, config.keystore) == (tmp_path / "deployment.json", tmp_path / "keystore.json")
    assert config.data_dir == tmp_path / "client"


def test_config_beside_a_local_network_uses_it_unless_another_market_is_named(
    home: dict[str, str], tmp_path: Path
) -> None:
    note(tmp_path)
    assert load_config({}, home).rpc == "local-rpc_url"
    assert load_config({"keystore": Path("mine")}, home).keystore == Path("mine")
    named = load_config({"rpc": "http://elsewhere"}, home)
    assert (named.rpc, named.keystore) == ("http://elsewhere", tmp_path / "keystore.json")


def test_config_file_lies_below_options_and_above_the_local_network(home: dict[str, str], tmp_path: Path) -> None:
    note(tmp_path)
    (tmp_path / "client.toml").write_text('rpc = "http://file"\nkeystore = "of-file"\n')
    config = load_config({"keystore": Path("of-option")}, home)
    assert (config.rpc, config.keystore) == ("http://file", Path("of-option"))


@pytest.mark.parametrize(
    ("content", "words"),
    [("rpc = ", "unreadable"), ("speed = 3", "speed cannot be used: there is no such setting"), ("packs = 3", "packs")],
)
def test_config_file_that_is_wrong_is_refused_by_name(
    home: dict[str, str], tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "client.toml").write_text(content)
    with pytest.raises(ConfigError, match=words):
        load_config({}, home)


def test_config_with_access_keys_in_its_urls_has_a_repr_without_them(home: dict[str, str]) -> None:
    urls = {"rpc": "https://h/v3/Canary", "ws": "wss://h/ws/Canary", "index_url": "postgresql://u:Canary@h/index"}
    config = load_config(urls, home)
    assert config.rpc == urls["rpc"]
    assert "Canary" not in repr(config) + str(config)


def test_several_rpc_urls_are_a_list_in_the_file_and_have_commas_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text('rpc = ["https://one", "https://two"]\nindex_url = "postgresql://h/index"\n', encoding="utf-8")
    home = {"ASSAY_HOME": str(tmp_path)}
    assert load_config({}, home).rpc == "https://one,https://two"
    assert load_config({}, home).index_url == "postgresql://h/index"
    assert load_config({"rpc": "https://three,https://four"}, home).rpc == "https://three,https://four"


def test_index_url_and_rpc_are_read_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_INDEX_URL", "postgresql://h/index")
    monkeypatch.setenv("ASSAY_RPC", "https://one,https://two")
    config = load_config({}, {"ASSAY_HOME": str(tmp_path)})
    assert (config.index_url, config.rpc) == ("postgresql://h/index", "https://one,https://two")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ()), ("/a/b", ("/a/b",)), ("/a:/b", ("/a", "/b")), ('["/a:c", "/b"]', ("/a:c", "/b"))],
)
def test_packs_are_paths_or_a_json_list_in_their_variable_and_an_empty_one_is_none(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("ASSAY_PACKS", text)
    monkeypatch.setenv("ASSAY_KEYSTORE", "")
    config = load_config({}, home)
    assert config.packs == tuple(map(Path, expected))
    assert config.keystore is not None
    assert config.keystore.name == "keystore.json"


def test_packs_that_are_no_json_are_told_apart_from_a_path(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_PACKS", "[/a")
    with pytest.raises(ConfigError, match="packs cannot be used"):
        load_config({}, home)
