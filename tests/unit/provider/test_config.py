"""The configuration refuses what it does not understand, and `init`'s file says what it was told."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from market.errors import ConfigError
from market.hashing import keccak256
from market.types import Mode, Sampler
from provider import config_file
from provider.config import Prices, ProviderConfig, Terms
from provider.config_file import Choices

CHOICES = Choices(
    rpc_url="http://127.0.0.1:8545",
    deployment="deployment.json",
    keystore="keystore.json",
    data_dir="data",
    packs=("packs/tiny",),
)
LEAST = """
rpc_url = "http://127.0.0.1:8545"
deployment = "deployment.json"
keystore = "keystore.json"
data_dir = "data"
packs = ["pack"]
"""


def load(folder: Path, text: str) -> ProviderConfig:
    path = folder / "provider.toml"
    path.write_text(text, encoding="utf-8")
    return ProviderConfig.load(path)


def test_written_file_reads_back_as_chosen(tmp_path: Path) -> None:
    choices = Choices(
        rpc_url="http://127.0.0.1:8545",
        ws_url="ws://127.0.0.1:8545",
        deployment="deployment.json",
        keystore="keystore.json",
        data_dir="data",
        packs=("packs/tiny", 'packs/odd "name"'),
        port=0,
        endpoint="https://provider.example/assay",
        label="eu",
        modes=("none",),
        samplers=("greedy",),
        threads=1,
        confirmations=3,
        stake=2**70,
        prices=Prices(base_fee=1, per_m_input=2, per_m_output=3),
        terms=Terms(bond=4, kill_fee_bps=5, valid_seconds=6),
        token_per_coin=7,
        settle_grace=8,
    )
    written = config_file.write(tmp_path / "provider.toml", choices)
    config = ProviderConfig.load(tmp_path / "provider.toml")
    assert config == written
    assert config.packs == (tmp_path / "packs/tiny", tmp_path / 'packs/odd "name"')
    assert config.offered_modes == (Mode.NONE,)
    assert config.offered_samplers == (Sampler.GREEDY,)
    assert (config.stake, config.prices.per_m_output, config.terms.valid_seconds) == (2**70, 3, 6)
    assert (config.ws_url, config.endpoint, config.threads) == (choices.ws_url, choices.endpoint, 1)
    assert (config.gas.token_per_coin, config.timing.settle_grace, config.label) == (7, 8, "eu")


def test_written_file_without_options_shows_the_defaults(tmp_path: Path) -> None:
    config_file.write(tmp_path / "written.toml", CHOICES)
    written = ProviderConfig.load(tmp_path / "written.toml")
    plain = load(tmp_path, LEAST.replace('["pack"]', '["packs/tiny"]'))
    assert written == plain


def test_write_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "provider.toml"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="left as it is"):
        config_file.write(path, CHOICES)
    assert path.read_text(encoding="utf-8") == "mine"


def test_written_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    config_file.write(tmp_path / "provider.toml", CHOICES)
    assert stat.S_IMODE((tmp_path / "provider.toml").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("colour = 1", "colour"),
        ("stake = 1.5", "stake"),
        ("stake = -1", "stake"),
        ("stake = true", "stake"),
        ('stake = "1e18"', "stake"),
        ("port = 65536", "port"),
        ('ws_url = "http://127.0.0.1"', "ws_url"),
        ('endpoint = "ftp://a"', "endpoint"),
        ('modes = ["proof"]', "modes"),
        ("modes = []", "modes"),
        ('samplers = ["seeded"]', "samplers"),
        ("samplers = []", "samplers"),
        ("[terms]\nmiss_fee_bps = 9999", "terms.miss_fee_bps"),
        ("[prices]\nbase_fee = 1e3", "prices.base_fee"),
        ("[limits]\nqueue = 0", "limits.queue"),
        ('host = "0.0.0.0"', ""),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, line: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, LEAST + line)
    assert caught.value.details["field"] == field
    assert caught.value.exit_code == 2


def test_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="assay provider init"):
        ProviderConfig.load(tmp_path / "none.toml")


def test_kernels_are_chosen_by_a_known_name(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST).kernels == "auto"
    assert load(tmp_path, LEAST + 'kernels = "portable"').kernels == "portable"
    with pytest.raises(ConfigError, match="kernels"):
        load(tmp_path, LEAST + 'kernels = "abacus"')


def test_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, "rpc_url = ")


def test_prices_of_a_model_go_before_the_general_ones(tmp_path: Path) -> None:
    model_id = keccak256(b"model")
    config = load(
        tmp_path,
        LEAST + f'[prices]\nbase_fee = 1\n[model_prices."0x{model_id.hex().upper()}"]\nbase_fee = 2\n'
        "[model_prices.tiny]\nbase_fee = 3\n",
    )
    assert config.prices_of(model_id, "tiny").base_fee == 2
    assert config.prices_of(keccak256(b"other"), "tiny").base_fee == 3
    assert config.prices_of(keccak256(b"other"), "other").base_fee == 1


def test_metrics_are_off_unless_a_port_is_set_and_read_by_this_machine_alone(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST).metrics.port is None
    config = load(tmp_path, LEAST + "[metrics]\nport = 9700\n")
    assert (config.metrics.host, config.metrics.allow) == ("127.0.0.1", ("127.0.0.0/8", "::1/128"))
    with pytest.raises(ConfigError, match=r"metrics\.allow"):
        load(tmp_path, LEAST + '[metrics]\nport = 9700\nallow = ["everybody"]\n')


@pytest.mark.parametrize("line", ["request_bytes = 2000000", "head_seconds = 0", "connections = -1"])
def test_limit_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=line.split(" = ")[0]):
        load(tmp_path, LEAST + f"[limits]\n{line}\n")


@pytest.mark.parametrize("written", ['["https://one/", "https://two"]', '"https://one, https://two"'])
def test_several_rpc_urls_are_a_list_or_have_commas(tmp_path: Path, written: str) -> None:
    assert load(tmp_path, LEAST.replace('"http://127.0.0.1:8545"', written)).rpc_url == "https://one,https://two"


def test_one_of_several_rpc_urls_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rpc_url"):
        load(tmp_path, LEAST.replace('"http://127.0.0.1:8545"', '["https://one", "two"]'))
