"""The seam of the proving backends: what the market needs of one, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from market.hashing import ZERO32, Struct
from market.proofs.errors import ArtefactError

VALUE_END = 1 << 31
"""Values lie between -VALUE_END and VALUE_END."""


class InputForm(IntEnum):
    """How a request's input stands in a proof (contracts/interfaces/IEzklVerifier.sol)."""

    PUBLIC = 0
    HASHED = 1


class WeightForm(IntEnum):
    """Where a circuit has its weights. Only forms in which another model's proof is refused (docs/adr/0031).

    FIXED: constants of the verifying key, which anybody can read. COMMITTED: the prover's own, whose Poseidon hash is a
    public number of each proof.
    """

    FIXED = 0
    COMMITTED = 1


@dataclass(frozen=True)
class EzklProgram(Struct):
    """What a proof of one model looks like; its hash is the model's programRoot.

    Attributes:
        weights_commitment: Poseidon hash of the weights; zeros where they are constants of the verifying key.
    """

    inputs: int = field(metadata={"name": "inputs", "kind": "uint32"})
    outputs: int = field(metadata={"name": "outputs", "kind": "uint32"})
    form: int = field(metadata={"name": "form", "kind": "uint8"})
    weights_commitment: bytes = field(default=ZERO32, metadata={"name": "weightsCommitment", "kind": "bytes32"})

    @property
    def weights_hash_at(self) -> int:
        """Where the hash of committed weights stands among the public numbers of a proof: ezkl puts what is hashed
        first, and an input has two hashes, its own and its tag's."""
        return 0 if self.form == InputForm.PUBLIC else 2


@dataclass(frozen=True)
class CircuitOptions:
    """How a model becomes a circuit.

    Attributes:
        input_scale, weight_scale: fraction bits of an input id and of a weight: id = value · 2^scale.
        form: whether the input is public or hashed.
        weights: fixed in the verifying key, or hidden and committed to.
        decomposition_base, decomposition_legs: numbers inside the circuit are below base^legs in size. A small base
            needs a small table: the default of ezkl (16,384) costs 2^15 rows whatever the model.
        columns: of advice per block: more columns are fewer rows, faster proofs and dearer verification.
    """

    input_scale: int = 0
    weight_scale: int = 8
    form: InputForm = InputForm.PUBLIC
    weights: WeightForm = WeightForm.FIXED
    decomposition_base: int = 512
    decomposition_legs: int = 3
    columns: int = 1


@dataclass(frozen=True)
class Estimate:
    """What proving will take, before anything is set up.

    Attributes:
        rows: of the circuit; log_rows: k, the circuit has 2^k; assignments: cells of it that are used.
        cpu_seconds: of one proof, all cores together; memory: peak resident bytes.
    """

    rows: int
    assignments: int
    log_rows: int
    cpu_seconds: float
    memory: int


@dataclass(frozen=True)
class Proof:
    """A proof as the chain takes it.

    Attributes:
        data: abi.encode(bytes proof, uint256[] instances).
        ids: the output that it shows, see `unsigned`.
        seconds, cpu_seconds, peak_memory: what it took; wall time with the start of the process, computing time of all
            threads, bytes.
    """

    data: bytes
    ids: tuple[int, ...]
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0


class ProvingBackend(Protocol):
    """Makes and checks proofs for the artefact in `folder` (market.proofs.artefact)."""

    name: str

    def prove(self, folder: Path, ids: Sequence[int], job_id: bytes, *, blinding: int = 0) -> Proof:
        """A proof that names the job.

        Args:
            ids: the input, see `unsigned`.
            blinding: of a hashed input.
        Raises:
            ProverError: with what stopped it.
        """

    def verify(self, folder: Path, proof: Proof) -> bool:
        """Whether the proof holds under the artefact's key; says nothing of jobs. Raises ProverError."""

    def input_root(self, folder: Path, ids: Sequence[int], *, blinding: int = 0) -> bytes:
        """What a request's inputRoot must be for this input, in the artefact's form."""

    def run(self, folder: Path, batch: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """The outputs that proofs would show for a batch of inputs, without proving."""


def signed(token: int) -> int:
    """The value that an id means: ids 0, 1, 2, 3 … are 0, -1, 1, -2 …

    Raises:
        ArtefactError: code BAD_ID.
    """
    if not 0 <= token < 2 * VALUE_END - 1:
        raise ArtefactError(f"{token} is no id: it takes 0 to {2 * VALUE_END - 2}.", code="BAD_ID")
    return token >> 1 if token % 2 == 0 else -((token + 1) >> 1)


def unsigned(value: int) -> int:
    """The id of a value: 2v, or -2v - 1 for a negative one, so that small values have small ids and none is the filler.

    Raises:
        ArtefactError: code BAD_ID.
    """
    if not -VALUE_END < value < VALUE_END:
        raise ArtefactError(f"{value} does not fit an id: its size is below {VALUE_END}.", code="BAD_ID")
    return value << 1 if value >= 0 else (-value << 1) - 1
