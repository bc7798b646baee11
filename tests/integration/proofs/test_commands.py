"""The commands that the rest of the tests do not type: forms of a circuit, a hashed input, an escrow taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from market.errors import ContractError
from market.events import decode_logs
from market.proof_contracts import ProofJobParams
from market.proofs.artefact import SRS, ProofArtefact, load_artefact
from market.proofs.backend import InputForm, unsigned
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.srs import sha256_of
from market.views import ProofJobState
from provider.proofs_cli import proving
from tests.integration.chain.world import CLIENT
from tests.integration.proofs.shopping import BASE_FEE, STRANGER, VALUES, Commands, Shopping
from tests.integration.proofs.tiny import forward, write_tiny

IDS = [unsigned(value) for value in VALUES]
NUMBERS = ",".join(map(str, VALUES))
ANYBODY = 7
"""An account with gas and nothing else."""


def test_a_circuit_with_a_hashed_input_is_set_up_by_command(
    tiny: ProofArtefact, backend: EzklBackend, commands: Commands, tmp_path: Path
) -> None:
    source, powers = write_tiny(tmp_path / "m.onnx", 1), tiny.folder / SRS
    named = ["--input-form", "hashed", "--srs", str(powers), "--srs-sha256", sha256_of(powers)]
    made = commands.model("prove-setup", str(source), "--out", str(tmp_path / "out"), *named)
    assert (made["inputForm"], made["inputs"], made["outputs"]) == ("hashed", 4, 3)
    artefact = load_artefact(tmp_path / "out", proving=True)
    assert artefact.program.form == InputForm.HASHED
    root = backend.input_root(artefact.folder, IDS, blinding=9)
    assert root != backend.input_root(artefact.folder, IDS, blinding=10)


def test_a_circuit_with_committed_weights_is_set_up_by_command(
    backend: EzklBackend, commands: Commands, tmp_path: Path
) -> None:
    source = write_tiny(tmp_path / "m.onnx", 1, hidden=1)
    made = commands.model("prove-setup", str(source), "--out", str(tmp_path / "out"), "--weights", "committed")
    assert made["weights"] == "committed"
    artefact = load_artefact(tmp_path / "out", proving=True)
    assert artefact.program.weights_commitment.hex() == made["weightsCommitment"].removeprefix("0x")
    assert any(artefact.program.weights_commitment)
    assert backend.verify(artefact.folder, backend.prove(artefact.folder, IDS, b"\x01" * 32))


def test_a_hashed_input_is_bought_by_command(
    shopping: Shopping, private: ProofArtefact, commands: Commands, tmp_path: Path
) -> None:
    (tmp_path / "numbers.txt").write_text(NUMBERS + "\n")
    with proving(shopping.settings(private, provider=1)) as agent:
        asked = [f"@{tmp_path / 'numbers.txt'}", "--artefact", str(private.folder), "--provider", agent.url, "--yes"]
        bought = commands.job("classify", *asked, *commands.market(CLIENT))
    assert bought["paid"] == str(BASE_FEE)
    assert bought["scores"] == pytest.approx(list(forward(1, VALUES)), abs=0.05)
    job = shopping.world.contracts.proofs.job(bytes.fromhex(bought["job_id"].removeprefix("0x")))
    assert job.state == ProofJobState.SETTLED


def test_an_escrow_is_taken_back_by_command(shopping: Shopping, private: ProofArtefact, commands: Commands) -> None:
    """By anybody, for the client, and not before the deadline."""
    world = shopping.world
    with proving(shopping.settings(private, provider=1)) as agent:
        offered = shopping.client.negotiate(private, VALUES, agent.url)
    quote, signature = shopping.requote(offered.quote, provider=1)
    held = shopping.credit(STRANGER)
    params = ProofJobParams(BASE_FEE, 30, offered.request, quote, signature)
    sent = world.send(STRANGER, world.contracts.proofs.post(params))  # nobody proves it
    job_id = next(e for e in decode_logs(sent.logs) if e.name == "ProofJobPosted").args["jobId"]
    name, market = "0x" + job_id.hex(), commands.market(ANYBODY)
    with pytest.raises(ContractError) as caught:
        commands.job("expire-proof", name, *market)
    assert caught.value.code == "ProofNotDue"
    assert shopping.credit(STRANGER) == held - BASE_FEE
    world.anvil.increase_time(31)
    assert commands.job("expire-proof", name, *market) == {"job_id": name, "refunded": str(BASE_FEE)}
    assert shopping.credit(STRANGER) == held
    assert world.contracts.proofs.job(job_id).state == ProofJobState.EXPIRED
    with pytest.raises(ContractError) as caught:
        commands.job("expire-proof", name, *market)
    assert caught.value.code == "ProofJobNotOpen"
