"""A prompt and two keys that must not be found: in no log, metric, error, database or other file of an agent or a
client, whether the job is open or over.

Both keep the prompt while the job needs it, encrypted: the test reads it out of both databases with the owner's key,
and finds what is encrypted where it searches. A search that looked in the wrong place would prove nothing.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from client import Client
from market.chain import Call
from market.errors import AssayError
from market.hashing import pack_tokens
from market.models.text import load_text
from market.types import Mode
from provider.journal import Journal
from provider.records import Stage
from tests.integration.provider.market import DISPUTE_WINDOW, PASSWORD, TOKENS, Market, Program, until
from tests.integration.provider.test_cli import assay

PROMPT = "the canary sings at 4711 quokka lane"


def ways_to_write_key(key: bytes) -> dict[str, bytes]:
    return {
        "key": key,
        "key, hex": key.hex().encode(),
        "key, HEX": key.hex().upper().encode(),
        "key, decimal": str(int.from_bytes(key)).encode(),
        "key, base64": base64.b64encode(key),
        "key, list": ", ".join(map(str, key)).encode(),
    }


def ways_to_write_prompt(ids: list[int]) -> dict[str, bytes]:
    return {
        "prompt": PROMPT.encode(),
        "prompt, a part": PROMPT[10:30].encode(),
        "prompt, UTF-16": PROMPT.encode("utf-16-le"),
        "ids": b"".join(token.to_bytes(4, "big") for token in ids),  # as market.hashing.pack_tokens writes them
        "ids, JSON": ", ".join(map(str, ids)).encode(),
        "ids, compact": ",".join(map(str, ids)).encode(),
    }


def found(needles: dict[str, bytes], places: Iterable[tuple[str, bytes]]) -> list[str]:
    return [f"{what} in {where}" for where, content in places for what, needle in needles.items() if needle in content]


def files(folder: Path) -> list[tuple[str, bytes]]:
    return [(str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*") if path.is_file()]


def broken_requests(url: str, ids: list[int]) -> list[tuple[str, bytes]]:
    """What the agent says of requests that hold the prompt and are wrong; JSON, hashes, templates, paths, headers."""
    quote: dict[str, Any] = {"client": PROMPT, "mode": PROMPT, "modelId": PROMPT, "request": {"prompt": PROMPT}}
    delivery = {"subjectId": PROMPT, "request": None, "ids": [*ids, -1], "messages": [{"role": PROMPT, "content": 1}]}
    answers = [
        httpx.post(f"{url}/v1/quotes", json=quote),
        httpx.post(f"{url}/v1/quotes", json={PROMPT: ids}),
        httpx.post(f"{url}/v1/quotes", content=PROMPT.encode()),
        httpx.put(f"{url}/v1/requests/0x{'00' * 32}", json=delivery),
        httpx.put(f"{url}/v1/requests/{'canary'}", json=delivery),
        httpx.get(f"{url}/v1/outputs/0x{'00' * 32}", headers={"X-Assay-Client": PROMPT}),
        httpx.request("PATCH", f"{url}/v1/quotes", content=PROMPT.encode()),
    ]
    assert all(answer.status_code >= 400 for answer in answers)
    return [(f"answer {number}", answer.content) for number, answer in enumerate(answers)]


def failing_calls(client: Client, provider: str) -> list[tuple[str, bytes]]:
    """What a client says of jobs with the prompt that it does not buy: too long, too dear, too few, no such mode."""
    only: dict[str, Any] = {"mode": Mode.NONE, "replicas": 1, "quorum": 1, "allow": frozenset({provider})}
    wishes: list[dict[str, Any]] = [
        {"max_output_tokens": 10**6},
        {"max_output_tokens": 4, "max_price": 1},
        {"max_output_tokens": 4, "allow": frozenset({"0x" + "11" * 20})},
        {"max_output_tokens": 4, "mode": Mode.PROOF},
        {"max_output_tokens": 4, "messages": [{"role": PROMPT, "content": PROMPT}]},
    ]
    told = []
    for wish in wishes:
        prompt = None if "messages" in wish else PROMPT
        with pytest.raises(AssayError) as refused:
            client.run(prompt, **only | wish)
        error = refused.value
        told.append((f"{error.code} of a client", f"{error} {error!r} {json.dumps(error.as_json())}".encode()))
    return told


def kept_encrypted(
    journal_path: Path, owner: LocalAccount, client: Client, job_id: bytes, prompt: dict[str, bytes]
) -> dict[str, bytes]:
    """What agent and client have on disk of the prompt and the answer; with their keys both are read."""
    record = client.store.get(job_id)
    assert record is not None
    assert record.messages is not None
    assert record.messages[-1]["content"] == PROMPT
    journal = Journal.read_only(journal_path, owner)
    kept, row = journal.request(record.request.request_hash), journal.job(job_id)
    journal.close()
    assert kept is not None
    assert row is not None
    assert kept.ids == record.ids
    assert row.ids == tuple(record.result["ids"])
    assert prompt["ids"] in pack_tokens(kept.ids)
    columns = {
        "question": (journal_path, "SELECT question FROM requests"),
        "answer": (journal_path, "SELECT answer FROM jobs"),
        "job": (client._settings.data_dir / "jobs.sqlite", "SELECT secret FROM job"),
    }
    encrypted = {}
    for what, (path, query) in columns.items():
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            ((content,),) = database.execute(query).fetchall()
        encrypted[what] = content[-16:]
    return encrypted


def test_canary_prompt_and_keys_are_found_nowhere_even_while_the_job_is_open(
    market: Market, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    agent_folder, client_folder = tmp_path / "agent", tmp_path / "client"
    agent_folder.mkdir()
    config, owner = market.provider(agent_folder, metrics_port=0)
    text = config.read_text(encoding="utf-8")
    for line in ("output_seconds = 604800", "purge_seconds = 60"):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line.split(" = ")[0] + " = 1")
    config.write_text(text, encoding="utf-8")
    buyer: LocalAccount = Account.create()
    market.guardian.send(Call(buyer.address, b"", "gas coin", 10**19))
    market.guardian.send(market.contracts.token.mint(buyer.address, TOKENS))
    keys = {
        f"{who}'s {what}": needle
        for who, account in (("agent", owner), ("client", buyer))
        for what, needle in ways_to_write_key(bytes(account.key)).items()
    }
    secrets = {**keys, "password": PASSWORD.encode()}
    ids = load_text(market.pack).encode_chat([{"role": "user", "content": PROMPT}])
    middle = ids[len(ids) // 4 : -len(ids) // 4]  # of the prompt alone: around it stands the model's template
    assert len(middle) > 8
    prompt = ways_to_write_prompt(middle)

    program = Program(market, config)
    try:
        program.ready()
        with Client.connect(
            rpc_url=market.anvil.rpc_url,
            ws_url=market.anvil.ws_url,
            deployment=market.manifest,
            account=buyer,
            data_dir=client_folder,
        ) as client:
            only = {"mode": Mode.NONE, "replicas": 1, "quorum": 1, "allow": frozenset({owner.address.lower()})}
            result = client.run(PROMPT, max_output_tokens=4, **only)
            encrypted = kept_encrypted(program.config.journal_path, owner, client, result.job_id, prompt)
            while_open = files(tmp_path)
            for what, place in (
                ("question", "agent/data/journal"),
                ("answer", "agent/data/journal"),
                ("job", "client/"),
            ):
                assert any(place in name and encrypted[what] in content for name, content in while_open), what
            assert found(prompt, while_open) == []

            said = [*broken_requests(program.url, ids), *failing_calls(client, owner.address.lower())]
            market.anvil.increase_time(DISPUTE_WINDOW + 10)
            job = result.job_id
            journal = Journal.read_only(program.config.journal_path, owner)
            until(lambda: (row := journal.job(job)) is not None and row.stage is Stage.CLOSED)
            until(lambda: (row := journal.job(job)) is not None and row.ids is None)
            journal.close()
            client.forget(job)
            assert found({**prompt, **secrets, **encrypted}, files(client_folder)) == []

        until(lambda: not found(encrypted, files(agent_folder)))  # the next clean-up, where a reader held the log
        (metrics,) = re.findall(r"metrics: (http\S+)", program.text())
        said.append(("metrics", httpx.get(metrics).content))
        for command in ("status", "earnings"):
            shown = assay(command, "--config", str(config), "--json")
            said.append((command, (shown.stdout + shown.stderr).encode()))
        said.append(("log", program.text().encode()))
        printed = capfd.readouterr()
        said.append(("printed by the client", (printed.out + printed.err).encode()))
        assert any(line["event"] == "job_final" for line in program.lines())
        assert program.end() == 0
        everything = [*said, *files(agent_folder)]
        assert found({**prompt, **secrets}, everything) == []
        assert found(keys, files(tmp_path)) == []
    finally:
        program.close()
