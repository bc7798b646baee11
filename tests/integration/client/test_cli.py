"""The commands as people and scripts run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from client.cli import app
from client.errors import NotConfirmed
from market.errors import AssayError
from tests.integration.client.conftest import Town

PROMPT = "the cat sat"
ASSAY = (sys.executable, "-m", "assay")


def environment(town: Town, tmp_path: Path) -> dict[str, str]:
    """Only ASSAY_HOME says where the market is: the local network lies there."""
    return {
        **os.environ,
        "ASSAY_HOME": str(town.home),
        "ASSAY_DATA_DIR": str(tmp_path / "client"),
        "ASSAY_QUOTE_TIMEOUT": "5",
    }


@pytest.fixture
def assay(town: Town, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs a command in this process; errors come out as exceptions, as assay/cli.py takes them."""
    variables = {key: value for key, value in environment(town, tmp_path).items() if key.startswith("ASSAY_")}

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(app, arguments, input=stdin, env=variables)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def document(result: Result) -> Any:
    return json.loads(result.stdout)


def honest(town: Town) -> list[str]:
    return [part for address in town.honest for part in ("--allow", address)]


def test_job_post_as_a_program_prints_one_document_and_the_others_agree(town: Town, tmp_path: Path, assay) -> None:
    done = subprocess.run(
        [*ASSAY, "job", "post", "--yes", "--json", "-t", "5", *honest(town)],
        input=PROMPT,
        env=environment(town, tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    posted = json.loads(done.stdout)
    assert posted["settled"] is True
    assert {replica["role"] for replica in posted["providers"]} == {"agreed"}
    assert "negotiation:" in done.stderr
    assert set(posted) >= {"answer", "ids", "job_id", "model_id", "providers", "gas", "steps_ms", "paid", "refunded"}

    shown = document(assay("job", "show", posted["job_id"], "--json"))
    assert (shown["answer"], shown["providers"]) == (posted["answer"], posted["providers"])
    (entry,) = document(assay("job", "list", "--json"))
    assert (entry["job_id"], entry["state"], entry["prompt"]) == (posted["job_id"], "settled", PROMPT)
    assert document(assay("balance", "--json"))["escrowed"] == 0
    picture = assay("job", "show", posted["job_id"][:12])
    assert "committed, revealed" in picture.stdout
    assert "back as credit" in picture.stdout
    assert all(address.lower()[:10] in picture.stdout for address in town.honest)
    assert posted["job_id"][:14] in assay("job", "list").stdout
    assert "credit in the vault" in assay("balance").stdout


def test_quote_of_a_drawn_job_says_who_may_be_drawn_for_what(town: Town, assay) -> None:
    found = document(assay("quote", PROMPT, "--draw", "-t", "5", "--json"))
    drawn = found["drawn"]
    assert (found["chosen"], found["alternatives"]) == ([], [])
    assert {provider["provider"] for provider in drawn["eligible"]} == {address.lower() for address in town.providers}
    assert found["escrow"] == 3 * drawn["price"] > 0
    assert drawn["kill_fee"] == -(-drawn["price"] // 10)
    assert drawn["miss_fee"] == drawn["price"] < drawn["bond"]
    text = assay("quote", PROMPT, "--draw", "-t", "5", "--explain").stdout
    assert "draws 3 of 5 providers" in text
    assert "public" in text
    assert all(address.lower() in text for address in town.providers)
    assert "20 %" in text
    assert document(assay("quote", PROMPT, "-t", "5", "--json"))["drawn"] is None


def test_job_post_with_a_temperature_tells_the_seed_that_gives_the_same_answer_again(town: Town, assay) -> None:  # type: ignore[no-untyped-def]
    often = ("job", "post", PROMPT, "--yes", "-t", "6", "--mode", "none", *honest(town))
    first = document(assay(*often, "--temperature", "1.3", "--top-p", "0.98", "--json"))
    assert first["sampling"]["temperature"] == "1.3"
    seed = first["sampling"]["seed"]
    again = assay(*often, "--temperature", "1.3", "--top-p", "0.98", "--seed", seed)
    assert f"sampled with temperature 1.3  top-p 0.98  seed {seed}" in again.stderr
    shown = document(assay("job", "show", document(assay("job", "list", "--json"))[0]["job_id"], "--json"))
    assert (shown["ids"], shown["sampling"]) == (first["ids"], first["sampling"])
    quoted = document(assay("quote", PROMPT, "--top-k", "3", "--json"))
    assert (quoted["sampling"]["top_k"], quoted["sampling"]["temperature"]) == (3, "1")


def test_job_post_with_logprobs_shows_how_likely_each_token_was(town: Town, assay) -> None:  # type: ignore[no-untyped-def]
    often = ("job", "post", PROMPT, "--yes", "-t", "5", "--mode", "none", *honest(town))
    shown = assay(*often, "--logprobs", "2")
    assert shown.stderr.count(" %  ") == 5
    assert "proved by nobody" in shown.stderr
    assert "%" not in shown.stdout  # the answer alone
    found = document(assay(*often, "--logprobs", "2", "--json"))
    assert [told["chosen"]["id"] for told in found["log_probabilities"]] == found["ids"]
    assert all(len(told["top"]) == 2 and told["top"][0]["ln_q16"] <= 0 for told in found["log_probabilities"])
    assert document(assay(*often, "--json"))["log_probabilities"] == []


def test_job_post_killed_after_posting_goes_on_with_watch(town: Town, tmp_path: Path, assay) -> None:
    process = subprocess.Popen(
        [*ASSAY, "job", "post", PROMPT, "--yes", "-t", "5", *honest(town)],
        env=environment(town, tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "the job is on chain" in line:
                process.send_signal(signal.SIGKILL)
                break
    (entry,) = document(assay("job", "list", "--json"))
    result = document(assay("job", "watch", entry["job_id"], "--json", "--quiet"))
    assert result["settled"] is True
    assert result["answer"] is not None
    assert len(document(assay("job", "list", "--json"))) == 1


def test_job_post_with_nobody_to_confirm_is_refused_before_anybody_is_asked(assay) -> None:
    with pytest.raises(NotConfirmed, match="Add --yes") as caught:
        assay("job", "post", PROMPT, "--rpc", "http://127.0.0.1:1")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (("-",), b"caf\xe9", "standard input is no UTF-8 text"),
        ((), b"a" * ((1 << 20) + 1), "Shorten it"),
        ((PROMPT, "--allow", "0x12"), None, "--allow: “0x12” is no address"),
        ((PROMPT, "--deny", "everybody"), None, "--deny: “everybody” is no address"),
        ((PROMPT, "-t", str(1 << 32)), None, "max_output_tokens takes 1 to 4294967295"),
    ],
)
def test_quote_of_what_cannot_be_read_is_refused_in_words(assay, arguments, stdin, words) -> None:
    with pytest.raises(AssayError, match=words) as caught:
        assay("quote", *arguments, stdin=stdin)
    assert caught.value.exit_code == 2


def test_quote_explain_shows_price_guarantee_and_reasons(town: Town, assay) -> None:
    arguments = ("quote", PROMPT, "-t", "5", "--deny", town.providers[4])
    text = assay(*arguments, "--explain").stdout
    assert "independent providers reveal the same answer" in text
    assert "it is on the deny list" in text
    report = document(assay(*arguments, "--json"))
    assert report["escrow"] == sum(quote["price"] for quote in report["chosen"])
    reasons = {item["provider"]: item["constraint"] for item in report["left_out"]}
    assert reasons[town.providers[4].lower()] == "deny"
    assert set(reasons.values()) == {"deny", "score"}
    assert set(report) >= {
        "chosen",
        "alternatives",
        "left_out",
        "sampling",
        "selection_seed",
        "token",
        "steps_ms",
        "bond",
    }


def test_prompt_is_read_from_a_file_or_messages(town: Town, tmp_path: Path, assay) -> None:
    path, messages = tmp_path / "prompt.txt", tmp_path / "messages.json"
    path.write_text(PROMPT + "\n")
    messages.write_text(json.dumps([{"role": "user", "content": PROMPT}]))
    ways = (["@" + str(path)], ["--file", str(path)], ["--messages", str(messages)], ["-"], [])
    counts = {document(assay("quote", *way, "-t", "5", "--json", stdin=PROMPT + "\n"))["input_tokens"] for way in ways}
    assert len(counts) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("quote", PROMPT, "--model", "nope"), 5, "nope"),
        (("quote", ""), 2, "The prompt is empty"),
        (("quote", "@nowhere.txt"), 2, "cannot be read"),
        (("quote", PROMPT, "--file", "x"), 2, "once"),
        (("quote", PROMPT, "--mode", "trust"), 2, "no mode"),
        (("quote", PROMPT, "--max-price", "0.0000001"), 2, "6 decimal places"),
        (("quote", PROMPT, "--max-price", "-1"), 2, "not an amount"),
        (("quote", PROMPT, "--max-price", "0.000001"), 5, "the cap is 1"),
        (("quote", PROMPT, "--seed", "12"), 2, "64 hex digits"),
        (("quote", PROMPT, "--rpc", "http://127.0.0.1:1"), 2, "There is no deployment manifest"),
        (("quote", PROMPT, "--deployment", "nowhere.json"), 2, "No chain was named"),
        (("quote", PROMPT, "--config", "nowhere.toml"), 2, "no configuration file"),
        (("job", "show", "0xabcdef"), 2, "No job of this machine"),
        (("job", "show", "0x" + "ab" * 32), 2, "nobody posted it"),
        (("job", "post", PROMPT, "--yes", "--escrow", "magic"), 2, "no escrow source"),
        (("job", "cancel", "0x" + "ab" * 32, "--yes"), 3, "job"),
        (("withdraw", "5", "--to", "0x12"), 2, "no address"),
        (("withdraw", "1000000000"), 3, "less than"),
    ],
)
def test_command_with_bad_input_says_what_is_wrong(assay, arguments, code, words) -> None:
    with pytest.raises(AssayError) as caught:
        assay(*arguments)
    assert words in str(caught.value)
    assert caught.value.exit_code == code


