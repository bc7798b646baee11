"""A private input that was accepted is proved, whatever becomes of the agent in between."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from market.errors import ConfigError
from market.events import decode_logs
from market.keystore import save_account
from market.proof_contracts import ProofJobParams
from market.proofs.api import PrivateInputBody
from market.proofs.artefact import ProofArtefact
from market.proofs.backend import InputForm
from market.transactions import Transactions
from market.views import ProofJobState
from provider.errors import Refusal
from provider.proof_inputs import UNPOSTED_INPUTS, InputStore, PrivateInput
from provider.proofs import HASHES_AT_ONCE, ProofAgent, ProofDesk, first_block_since
from provider.proofs_cli import ProvingAgent, proving
from tests.integration.chain.world import PROVIDERS
from tests.integration.proofs.shopping import BASE_FEE, STRANGER, VALUES, Shopping
from tests.unit.provider.test_proof_inputs import CLEAR_SCHEMA

KILLED = 1  # the provider of these tests
WAIT = 60.0


class Killable:
    """`assay provider prove` as a process of its own, to be killed."""

    def __init__(self, shopping: Shopping, artefact: ProofArtefact, folder: Path, **environment: str) -> None:
        keystore = folder / "key.json"
        if not keystore.exists():
            save_account(keystore, shopping.world.account(PROVIDERS[KILLED]), "password", light=True)
        command = [
            sys.executable,
            "-m",
            "assay",
            "provider",
            "prove",
            str(artefact.folder),
            "--keystore",
            str(keystore),
        ]
        command += ["--rpc", shopping.world.anvil.rpc_url, "--deployment", str(shopping.manifest), "--port", "0"]
        command += ["--base-fee", str(BASE_FEE), "--data-dir", str(folder / "data"), "--unlisted", "--memory", "4096"]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "ASSAY_PASSWORD": "password", **environment}
        )
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said += line
            if " at http://" in line:
                self.said = said
                self.url = line.split(" at ")[1].strip()
                return
        raise AssertionError(said)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


def test_an_input_survives_kill_9_of_its_agent(shopping: Shopping, private: ProofArtefact, tmp_path: Path) -> None:
    """Accepted, then killed, then posted, then started again: the client says nothing twice."""
    first = Killable(shopping, private, tmp_path)
    offered = shopping.client.negotiate(private, VALUES, first.url)
    shopping.client._deliver(offered)
    first.kill()
    bought: list[Any] = []
    thread = threading.Thread(target=lambda: bought.append(shopping.client.classify(offered)))
    delivered = shopping.client._deliver
    try:
        shopping.client._deliver = lambda _offered: None  # type: ignore[method-assign]
        thread.start()
        time.sleep(0.5)  # posted while nobody is there
        second = Killable(shopping, private, tmp_path)
        try:
            thread.join(WAIT)
        finally:
            second.kill()
    finally:
        shopping.client._deliver = delivered  # type: ignore[method-assign]
    assert [result.paid for result in bought] == [BASE_FEE]
    (file,) = (tmp_path / "data").glob("proof-inputs-*.sqlite")
    store = InputStore(file, shopping.world.account(PROVIDERS[KILLED]))
    store.forget(2**40)
    assert store.get(offered.request.request_hash) is None
    store.close()


def test_a_prover_does_not_outlive_its_agent_and_leaves_no_input(
    shopping: Shopping, private: ProofArtefact, tmp_path: Path
) -> None:
    """kill -9 of the agent in the middle of a proof: what it computed with goes when it starts again."""
    agent = Killable(shopping, private, tmp_path)
    _, job_id = _post(shopping, private, agent.url, deliver=True)
    until = time.monotonic() + WAIT
    witness: list[Path] = []
    while not witness:
        assert time.monotonic() < until
        witness = list((tmp_path / "data").glob("provers-*/*/witness.json"))
    workers = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _parent(entry) == agent.process.pid]
    os.kill(workers[0], signal.SIGSTOP)  # no faster than we are
    agent.kill()
    until = time.monotonic() + 5
    while any(_parent(Path(f"/proc/{pid}")) is not None for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert witness[0].exists()
    second = Killable(shopping, private, tmp_path)
    try:
        assert not witness[0].exists()
        _wait(shopping, job_id, ProofJobState.SETTLED)
    finally:
        second.kill()


def _parent(process: Path) -> int | None:
    """None: it is gone, or only waits to be counted."""
    try:
        state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(parent)


def _post(
    shopping: Shopping, artefact: ProofArtefact, url: str, window: int = 60, *, deliver: bool = False
) -> tuple[Any, bytes]:
    offered = shopping.client.negotiate(artefact, VALUES, url)
    if deliver:
        shopping.client._deliver(offered)
    quote, signature = shopping.requote(offered.quote, provider=KILLED)
    params = ProofJobParams(BASE_FEE, window, offered.request, quote, signature)
    sent = shopping.world.send(STRANGER, shopping.world.contracts.proofs.post(params))
    return offered, next(e for e in decode_logs(sent.logs) if e.name == "ProofJobPosted").args["jobId"]


def _wait(shopping: Shopping, job_id: bytes, state: ProofJobState) -> None:
    until = time.monotonic() + WAIT
    while shopping.world.contracts.proofs.job(job_id).state != state:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_an_input_may_come_after_its_job_and_is_not_crowded_out(
    shopping: Shopping, private: ProofArtefact, tmp_path: Path
) -> None:
    """Others deliver as many inputs as they like."""
    path = tmp_path / "inputs.sqlite"
    settings = dataclasses.replace(shopping.settings(private, provider=KILLED), inputs=path)
    with proving(settings) as agent:
        offered, job_id = _post(shopping, private, agent.url)
        backend = agent._agent._backend
        prove = backend.prove
        go_on = threading.Event()

        def later(*arguments: Any, **options: Any) -> Any:
            go_on.wait(WAIT)
            return prove(*arguments, **options)

        backend.prove = later  # type: ignore[method-assign]
        time.sleep(0.5)  # the agent has seen the job
        shopping.client._deliver(offered)
        store = InputStore(path, settings.account)
        for number in range(2 * UNPOSTED_INPUTS):
            store.put(number.to_bytes(32), PrivateInput((1,), 1), 2**40 + number)
        held = store.get(offered.request.request_hash)
        store.close()
        assert held is not None
        assert held.ids == offered.ids
        go_on.set()
        _wait(shopping, job_id, ProofJobState.SETTLED)


def test_an_agent_that_starts_reads_no_further_back_than_a_job_can_be_open(shopping: Shopping) -> None:
    chain = shopping.world.chain
    head = chain.head()
    blocks = [chain.block(number) for number in range(head.number + 1)]
    for wanted in (0, blocks[3].timestamp, blocks[3].timestamp + 1, head.timestamp, head.timestamp + 1):
        expected = next((block.number for block in blocks if block.timestamp >= wanted), head.number)
        assert first_block_since(chain, wanted, 0) == expected
    assert first_block_since(chain, 0, head.number) == head.number


def test_jobs_whose_input_never_comes_cost_the_agent_no_question_to_the_chain(
    shopping: Shopping, private: ProofArtefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(shopping.settings(private, provider=KILLED), inputs=tmp_path / "inputs.sqlite")
    with proving(settings) as agent:
        asked: list[bytes] = []
        proofs = type(agent._agent._contracts.proofs)
        job = proofs.job
        monkeypatch.setattr(proofs, "job", lambda self, job_id, *rest: asked.append(job_id) or job(self, job_id, *rest))
        _, job_id = _post(shopping, private, agent.url, window=30)
        time.sleep(1)
        assert job_id in agent._agent._tasks
        assert asked == []
        shopping.world.anvil.increase_time(31)
        shopping.world.send(STRANGER, shopping.world.contracts.proofs.expire(job_id))
        until = time.monotonic() + WAIT
        while job_id in agent._agent._tasks:
            assert time.monotonic() < until
            time.sleep(0.05)


class _Slow:
    """A backend whose hash takes until it is told."""

    name = "slow"

    def __init__(self, root: bytes) -> None:
        self.go_on = threading.Event()
        self.root = root

    def input_root(self, *_arguments: Any, **_options: Any) -> bytes:
        self.go_on.wait(WAIT)
        return self.root


def test_few_inputs_are_hashed_at_a_time_and_one_that_is_there_not_again(
    shopping: Shopping, private: ProofArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert private.program.form == InputForm.HASHED
    monkeypatch.setattr("provider.proofs.HASH_SECONDS", 0.05)
    with proving(shopping.settings(private, provider=KILLED)) as agent:
        offered = shopping.client.negotiate(private, VALUES, agent.url)
        request, shop = offered.request, agent._agent._shop
    account = shopping.world.account(PROVIDERS[KILLED])
    backend, inputs = _Slow(request.input_root), InputStore(":memory:", account)
    desk = ProofDesk(shopping.world.contracts, account, shop, backend, inputs, lambda: 0)  # type: ignore[arg-type]
    threads = [
        threading.Thread(target=desk.accept, args=(request, offered.ids, offered.blinding))
        for _ in range(HASHES_AT_ONCE)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    with pytest.raises(Refusal) as caught:
        desk.accept(request, offered.ids, offered.blinding)
    assert (caught.value.code, caught.value.status) == ("OVERLOADED", 429)
    backend.go_on.set()
    for thread in threads:
        thread.join()
    backend.root = bytes(32)
    desk.accept(request, offered.ids, offered.blinding)  # kept already: nothing is hashed
    with pytest.raises(Refusal) as caught:
        desk.accept(request, offered.ids, offered.blinding + 1)
    assert caught.value.code == "HashMismatch"
    assert PrivateInputBody(request=request, ids=list(offered.ids), blinding=bytes(32)).ids == list(offered.ids)


def test_a_reorg_that_takes_a_settlement_back_is_settled_again(
    shopping: Shopping, private: ProofArtefact, tmp_path: Path
) -> None:
    """The proof is still there, though the input is gone."""
    settings = dataclasses.replace(shopping.settings(private, provider=KILLED), inputs=tmp_path / "inputs.sqlite")
    world = shopping.world
    with proving(settings) as agent:
        offered, job_id = _post(shopping, private, agent.url, window=600)
        for _ in range(3):
            world.send(STRANGER, world.token.approve(world.vault.address, 1))
        before = world.chain.head().number
        shopping.client._deliver(offered)
        _wait(shopping, job_id, ProofJobState.SETTLED)
        until = time.monotonic() + WAIT
        while agent._agent._inputs.get(offered.request.request_hash) is not None:
            assert time.monotonic() < until
            time.sleep(0.05)
        world.chain.rpc("anvil_reorg", world.chain.head().number - before, [])
        _wait(shopping, job_id, ProofJobState.SETTLED)
    assert isinstance(agent._agent, ProofAgent)


def test_prover_that_is_not_alone_with_its_key_leaves_the_inputs_untouched(
    shopping: Shopping, private: ProofArtefact, tmp_path: Path
) -> None:
    """One of the version before may be at work with them, and reads no others."""
    path, queue = tmp_path / "inputs.sqlite", tmp_path / "queue.sqlite"
    with closing(sqlite3.connect(path)) as older:
        older.executescript(CLEAR_SCHEMA)
    before = path.read_bytes()
    settings = dataclasses.replace(shopping.settings(private, provider=KILLED), inputs=path, queue=queue)
    with Transactions(shopping.world.chain, settings.account, queue), pytest.raises(ConfigError) as refused:
        ProvingAgent(settings)
    assert refused.value.code == "Locked"
    assert path.read_bytes() == before
