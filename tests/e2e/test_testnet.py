"""A market on a chain that is not ours: another chain id, a funded encrypted key, an endpoint that signs for nobody,
a block every two seconds, finality behind. Everything by the commands, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from market.anvil import Anvil
from market.chain import Chain
from market.contracts import Jobs
from market.deployment import Deployment
from market.views import JobState

CHAIN_ID = 424_242
PASSWORD = "only for this test"
COIN = 10**18
NETWORK = f"""
[staging]
chain_id = {CHAIN_ID}
kind = "test"
coin = "XYZ"
block_time_ms = 2000
confirmations = 1
finality = 60
rpc_variable = "STAGING_RPC_URL"
bias = "We run its only sequencer."
"""
SECONDS = 120


@dataclass
class Site:
    """The chain and the home of one operator."""

    anvil: Anvil
    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def key(self, name: str, coins: int) -> tuple[str, Path]:
        """A keystore as eth-account writes it, and its address with so much of the chain's coin."""
        account = Account.create()
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(Account.encrypt(account.key, PASSWORD, kdf="pbkdf2", iterations=2)))
        self.anvil.rpc("anvil_setBalance", account.address, hex(coins))
        return account.address, path

    def start(self, *words: str | Path, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "assay", *map(str, words)],
            cwd=self.folder,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("ASSAY_")},
                "ASSAY_HOME": str(self.folder),
                "ASSAY_PASSWORD": PASSWORD,
                "STAGING_RPC_URL": self.anvil.rpc_url,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *words: str | Path, code: int = 0, **environment: str) -> Any:
        """A command to its end; what it printed, as JSON."""
        process = self.start(*words, "--json", **environment)
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == code, out + err
        return json.loads(out)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    options = ("--slots-in-an-epoch", "8")
    with Anvil.start(chain_id=CHAIN_ID, accounts=0, block_time=2, options=options) as anvil:
        (tmp_path / "networks.toml").write_text(NETWORK, encoding="utf-8")
        running = Site(anvil, tmp_path)
        yield running
        for process in running.processes:
            process.kill()
            process.communicate()


def test_market_is_deployed_through_a_kill_verified_and_sells_an_answer(site: Site, tiny_pack: Path) -> None:
    chain = Chain(site.anvil.rpc_url)
    assert chain.rpc("eth_accounts") == []
    deployer, keystore = site.key("deployer", COIN)
    manifest = site.folder / "market.json"
    command = ("chain", "deploy", "--network", "staging", "--keystore", keystore, "--deployment", manifest)

    planned = site.run(*command, "--dry-run")
    assert planned["enough"]
    names = [step["name"] for step in planned["steps"]]
    assert names[:2] == ["token", "vault"]
    assert chain.transaction_count(deployer) == 0

    killed = site.start(*command, "--yes")
    assert killed.stderr is not None
    assert next(line for line in killed.stderr if line.startswith("vault") and "block " in line)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not manifest.exists()

    made = site.run(*command, "--yes")
    assert [(step["name"], step["resumed"]) for step in made["steps"]] == [
        (name, name in ("token", "vault")) for name in names
    ]
    assert chain.transaction_count(deployer) == len(names)
    assert sum(step["gas"] for step in made["steps"]) <= planned["total_gas"] + 500
    assert COIN - chain.balance(deployer) == int(made["total_wei"])
    deployment = Deployment.load(manifest)
    assert (deployment.network, deployment.guardian) == ("staging", deployer)
    assert deployment.randomness.bias == "We run its only sequencer."

    where = ("--rpc", site.anvil.rpc_url, "--deployment", manifest)
    found = site.run("chain", "verify", *where)
    assert found["ok"]
    final = next(check["found"] for check in found["checks"] if check["what"] == "deployment is final")
    assert final == "yes" or final.startswith("not yet")
    assert chain.block("finalized").number < chain.head().number

    sell_an_answer(site, manifest, tiny_pack)


def sell_an_answer(site: Site, manifest: Path, tiny_pack: Path) -> None:
    where = ("--rpc", site.anvil.rpc_url, "--deployment", manifest)
    client, client_key = site.key("client", COIN)
    provider, provider_key = site.key("provider", COIN)
    config = site.folder / "provider" / "provider.toml"
    init = ("--config", config, "--keystore", provider_key, "--pack", tiny_pack, "--port", "0")
    site.run("provider", "init", *where, *init, "--stake", str(10**9), "--per-m-output", "600000")
    given = site.run("chain", "faucet", "1000", "--to", provider, *where, "--keystore", client_key)
    assert (given["to"], given["amount"]) == (provider.lower(), 10**9)
    agent = site.start("provider", "run", "--config", config)
    site.run("chain", "faucet", *where, "--keystore", client_key)
    assert agent.stdout is not None
    line = agent.stdout.readline()
    assert line.startswith("ready"), agent.communicate(timeout=10)

    bought = site.run(
        "job", "post", "the cat sat", "--yes", "--mode", "none", "--replicas", "1", "-t", "4",
        *where, "--keystore", client_key, "--allow-private-endpoints", ASSAY_QUOTE_TIMEOUT="10",
    )  # fmt: skip
    assert bought["settled"]
    assert len(bought["ids"]) > 0
    jobs = Jobs(Chain(site.anvil.rpc_url), Deployment.load(manifest).jobs)
    assert jobs.job(jobs.job_id_of(client, 0)).state is JobState.SETTLED
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0
