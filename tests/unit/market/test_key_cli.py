"""`assay key`: keys are made, taken over and shown; never overwritten, never from the command line, never told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from market.keystore import load_account
from tests.unit.market.test_keystore import STANDARD

PASSWORD = "correct horse"
SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def assay_key(home: Path, *arguments: object, stdin: str = "", password: str | None = PASSWORD) -> Any:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ASSAY_")}
    variables["ASSAY_HOME"] = str(home)
    if password is not None:
        variables["ASSAY_PASSWORD"] = password
    command = [sys.executable, "-m", "assay", "key", *map(str, arguments)]
    return subprocess.run(command, input=stdin, env=variables, capture_output=True, text=True, check=False)


def test_new_key_opens_with_its_password_and_is_never_overwritten(home: Path) -> None:
    made = assay_key(home, "new", "--json")
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    path = Path(document["keystore"])
    assert path == home / "keystore.json"
    assert load_account(path, PASSWORD).address.lower() == document["address"]
    assert json.loads(assay_key(home, "show", "--json", password=None).stdout) == document
    before = path.read_bytes()
    for command in (["new"], ["import", "-"]):
        again = assay_key(home, *command, stdin=SECRET, password=None)  # refused before a password is asked for
        assert again.returncode == 2
        assert "left as it is" in again.stderr.replace("\n", " ")
    assert path.read_bytes() == before


@pytest.mark.parametrize("typed", [SECRET, "0x" + SECRET + "\n"])
def test_imported_digits_give_the_key_of_that_number(home: Path, typed: str) -> None:
    done = assay_key(home, "import", "-", "--json", stdin=typed)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["address"] == Account.from_key(SECRET).address.lower()
    assert SECRET not in done.stdout + done.stderr + (home / "keystore.json").read_text()


def test_imported_keystore_keeps_its_password_and_states_its_address(home: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps({"version": 3, **STANDARD}) if "version" not in STANDARD else json.dumps(STANDARD))
    done = assay_key(home, "import", foreign, "--json", password="testpassword")
    assert done.returncode == 0, done.stderr
    assert json.loads(assay_key(home, "show", "--json").stdout)["address"] == json.loads(done.stdout)["address"]
    wrong = assay_key(tmp_path / "other", "import", foreign, password="another one")
    assert wrong.returncode == 2
    assert "does not open" in wrong.stderr


@pytest.mark.parametrize("typed", ["", "zz" * 32, SECRET[:-2], "00" * 32, "ff" * 32])
def test_import_of_what_is_no_key_writes_nothing_and_does_not_repeat_it(home: Path, typed: str) -> None:
    done = assay_key(home, "import", "-", stdin=typed)
    assert done.returncode == 2
    assert "no private key" in done.stderr
    assert not typed or typed not in done.stderr + done.stdout
    assert not (home / "keystore.json").exists()


def test_show_without_a_key_says_how_to_make_one(home: Path) -> None:
    done = assay_key(home, "show")
    assert done.returncode == 2
    assert "assay key new" in done.stderr
