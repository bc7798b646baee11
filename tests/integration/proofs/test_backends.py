"""The commands prove and hash with the backend whose name an artefact records, whichever was used to set others up."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from market.errors import ConfigError
from market.proofs.artefact import ENCODING, VERIFIER, ProofArtefact, load_artefact, roots_of
from market.proofs.backend import Proof
from market.proofs.backends import BACKENDS, backend_of
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.process import Limits
from market.proofs.registration import register
from market.proofs.srs import sha256_of
from provider.proofs_cli import ProvingAgent, proving
from tests.integration.chain.world import CLIENT, PROVIDERS
from tests.integration.proofs.shopping import BASE_FEE, VALUES, Commands, Shopping

NUMBERS = ",".join(map(str, VALUES))


def _renamed(artefact: ProofArtefact, out: Path, backend: str) -> ProofArtefact:
    """The same circuit as if another backend had made it: another model, since the name is part of the modelId."""
    shutil.copytree(artefact.folder, out)
    encoding, manifest = out / ENCODING, out / "manifest.json"
    encoding.write_text(json.dumps(json.loads(encoding.read_text()) | {"backend": backend}, sort_keys=True))
    document = json.loads(manifest.read_text())
    document["files"][ENCODING]["sha256"] = sha256_of(encoding)
    runtime = bytes.fromhex(json.loads((out / VERIFIER).read_text())["runtime"])
    roots = roots_of(out, artefact.program, runtime)
    document |= {"modelId": "0x" + roots.model_id.hex(), "roots": roots.to_json()}
    manifest.write_text(json.dumps(document))
    return load_artefact(out, proving=True)


class Twin(EzklBackend):
    """ezkl by another name, which notes what it is asked for."""

    name = "twin"

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.asked: list[str] = []

    def prove(self, folder: Path, ids: Sequence[int], job_id: bytes, *, blinding: int = 0) -> Proof:
        self.asked.append("prove")
        return super().prove(folder, ids, job_id, blinding=blinding)

    def input_root(self, folder: Path, ids: Sequence[int], *, blinding: int = 0) -> bytes:
        self.asked.append("input_root")
        return super().input_root(folder, ids, blinding=blinding)


def test_an_artefact_is_proved_and_its_input_hashed_by_the_backend_that_it_names(
    shopping: Shopping,
    private: ProofArtefact,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    made: list[Twin] = []

    def twin(limits: Limits) -> Twin:
        made.append(Twin(limits))
        return made[-1]

    monkeypatch.setitem(BACKENDS, "twin", twin)
    artefact = _renamed(private, tmp_path / "twin", "twin")
    assert artefact.backend == "twin"
    assert artefact.model_id != private.model_id
    with shopping.world.as_(PROVIDERS[0]) as transactions:
        register(artefact, shopping.world.contracts, transactions)
    limits = Limits(seconds=77)
    with proving(shopping.settings(artefact, prover=limits, provider=1)) as agent:
        asked = [NUMBERS, "--artefact", str(artefact.folder), "--provider", agent.url, "--yes"]
        assert commands.job("classify", *asked, *commands.market(CLIENT))["paid"] == str(BASE_FEE)
    providers, clients = made
    assert (providers.asked, providers.limits) == (["input_root", "prove"], limits)
    assert clients.asked == ["input_root"]


def test_a_backend_that_is_not_here_is_told_by_its_name_before_anything_is_promised(
    shopping: Shopping, private: ProofArtefact, commands: Commands, tmp_path: Path
) -> None:
    artefact = _renamed(private, tmp_path / "groth16", "groth16")
    sent = shopping.world.chain.transaction_count(shopping.world.account(PROVIDERS[1]).address)

    def prove() -> None:
        ProvingAgent(dataclasses.replace(shopping.settings(artefact, provider=1), endpoint=""))

    def classify() -> None:
        asked = [NUMBERS, "--artefact", str(artefact.folder), "--provider", "http://127.0.0.1:9", "--yes"]
        commands.job("classify", *asked, *commands.market(CLIENT))

    for command in (prove, classify):
        with pytest.raises(ConfigError, match=r"“groth16”, which is not here: there is ezkl\.") as caught:
            command()
        assert caught.value.code == "UnknownBackend"
    assert shopping.world.chain.transaction_count(shopping.world.account(PROVIDERS[1]).address) == sent


def test_the_backends_of_one_process_are_one(
    tiny: ProofArtefact, private: ProofArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_limits: Limits) -> Any:
        raise AssertionError

    monkeypatch.setitem(BACKENDS, "twin", none)
    assert isinstance(backend_of([tiny, private]), EzklBackend)
    for artefacts, words in (
        ([tiny, dataclasses.replace(private, backend="twin")], "ezkl and twin"),
        ([], "none"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            backend_of(artefacts)
        assert caught.value.code == "SeveralBackends"
