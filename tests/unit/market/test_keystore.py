"""Keystores: standard files, private, never overwritten; passwords never from the command line."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from market.errors import ConfigError
from market.keystore import (
    KeystoreError,
    WrongPassword,
    create_account,
    load_account,
    read_address,
    read_password,
    save_account,
)

PASSWORD = "correct horse"

# the PBKDF2 vector of the Web3 Secret Storage page; like `cast wallet` files it states no address
STANDARD: dict[str, Any] = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}


def _write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_created_key_opens_with_its_password(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "one.json"
    account = create_account(path, PASSWORD, light=True)
    assert load_account(path, PASSWORD).key == account.key
    assert read_address(path) == account.address.lower()


def test_created_keys_differ(tmp_path: Path) -> None:
    addresses = {create_account(tmp_path / f"{i}.json", PASSWORD, light=True).address for i in range(3)}
    assert len(addresses) == 3


def test_keystore_is_readable_by_its_owner_only_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    create_account(path, PASSWORD, light=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_keystore_holds_no_key_in_the_clear(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    account = create_account(path, PASSWORD, light=True)
    text = path.read_text(encoding="utf-8")
    assert account.key.hex() not in text
    assert PASSWORD not in text


def test_keystore_for_real_keys_uses_the_strong_work_factor(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    account = create_account(path, PASSWORD)
    assert json.loads(path.read_text(encoding="utf-8"))["crypto"]["kdfparams"]["n"] == 1 << 18
    assert load_account(path, PASSWORD).address == account.address


def test_keystore_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    account = create_account(path, PASSWORD, light=True)
    before = path.read_bytes()
    with pytest.raises(KeystoreError) as refused:
        create_account(path, PASSWORD, light=True)
    with pytest.raises(KeystoreError):
        save_account(path, account, "another one", light=True)
    assert refused.value.code == "KeystoreExists"
    assert path.read_bytes() == before


def test_keystore_with_a_wrong_password_stays_shut(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    create_account(path, PASSWORD, light=True)
    with pytest.raises(WrongPassword) as refused:
        load_account(path, "wrong horse")
    assert "wrong horse" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_standard_keystore_without_an_address_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "cast", STANDARD)
    key = load_account(path, "testpassword").key
    assert key.hex().removeprefix("0x") == "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
    assert read_address(path) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "[]",
        "{}",
        {"version": 3},
        {**STANDARD, "version": 1},
        {**STANDARD, "crypto": {}},
        {**STANDARD, "crypto": {**STANDARD["crypto"], "kdf": "md5"}},
        {**STANDARD, "crypto": {**STANDARD["crypto"], "kdfparams": {}}},
        {**STANDARD, "padding": "x" * 70_000},
    ],
    ids=range(10),
)
def test_damaged_keystore_is_named(tmp_path: Path, content: Any) -> None:
    path = _write(tmp_path / "broken", content)
    with pytest.raises(KeystoreError, match="broken"):
        load_account(path, "testpassword")


def test_missing_keystore_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match="no keystore"):
        load_account(tmp_path / "none", PASSWORD)


def test_short_password_is_refused_before_a_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        create_account(tmp_path / "one.json", "short", light=True)
    assert list(tmp_path.iterdir()) == []


def test_password_comes_from_the_file_first_then_the_environment_then_the_prompt(tmp_path: Path) -> None:
    file = _write(tmp_path / "password", "from file\n")
    environment = {"ASSAY_PASSWORD": "from environment"}
    assert read_password(password_file=file, environment=environment) == "from file"
    assert read_password(password_file=None, environment=environment) == "from environment"
    assert read_password(password_file=None, environment={}, prompt=lambda: "from prompt") == "from prompt"


def test_password_from_nowhere_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ASSAY_PASSWORD"):
        read_password(password_file=None, environment={})
    with pytest.raises(ConfigError, match="unreadable"):
        read_password(password_file=tmp_path / "none", environment={})


def test_import_of_the_keystore_does_not_import_web3() -> None:
    code = "import sys, market.keystore; sys.exit('web3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
