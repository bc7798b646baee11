"""`assay provider …` as a user runs it: programs, files, exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from market.config import queue_path
from market.errors import ConfigError
from market.inference.engine import kernels_in_use, load_engine, threads_in_use
from market.keystore import load_account
from market.transactions import Transactions
from market.types import Mode
from provider.config import ProviderConfig
from provider.errors import JournalError
from provider.journal import Journal
from provider.records import Stage
from tests.integration.provider.market import DISPUTE_WINDOW, PASSWORD, STAKE, LocalAgent, Market, Program, until
from tests.unit.provider.journals import in_the_clear


def assay(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "assay", "provider", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def error_of(result: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Exit code and error code of a command run with --json."""
    assert "Traceback" not in result.stdout + result.stderr
    return result.returncode, json.loads(result.stdout)["error"]["code"]


def test_init_writes_configuration_and_key_and_never_overwrites(market: Market, tmp_path: Path) -> None:
    config = tmp_path / "provider.toml"
    arguments = ("init", "--config", str(config), "--rpc", market.anvil.rpc_url, "--pack", str(market.pack.path))
    options = ("--deployment", str(market.manifest), "--stake", "5_000", "--per-m-output", "7", "--light", "--json")
    made = assay(*arguments, *options, ASSAY_PASSWORD="long enough")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    keystore = json.loads((tmp_path / "keystore.json").read_text(encoding="utf-8"))
    assert told["address"].lower() == "0x" + keystore["address"].lower()
    text = config.read_text(encoding="utf-8")
    assert "per_m_output = 7" in text
    assert "stake = 5000" in text
    again = assay(*arguments, *options, ASSAY_PASSWORD="long enough")
    assert error_of(again) == (2, "ConfigError")
    assert config.read_text(encoding="utf-8") == text


def test_init_beside_a_local_network_uses_it_and_warns_of_working_for_nothing(market: Market, tmp_path: Path) -> None:
    home, config = tmp_path / "home", tmp_path / "p.toml"
    note = {
        "rpc_url": market.anvil.rpc_url,
        "ws_url": market.anvil.ws_url,
        "deployment": str(market.manifest),
        "client_keystore": "-",
        "password_file": "-",
    }
    (home / "network").mkdir(parents=True)
    (home / "network" / "network.json").write_text(json.dumps(note), encoding="utf-8")
    arguments = ("init", "--config", str(config), "--pack", str(market.pack.path), "--light")
    made = assay(*arguments, ASSAY_HOME=str(home), ASSAY_PASSWORD="long enough")
    assert made.returncode == 0, made.stderr
    text = config.read_text(encoding="utf-8")
    for value in (market.anvil.rpc_url, market.anvil.ws_url, str(market.manifest)):
        assert f'"{value}"' in text
    assert "Every price is 0" in made.stdout


