"""A private input and its blinding must not be found: in no log, answer or file of the agent that proved it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx

from client.proofs import OfferedProof
from market.proofs.api import PrivateInputBody
from market.proofs.artefact import ProofArtefact
from provider.proof_inputs import InputStore, PrivateInput
from tests.integration.chain.world import PROVIDERS
from tests.integration.proofs.shopping import BASE_FEE, Shopping
from tests.integration.proofs.test_private_inputs import KILLED, Killable
from tests.integration.provider.market import until
from tests.integration.provider.test_canary import files, found, ways_to_write_key

CANARY = [3, -2, 4, -1]


def ways_to_write_input(offered: OfferedProof) -> dict[str, bytes]:
    ids, blinding = offered.ids, offered.blinding
    return {
        "ids": b"".join(token.to_bytes(4) for token in ids),  # as market.hashing.pack_tokens writes them
        "ids, hex": b"".join(token.to_bytes(4) for token in ids).hex().encode(),
        "ids, JSON": json.dumps(list(ids))[1:-1].encode(),
        "ids, compact": ",".join(map(str, ids)).encode(),
        "input": json.dumps(CANARY)[1:-1].encode(),
        "input, reals": json.dumps([float(value) for value in CANARY])[1:-1].encode(),
        **{what.replace("key", "blinding"): way for what, way in ways_to_write_key(blinding.to_bytes(32)).items()},
    }


def broken_requests(url: str, offered: OfferedProof) -> list[tuple[str, bytes]]:
    """What the agent says of deliveries that hold the input and are wrong."""
    right = PrivateInputBody(request=offered.request, ids=list(offered.ids), blinding=offered.blinding.to_bytes(32))
    body: dict[str, Any] = right.to_json()
    path = f"{url}/v1/requests/0x{offered.request.request_hash.hex()}"
    wrong: list[dict[str, Any]] = [
        body | {"ids": [*body["ids"], -1]},
        body | {"ids": body["ids"][:-1]},
        body | {"request": body["ids"]},
        body | {"blinding": body["blinding"] + "00"},
        body | {"blinding": "0x" + "00" * 32},
        body | {"more": body["ids"]},
    ]
    answers = [httpx.put(path, json=sent) for sent in wrong]
    answers.append(httpx.put(f"{url}/v1/requests/0x{'00' * 32}", json=body))
    answers.append(httpx.put(path, content=json.dumps(body).encode()[:-1]))
    assert all(400 <= answer.status_code < 500 for answer in answers), [answer.status_code for answer in answers]
    return [(f"answer {number}", answer.content) for number, answer in enumerate(answers)]


def encrypted_input(shopping: Shopping, folder: Path, offered: OfferedProof) -> bytes:
    """What is on disk of the input, which the prover's key reads."""
    (path,) = folder.glob("proof-inputs-*.sqlite")
    store = InputStore(path, shopping.world.account(PROVIDERS[KILLED]))
    assert store.get(offered.request.request_hash) == PrivateInput(tuple(offered.ids), offered.blinding)
    ((content,),) = store._db.execute("SELECT input FROM inputs").fetchall()
    store.close()
    return bytes(content[-16:])


def test_private_input_is_found_nowhere_while_it_waits_and_once_it_is_proved(
    shopping: Shopping, private: ProofArtefact, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    agent = Killable(shopping, private, tmp_path, TMPDIR=str(tmp_path / "tmp"))
    try:
        offered = shopping.client.negotiate(private, CANARY, agent.url)
        needles = ways_to_write_input(offered)
        said = broken_requests(agent.url, offered)
        shopping.client._deliver(offered)
        kept = encrypted_input(shopping, tmp_path / "data", offered)  # a search elsewhere would prove nothing
        assert any("data/proof-inputs" in place for place in found({"input": kept}, files(tmp_path)))
        assert found(needles, files(tmp_path)) == []
        assert shopping.client.classify(offered).paid == BASE_FEE
        until(lambda: not found({"input": kept}, files(tmp_path / "data")))  # the chain says that its job is over
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(60) == 0
        assert agent.process.stderr is not None
        said.append(("log", (agent.said + agent.process.stderr.read()).encode()))
    finally:
        agent.kill()
    keys = ways_to_write_key(bytes(shopping.world.account(KILLED).key))
    assert found(needles | keys, [*said, *files(tmp_path)]) == []
