"""Models as torch writes them, from the file to the paid answer, and those that are refused."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from market.errors import ContractError
from market.proofs.artefact import SRS, ProofArtefact, load_artefact
from market.proofs.backend import signed, unsigned
from market.proofs.errors import NotProvable
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.setup import SetupWish, estimate
from market.proofs.srs import sha256_of
from provider.proofs_cli import proving
from tests.integration.chain.world import CLIENT
from tests.integration.proofs.conftest import SOLC, Lab
from tests.integration.proofs.shopping import BASE_FEE, VALUES, Commands, Shopping

torch = pytest.importorskip("torch")
REGISTRAR = 6  # an account that does nothing else


def _save(module: Any, example: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, example).save(str(path))
    return path


def _network() -> Any:
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval()


def _image_network() -> Any:
    """[1, 1, 3, 3] to [1, 2]."""
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 1, 2), torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()


def test_a_torch_model_goes_from_its_file_to_a_paid_answer_by_commands(
    shopping: Shopping, tiny: ProofArtefact, commands: Commands, tmp_path: Path
) -> None:
    network, powers = _network(), tiny.folder / SRS
    source, out = _save(network, torch.zeros(1, 4), tmp_path / "net.pt"), tmp_path / "net"
    named = ["--inputs", "4", "--labels", "a,b,c", "--srs", str(powers), "--srs-sha256", sha256_of(powers)]
    made = commands.model("prove-setup", str(source), "--out", str(out), *named)
    contracts, model_id = shopping.world.contracts, bytes.fromhex(made["modelId"].removeprefix("0x"))
    with pytest.raises(ContractError, match="Nobody published model"):
        contracts.registry.model(model_id)
    assert contracts.verifier.verifier_of(model_id) is None

    registered = commands.model("prove-register", str(out), *commands.market(REGISTRAR))
    assert registered["sent"] == ["publishModel", "Halo2Verifier", "register"]
    artefact = load_artefact(out)
    assert contracts.registry.model(model_id) == artefact.model
    assert contracts.verifier.verifier_of(model_id) == registered["verifier"]
    assert contracts.verifier.shape_of(model_id) == (4, 3)
    assert shopping.world.chain.code(registered["verifier"]) == bytes.fromhex(
        json.loads((out / "verifier.json").read_text())["runtime"]
    )

    with proving(shopping.settings(artefact, provider=1)) as agent:
        numbers = ",".join(map(str, VALUES))
        asked = [numbers, "--artefact", str(out), "--provider", agent.url, "--yes"]
        bought = commands.job("classify", *asked, *commands.market(CLIENT))
    expected = network(torch.tensor([VALUES], dtype=torch.float32))[0].tolist()
    assert bought["paid"] == str(BASE_FEE)
    assert bought["scores"] == pytest.approx(expected, abs=0.05)
    assert bought["label"] == "abc"[expected.index(max(expected))]


def test_a_torchscript_model_of_another_shape_is_refused_with_what_it_takes(
    backend: EzklBackend, tmp_path: Path
) -> None:
    image = _save(_image_network(), torch.zeros(1, 1, 3, 3), tmp_path / "image.pt")
    row = _save(_network(), torch.zeros(1, 4), tmp_path / "row.pt")
    torch.save(_network().state_dict(), tmp_path / "weights.pt")
    for source, inputs, code, words, hint in (
        (image, 9, "ModelShape", "does not take one row of 9 numbers", "ONNX"),
        (row, 5, "ModelShape", "does not take one row of 5 numbers", "--inputs"),
        (row, None, "ModelUnreadable", "does not say how long its input is", "--inputs"),
        (tmp_path / "weights.pt", 4, "ModelUnreadable", "no TorchScript file", "torch.jit.trace"),
    ):
        with pytest.raises(NotProvable, match=words) as caught:
            estimate(SetupWish(source, "m", SOLC, inputs=inputs), backend)
        assert caught.value.code == code
        assert hint in str(caught.value.hint)
        assert "Traceback" not in str(caught.value)


def test_torch_that_is_not_installed_is_said(
    backend: EzklBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The extra `proof` is enough for ONNX and does not bring it."""
    (tmp_path / "m.pt").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NotProvable, match="takes torch, which is not installed") as caught:
        estimate(SetupWish(tmp_path / "m.pt", "m", SOLC, inputs=4), backend)
    assert caught.value.code == "ModelUnreadable"


def test_an_image_goes_in_by_onnx_which_states_its_shape(lab: Lab, backend: EzklBackend, tiny: ProofArtefact) -> None:
    """Its numbers are given in the order of the tensor's rows."""
    del tiny  # its powers of tau serve here too
    network, source = _image_network(), lab.folder / "image.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, 1, 3, 3),), str(source), opset_version=14, dynamo=False)
    made = lab.set_up("image", source)
    assert (made.program.inputs, made.program.outputs) == (9, 2)
    values = [3, -1, 4, -1, 5, -9, 2, 6, -5]
    proof = backend.prove(made.folder, [unsigned(value) for value in values], b"\x01" * 32)
    assert backend.verify(made.folder, proof)
    expected = network(torch.tensor(values, dtype=torch.float32).reshape(1, 1, 3, 3))[0].tolist()
    assert [signed(token) / 2**made.output_scale for token in proof.ids] == pytest.approx(expected, abs=0.05)
