"""The prover's process and the set-up: limits that hold, errors that say what to do, files that are checked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from market.errors import AssayError
from market.proofs.artefact import SRS, ProofArtefact, load_artefact
from market.proofs.backend import CircuitOptions, Proof, signed, unsigned
from market.proofs.errors import ArtefactError, NotProvable, ProverError, SrsError
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.process import MIB, Limits
from market.proofs.setup import SetupWish, check_estimate, estimate, set_up
from market.proofs.srs import CEREMONY, DEVELOPMENT, Ceremony, sha256_of, take
from tests.integration.proofs.conftest import SOLC
from tests.integration.proofs.tiny import write_tiny

IDS = [2, 4, 6, 7]
JOB = b"\x11" * 32


def _code(caught: pytest.ExceptionInfo[AssayError]) -> str:
    return caught.value.code


def test_a_proof_verifies_off_chain_and_a_bent_one_does_not(backend: EzklBackend, tiny: ProofArtefact) -> None:
    proof = backend.prove(tiny.folder, IDS, JOB)
    assert backend.verify(tiny.folder, proof)
    bent = bytearray(proof.data)
    bent[200] ^= 1
    assert not backend.verify(tiny.folder, Proof(bytes(bent), proof.ids))
    assert not backend.verify(tiny.folder, Proof(b"nonsense", proof.ids))
    assert proof.ids == backend.run(tiny.folder, [IDS])[0]


def test_another_models_key_refuses_the_proof(backend: EzklBackend, tiny: ProofArtefact, other: ProofArtefact) -> None:
    assert not backend.verify(other.folder, backend.prove(tiny.folder, IDS, JOB))


def test_a_prover_that_takes_too_long_is_stopped(tiny: ProofArtefact) -> None:
    with pytest.raises(ProverError) as caught:
        EzklBackend(Limits(seconds=0.05)).prove(tiny.folder, IDS, JOB)
    assert _code(caught) == "ProverTimeout"
    assert _workers() == []


def test_a_prover_that_computes_too_long_is_stopped_though_nobody_looks_at_the_clock() -> None:
    """Its computing time is limited by the kernel."""
    code = "import os; from market.proofs.ezkl_worker import confine; confine(1 << 30, 1, os.getppid())"
    worker = subprocess.Popen([sys.executable, "-c", f"{code}\nwhile True: pass"])
    assert worker.wait(timeout=60) in (-signal.SIGXCPU, -signal.SIGKILL)


def _least_memory(artefact: ProofArtefact, pixels: list[int]) -> tuple[int, tuple[int, ...]]:
    """Bytes, in steps of 16 MiB, in which all that comes before a proof fits: ezkl, circuit, answer; and the answer."""
    for mib in range(64, 1024, 16):
        try:
            return mib * MIB, EzklBackend(Limits(memory=mib * MIB, threads=2)).run(artefact.folder, [pixels])[0]
        except ProverError:
            continue
    raise AssertionError


def test_a_prover_that_wants_too_much_memory_while_it_proves_fails_alone(digits: ProofArtefact) -> None:
    """The proof takes some 80 MiB more than what is done before it; on two cores 150 instead of 72."""
    pixels = [unsigned(2)] * 64
    memory, answer = _least_memory(digits, pixels)
    with pytest.raises(ProverError, match=f"more than the {memory // MIB} MiB") as caught:
        EzklBackend(Limits(memory=memory, threads=2)).prove(digits.folder, pixels, JOB)
    assert _code(caught) == "ProverOutOfMemory"
    assert caught.value.details == {"limit_bytes": memory}
    assert _workers() == []
    assert EzklBackend(Limits(memory=1024 * MIB, threads=2)).prove(digits.folder, pixels, JOB).ids == answer


def test_a_prover_that_is_killed_is_told_as_such(tiny: ProofArtefact) -> None:
    seen: list[AssayError] = []

    def run() -> None:
        try:
            EzklBackend().prove(tiny.folder, IDS, JOB)
        except ProverError as error:
            seen.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until = time.monotonic() + 20
    while not (workers := _workers()) and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(workers[0], signal.SIGKILL)
    thread.join()
    assert [error.code for error in seen] == ["ProverKilled"]


def _workers() -> list[int]:
    """Provers that this process started and that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
        if parent == os.getpid() and b"ezkl_worker" in command:
            found.append(int(entry.name))
    return found


