"""Disputes by the commands that people use, against agents as processes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from typer.testing import CliRunner

from assay.cli import app
from client import JobResult
from market.chain import Call
from market.deployment import Deployment
from market.errors import AssayError
from market.events import decode_logs
from market.hashing import tokens_root
from market.keystore import load_account, save_account
from market.receipts import ReceiptDocument
from market.signing import sign
from market.transactions import Transactions
from market.types import Mode
from market.views import BondState, JobState
from provider.config import Terms
from tests.e2e.conftest import Market

ADVERSARIES = str(Path(__file__).resolve().parent.parent / "adversaries.py")
QUESTION = [{"role": "user", "content": "hello"}]
LIAR = 1
SHORT = ("--max-output-tokens", "4", "--quote-timeout", "20", "--quiet", "--yes")
NO_AGREEMENT = 5


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Path) -> Iterator[Market]:
    terms = Terms(bond=20_000_000)
    running = Market.start(tmp_path_factory.mktemp("network"), tiny_pack, providers=3, terms=terms, reply_window=60)
    yield running
    running.network.stop()


class Command:
    """`assay …` in this process, against the market."""

    def __init__(self, market: Market, pack: Path, folder: Path) -> None:
        info = market.info
        self._environment = {
            "ASSAY_HOME": str(folder),
            "ASSAY_RPC": info.rpc_url,
            "ASSAY_DEPLOYMENT": info.deployment,
            "ASSAY_KEYSTORE": info.client_keystore,
            "ASSAY_PASSWORD_FILE": info.password_file,
            "ASSAY_DATA_DIR": str(market.network.plan.directory / "client" / "data"),  # where its jobs are kept
            "ASSAY_PACKS": json.dumps([str(pack)]),
        }

    def under(self, keystore: Path, folder: Path) -> Command:
        """The same for somebody else: another key, and a data folder of its own."""
        other = copy.copy(self)
        other._environment = self._environment | {"ASSAY_KEYSTORE": str(keystore), "ASSAY_DATA_DIR": str(folder)}
        return other

    def __call__(self, *arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, arguments, env=self._environment)
        found = (
            result.exit_code if result.exception is None else getattr(result.exception, "exit_code", result.exit_code)
        )
        assert found == code, (result.output, result.exception)
        return result.stdout

    def error(self, *arguments: str) -> AssayError:
        """What the command refuses."""
        error = CliRunner().invoke(app, arguments, env=self._environment).exception
        assert isinstance(error, AssayError), error
        return error

    def at_a_terminal(self, *arguments: str, answer: str) -> tuple[int, str]:
        """Exit code and all that a person sees who gives this answer to the command's question."""
        master, slave = pty.openpty()
        environment = os.environ | self._environment | {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
        command = [sys.executable, "-m", "assay", *arguments]
        with subprocess.Popen(command, env=environment, stdin=slave, stdout=slave, stderr=slave) as process:
            os.close(slave)
            os.write(master, answer.encode() + b"\n")
            seen = b""
            with contextlib.suppress(OSError):  # how a terminal says that the other side is gone
                while chunk := os.read(master, 4096):
                    seen += chunk
            os.close(master)
            return process.wait(60), seen.decode()

    def lines(self, *arguments: str) -> list[Any]:
        return [json.loads(line) for line in self(*arguments, "--json", "--quiet").splitlines()]

    def until_killed(self, state: str, *arguments: str) -> list[Any]:
        """Lines of the command as a process, which is killed as soon as one says that it got that far."""
        command = [sys.executable, "-m", "assay", *arguments, "--json", "--quiet"]
        found: list[Any] = []
        with subprocess.Popen(
            command, env=os.environ | self._environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                found.append(json.loads(line))
                if found[-1].get("state") == state:
                    break
            process.kill()
        assert found, "it said nothing"
        return found

    def until_told_to_stop(self, *arguments: str) -> list[Any]:
        """Lines of the command as a process, which is told to stop after the first; another beside it is refused."""
        command = [sys.executable, "-m", "assay", *arguments, "--json", "--quiet"]
        with subprocess.Popen(
            command, env=os.environ | self._environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            found = [json.loads(process.stdout.readline())]
            assert self.error(*arguments).code == "Locked"
            process.send_signal(signal.SIGTERM)
            found += [json.loads(line) for line in process.stdout]
            assert process.wait(30) == 0
        return found

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture
def assay(market: Market, tiny_pack: Path, tmp_path: Path) -> Command:
    return Command(market, tiny_pack, tmp_path / "home")


def bought(market: Market, provider: str, folder: Path) -> tuple[JobResult, Path]:
    """An answer of one provider, and the file of its receipt. The prompt is public."""
    with market.client() as client:
        result = client.run(
            messages=QUESTION, max_output_tokens=6, mode=Mode.NONE, replicas=1, quorum=1, allow=(provider,)
        )
    folder.mkdir(parents=True, exist_ok=True)
    receipt = folder / "receipt.json"
    receipt.write_text(json.dumps(result.receipts[0].to_json()), encoding="utf-8")
    return result, receipt


def become(market: Market, behaviour: str, index: int = LIAR, *more: str) -> str:
    market.replace(index, (sys.executable, ADVERSARIES, behaviour, *more))
    return market.info.providers[index].address


@pytest.mark.parametrize(("behaviour", "fault"), [("liar", "OUTPUT"), ("stubborn", "ELEMENT")])
def test_dispute_auto_against_a_liar_slashes_it_and_says_what_was_won(
    market: Market, assay: Command, tmp_path: Path, behaviour: str, fault: str
) -> None:
    provider = become(market, behaviour)
    result, receipt = bought(market, provider, tmp_path)
    replica = market.contracts.jobs.replicas(result.job_id)[0]
    job = "0x" + result.job_id.hex()
    document = assay.json("dispute", "auto", job, "--answer", str(receipt), "--yes", "--quiet")
    assert (document["verdict"], document["fault"]) == ("GUILTY", fault)
    assert document["prepayment_refunded"] is True
    share = market.contracts.jobs.challenger_share_bps()
    assert document["reward"] == min(replica.bond * share // 10_000, (replica.bond - replica.paid) // 2)
    assert document["moves"][-1]["move"] == {"OUTPUT": "proveOutput", "ELEMENT": "prove"}[fault]
    assert market.contracts.jobs.replicas(result.job_id)[0].bond_state is BondState.SLASHED
    shown = assay("dispute", "show", job)
    assert "guilty" in shown
    assert assay.error("dispute", "open", job, "--answer", str(receipt), "--yes").code == "AlreadyDisputed"
    market.assert_vault_is_whole()


def asked(market: Market, provider: str) -> JobResult:
    """An optimistic answer: prompt and output are on chain, and it is not paid yet."""
    with market.client() as client:
        return client.run(
            messages=QUESTION, max_output_tokens=6, mode=Mode.OPTIMISTIC, replicas=1, quorum=1, allow=(provider,)
        )


def check_roots(assay: Command, lines: list[Any], record: Path, watcher: str, folder: Path) -> None:
    """Its roots are found to be its own work; under another's address, or made up, they are not."""
    audits = {(line["job_id"], line["provider"]) for line in lines if "keyed_root" in line}
    own, made_up = folder / "own.json", folder / "made-up.json"
    own.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    other = "0x" + "99" * 20

    def found(file: Path, address: str, code: int) -> Any:
        return assay.json("watch", "check", str(file), "--address", address, code=code)

    document = found(own, watcher, 0)
    assert {(line["job_id"], line["provider"], line["worked"]) for line in document["audits"]} == {
        (*audit, True) for audit in audits
    }
    copied = found(own, other, 5)  # a lazy watcher that prints what another one printed
    assert copied["not_worked"] == len(copied["audits"]) == len(audits)
    first, *rest = [line for line in lines if "keyed_root" in line]
    invented = [first | {"keyed_root": "0x" + "ab" * 32}, *rest]
    unknown = first | {"job_id": "0x" + "cd" * 32}
    made_up.write_text("\n".join(json.dumps(line) for line in [*invented, unknown]), encoding="utf-8")
    results = {line["job_id"]: line["worked"] for line in found(made_up, watcher, 5)["audits"] if not line["worked"]}
    assert results == {first["job_id"]: False, unknown["job_id"]: None}
    kept = found(record, watcher, 0)["audits"]
    assert audits <= {(line["job_id"], line["provider"]) for line in kept if line["worked"]}
    assert assay.error("watch", "check", str(folder / "nothing.json"), "--address", watcher).code == "BadWatchFile"


def test_watcher_leaves_right_answers_alone_and_has_a_wrong_one_slashed(
    market: Market, assay: Command, tmp_path: Path
) -> None:
    honest = market.info.providers[0].address
    liar = become(market, "stubborn")
    right, wrong = asked(market, honest), asked(market, liar)
    assert right.answer is not None
    assert market.contracts.jobs.job(right.job_id).state is JobState.REVEALING
    escrow = market.contracts.jobs.job(wrong.job_id).escrow
    vault, token = market.contracts.vault, market.contracts.token.address
    credit = vault.credit(token, market.info.client)
    until(lambda: len(market.events("OutputPublished")) == 2)
    lines = assay.until_killed("disputed", "watch", "--rate", "1", "--budget", "1", "--poll", "0.2", "--yes")
    lines += assay.lines("watch", "--once", "--rate", "1", "--budget", "1", "--poll", "0.2", "--yes")
    ends = {line["job_id"]: line for line in lines if line["event"] == "audit"}
    assert ends["0x" + right.job_id.hex()]["state"] == "right"
    end = ends["0x" + wrong.job_id.hex()]
    assert end["state"] == "guilty"
    assert end["reward"] > 0
    assert all(len(line["keyed_root"]) == 66 for line in ends.values())
    assert [line["found"] for line in lines if line["event"] == "canary"] == [True]
    record = market.network.plan.directory / "client" / "data" / "watch.sqlite"
    check_roots(assay, lines, record, market.info.client, tmp_path)
    job = market.contracts.jobs.job(wrong.job_id)
    assert job.state is JobState.EXPIRED
    assert vault.credit(token, market.info.client) >= credit + escrow  # the client, who is the watcher here, is whole
    assert assay.lines("watch", "--once", "--rate", "1", "--budget", "1", "--yes") == []
    market.network.anvil.increase_time(market.network.plan.dispute_window + 5)
    until(lambda: market.contracts.jobs.job(right.job_id).state is JobState.SETTLED)
    ended = assay.until_told_to_stop("watch", "--rate", "1", "--budget", "1", "--poll", "0.2", "--yes")
    assert [line["event"] for line in ended] == ["start", "stop"]
    market.assert_vault_is_whole()


def test_person_sees_the_way_down_the_move_and_its_price_and_says_no(
    market: Market, assay: Command, tmp_path: Path
) -> None:
    provider = become(market, "stubborn")
    result, receipt = bought(market, provider, tmp_path)
    job = "0x" + result.job_id.hex()
    chain, me = market.contracts.jobs.chain, market.info.client

    def refused(*arguments: str) -> str:
        """What is seen where the question is answered with no: nothing is sent."""
        sent = chain.transaction_count(me)
        code, seen = assay.at_a_terminal(*arguments, answer="n")
        assert code != 0, seen
        assert "nothing was spent" in seen
        assert chain.transaction_count(me) == sent
        assert re.search(r"costs +about [\d,]+ gas \(\d+\.\d{6} of the chain's coin\)", seen), seen
        assert re.search(r"and [\d.,]+ \S+ prepaid: back if guilty", seen), seen
        assert re.search(r"can win +[\d.,]+ \S+: half for asking for the leaf", seen), seen
        return seen

    seen = refused("dispute", "open", job, "--answer", str(receipt))
    assert "The answer is wrong: " in seen
    assert "Prompt and output become public" in seen
    opened = assay.json("dispute", "open", job, "--answer", str(receipt), "--yes", "--quiet")
    dispute = opened["dispute_id"]

    def replies() -> list[bool]:
        return [node["answered"] for node in assay.json("dispute", "show", dispute)["asked"]]

    until(lambda: replies() == [True])
    assay.json("dispute", "step", dispute, "--yes", "--quiet")
    until(lambda: replies() == [True, True])
    seen = refused("dispute", "step", dispute)
    assert replies() == [True, True]
    shown = seen.partition("Send this move?")[0]  # all of it before the question
    tree = [line for line in shown.splitlines() if re.search("[✓✗…] ", line)]
    assert len(tree) == 3, shown  # the root, what was asked for below it, and where the way leads on
    assert all("not ours" in line for line in tree[:2])
    assert "not asked for yet" in tree[2]
    assert [line.index("✗") for line in tree] == sorted({line.index("✗") for line in tree})  # each below the other
    assert re.search(r"^request: \S+ .{20}", shown, re.MULTILINE), shown  # the move in words
    assert re.search(r"then +at most [\d,]+ gas and", shown), shown
    assert assay.json("dispute", "auto", dispute, "--yes", "--quiet")["verdict"] == "GUILTY"
    market.assert_vault_is_whole()


def test_dispute_about_a_right_answer_is_refused_or_answered_by_hand(
    market: Market, assay: Command, tiny_pack: Path, tmp_path: Path
) -> None:
    honest = market.info.providers[0]
    result, receipt = bought(market, honest.address, tmp_path)
    job = "0x" + result.job_id.hex()
    assert assay.json("dispute", "accept", str(tiny_pack), "--yes")["accepted"] == []
    for arguments, words in (
        (("0x" + "ab" * 32,), "This market has no job"),
        ((job, market.info.providers[LIAR].address), "revealed no answer"),
        ((job, "--answer", str(tmp_path / "nowhere.json")), "cannot be read"),
    ):
        told = assay.error("dispute", "open", *arguments, "--yes")
        assert words in told.message
        assert "Nothing was sent" in told.hint
    assay("dispute", "open", job, "--answer", str(receipt), "--yes", code=5)  # nothing was sent
    found = [d["subject_id"] for d in assay.json("dispute", "list", "--all")]
    assert job not in found
    os.kill(honest.pid, signal.SIGKILL)
    market.network.processes()[0].wait()
    opened = assay.json("dispute", "open", job, "--answer", str(receipt), "--anyway", "--yes", "--quiet")
    assert opened["state"] == "OPEN"
    assert [node["answered"] for node in opened["asked"]] == [False]
    waiting = assay.json("dispute", "step", opened["dispute_id"], "--yes", "--quiet")
    assert waiting["next"] == "wait"
    keystore = str(Path(honest.config).parent / "keystore.json")
    own = ("--keystore", keystore, "--data-dir", str(tmp_path / "provider"))
    answered = assay.json("dispute", "answer", job, *own, "--yes", "--quiet")
    assert [(node["answered"], node["ours"]) for node in answered["asked"]] == [(True, True)]
    assert answered["root"] == answered["our_root"]
    assay("dispute", "step", job, "--yes", code=5)  # the answer is right
    assay("dispute", "answer", job, "--yes", code=2)  # not this key's answer
    market.info = market.network.start_again(0)


def test_second_answer_that_a_provider_signed_is_its_end(market: Market, assay: Command, tmp_path: Path) -> None:
    result, receipt = bought(market, become(market, "liar"), tmp_path)
    job, liar = "0x" + result.job_id.hex(), market.info.providers[LIAR]
    contradict = ("dispute", "contradict", job, str(receipt), "--yes")
    assert assay.error(*contradict).code == "NoContradiction"
    document = ReceiptDocument.from_json(json.loads(receipt.read_text(encoding="utf-8")))
    ids = (document.ids[0] ^ 3, *document.ids[1:])
    other = dataclasses.replace(document.receipt, output_root=tokens_root(ids))
    changed = dataclasses.replace(document, receipt=other, ids=ids)
    receipt.write_text(json.dumps(changed.to_json()), encoding="utf-8")
    assert assay.error(*contradict).code == "BadSignature"  # of the receipt that it did sign
    password = Path(market.info.password_file).read_text(encoding="utf-8").strip()
    key = load_account(Path(liar.config).parent / "keystore.json", password)
    signature = sign(market.contracts.jobs.domain, other, key)
    receipt.write_text(json.dumps(dataclasses.replace(changed, signature=signature).to_json()), encoding="utf-8")
    done = assay.json(*contradict, "--quiet")
    assert (done["verdict"], done["fault"]) == ("GUILTY", "CONTRADICTION")
    (replica,) = market.contracts.jobs.replicas(result.job_id)
    share = market.contracts.jobs.challenger_share_bps()
    assert done["reward"] == min(replica.bond * share // 10_000, (replica.bond - replica.paid) // 2) > 0
    assert replica.bond_state is BondState.SLASHED
    assert assay.error(*contradict).code == "AlreadyDisputed"  # a bond is lost once
    market.assert_vault_is_whole()


def test_liar_in_the_minority_is_made_to_show_its_answer_and_slashed(market: Market, assay: Command) -> None:
    """It was not paid, serves its ids to nobody, and publishes them only because its bond is at stake."""
    liar = become(market, "liar").lower()
    document = assay.json("job", "post", "hello", *SHORT)
    roles = {replica["address"]: replica["role"] for replica in document["providers"]}
    assert [provider for provider, role in roles.items() if role == "disagreed"] == [liar]
    checks = {check["provider"]: check for check in document["checks"]}
    assert {provider: check["right"] for provider, check in checks.items()} == {p: p != liar for p in roles}
    assert (checks[liar]["dispute"]["verdict"], checks[liar]["dispute"]["fault"]) == ("GUILTY", "OUTPUT"), checks[liar]
    job_id = bytes.fromhex(document["job_id"][2:])
    bonds = {r.provider.lower(): r for r in market.contracts.jobs.replicas(job_id)}
    assert (bonds[liar].bond_state, bonds[liar].paid) == (BondState.SLASHED, 0)
    price = [event.args for event in market.events("DemandPricePaid") if event.args["jobId"] == job_id]
    assert [(event["to"], event["price"] > 0) for event in price] == [(market.info.client, True)]  # it came back
    market.assert_vault_is_whole()


def test_liars_of_a_job_without_agreement_are_slashed(market: Market, assay: Command) -> None:
    """Nobody was paid; the one honest replica is found right without its ids."""
    liars = {become(market, "liar", 1).lower(), become(market, "liar", 2, "--flip", "2").lower()}
    document = assay.json("job", "post", "hello", *SHORT, code=NO_AGREEMENT)
    assert document["state"] == "expired"
    checks = {check["provider"]: check for check in document["checks"]}
    assert {provider for provider, check in checks.items() if check["right"] is False} == liars
    assert len(checks) == 3
    assert {checks[liar]["dispute"]["verdict"] for liar in liars} == {"GUILTY"}, checks
    market.assert_vault_is_whole()


def test_watcher_has_a_minority_slashed_that_keeps_its_answer_to_itself(market: Market, assay: Command) -> None:
    market.replace(2, None)
    liar = become(market, "secretive").lower()
    watching = ("watch", "--budget", "1", "--poll", "0.2", "--rate", "0", "--yes")
    document = assay.json("job", "post", "hello", "--draw", "--bond", "10", "--audit", "never", *SHORT)
    job = document["job_id"]
    lines = assay.until_killed("demanded", *watching)
    assert {(line["provider"], line["state"]) for line in lines if line.get("job_id") == job} == {
        *((r["address"], "right") for r in document["providers"] if r["address"] != liar),
        *((liar, state) for state in ("hidden", "demanded")),
    }
    market.network.anvil.increase_time(market.contracts.jobs.demand_window() + 5)
    (end,) = [line for line in assay.lines(*watching, "--once") if line.get("job_id") == job]
    assert (end["provider"], end["state"], end["demand"]) == (liar, "guilty", "slashed")
    assert end["reward"] > 0
    replicas = market.contracts.jobs.replicas(bytes.fromhex(job[2:]))
    assert {r.provider.lower(): r.bond_state for r in replicas}[liar] is BondState.SLASHED
    market.assert_vault_is_whole()


def test_client_has_a_majority_slashed_that_colludes(market: Market, assay: Command) -> None:
    liars = {become(market, "stubborn", index).lower() for index in (1, 2)}
    document = assay.json("job", "post", "hello", *SHORT)
    roles = {replica["address"]: replica["role"] for replica in document["providers"]}
    assert {provider for provider, role in roles.items() if role == "agreed"} == liars
    checks = {check["provider"]: check for check in document["checks"]}
    assert {provider for provider, check in checks.items() if check["right"] is False} == liars
    for provider in liars:
        assert checks[provider]["dispute"]["verdict"] == "GUILTY", checks[provider]
    job_id = bytes.fromhex(document["job_id"][2:])
    bonds = {r.provider.lower(): r.bond_state for r in market.contracts.jobs.replicas(job_id)}
    assert {provider for provider, bond in bonds.items() if bond is BondState.SLASHED} == liars
    market.assert_vault_is_whole()


def stranger(market: Market, folder: Path) -> tuple[str, Path]:
    """Address and keystore of somebody who is neither client nor provider and has some coins and tokens."""
    account: LocalAccount = Account.create()
    anvil, contracts = market.network.anvil, market.contracts
    with Transactions(contracts.jobs.chain, anvil.accounts[0], ":memory:") as transactions:
        transactions.send(Call(account.address, b"", "gas coin", 10**18))
        transactions.send(contracts.token.mint(account.address, 10**9))
    keystore = folder / "stranger.json"
    save_account(keystore, account, Path(market.info.password_file).read_text(encoding="utf-8").strip(), light=True)
    return account.address.lower(), keystore


def test_one_watcher_from_outside_has_a_majority_slashed_that_colludes(
    market: Market, assay: Command, tmp_path: Path
) -> None:
    """It has no part in the job: the client was content, and the one honest replica does nothing."""
    liars = {become(market, "stubborn", index).lower() for index in (1, 2)}
    document = assay.json("job", "post", "hello", "--draw", "--bond", "10", "--audit", "never", *SHORT)
    roles = {replica["address"]: replica["role"] for replica in document["providers"]}
    assert {provider for provider, role in roles.items() if role == "agreed"} == liars
    assert {provider for provider, role in roles.items() if role == "disagreed"} == set(roles) - liars != set()
    address, keystore = stranger(market, tmp_path)
    assert address not in {market.info.client.lower(), *roles}
    outsider = assay.under(keystore, tmp_path / "data")
    lines = outsider.lines("watch", "--once", "--rate", "0", "--budget", "1", "--poll", "0.2", "--yes")
    ends = {line["provider"]: line for line in lines if line.get("job_id") == document["job_id"]}
    assert {provider: line["state"] for provider, line in ends.items()} == {
        provider: "guilty" if provider in liars else "right" for provider in roles
    }
    assert all(ends[liar]["reward"] > 0 for liar in liars)
    chain, disputes = market.contracts.jobs.chain, Deployment.load(Path(market.info.deployment)).disputes
    ids = {bytes.fromhex(ends[liar]["dispute_id"][2:]) for liar in liars}
    events = [e for e in decode_logs(chain.logs([disputes], 0, chain.head().number)) if e.args.get("disputeId") in ids]
    assert {e.args["opener"].lower() for e in events if e.name == "Disputed"} == {address}
    assert [e.args["prover"].lower() for e in events if e.name == "FaultFound"] == [address] * 2
    job_id = bytes.fromhex(document["job_id"][2:])
    bonds = {r.provider.lower(): r.bond_state for r in market.contracts.jobs.replicas(job_id)}
    assert {provider for provider, bond in bonds.items() if bond is BondState.SLASHED} == liars
    market.assert_vault_is_whole()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)