def test_init_without_a_password_writes_nothing(market: Market, tmp_path: Path) -> None:
    result = assay(
        "init", "--config", str(tmp_path / "p.toml"), "--pack", str(market.pack.path), "--json", ASSAY_PASSWORD=""
    )
    assert result.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_init_with_a_wrong_amount_writes_nothing(market: Market, tmp_path: Path) -> None:
    config = str(tmp_path / "p.toml")
    result = assay("init", "--config", config, "--pack", str(market.pack.path), "--stake", "1.5", "--json")
    assert error_of(result) == (2, "ConfigError")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def running(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One real agent for the tests that only look; the last test stops it."""
    config, _ = market.provider(tmp_path_factory.mktemp("program"))
    program = Program(market, config)
    program.ready()
    yield program
    program.close()


def provider_file(program: Program) -> str:
    return str(program.config.keystore.parent / "provider.toml")


def status(program: Program) -> dict[str, Any]:
    result = assay("status", "--config", provider_file(program), "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def stopped_by_itself(program: Program) -> bool:
    """Whether an ended program came to its last line; its watchdog and a second signal end it before that."""
    return any(line["event"] == "stopped" for line in program.lines())


def test_status_of_a_running_agent_shows_stake_bonds_and_earnings(market: Market, running: Program) -> None:
    before = status(running)
    assert (before["staked"], before["earned"], before["bonds"]) == (STAKE, 0, [])
    engine = before["engine"]
    here = load_engine(market.pack, threads=1)
    assert (engine["device"], engine["kernels"]) == ("cpu", [kernels_in_use(here)])
    assert engine["threads"] == threads_in_use(here)
    assert abs(engine["started_at"] - time.time()) < 600
    assert before["endpoint"] == running.url
    job, _ = market.start_job(running.url)
    until(lambda: market.settled(job))
    (replica,) = market.contracts.jobs.replicas(job)
    after = until(lambda: (s := status(running))["earned"] != 0 and s)
    assert (after["earned"], after["credit"], after["locked"]) == (replica.paid, replica.paid, replica.bond)
    (bond,) = after["bonds"]
    assert bond["job_id"] == "0x" + job.hex()
    assert bond["free_at"] == market.job(job).final_at + DISPUTE_WINDOW + 1
    shown = assay("status", "--config", provider_file(running))
    assert shown.returncode == 0
    assert "earned" in shown.stdout
    assert kernels_in_use(here) in shown.stdout
    assert "(agent started 20" in shown.stdout


def test_withdraw_beside_a_running_agent_is_carried_out_by_it(market: Market, running: Program) -> None:
    job, _ = market.start_job(running.url)
    until(lambda: market.settled(job))
    before = status(running)
    assert before["credit"]
    config, password = provider_file(running), str(market.password_file)
    taken = assay("withdraw", "--config", config, "--password-file", password, "--unstake", "0.000005", "--json")
    assert taken.returncode == 0, taken.stdout + taken.stderr
    actions = [(action["action"], action["amount"]) for action in json.loads(taken.stdout)["actions"]]
    assert actions == [("unstaking", 5), ("withdrawn", before["credit"])]
    after = status(running)
    assert after["wallet"] == before["wallet"] + before["credit"]
    assert (after["credit"], after["exiting"]) == (0, before["exiting"] + 5)
    early = assay("withdraw", "--config", config, "--password-file", password, "--finish", "--json")
    assert error_of(early) == (3, "ExitNotReady")


@pytest.mark.parametrize("option", ["--amount", "--unstake"])
def test_withdraw_of_more_places_than_the_token_has_takes_nothing(
    market: Market, running: Program, option: str
) -> None:
    password = str(market.password_file)
    arguments = ("--config", provider_file(running), "--password-file", password, option, "0.0000001", "--json")
    before = status(running)
    code, name = error_of(assay("withdraw", *arguments))
    assert (code != 0, name) == (True, "BadAmount")
    assert (status(running)["credit"], status(running)["exiting"]) == (before["credit"], before["exiting"])


@pytest.mark.parametrize("command", ["init", "run", "status", "withdraw", "drain", "resume", "earnings"])
def test_help_of_every_command_has_examples(command: str) -> None:
    shown = assay(command, "--help")
    assert shown.returncode == 0
    assert f"assay provider {command}" in shown.stdout.split("Examples:")[1]


def test_log_is_json_without_prompt_or_key(market: Market, running: Program) -> None:
    request, ids = market.request("canary canary canary")
    job = market.post([market.quote(running.url, request, Mode.NONE)], request)
    market.deliver(running.url, job, request, ids, messages=None)
    until(lambda: market.settled(job))
    text = running.text()
    assert any(line["event"] == "job_assigned" for line in running.lines())
    assert "canary" not in text
    assert ", ".join(map(str, ids)) not in text
    assert load_account(running.config.keystore, PASSWORD).key.hex() not in text
    assert all(line.startswith("{") for line in text.splitlines())


def test_sigterm_stops_the_agent_by_itself_and_money_can_then_be_taken_out(market: Market, running: Program) -> None:
    request, ids = market.request("the last")
    job = market.post([market.quote(running.url, request, Mode.NONE)], request)
    market.deliver(running.url, job, request, ids)
    until(lambda: market.settled(job))
    assert (running.end(signal.SIGTERM), stopped_by_itself(running)) == (0, True)

    market.anvil.increase_time(DISPUTE_WINDOW + 5)
    config, password = provider_file(running), str(market.password_file)
    before = status(running)
    credit, exiting = before["credit"], before["exiting"] + 1_000
    taken = assay("withdraw", "--config", config, "--password-file", password, "--unstake", "0.001", "--json")
    assert taken.returncode == 0, taken.stdout + taken.stderr
    actions = [(action["action"], action["amount"]) for action in json.loads(taken.stdout)["actions"]]
    # this job's bond, and earlier ones' unless the agent came to release them itself
    due = [("released", bond["amount"]) for bond in before["bonds"]]
    assert due
    assert actions == [*due, ("unstaking", 1_000), ("withdrawn", credit)]
    after = status(running)
    assert (after["credit"], after["exiting"], after["staked"]) == (0, exiting, STAKE - exiting)
    assert after["wallet"] == before["wallet"] + credit


def test_sigterm_stops_an_agent_whose_chain_hangs_before_its_watchdog_does(market: Market, tmp_path: Path) -> None:
    program = Program(market, market.provider(tmp_path)[0])
    try:
        program.ready()
        os.kill(market.anvil.pid, signal.SIGSTOP)
        time.sleep(1.5)  # a look at the chain has begun, and waits
        code = program.end(signal.SIGTERM)
        stopped = stopped_by_itself(program)
    finally:
        os.kill(market.anvil.pid, signal.SIGCONT)
        program.close()
    assert (code, stopped) == (0, True)


@pytest.mark.parametrize("signals", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_agent_stops_while_its_transaction_waits_and_goes_on_later(
    market: Market, tmp_path: Path, signals: int
) -> None:
    """The first signal waits a little for the receipt, a second one for nothing; the journal loses neither."""
    config, account = market.provider(tmp_path)
    request, ids = market.request("no block comes")
    program = Program(market, config)
    try:
        program.ready()
        job = market.post([market.quote(program.url, request, Mode.NONE)], request, commit_window=600)
        market.anvil.set_automine(False)
        assert market.deliver(program.url, job, request, ids).status_code == 200
        until(lambda: stage_of(program, job) is Stage.COMMITTING)
        if signals == 2:
            program.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        code = program.end(signal.SIGTERM)
        stopped = stopped_by_itself(program)
    finally:
        market.anvil.set_automine(True)
        market.anvil.mine()
        program.close()
    assert (code, stopped) == ((0, True) if signals == 1 else (128 + signal.SIGTERM, False))
    agent = LocalAgent(config, account)
    try:
        until(lambda: market.settled(job))
    finally:
        agent.stop()
    assert len(market.events("Committed", job)) == 1


def stage_of(program: Program, job: bytes) -> Stage | None:
    journal = Journal.read_only(program.config.journal_path)
    try:
        row = journal.job(job)
    finally:
        journal.close()
    return None if row is None else row.stage


class Broken:
    """A configuration with one thing wrong."""

    def __init__(self, market: Market, folder: Path) -> None:
        self.market = market
        self.config, _ = market.provider(folder)
        self.folder = folder

    def replace(self, old: str, new: str) -> None:
        text = self.config.read_text(encoding="utf-8")
        assert old in text
        self.config.write_text(text.replace(old, new), encoding="utf-8")

    def run(self, password: str = "", **environment: str) -> tuple[int, str]:
        source = {"ASSAY_PASSWORD": password} if password else {}
        arguments = () if password else ("--password-file", str(self.market.password_file))
        return error_of(assay("run", "--config", str(self.config), "--json", *arguments, **source, **environment))


@pytest.fixture
def broken(market: Market, tmp_path: Path) -> Broken:
    return Broken(market, tmp_path)


def test_run_with_a_wrong_password_says_so(broken: Broken) -> None:
    assert broken.run(password="wrong password") == (2, "WrongPassword")


def test_run_on_a_taken_port_says_so(broken: Broken) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broken.replace("port = 0", f"port = {taken.getsockname()[1]}")
        assert broken.run() == (2, "PortInUse")


def test_run_with_a_corrupted_pack_names_the_part(broken: Broken, market: Market, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    for part in market.pack.path.iterdir():
        (pack / part.name).write_bytes(part.read_bytes())
    weights = bytearray((pack / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (pack / "weights.safetensors").write_bytes(weights)
    broken.replace(str(market.pack.path), str(pack))
    assert broken.run() == (2, "PackError")


def test_run_on_another_chain_says_so(broken: Broken, market: Market, tmp_path: Path) -> None:
    manifest = json.loads(market.manifest.read_text(encoding="utf-8")) | {"chainId": 1}
    (tmp_path / "other.json").write_text(json.dumps(manifest), encoding="utf-8")
    broken.replace(str(market.manifest), str(tmp_path / "other.json"))
    assert broken.run() == (3, "WrongChain")


def test_run_with_other_contracts_than_the_manifests_says_so(broken: Broken, market: Market, tmp_path: Path) -> None:
    manifest = json.loads(market.manifest.read_text(encoding="utf-8"))
    manifest["codeHashes"]["jobs"] = "0x" + "00" * 32
    (tmp_path / "other.json").write_text(json.dumps(manifest), encoding="utf-8")
    broken.replace(str(market.manifest), str(tmp_path / "other.json"))
    assert broken.run() == (3, "CodeMismatch")


def test_run_without_a_chain_says_so(broken: Broken, market: Market) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    broken.replace(market.anvil.rpc_url, f"http://127.0.0.1:{port}")
    assert broken.run() == (3, "ChainUnreachable")


def test_agent_that_is_not_alone_with_its_key_leaves_the_journal_untouched(market: Market, tmp_path: Path) -> None:
    """One of the version before may be at work in it, with another file's tables."""
    config, account = market.provider(tmp_path)
    settings = ProviderConfig.load(config)
    in_the_clear(settings.journal_path).close()
    before = settings.journal_path.read_bytes()
    queue = queue_path(settings.data_dir, market.chain.chain_id, account.address)
    with Transactions(market.chain, account, queue), pytest.raises(ConfigError, match="queue") as refused:
        LocalAgent(config, account)
    assert refused.value.code == "Locked"
    assert settings.journal_path.read_bytes() == before


def test_agent_with_another_providers_journal_is_refused_and_lets_go_of_its_queue(
    market: Market, tmp_path: Path
) -> None:
    config, account = market.provider(tmp_path)
    settings = ProviderConfig.load(config)
    in_the_clear(settings.journal_path).close()
    before = settings.journal_path.read_bytes()
    with pytest.raises(JournalError, match="belongs to the provider"):
        LocalAgent(config, account)
    assert settings.journal_path.read_bytes() == before
    settings.journal_path.unlink()
    LocalAgent(config, account).stop()