def test_the_manifest_says_where_the_powers_of_tau_come_from(tiny: ProofArtefact, other: ProofArtefact) -> None:
    assert (tiny.manifest["srs"]["kind"], tiny.is_unsafe) == (DEVELOPMENT, True)
    assert (other.manifest["srs"]["kind"], other.is_unsafe) == (CEREMONY, False)
    assert tiny.manifest["srs"]["sha256"] == other.manifest["srs"]["sha256"] == sha256_of(tiny.folder / SRS)


def test_powers_of_tau_are_the_file_that_was_named(tiny: ProofArtefact, tmp_path: Path) -> None:
    powers = tiny.folder / SRS
    log_rows = tiny.manifest["srs"]["logRows"]
    for ceremony, rows, code in (
        (Ceremony(tmp_path / "none", "00"), log_rows, "SrsMissing"),
        (Ceremony(powers, "00" * 32), log_rows, "SrsMismatch"),
        (Ceremony(powers, sha256_of(powers)), log_rows + 1, "SrsSize"),
    ):
        with pytest.raises(SrsError) as caught:
            take(ceremony, rows, tmp_path / "powers")
        assert _code(caught) == code
        assert not (tmp_path / "powers").exists()


def test_a_changed_file_is_noticed(tiny: ProofArtefact, tmp_path: Path) -> None:
    for name in ("vk.key", "pk.key", "labels.json", "verifier.json"):
        copy = tmp_path / name
        shutil.copytree(tiny.folder, copy)
        with (copy / name).open("ab") as file:
            file.write(b" ")
        with pytest.raises(ArtefactError) as caught:
            load_artefact(copy, proving=True)
        assert _code(caught) == "ArtefactChanged"


def test_a_manifest_that_names_another_model_is_noticed(tiny: ProofArtefact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny.folder, copy)
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"inputs": 4', '"inputs": 5'))
    with pytest.raises(ArtefactError) as caught:
        load_artefact(copy)
    assert _code(caught) == "ModelIdMismatch"


def test_a_client_needs_no_provers_files(tiny: ProofArtefact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny.folder, copy)
    for name in ("circuit.onnx", "circuit.ezkl", "pk.key"):
        (copy / name).unlink()
    assert not load_artefact(copy).can_prove
    with pytest.raises(ArtefactError):
        load_artefact(copy, proving=True)


def test_what_takes_too_long_or_too_much_is_refused_with_its_estimate(backend: EzklBackend, tmp_path: Path) -> None:
    wish = SetupWish(write_tiny(tmp_path / "m.onnx", 1), "m", SOLC, max_seconds=0.01)
    with pytest.raises(NotProvable) as caught:
        set_up(wish, tmp_path / "out", backend)
    assert _code(caught) == "TooSlow"
    assert caught.value.details["log_rows"] == 10
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    expected = estimate(wish, backend)
    assert expected.rows > 0
    with pytest.raises(NotProvable) as caught:
        check_estimate(expected, 60, 1 * MIB)
    assert _code(caught) == "TooLarge"


def test_the_table_of_a_function_that_is_looked_up_is_estimated(backend: EzklBackend, tmp_path: Path) -> None:
    """Its 65,537 rows, where the network takes some hundred; cut into columns it makes no verifier that fits."""
    wish = SetupWish(write_tiny(tmp_path / "m.onnx", 1, activation="Sigmoid"), "m", SOLC, max_seconds=1)
    with pytest.raises(NotProvable) as caught:
        set_up(wish, tmp_path / "out", backend)
    assert _code(caught) == "TooSlow"
    assert caught.value.details["log_rows"] == 17
    assert caught.value.details["cpu_seconds"] > 30