def test_command_with_a_dead_chain_or_a_wrong_password_exits_with_its_code(town: Town, tmp_path: Path, assay) -> None:
    manifest = ("--deployment", town.info.deployment)
    with pytest.raises(AssayError, match="No answer from the chain") as dead:
        assay("quote", PROMPT, "--rpc", "http://127.0.0.1:1", *manifest)
    assert dead.value.exit_code == 3
    (tmp_path / "password").write_text("not this one\n")
    with pytest.raises(AssayError, match="does not open") as wrong:
        assay("job", "post", PROMPT, "--yes", "--password-file", str(tmp_path / "password"))
    assert wrong.value.exit_code == 2


def test_settings_come_from_a_file_below_variables_and_options(town: Town, tmp_path: Path, assay) -> None:
    config = tmp_path / "client.toml"
    settings = {"rpc": town.info.rpc_url, "deployment": town.info.deployment, "keystore": town.info.client_keystore}
    config.write_text("".join(f'{name} = "{value}"\n' for name, value in settings.items()))
    result = document(assay("balance", "--config", str(config), "--json"))
    assert result["account"] == town.info.client.lower()
    config.write_text("unknown = 1\n")
    with pytest.raises(AssayError, match="unknown"):
        assay("balance", "--config", str(config))


def test_help_of_every_command_has_an_example(assay) -> None:
    for command in ("post", "list", "show", "watch", "settle", "cancel"):
        assert f"assay job {command}" in assay("job", command, "--help").stdout
    for command in ("quote", "balance", "withdraw"):
        assert f"assay {command}" in assay(command, "--help").stdout


