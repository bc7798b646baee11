"""A proof job as its parties live it: anvil, an agent with its HTTP server, a client, the commands."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from client.errors import BadRequest, PriceAboveCap
from client.proofs import ProofClient, ProofNotMade
from client.wallet import Wallet
from market.anvil import Anvil
from market.chain import Chain
from market.errors import ChainError, ChainUnreachable, ConfigError, ContractError, MarketError, WireError
from market.events import decode_logs
from market.hashing import leaf_hash, pack_tokens
from market.keystore import save_account
from market.proof_contracts import ProofJobParams
from market.proofs.artefact import SRS, ProofArtefact, check_powers, load_artefact
from market.proofs.backend import signed
from market.proofs.cli import app as model_app
from market.proofs.errors import ArtefactError, SrsError
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.process import Limits
from market.proofs.registration import register
from market.proofs.srs import CEREMONY, DEVELOPMENT, sha256_of
from market.transactions import Transactions
from market.views import ProofJobState
from provider.proofs_cli import ProvingAgent, proving
from tests.integration.chain.world import CLIENT, PROVIDERS
from tests.integration.proofs.shopping import BASE_FEE, GAS_BAR, STRANGER, VALUES, Shopping
from tests.integration.proofs.tiny import forward


@pytest.fixture(scope="module")
def agent(shopping: Shopping, tiny: ProofArtefact, private: ProofArtefact) -> Iterator[ProvingAgent]:
    with proving(shopping.settings(tiny, private)) as running:
        yield running


def test_a_client_buys_a_proved_answer(shopping: Shopping, agent: ProvingAgent, tiny: ProofArtefact) -> None:
    earned = shopping.credit(PROVIDERS[0])
    result = shopping.client.classify(shopping.client.negotiate(tiny, VALUES, agent.url))
    expected = list(forward(1, VALUES))
    assert list(result.scores) == pytest.approx(expected, abs=0.05)
    assert result.label == "abc"[expected.index(max(expected))]
    assert result.paid == BASE_FEE
    assert shopping.credit(PROVIDERS[0]) == earned + BASE_FEE
    assert [signed(token) for token in result.ids] == [round(s * 2**tiny.output_scale) for s in result.scores]
    assert shopping.world.contracts.proofs.job(result.job_id).state == ProofJobState.SETTLED
    receipt = shopping.world.chain.receipt(result.transaction)
    assert receipt is not None
    assert int(receipt["gasUsed"], 16) <= GAS_BAR


def test_a_state_that_is_ahead_of_its_blocks_is_waited_for(
    shopping: Shopping, agent: ProvingAgent, tiny: ProofArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is settled, and its event is in no block yet: seen with anvil under load."""
    logs, asked = Chain.logs, list[int]()

    def late(chain: Chain, *arguments: Any, **options: Any) -> Any:
        if chain is not shopping.client._chain:
            return logs(chain, *arguments, **options)
        asked.append(len(asked))
        return logs(chain, *arguments, **options) if len(asked) > limit else []

    monkeypatch.setattr(Chain, "logs", late)
    limit = 2
    assert shopping.client.classify(shopping.client.negotiate(tiny, VALUES, agent.url)).paid == BASE_FEE
    assert len(asked) > limit
    limit = 10**6
    monkeypatch.setattr("client.proofs.EVENT_SECONDS", 0.2)
    with pytest.raises(ChainError, match="was proved and paid") as caught:
        shopping.client.classify(shopping.client.negotiate(tiny, VALUES, agent.url))
    assert caught.value.code == "EventMissing"


def test_a_private_input_is_bought_without_being_shown(
    shopping: Shopping, agent: ProvingAgent, private: ProofArtefact
) -> None:
    offered = shopping.client.negotiate(private, VALUES, agent.url)
    result = shopping.client.classify(offered)
    assert list(result.scores) == pytest.approx(list(forward(1, VALUES)), abs=0.05)
    logs = shopping.world.chain.logs([shopping.world.deployment.proofs], 0, shopping.world.chain.head().number)
    mine = [log for log in logs if log["topics"][1] == "0x" + result.job_id.hex()]
    shown = b"".join(token.to_bytes(4) for token in offered.ids).hex()
    assert mine
    assert not any(shown in log["data"] for log in mine)


def test_a_private_input_that_does_not_fit_its_hash_is_refused(
    shopping: Shopping, agent: ProvingAgent, private: ProofArtefact
) -> None:
    offered = shopping.client.negotiate(private, VALUES, agent.url)
    wrong = dataclasses.replace(offered, blinding=offered.blinding ^ 1)
    with pytest.raises(WireError, match="hashes to") as caught:
        shopping.client.classify(wrong)
    assert caught.value.code == "HashMismatch"