def test_a_first_proof_that_takes_longer_than_estimated_is_refused(backend: EzklBackend, tmp_path: Path) -> None:
    wish = SetupWish(write_tiny(tmp_path / "m.onnx", 1), "m", SOLC, max_seconds=0.3)
    with pytest.raises(NotProvable, match=r"^A proof took .* The estimate was: A circuit of 2\^10 rows") as caught:
        set_up(wish, tmp_path / "out", backend)
    assert _code(caught) == "TooSlow"
    assert caught.value.details["seconds"] > 0.3
    assert caught.value.details["log_rows"] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_what_is_no_model_is_refused(backend: EzklBackend, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.onnx"
    rubbish.write_bytes(b"no model")
    for source in (rubbish, tmp_path / "missing.onnx"):
        with pytest.raises(NotProvable) as caught:
            estimate(SetupWish(source, "m", SOLC), backend)
        assert _code(caught) == "ModelUnreadable"


def test_what_no_circuit_can_be_made_of_is_refused(backend: EzklBackend, tmp_path: Path) -> None:
    """ONNX that is right, with an operation that ezkl has not."""
    with pytest.raises(NotProvable, match=r"^No circuit can be made of .*Det") as caught:
        set_up(SetupWish(write_tiny(tmp_path / "m.onnx", 1, activation="Det"), "m", SOLC), tmp_path / "out", backend)
    assert _code(caught) == "NoCircuit"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_shapes_that_are_not_one_fixed_input_and_output_are_refused(backend: EzklBackend, tmp_path: Path) -> None:
    import onnx

    def open_length(graph: Any) -> None:
        graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"

    def batch(graph: Any) -> None:
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    def second_input(graph: Any) -> None:
        graph.input.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 4]))

    def second_output(graph: Any) -> None:
        graph.output.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [1, 16]))

    for change, words in (
        (open_length, r"\[1, 0\], is not one fixed input"),
        (batch, r"\[2, 4\], is not one fixed input"),
        (second_input, "has 2 and 1"),
        (second_output, "has 1 and 2"),
    ):
        model = onnx.load(str(write_tiny(tmp_path / "m.onnx", 1)))
        change(model.graph)
        onnx.save(model, str(tmp_path / "m.onnx"))
        with pytest.raises(NotProvable, match=words) as caught:
            estimate(SetupWish(tmp_path / "m.onnx", "m", SOLC), backend)
        assert _code(caught) == "ModelShape"


def test_a_verifier_that_no_contract_can_hold_is_refused(
    backend: EzklBackend, tiny: ProofArtefact, tmp_path: Path
) -> None:
    """EIP-170: eight columns of advice make one of 28 kB of the smallest network."""
    source, powers = write_tiny(tmp_path / "m.onnx", 1), tiny.folder / SRS
    wish = SetupWish(source, "m", SOLC, options=CircuitOptions(columns=8), ceremony=Ceremony(powers, sha256_of(powers)))
    with pytest.raises(NotProvable, match=r"may have 24,576\..*The estimate was: A circuit of 2\^10 rows") as caught:
        set_up(wish, tmp_path / "out", backend)
    assert _code(caught) == "VerifierTooLarge"
    assert "--columns" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_folder_of_something_else_is_left_alone(backend: EzklBackend, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(AssayError, match="nothing was written"):
        set_up(SetupWish(write_tiny(tmp_path / "m.onnx", 1), "m", SOLC), tmp_path / "mine", backend)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("value", [0, 1, -1, 2, -2, 2**31 - 1, 1 - 2**31])
def test_ids_and_values_are_one_to_one(value: int) -> None:
    assert signed(unsigned(value)) == value
    assert unsigned(value) < 2**32 - 1


@pytest.mark.parametrize("value", [2**31, -(2**31)])
def test_values_that_are_too_large_are_no_ids(value: int) -> None:
    with pytest.raises(ArtefactError):
        unsigned(value)
    with pytest.raises(ArtefactError):
        signed(2**32 - 1)