def test_prompt_and_answer_show_where_the_password_is_given_and_nowhere_else(
    town: Town, tmp_path: Path, assay, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = document(assay("job", "post", PROMPT, "--yes", "--json", *honest(town)))
    (told,) = document(assay("job", "list", "--json"))  # the local network has a password's file
    assert (told["prompt"], told["answer"], told["is_encrypted"]) == (PROMPT, posted["answer"], False)
    network = town.info
    keystore = str(town.home / "network" / "client" / "keystore.json")
    elsewhere = ("--rpc", network.rpc_url, "--deployment", network.deployment, "--keystore", keystore)
    away = {"ASSAY_HOME": str(tmp_path / "none"), "ASSAY_DATA_DIR": str(tmp_path / "client")}

    def run(*arguments: str, **variables: str) -> Result:
        monkeypatch.delenv("ASSAY_PASSWORD", raising=False)
        result = CliRunner().invoke(app, [*arguments, *elsewhere], env={**away, **variables})
        assert result.exception is None, result.exception
        return result

    password = (town.home / "network" / "password").read_text(encoding="utf-8").strip()
    for variables in ({}, {"ASSAY_PASSWORD": "another's password"}):
        (line,) = document(run("job", "list", "--json", **variables))
        assert (line["prompt"], line["answer"], line["is_encrypted"]) == ("", None, True)
        assert (line["job_id"], line["state"]) == (posted["job_id"], "settled")
        shown = document(run("job", "show", posted["job_id"][:12], "--json", **variables))
        assert (shown["answer"], shown["ids"], shown["settled"]) == (None, [], True)
        assert any("encrypted under the key of" in problem for problem in shown["problems"])
        assert PROMPT not in run("job", "list", **variables).output
        assert "give the password" in run("job", "list", **variables).output
    (line,) = document(run("job", "list", "--json", ASSAY_PASSWORD=password))
    assert (line["prompt"], line["is_encrypted"]) == (PROMPT, False)
    shown = document(run("job", "show", posted["job_id"], "--json", ASSAY_PASSWORD=password))
    assert (shown["answer"], shown["problems"]) == (posted["answer"], [])