def test_a_killed_prover_costs_nobody_anything_and_the_job_expires(shopping: Shopping, tiny: ProofArtefact) -> None:
    """Its agent goes on: the next job, with more time, is proved."""
    held = shopping.credit(CLIENT)
    with proving(shopping.settings(tiny, prover=Limits(seconds=0.05), provider=1)) as agent:
        offered = shopping.client.negotiate(tiny, VALUES, agent.url)
        told: list[Any] = []

        def buy() -> None:
            try:
                shopping.client.classify(offered, window=60)
            except MarketError as error:
                told.append(error)

        thread = threading.Thread(target=buy)
        thread.start()
        time.sleep(2)  # the prover was stopped by then
        assert thread.is_alive()
        shopping.world.anvil.increase_time(61)
        thread.join(30)
    assert [type(error) for error in told] == [ProofNotMade]
    assert "nothing was lost" in str(told[0])
    assert shopping.credit(CLIENT) == held


@pytest.mark.parametrize("killed", [1, 2])
def test_a_prover_that_is_killed_is_tried_once_more_and_then_its_job_expires(
    shopping: Shopping, tiny: ProofArtefact, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    """kill -9 in the middle of the proof, of its process alone."""
    left = [killed]
    popen = subprocess.Popen

    class Doomed(popen):  # type: ignore[type-arg, misc, valid-type]
        def communicate(self, *arguments: Any, **options: Any) -> Any:
            if left[0]:
                left[0] -= 1
                threading.Timer(0.3, self.kill).start()
            return super().communicate(*arguments, **options)

    with proving(shopping.settings(tiny, provider=1)) as agent:
        offered = shopping.client.negotiate(tiny, VALUES, agent.url)
        monkeypatch.setattr("market.proofs.process.subprocess.Popen", Doomed)
        told: list[Any] = []

        def buy() -> None:
            try:
                told.append(shopping.client.classify(offered, window=60))
            except MarketError as error:
                told.append(error)

        thread = threading.Thread(target=buy)
        thread.start()
        if killed == 2:
            until = time.monotonic() + 30
            while (left[0] or not all(task.done for task in agent._agent._tasks.values())) and time.monotonic() < until:
                time.sleep(0.05)
            assert thread.is_alive()
            shopping.world.anvil.increase_time(61)
        thread.join(60)
    (result,) = told
    assert left == [0]
    assert isinstance(result, ProofNotMade) if killed == 2 else result.paid == BASE_FEE


def test_an_answer_that_would_come_too_late_is_not_shown(
    shopping: Shopping, tiny: ProofArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction past the deadline is not paid, and its answer can be read by anybody."""
    world = shopping.world
    with proving(shopping.settings(tiny, provider=1)) as agent:
        backend, sent = agent._agent._backend, list[object]()
        prove, send, proved = backend.prove, agent._transactions.send, threading.Event()

        def slow(*arguments: Any, **options: Any) -> Any:
            made = prove(*arguments, **options)
            world.anvil.increase_time(58)
            proved.set()
            return made

        monkeypatch.setattr(backend, "prove", slow)
        monkeypatch.setattr(
            agent._transactions, "send", lambda call, **options: sent.append(call) or send(call, **options)
        )
        for window in (60, 30):  # in its time, but late; then not even begun, since the last one took so long
            offered = shopping.client.negotiate(tiny, VALUES, agent.url)
            quote, signature = shopping.requote(offered.quote, provider=1)
            ids = pack_tokens(offered.ids)
            params = ProofJobParams(BASE_FEE, window, offered.request, quote, signature, input=ids)
            logs = world.send(STRANGER, world.contracts.proofs.post(params)).logs
            job_id = next(e for e in decode_logs(logs) if e.name == "ProofJobPosted").args["jobId"]
            assert proved.wait(60)
            until = time.monotonic() + 30
            while job_id not in agent._agent._tasks or not agent._agent._tasks[job_id].done:
                assert time.monotonic() < until
                time.sleep(0.02)
            assert (agent._agent._tasks[job_id].proof is None) == (window == 30)
            agent._agent._seconds[tiny.model_id] = 29.0
            world.anvil.increase_time(5)
    assert sent == []


def test_a_restarted_agent_proves_what_is_still_open(shopping: Shopping, tiny: ProofArtefact) -> None:
    with proving(shopping.settings(tiny, prover=Limits(seconds=0.05), provider=1)) as agent:
        offered = shopping.client.negotiate(tiny, VALUES, agent.url)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(shopping.client.classify(offered)))
    thread.start()
    time.sleep(0.5)  # posted while nobody proves
    with proving(shopping.settings(tiny, provider=1)):
        thread.join(60)
    assert len(results) == 1


def test_a_proof_is_sent_again_after_the_chain_was_away(
    shopping: Shopping, tiny: ProofArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made once: the time until the deadline is short."""
    with proving(shopping.settings(tiny, provider=1)) as agent:
        send, prove = agent._transactions.send, agent._agent._backend.prove
        tried: list[str] = []
        made: list[object] = []

        def away_at_first(call: Any, *, key: str) -> Any:
            tried.append(key)
            if len(tried) == 1:
                raise ChainUnreachable("The endpoint is away.")
            return send(call, key=key)

        def counted(*arguments: Any, **more: Any) -> Any:
            made.append(prove(*arguments, **more))
            return made[-1]

        monkeypatch.setattr(agent._transactions, "send", away_at_first)
        monkeypatch.setattr(agent._agent._backend, "prove", counted)
        offered = shopping.client.negotiate(tiny, VALUES, agent.url)
        assert shopping.client.classify(offered, window=60).paid == BASE_FEE
    assert (len(tried), len(made)) == (2, 1)


def test_an_input_that_is_no_list_of_ids_stops_no_agent(shopping: Shopping, tiny: ProofArtefact) -> None:
    """The filler as an id: the contract takes it, and an agent once read the same event for ever."""
    world, packed = shopping.world, struct.pack(">8I", 2**32 - 1, 1, 2, 3, *[2**32 - 1] * 4)
    with proving(shopping.settings(tiny, provider=1)) as agent:
        offered = shopping.client.negotiate(tiny, VALUES, agent.url)
        request = dataclasses.replace(offered.request, input_root=leaf_hash(packed))
        quote, signature = shopping.requote(offered.quote, provider=1)
        params = ProofJobParams(BASE_FEE, 60, request, quote, signature, input=packed)
        world.send(STRANGER, world.contracts.proofs.post(params))
        assert shopping.client.classify(offered).paid == BASE_FEE


def test_a_job_is_expired_by_command_only_after_its_deadline(
    shopping: Shopping, tiny: ProofArtefact, private: ProofArtefact
) -> None:
    world = shopping.world
    with proving(shopping.settings(private, provider=1)) as agent:
        offered = shopping.client.negotiate(private, VALUES, agent.url)
        quote, signature = shopping.requote(offered.quote, provider=1)
        params = ProofJobParams(BASE_FEE, 30, offered.request, quote, signature)
        sent = world.send(STRANGER, world.contracts.proofs.post(params))  # its input is never delivered
        job_id = next(e for e in decode_logs(sent.logs) if e.name == "ProofJobPosted").args["jobId"]
        with pytest.raises(ContractError) as caught:
            shopping.client.expire(job_id)
        assert caught.value.code == "ProofNotDue"
        world.anvil.increase_time(31)
        assert shopping.client.expire(job_id) == BASE_FEE


def test_what_the_quote_must_say_is_checked_before_money_moves(
    shopping: Shopping, agent: ProvingAgent, tiny: ProofArtefact, other: ProofArtefact
) -> None:
    with pytest.raises(PriceAboveCap):
        shopping.client.negotiate(tiny, VALUES, agent.url, max_price=BASE_FEE - 1)
    with pytest.raises(BadRequest):
        shopping.client.negotiate(tiny, VALUES[:3], agent.url)
    with pytest.raises(MarketError, match="No verifier of model"):
        shopping.client.negotiate(other, VALUES, agent.url)
    with pytest.raises(WireError, match="cannot be reached"):
        shopping.client.negotiate(tiny, VALUES, "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="No verifier"):
        ProvingAgent(shopping.settings(other))


def test_the_agent_refuses_what_it_does_not_sell(shopping: Shopping, agent: ProvingAgent, tiny: ProofArtefact) -> None:
    client = shopping.world.account(CLIENT).address
    model_id = "0x" + tiny.model_id.hex()
    for body, code in (
        ({"modelId": model_id, "client": client, "mode": 1}, "MODE_NOT_OFFERED"),
        ({"modelId": "0x" + "00" * 32, "client": client, "mode": 3}, "UnknownModel"),
        ({"modelId": model_id, "client": client, "mode": 3, "more": 1}, "MALFORMED"),
    ):
        answer = httpx.post(f"{agent.url}/v1/quotes", json=body, trust_env=False)
        assert answer.json()["error"]["code"] == code
    models = httpx.get(f"{agent.url}/v1/models", trust_env=False).json()["models"]
    assert {model["inputForm"] for model in models} == {"public", "hashed"}
    assert httpx.get(f"{agent.url}/healthz", trust_env=False).json()["status"] == "ok"


def test_the_commands_do_it_all(
    shopping: Shopping, agent: ProvingAgent, tiny: ProofArtefact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from client.cli_job import job_app

    keystore = tmp_path / "key.json"
    save_account(keystore, shopping.world.account(CLIENT), "password", light=True)
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASSAY_PASSWORD", "password")
    market = [
        "--rpc",
        shopping.world.anvil.rpc_url,
        "--deployment",
        str(shopping.manifest),
        "--keystore",
        str(keystore),
    ]
    run = CliRunner()
    bought = run.invoke(
        job_app,
        ["classify", "1,2,3,-4", "--artefact", str(tiny.folder), "--provider", agent.url, "--yes", "--json", *market],
        catch_exceptions=False,
    )
    assert bought.exit_code == 0, bought.output
    assert json.loads(bought.stdout.splitlines()[-1])["paid"] == str(BASE_FEE)
    shown = run.invoke(model_app, ["prove-show", str(tiny.folder), "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["modelId"] == "0x" + tiny.model_id.hex()
    again = run.invoke(model_app, ["prove-register", str(tiny.folder), "--json", *market], catch_exceptions=False)
    assert json.loads(again.stdout)["sent"] == []
    estimated = run.invoke(
        model_app, ["prove-setup", str(tiny.folder.parent / "tiny.onnx"), "--out", str(tmp_path / "x"), "--estimate"]
    )
    assert "CPU seconds" in estimated.stdout


def test_the_same_source_and_powers_give_the_same_model_id(tiny: ProofArtefact, tmp_path: Path) -> None:
    powers = tiny.folder / SRS
    options = ["--labels", "a,b,c", "--srs", str(powers), "--srs-sha256", sha256_of(powers), "--json"]
    source = str(tiny.folder.parent / "tiny.onnx")
    made = CliRunner().invoke(model_app, ["prove-setup", source, "--out", str(tmp_path / "again"), *options])
    assert made.exit_code == 0, made.output
    manifest = json.loads(made.stdout)
    assert manifest["modelId"] == "0x" + tiny.model_id.hex()
    assert manifest["srs"]["kind"] == CEREMONY
    assert "UNSAFE" not in made.stderr


def test_powers_that_are_made_on_the_spot_are_called_unsafe_and_a_failed_set_up_leaves_nothing(
    tiny: ProofArtefact, tmp_path: Path
) -> None:
    source = str(tiny.folder.parent / "tiny.onnx")
    made = CliRunner().invoke(
        model_app, ["prove-setup", source, "--out", str(tmp_path / "out"), "--solc", str(tmp_path / "no-compiler")]
    )
    assert isinstance(made.exception, ConfigError)
    assert made.exception.code == "NoCompiler"
    assert "UNSAFE" in made.stderr
    assert list(tmp_path.iterdir()) == []


def test_unsafe_powers_are_refused_on_a_real_chain(shopping: Shopping, tiny: ProofArtefact, tmp_path: Path) -> None:
    """Whatever the manifest calls them: the caller names the ceremony's hash."""
    called = tmp_path / "called"
    shutil.copytree(tiny.folder, called)
    manifest = called / "manifest.json"
    manifest.write_text(manifest.read_text().replace(DEVELOPMENT, CEREMONY))
    safe = load_artefact(called)
    assert not safe.is_unsafe
    contracts = shopping.world.contracts
    with Anvil.start(chain_id=8453) as anvil:
        chain = Chain(anvil.rpc_url)
        account = anvil.accounts[0]
        wallet = Wallet(chain, account, tmp_path / "wallet.sqlite")
        buyer = ProofClient(
            chain, shopping.world.deployment, account, wallet, http=httpx.Client(trust_env=False), now=lambda: 0
        )
        with Transactions(chain, account, ":memory:") as transactions:
            for artefact, named, code in (
                (tiny, None, "UnsafeSrs"),
                (tiny, sha256_of(tiny.folder / SRS), "UnsafeSrs"),
                (safe, None, "UnsafeSrs"),
                (safe, "00" * 32, "SrsMismatch"),
            ):
                with pytest.raises(SrsError) as caught:
                    register(artefact, contracts, transactions, srs_sha256=named)
                assert caught.value.code == code
                with pytest.raises(SrsError) as caught:
                    buyer.negotiate(artefact, VALUES, "http://127.0.0.1:1", srs_sha256=named)
                assert caught.value.code == code
        wallet.close()
        assert chain.transaction_count(account.address) == 0
    check_powers(safe, "0x" + sha256_of(safe.folder / SRS).upper())


def test_a_verifier_that_was_made_with_other_powers_than_lie_beside_it_is_noticed(
    tiny: ProofArtefact, tmp_path: Path
) -> None:
    """A ceremony's file put in the place of the one that was used."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny.folder, copy)
    EzklBackend().generate_powers(copy / SRS, tiny.manifest["srs"]["logRows"])
    manifest = copy / "manifest.json"
    document = json.loads(manifest.read_text())
    document["srs"]["sha256"] = document["files"][SRS]["sha256"] = sha256_of(copy / SRS)
    manifest.write_text(json.dumps(document))
    with pytest.raises(ArtefactError) as caught:
        load_artefact(copy)
    assert caught.value.code == "SrsMismatch"
