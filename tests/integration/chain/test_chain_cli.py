"""`assay chain` as people run it: what it prints, and what it refuses before anything is sent."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from typer.testing import CliRunner, Result

from assay.chain_cli import app
from assay.chain_deploy import deploy as deploy_command
from assay.cli import app as root
from market.anvil import Anvil
from market.chain import Chain
from market.contracts import Token
from market.deployment import Deployment, DeploymentParameters, deploy
from market.deployment_steps import steps
from market.errors import AssayError
from market.keystore import read_address, save_account
from market.networks import Network, Networks
from market.transactions import Transactions
from tests.e2e.test_readme import blocks

CHAIN_ID = 424_242
PASSWORD = "correct horse battery"
OPERATOR = 7
STEPS = [step.name for step in steps(DeploymentParameters())]
STAGING = f"""
[staging]
chain_id = {CHAIN_ID}
kind = "test"
coin = "XYZ"
block_time_ms = 0
confirmations = 0
finality = 0
rpc_variable = "STAGING_RPC_URL"
bias = "We run its only sequencer."
"""
Run = Callable[..., Result]


@dataclass(frozen=True)
class Office:
    """One operator on a chain that is not a development chain by its id."""

    anvil: Anvil
    home: Path

    @property
    def address(self) -> str:
        return self.anvil.accounts[OPERATOR].address

    @property
    def environment(self) -> dict[str, str]:
        return {
            "ASSAY_HOME": str(self.home),
            "ASSAY_PASSWORD": PASSWORD,
            "ASSAY_RPC": self.anvil.rpc_url,
            "ASSAY_KEYSTORE": str(self.home / "key.json"),
        }

    def nothing_was_sent(self) -> bool:
        return Chain(self.anvil.rpc_url).transaction_count(self.address) == 0


@pytest.fixture(scope="module")
def chain_of_module() -> Iterator[Anvil]:
    with Anvil.start(chain_id=CHAIN_ID) as anvil:
        yield anvil


@pytest.fixture
def office(chain_of_module: Anvil, tmp_path: Path) -> Iterator[Office]:
    """What a test does to the chain is undone."""
    (tmp_path / "networks.toml").write_text(STAGING, encoding="utf-8")
    save_account(tmp_path / "key.json", chain_of_module.accounts[OPERATOR], PASSWORD, light=True)
    snapshot = chain_of_module.snapshot()
    yield Office(chain_of_module, tmp_path)
    chain_of_module.revert(snapshot)


@pytest.fixture
def chain(office: Office, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `assay chain …` in this process and its home; errors come out as exceptions, as assay/cli.py takes them."""
    monkeypatch.chdir(office.home)
    for name in [name for name in os.environ if name.startswith("ASSAY_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str, **environment: str | None) -> Result:
        variables: dict[str, str | None] = {**office.environment, **environment}
        result = CliRunner().invoke(app, arguments, env=variables)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def manifest(office: Office) -> Path:
    """A market that somebody else deployed."""
    reader = Chain(office.anvil.rpc_url)
    with Transactions(reader, office.anvil.accounts[0], ":memory:") as transactions:
        first = deploy(reader, transactions, network=_staging(office))
    path = office.home / "market.json"
    first.save(path)
    return path


def _staging(office: Office) -> Network:
    return Networks(office.home / "networks.toml").named("staging")


def document(result: Result) -> Any:
    return json.loads(result.stdout)


# ------------------------------------------------------------------------------------------------------------ deploy


def test_deploy_says_the_cost_then_each_step_and_writes_the_manifest(office: Office, chain: Run) -> None:
    result = chain("deploy", "--yes")
    written = Deployment.load(office.home / "deployment-staging.json")
    written.check(Chain(office.anvil.rpc_url))
    assert f"manifest  {office.home.name}" not in result.stdout
    assert "deployment-staging.json" in result.stdout
    assert written.vault in result.stdout
    assert f"XYZ in {len(STEPS)} transactions" in result.stdout
    told = [line.split()[0] for line in result.stderr.splitlines() if ", " in line and "block " in line]
    assert told == STEPS
    assert result.stderr.index("in all") < result.stderr.index("block ")


def test_dry_run_says_the_cost_in_the_chains_coin_and_sends_nothing(office: Office, chain: Run) -> None:
    printed = chain("deploy", "--dry-run").stdout
    assert "in all" in printed
    assert " XYZ" in printed
    assert "Nothing was sent." in printed
    planned = document(chain("deploy", "--dry-run", "--json"))
    assert (planned["coin"], planned["network"], planned["enough"]) == ("XYZ", "staging", True)
    assert int(planned["total_wei"]) == sum(int(step["wei"]) for step in planned["steps"])
    assert int(planned["total_wei"]) == planned["total_gas"] * int(planned["gas_price_wei"])
    assert office.nothing_was_sent()
    assert list(office.home.glob("deployment*")) == []


def test_dry_run_says_what_a_reply_in_a_dispute_costs_beside_what_is_prepaid(office: Office, chain: Run) -> None:
    found = document(chain("deploy", "--dry-run", "--json", "--root-fee", "777"))
    reply = found["dispute_reply"]
    assert (reply["gas"], reply["root_fee"], reply["request_fee"]) == (100_000, "777", "800000")
    assert int(reply["wei"]) == 100_000 * int(found["gas_price_wei"]) > 0
    shown = " ".join(chain("deploy", "--dry-run", "--root-fee", "777").stdout.split())
    assert "about 100,000 gas" in shown
    assert "777 (root) or 800000 base units" in shown
    assert office.nothing_was_sent()


def test_dry_run_of_a_poor_account_says_how_much_is_missing(office: Office, chain: Run) -> None:
    office.anvil.rpc("anvil_setBalance", office.address, "0x0")
    assert "too little" in chain("deploy", "--dry-run").stdout
    planned = document(chain("deploy", "--dry-run", "--json"))
    assert (planned["enough"], planned["balance_wei"]) == (False, "0")


def test_dry_run_of_a_keystore_that_hides_its_address_opens_it(office: Office, chain: Run) -> None:
    """`cast wallet` writes such files."""
    content = json.loads((office.home / "key.json").read_text())
    del content["address"]
    (office.home / "key.json").write_text(json.dumps(content))
    assert document(chain("deploy", "--dry-run", "--json"))["sender"] == office.address.lower()


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        ([], {}, "NotConfirmed", "--yes"),
        (["--yes", "--network", "sepolia"], {}, "WrongChain", "not chain 11155111"),
        (["--yes", "--network", "moon"], {}, "UnknownNetwork", "sepolia"),
        (["--yes"], {"ASSAY_RPC": None}, "ConfigError", "--rpc"),
        (["--yes", "--network", "sepolia"], {"ASSAY_RPC": None}, "ConfigError", "SEPOLIA_RPC_URL"),
        (["--yes", "--rpc", "http://127.0.0.1:1"], {}, "ChainUnreachable", "No answer"),
        (["--yes", "--rpc", "127.0.0.1:8545"], {}, "ConfigError", "http or https"),
        (["--yes"], {"ASSAY_PASSWORD": "incorrect"}, "WrongPassword", "does not open"),
        (["--yes"], {"ASSAY_PASSWORD": None}, "ConfigError", "No password"),
        (["--yes", "--keystore", "none.json"], {}, "KeystoreError", "There is no keystore"),
        (["--yes", "--token", "0x12"], {}, "BadAddress", "--token"),
        (["--yes", "--reply-window", "20737"], {}, "ReplyWindowOutOfRange", "30 … 20736"),
        (["--yes", "--reply-window", "3179"], {}, "ReplyWindowTooShort", "at least 3180 s"),
        (["--yes", "--cap=-1"], {}, "BadParameter", "does not fit"),
        (["--yes", "--dispute-window", str(2**64)], {}, "BadParameter", "does not fit"),
        (["--yes", "--challenger-share-bps", "9000"], {}, "ShareOutOfRange", "outside 1 … 3000"),
        (["--yes", "--unbonding-window", "60"], {}, "UnbondingTooShort", "shorter than"),
        (["--yes", "--token", "0x" + "11" * 20], {}, "NotAToken", "no ERC-20"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_deploy_that_cannot_go_well_sends_nothing_and_says_why(
    office: Office, chain: Run, arguments: list[str], environment: dict[str, str | None], code: str, words: str
) -> None:
    with pytest.raises(AssayError) as refused:
        chain("deploy", *arguments, **environment)
    assert refused.value.code == code
    assert words in str(refused.value)
    assert office.nothing_was_sent()
    assert list(office.home.glob("deployment*")) == []


def test_deploy_of_a_poor_account_says_what_it_needs(office: Office, chain: Run) -> None:
    office.anvil.rpc("anvil_setBalance", office.address, hex(10**12))
    with pytest.raises(AssayError, match="Nothing was sent") as refused:
        chain("deploy", "--yes")
    assert (refused.value.code, refused.value.exit_code) == ("InsufficientFunds", 3)
    assert int(refused.value.details["has"]) == 10**12 < int(refused.value.details["needs"])
    assert office.nothing_was_sent()


def test_deploy_on_an_unknown_chain_wants_a_token(office: Office, chain: Run, manifest: Path) -> None:
    (office.home / "networks.toml").unlink()
    with pytest.raises(AssayError, match=r"networks\.toml") as refused:
        chain("deploy", "--yes")
    assert refused.value.code == "NoTestToken"
    assert office.nothing_was_sent()
    token = Deployment.load(manifest).token
    options = ("--token", token, "--confirmations", "0")  # this chain has no blocks but ours
    made = document(chain("deploy", "--yes", "--json", *options, "--cap", "777"))
    assert made["deployment"]["parameters"]["cap"] == 777
    assert [step["name"] for step in made["steps"]] == STEPS[1:]
    assert made["deployment"]["network"] == f"chain-{CHAIN_ID}"
    assert made["deployment"]["parameters"]["token"] == token.lower()


def test_keystore_that_states_anothers_address_sends_nothing(office: Office, chain: Run) -> None:
    content = json.loads((office.home / "key.json").read_text())
    content["address"] = office.anvil.accounts[0].address[2:]
    (office.home / "key.json").write_text(json.dumps(content))
    with pytest.raises(AssayError, match="Nothing was sent") as refused:
        chain("deploy", "--yes")
    assert refused.value.code == "KeystoreError"
    assert Chain(office.anvil.rpc_url).head().number == 0


def test_commands_of_the_readme_deploy_verify_and_give_tokens(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand there, in order, but on this chain, and with --yes where nobody sits to answer."""
    block = next(block for block in blocks("text") if "assay chain deploy" in block)
    lines = [line.split("  #")[0].strip().replace("sepolia", "staging") for line in block.splitlines()]
    assert [line.split(" --")[0] for line in lines] == [
        "assay key new", "export SEPOLIA_RPC_URL=https://…", "assay chain deploy", "assay chain deploy",
        "assay chain verify", "assay chain faucet",
    ]  # fmt: skip
    monkeypatch.chdir(office.home)
    (office.home / "key.json").unlink()
    environment = {
        "ASSAY_HOME": str(office.home),
        "ASSAY_PASSWORD": PASSWORD,
        "STAGING_RPC_URL": office.anvil.rpc_url,
        "SEPOLIA_RPC_URL": office.anvil.rpc_url,
    }
    printed = {}
    for line in (line for line in lines if line.startswith("assay")):
        words = shlex.split(line.replace("$SEPOLIA_RPC_URL", office.anvil.rpc_url))[1:]
        if words[:2] == ["chain", "deploy"] and "--dry-run" not in words:
            words.append("--yes")
        result = CliRunner().invoke(root, words, env=environment)
        assert result.exit_code == 0, (line, result.output, result.exception)
        printed[words[1]] = result.stdout
        if words[1] == "new":
            address = read_address(office.home / "key.json")
            office.anvil.rpc("anvil_setBalance", address, hex(10**18))
    assert "✗" not in printed["verify"]
    assert "10000 tUSD went to" in printed["faucet"]


def test_every_parameter_of_a_deployment_can_be_chosen() -> None:
    assert set(vars(DeploymentParameters())) <= set(inspect.signature(deploy_command).parameters)


# ------------------------------------------------------------------------------------------------------------ verify


def test_verify_of_a_good_market_shows_every_check(chain: Run, manifest: Path) -> None:
    shown = chain("verify", "--deployment", str(manifest)).stdout
    assert "code of jobs, as shipped" in shown
    assert "✗" not in shown
    assert document(chain("verify", "--deployment", str(manifest), "--json"))["ok"] is True


def test_verify_of_another_market_exits_with_the_reason(office: Office, manifest: Path) -> None:
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["parameters"]["disputeWindow"] += 1
    manifest.write_text(json.dumps(content), encoding="utf-8")
    command = [sys.executable, "-m", "assay", "chain", "verify", "--deployment", str(manifest)]
    environment = {**os.environ, **office.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "✗  code of jobs, as shipped" in done.stdout
    assert "not what the manifest says: code of jobs, as shipped" in done.stderr
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert [(check["what"], check["code"]) for check in found["checks"] if not check["ok"]] == [
        ("code of jobs, as shipped", "CodeMismatch"),
        ("dispute window", "WrongParameter"),
    ]


# ----------------------------------------------------------------------------------------------- faucet and the rest


def test_faucet_gives_its_most_or_what_is_asked(office: Office, chain: Run, manifest: Path) -> None:
    token = Token(Chain(office.anvil.rpc_url), Deployment.load(manifest).token)
    given = document(chain("faucet", "--deployment", str(manifest), "--json"))
    assert given["amount"] == token.faucet_limit() == token.balance_of(office.address)
    other = "0x" + "22" * 20
    assert "2.5 tUSD went to" in chain("faucet", "2.5", "--to", other, "--deployment", str(manifest)).stdout
    assert token.balance_of(other) == 2_500_000


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["10001"], "FaucetLimit"), (["x"], "BadAmount"), (["1", "--to", "me"], "BadAddress")],
    ids=lambda value: str(value),
)
def test_faucet_that_cannot_give_sends_nothing(
    office: Office, chain: Run, manifest: Path, arguments: list[str], code: str
) -> None:
    with pytest.raises(AssayError) as refused:
        chain("faucet", *arguments, "--deployment", str(manifest))
    assert refused.value.code == code
    assert office.nothing_was_sent()


def test_faucet_of_a_market_with_a_token_of_others_is_refused(office: Office, chain: Run, manifest: Path) -> None:
    reader = Chain(office.anvil.rpc_url)
    market = Deployment.load(manifest)
    with Transactions(reader, office.anvil.accounts[0], ":memory:") as transactions:
        # any contract with an ERC-20's code but the shipped one's: here the same token with one bit of its tail changed
        code = bytearray(reader.code(market.token))
        code[-20] ^= 1
        other = "0x" + "33" * 20
        office.anvil.rpc("anvil_setCode", other, "0x" + code.hex())
        parameters = DeploymentParameters(token=other)
        deploy(reader, transactions, parameters=parameters, network=_staging(office)).save(manifest)
    with pytest.raises(AssayError, match="nothing was sent") as refused:
        chain("faucet", "--deployment", str(manifest))
    assert refused.value.code == "NoFaucet"


def test_standard_json_writes_the_input_and_what_the_form_asks_for(office: Office, chain: Run, manifest: Path) -> None:
    told = document(chain("standard-json", "Jobs", "--out", "jobs.json", "--deployment", str(manifest), "--json"))
    assert json.loads((office.home / told["input"]).read_text())["language"] == "Solidity"
    (entry,) = json.loads((office.home / told["submission"]).read_text()).values()
    assert entry["address"] == Deployment.load(manifest).jobs.lower()
    assert entry["constructor_arguments"].startswith(Deployment.load(manifest).vault[2:].lower().rjust(64, "0"))
    assert "contracts/Vault.sol:Vault" in chain("standard-json", "--out", "all.json").stdout
    with pytest.raises(AssayError, match="cannot be written"):
        chain("standard-json", "--out", "key.json/all.json")


def test_networks_lists_the_shipped_and_ones_own(chain: Run) -> None:
    names = [entry["name"] for entry in document(chain("networks", "--json"))]
    assert {"local", "sepolia", "staging"} <= set(names)
    assert "We run its only sequencer." in " ".join(chain("networks").stdout.split())


def test_broken_file_of_networks_stops_every_command_that_reads_it(office: Office, chain: Run) -> None:
    (office.home / "networks.toml").write_text(STAGING.replace(str(CHAIN_ID), "1"), encoding="utf-8")
    for words in (["networks"], ["deploy", "--yes"]):
        with pytest.raises(AssayError) as refused:
            chain(*words)
        assert refused.value.code == "NetworkRedefined"


def test_password_is_nowhere_in_what_was_printed_or_kept(office: Office, chain: Run) -> None:
    result = chain("deploy", "--yes", "--json")
    key = Account.decrypt(json.loads((office.home / "key.json").read_text()), PASSWORD).hex()
    kept = b"".join(path.read_bytes() for path in office.home.rglob("*") if path.is_file())
    for secret in (PASSWORD, key.removeprefix("0x")):
        assert secret not in result.stdout + result.stderr
        assert secret.encode() not in kept
