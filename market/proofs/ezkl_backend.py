"""ezkl behind the seam: every task in a process of its own (ezkl_worker), within limits.

https://github.com/zkonduit/ezkl, version 23.0.5: halo2 with KZG over BN254. Its package states no licence, so it is
never part of the default install (docs/adr/0031).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from market.errors import ConfigError
from market.proofs.artefact import SRS, load_artefact
from market.proofs.backend import CircuitOptions, Estimate, InputForm, Proof, WeightForm, signed, unsigned
from market.proofs.errors import ArtefactError
from market.proofs.process import MIB, Finished, Limits, run_limited

WORKER = "market.proofs.ezkl_worker"
FIELD = 21888242871839275222246405745257275088548364400416034343698204186575808495617

# fitted to the table of docs/benchmarks.md: a circuit of 2^k rows costs a fixed part and one that grows with them, more
# where it is wider
_CPU_SECONDS, _CPU_SECONDS_A_ROW = 0.25, 0.00025
_MEMORY, _MEMORY_A_ROW = 32 * MIB, 6_800
_COLUMN_MORE = 0.75
_HASHED = 2.0
_LOOKUP_MORE = 0.5  # a function that is looked up, as Sigmoid is


class EzklBackend:
    """See the module and market.proofs.backend. Thread-safe; each call is a process.

    Raises:
        ConfigError: code ProofExtraMissing.
    """

    name = "ezkl"

    def __init__(self, limits: Limits | None = None) -> None:
        if importlib.util.find_spec("ezkl") is None:
            raise ConfigError(
                "Proofs need packages that are not installed.",
                hint="Install the extra: pip install 'assay[proof]'.",
                code="ProofExtraMissing",
            )
        self.limits = limits or Limits()

    # ------------------------------------------------------------------------------------------------- setting up

    def estimate(self, folder: Path, options: CircuitOptions) -> tuple[Estimate, dict[str, Any]]:
        """Lays circuit.onnx out and writes settings.json; proves nothing.

        Returns:
            what proving will take, and the worker's answer.
        """
        answer = self._task("estimate", folder=str(folder), options=asdict(options)).answer
        log_rows = int(answer["logRows"])
        width = 1 + _COLUMN_MORE * (options.columns - 1)
        if options.form == InputForm.HASHED or options.weights == WeightForm.COMMITTED:
            width *= _HASHED
        width += _LOOKUP_MORE * answer["lookups"]
        estimate = Estimate(
            rows=answer["rows"],
            assignments=answer["assignments"],
            log_rows=log_rows,
            cpu_seconds=round(_CPU_SECONDS + _CPU_SECONDS_A_ROW * width * 2**log_rows, 2),
            memory=_MEMORY + int(_MEMORY_A_ROW * width * 2**log_rows),
        )
        return estimate, answer

    def generate_powers(self, path: Path, log_rows: int) -> None:
        """Development only: see market.proofs.srs."""
        self._task("powers", path=str(path), logRows=log_rows)

    def set_up(self, folder: Path) -> Finished:
        """Circuit, keys and verifier.sol from circuit.onnx, settings.json and the powers in the folder."""
        return self._task("setup", folder=str(folder), srs=str(folder / SRS))

    # ---------------------------------------------------------------------------------------------------- proving

    def prove(self, folder: Path, ids: Sequence[int], job_id: bytes, *, blinding: int = 0) -> Proof:
        artefact = load_artefact(folder, proving=True)
        inputs = self._inputs(ids, artefact.program.inputs, artefact.program.form, blinding)
        tag = int.from_bytes(job_id) >> 8
        done = self._task("prove", folder=str(folder), srs=str(folder / SRS), inputs=inputs, tag=str(tag))
        instances = [int(value) for value in done.answer["instances"]]
        data = encode(["bytes", "uint256[]"], [bytes.fromhex(done.answer["proof"].removeprefix("0x")), instances])
        outputs = tuple(id_of(value) for value in instances[-1 - artefact.program.outputs : -1])
        return Proof(data, outputs, done.seconds, done.cpu_seconds, done.peak_memory)

    def verify(self, folder: Path, proof: Proof) -> bool:
        return self.verify_timed(folder, proof)[0]

    def verify_timed(self, folder: Path, proof: Proof) -> tuple[bool, float]:
        """As `verify`, and the seconds that the verification itself took inside its process."""
        try:
            data, instances = decode(["bytes", "uint256[]"], proof.data)
        except DecodingError:
            return False, 0.0
        answer = self._task(
            "verify",
            folder=str(folder),
            srs=str(folder / SRS),
            proof=bytes(data).hex(),
            instances=[str(value) for value in instances],
        ).answer
        return bool(answer["holds"]), float(answer["seconds"])

    def input_root(self, folder: Path, ids: Sequence[int], *, blinding: int = 0) -> bytes:
        from market.hashing import tokens_root

        artefact = load_artefact(folder)
        inputs = self._inputs(ids, artefact.program.inputs, artefact.program.form, blinding)
        if artefact.program.form == InputForm.PUBLIC:
            return tokens_root(ids)
        answer = self._task("digest", inputs=inputs).answer
        return int(answer["hash"]).to_bytes(32)

    def run(self, folder: Path, batch: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        artefact = load_artefact(folder, proving=True)
        program = artefact.program
        inputs = [self._inputs(ids, program.inputs, program.form, 0) for ids in batch]
        answer = self._task("run", folder=str(folder), srs=str(folder / SRS), batch=inputs).answer
        return [tuple(id_of(int(value)) for value in row) for row in answer["outputs"]]

    # ---------------------------------------------------------------------------------------------------- private

    def _task(self, task: str, **fields: Any) -> Finished:
        return run_limited(WORKER, {"task": task, **fields}, self.limits)

    @staticmethod
    def _inputs(ids: Sequence[int], expected: int, form: int, blinding: int) -> list[int]:
        if len(ids) != expected:
            raise ArtefactError(
                f"The model takes {expected} numbers, {len(ids)} came.", code="ShapeMismatch", expected=expected
            )
        values = [signed(value) for value in ids]
        return [*values, blinding] if form == InputForm.HASHED else values


def id_of(instance: int) -> int:
    """The id that a field element stands for.

    Raises:
        ArtefactError: the model's output does not fit an id.
    """
    return unsigned(instance if instance <= FIELD // 2 else instance - FIELD)
