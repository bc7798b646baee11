"""Wrong inputs of the command line: each message says what happened, that nothing was lost and what to do."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assay import cli
from market.chain import Chain
from market.deployment import Contracts, Deployment
from tests.integration.client.conftest import Town

PROMPT = "the cat sat"
ZERO_JOB = "0x" + "ab" * 32
NOTHING_LOST = re.compile(r"nothing (was|is|of it)|left as it is|stays queued", re.IGNORECASE)


@dataclass(frozen=True)
class Wrong:
    """A command, and what its error must say. `files` are written before it into the folder it runs in."""

    arguments: str
    exit_code: int
    says: str
    stdin: str = ""
    password: str = ""


WRONG = [
    Wrong("job post --yes ''", 2, "The prompt is empty"),
    Wrong("job post --yes @missing.txt", 2, "missing.txt cannot be read"),
    Wrong("job post --yes --file latin.txt", 2, "no UTF-8"),
    Wrong("job post --yes --messages numbers.json", 2, "no JSON list of messages"),
    Wrong("job post --yes --file long.txt", 2, "at most"),
    Wrong("job post --yes -m nope x", 5, "nope"),
    Wrong("job post --yes --mode proof x", 2, "`assay job classify`"),
    Wrong("job post --yes --mode best x", 2, "no mode “best”"),
    Wrong("job post --yes -n 8 x", 2, "5 of 8"),
    Wrong("job post --yes -n 3 -k 1 x", 2, "1 of 3"),
    Wrong("job post --yes --commit-window 5 x", 2, "commit window of 5 s"),
    Wrong("job post --yes -t 100000 x", 2, "100000 more are asked for"),
    Wrong("job post --yes --max-price a-lot x", 2, "a-lot"),
    Wrong("job post --yes --max-price 0.000001 x", 5, "the cap is 1"),
    Wrong("job post --yes --max-escrow 0.000001 x", 5, "the cap is 1"),
    Wrong("job post --yes --draw -n 7 -k 4 x", 5, "7 providers of tiny are to be drawn, 5 can be"),
    Wrong("job post --yes --draw --max-price 0.000001 x", 5, "the cap is 1"),
    Wrong("job post --yes --draw --max-escrow 0.000001 x", 5, "the cap is 0"),
    Wrong("job post --yes --draw --bond 11 x", 5, "it locks 10000000 at most, the job takes a bond of 11000000"),
    Wrong("job post --yes --draw --bond a-lot x", 2, "a-lot"),
    Wrong("job post --yes --bond 1 x", 2, "Add --draw"),
    Wrong("job post --yes --draw --max-kill-fee 9 x", 2, "kill fee of a drawn job"),
    Wrong(
        "job post --yes --draw --allow 0x1111111111111111111111111111111111111111 x", 2, "The chain draws who answers"
    ),
    Wrong("job post --draw x", 2, "Add --yes"),
    Wrong("job post --yes --escrow gold x", 2, "no escrow source “gold”"),
    Wrong("job post --yes --seed 0x12 x", 2, "--seed"),
    Wrong("job post --yes --selection-seed 0x12 x", 2, "--selection-seed"),
    Wrong("job post --yes --temperature warm x", 2, "temperature: “warm” is no plain number"),
    Wrong("job post --yes --temperature 1e-3 x", 2, "no plain number"),
    Wrong("job post --yes --temperature=-1 x", 2, "no plain number"),
    Wrong("job post --yes --temperature 70000 x", 2, "too large"),
    Wrong("job post --yes --temperature 0.000001 x", 2, "too small"),
    Wrong("job post --yes --temperature 0 --top-p 0.9 x", 2, "top-p would have no effect"),
    Wrong("job post --yes --top-p 0 x", 2, "above 0 and up to 1"),
    Wrong("job post --yes --top-p 1.1 x", 2, "above 0 and up to 1"),
    Wrong("job post --yes --stop-string '' x", 2, "at least one character"),
    Wrong("job post --yes --allow 0x1111111111111111111111111111111111111111 x", 5, "allow list"),
    Wrong("job post --yes --rpc http://127.0.0.1:1 --deployment MANIFEST --keystore KEYSTORE x", 3, "127.0.0.1:1"),
    Wrong("job post --yes --rpc RPC --deployment missing.json --keystore KEYSTORE x", 2, "missing.json"),
    Wrong("job post --yes --rpc RPC --deployment numbers.json --keystore KEYSTORE x", 2, "unreadable"),
    Wrong("job post --yes --keystore missing.json x", 2, "no keystore"),
    Wrong(
        "job post --yes --rpc RPC --deployment MANIFEST --keystore KEYSTORE x",
        2,
        "does not open",
        password="not the password",
    ),
    Wrong(f"job show {ZERO_JOB}", 2, "no job"),
    Wrong("job watch zz", 2, "zz"),
    Wrong(f"job cancel --yes {ZERO_JOB}", 3, "There is no job"),
    Wrong("withdraw 999999999", 3, "999999999"),
    Wrong("withdraw 1 --to nobody --yes", 2, "no address"),
    Wrong("provider run --config missing.toml", 2, "no configuration"),
    Wrong("provider init --pack . --stake=-1 --config p.toml", 2, "--stake"),
    Wrong("provider init --pack . --mode quick --config p.toml", 2, "modes"),
    Wrong("model show broken-pack", 2, "weights.safetensors"),
    Wrong("key import -", 2, "no private key", stdin="0x1234\n"),
]


@pytest.fixture
def folder(tmp_path: Path, tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("latin.txt").write_bytes("café".encode("latin-1"))
    Path("numbers.json").write_text("[1, 2]", encoding="utf-8")
    Path("long.txt").write_text("a " * 200_000, encoding="utf-8")
    shutil.copytree(tiny_pack, "broken-pack")
    weights = Path("broken-pack/weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.arguments[:60])
def test_wrong_input_says_what_happened_that_nothing_was_lost_and_what_to_do(
    town: Town, folder: Path, wrong: Wrong, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("ASSAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ASSAY_HOME", str(town.home if not wrong.arguments.startswith("key") else folder))
    monkeypatch.setenv("ASSAY_DATA_DIR", str(folder / "client"))
    monkeypatch.setenv("ASSAY_QUOTE_TIMEOUT", "5")
    if "KEYSTORE" in wrong.arguments:
        monkeypatch.setenv("ASSAY_PASSWORD", wrong.password or Path(town.info.password_file).read_text().strip())
    before = _money(town)
    places = {"MANIFEST": town.info.deployment, "KEYSTORE": town.info.client_keystore, "RPC": town.info.rpc_url}
    arguments = [places.get(word, word) for word in shlex.split(wrong.arguments)]
    code, text = _run(arguments, wrong.stdin, monkeypatch, capsys)
    assert code == wrong.exit_code, text
    assert wrong.says in text
    assert NOTHING_LOST.search(text), text
    assert len(text.strip().splitlines()) >= 2, f"no word on what to do next: {text}"
    assert "Traceback" not in text
    assert _money(town) == before

    code, text = _run([*arguments, "--json"], wrong.stdin, monkeypatch, capsys)
    assert code == wrong.exit_code
    error = json.loads(text)["error"]
    assert error["code"]
    assert wrong.says in error["message"]


class Typed(io.TextIOWrapper):
    """Standard input that nobody sits at."""

    def isatty(self) -> bool:
        return False


def _run(
    arguments: list[str], stdin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code and the error: standard output with --json, else what stands from "error:" on in standard error."""
    monkeypatch.setattr(sys, "argv", ["assay", *arguments])
    monkeypatch.setattr(sys, "stdin", Typed(io.BytesIO(stdin.encode())))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, printed.out if "--json" in arguments else printed.err[printed.err.find("error:") :]


def _money(town: Town) -> Any:
    contracts = Contracts.of(Chain(town.info.rpc_url), Deployment.load(Path(town.info.deployment)))
    client, token = town.info.client, contracts.token.address
    return (
        contracts.jobs.client_nonce(client),
        contracts.token.balance_of(client),
        contracts.vault.credit(token, client),
        contracts.jobs.chain.transaction_count(client),
    )
