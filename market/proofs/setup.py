"""From a model to a proof artefact: estimate, refuse or go on, powers of tau, keys, verifier, a first proof."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth_abi.abi import decode

from market.errors import ConfigError
from market.hashing import ZERO32
from market.proofs.artefact import (
    ENCODING,
    LABELS,
    MANIFEST,
    SRS,
    VERIFIER,
    ProofArtefact,
    load_artefact,
    roots_of,
    write_manifest,
)
from market.proofs.backend import CircuitOptions, Estimate, EzklProgram, InputForm, WeightForm
from market.proofs.errors import NotProvable, ProverError
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.process import MIB
from market.proofs.solidity import VerifierCode, compile_verifier
from market.proofs.srs import DEVELOPMENT, Ceremony, Srs, check_size, sha256_of, take
from market.proofs.tagging import prepare, read_model

Report = Callable[[str], None]


@dataclass(frozen=True)
class SetupWish:
    """What to make an artefact of.

    Attributes:
        source: a .onnx file, or a TorchScript .pt file with its `inputs`.
        max_seconds: longest that one proof may take on this machine, wall.
        ceremony: None: powers of tau are generated here, which is unsafe.
        labels: names of the outputs, for people.
    """

    source: Path
    name: str
    solc: Path
    options: CircuitOptions = field(default_factory=CircuitOptions)
    max_seconds: float = 60.0
    ceremony: Ceremony | None = None
    inputs: int | None = None
    labels: Sequence[str] = ()
    licence: str = "unstated"


def estimate(wish: SetupWish, backend: EzklBackend) -> Estimate:
    """What proving the model will take; nothing is kept.

    Raises:
        NotProvable: no circuit can be made of the model.
    """
    with tempfile.TemporaryDirectory(prefix="assay-estimate-") as folder:
        return _lay_out(Path(folder), wish, backend)[0]


def set_up(wish: SetupWish, out: Path, backend: EzklBackend, report: Report = lambda _text: None) -> ProofArtefact:
    """Writes the artefact whole, or nothing.

    Raises:
        NotProvable: codes TooSlow, TooLarge, VerifierTooLarge with the estimate; ModelShape, ModelUnreadable,
            NoCircuit.
        SrsError, ConfigError, ProverError: see there.
    """
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise ConfigError(
            f"{out} exists and holds no proof artefact; nothing was written.", hint="Name another folder."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _make(folder, wish, backend, report)
        folder.chmod(0o755)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return load_artefact(out, proving=True)


def _make(folder: Path, wish: SetupWish, backend: EzklBackend, report: Report) -> None:
    report("estimating")
    expected, layout = _lay_out(folder, wish, backend)
    check_estimate(expected, wish.max_seconds, backend.limits.memory)
    try:
        _go_on(folder, wish, backend, report, expected, layout)
    except (NotProvable, ProverError) as error:
        # a refusal that comes late says, too, what was thought before
        error.message = f"{error.message} The estimate was: {_words(expected)}."
        error.details |= _numbers(expected)
        raise


def _go_on(
    folder: Path, wish: SetupWish, backend: EzklBackend, report: Report, expected: Estimate, layout: dict[str, Any]
) -> None:
    report(f"powers of tau for 2^{expected.log_rows} rows")
    powers = _powers(folder / SRS, wish.ceremony, expected.log_rows, backend)
    report("circuit and keys")
    backend.set_up(folder)
    report("verifier")
    code = compile_verifier(folder / "verifier.sol", wish.solc)
    _write(folder / VERIFIER, {"creation": code.creation.hex(), "runtime": code.runtime.hex()})
    _write(
        folder / ENCODING,
        {
            "backend": backend.name,
            "inputScale": layout["inputScale"],
            "outputScale": layout["outputScale"],
            "version": layout["version"],
        },
    )
    _write(folder / LABELS, list(wish.labels))
    report("a first proof")
    _finish(folder, wish, backend, _Made(expected, layout, powers, code))


@dataclass(frozen=True)
class _Made:
    estimate: Estimate
    layout: dict[str, Any]
    powers: Srs
    code: VerifierCode


def _finish(folder: Path, wish: SetupWish, backend: EzklBackend, made: _Made) -> None:
    inputs, outputs = made.layout["inputs"], made.layout["outputs"]
    program = EzklProgram(inputs, outputs, wish.options.form)
    _manifest(folder, wish, made, program, {})
    proof = backend.prove(folder, [0] * inputs, ZERO32)
    if not backend.verify(folder, proof):
        raise ProverError("The first proof does not verify.", code="ProverFailed")
    if proof.seconds > wish.max_seconds:
        raise NotProvable(
            f"A proof took {proof.seconds:,.1f} s; {wish.max_seconds:g} s are allowed. Nothing was kept.",
            hint="Use a smaller model, or allow more with --max-seconds.",
            code="TooSlow",
            seconds=proof.seconds,
        )
    if wish.options.weights == WeightForm.COMMITTED:
        instances = decode(["bytes", "uint256[]"], proof.data)[1]
        commitment = instances[program.weights_hash_at].to_bytes(32)
        program = EzklProgram(inputs, outputs, wish.options.form, commitment)
    measured = {"proveSeconds": round(proof.seconds, 2), "peakMemory": proof.peak_memory}
    _manifest(folder, wish, made, program, measured)


def _manifest(folder: Path, wish: SetupWish, made: _Made, program: EzklProgram, measured: dict[str, Any]) -> None:
    expected = made.estimate
    roots = roots_of(folder, program, made.code.runtime)
    write_manifest(
        folder,
        {
            "name": wish.name,
            "modelId": "0x" + roots.model_id.hex(),
            "roots": roots.to_json(),
            "inputs": program.inputs,
            "outputs": program.outputs,
            "inputForm": InputForm(program.form).name.lower(),
            "weights": wish.options.weights.name.lower(),
            "weightsCommitment": "0x" + program.weights_commitment.hex(),
            "srs": {"kind": made.powers.kind, "sha256": made.powers.sha256, "logRows": expected.log_rows},
            "compiler": made.code.compiler,
            "licence": wish.licence,
            "source": {"file": wish.source.name, "sha256": sha256_of(wish.source)},
            "estimate": {"rows": expected.rows, "cpuSeconds": expected.cpu_seconds, "memory": expected.memory},
            "measured": measured,
        },
    )


def check_estimate(expected: Estimate, max_seconds: float, memory: int) -> None:
    """Refuses what would take too long or too much.

    Raises:
        NotProvable: code TooSlow or TooLarge, with the estimate.
    """
    said, numbers = _words(expected), _numbers(expected)
    if expected.cpu_seconds / _cores() > max_seconds:
        raise NotProvable(
            f"{said}; {max_seconds:g} s are allowed. Nothing was set up.",
            hint="Use a smaller model, or allow more with --max-seconds.",
            code="TooSlow",
            **numbers,
        )
    if expected.memory > memory:
        raise NotProvable(
            f"{said}; {memory // MIB:,} MiB are allowed. Nothing was set up.",
            hint="Use a smaller model, or allow more with --memory.",
            code="TooLarge",
            **numbers,
        )


def _cores() -> int:
    return os.cpu_count() or 1


def _words(expected: Estimate) -> str:
    return (
        f"A circuit of 2^{expected.log_rows} rows takes about {expected.cpu_seconds:,.1f} CPU seconds a proof, "
        f"{expected.cpu_seconds / _cores():,.1f} s on {_cores()} cores, and {expected.memory // MIB:,} MiB"
    )


def _numbers(expected: Estimate) -> dict[str, Any]:
    return {"log_rows": expected.log_rows, "cpu_seconds": expected.cpu_seconds, "memory": expected.memory}


def _lay_out(folder: Path, wish: SetupWish, backend: EzklBackend) -> tuple[Estimate, dict[str, Any]]:
    graph, inputs, outputs = prepare(read_model(wish.source, wish.inputs), wish.options.form)
    (folder / "circuit.onnx").write_bytes(graph.SerializeToString())
    try:
        expected, answer = backend.estimate(folder, wish.options)
    except ProverError as error:
        if error.code != "ProverFailed":
            raise
        raise NotProvable(f"No circuit can be made of {wish.source}: {error.message}", code="NoCircuit") from None
    return expected, {**answer, "inputs": inputs, "outputs": outputs}


def _powers(path: Path, ceremony: Ceremony | None, log_rows: int, backend: EzklBackend) -> Srs:
    if ceremony is not None:
        return take(ceremony, log_rows, path)
    backend.generate_powers(path, log_rows)
    check_size(path, log_rows)
    return Srs(path, DEVELOPMENT, sha256_of(path))


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")
