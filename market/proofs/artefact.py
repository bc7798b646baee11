"""A proof artefact: a folder with circuit, keys and verifier of one model, and a manifest that is checked.

manifest.json is not hashed: what it says of files, roots and shape is recomputed. What it tells for people (name,
licence, source, estimate, measured) and `srs.kind` is believed; on a real chain nothing rests on it (`check_powers`).
What a modelId binds is the verifier's code (weightsRoot), the shape of a proof (programRoot), how ids are read
(tablesRoot) and the labels (templateHash).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.errors import ConfigError
from market.files import write_atomically
from market.hashing import ZERO32, keccak256
from market.proofs.backend import EzklProgram, InputForm
from market.proofs.errors import ArtefactError, SrsError
from market.proofs.srs import DEVELOPMENT, is_in_verifier, sha256_of
from market.types import Model

FORMAT = 1
MANIFEST = "manifest.json"
VERIFIER, ENCODING, LABELS, SRS = "verifier.json", "encoding.json", "labels.json", "powers.srs"
PROVER_FILES = ("circuit.onnx", "circuit.ezkl", "pk.key")
"""What proving takes, and checking does not; with fixed weights all of it may be shown to anybody."""
CHECK_FILES = ("settings.json", "vk.key", "verifier.sol", VERIFIER, ENCODING, LABELS, SRS)


@dataclass(frozen=True)
class ProofArtefact:
    """A folder whose files are what its manifest says, and whose roots make its modelId.

    Attributes:
        backend: name of the proving system that it is for (market.proofs.backends).
        labels: names of the outputs, where it has them.
        input_scale, output_scale: fraction bits: a value is id / 2^scale.
        creation: the verifier's creation code.
    """

    folder: Path
    name: str
    backend: str
    model: Model
    program: EzklProgram
    labels: tuple[str, ...]
    input_scale: int
    output_scale: int
    srs_kind: str
    creation: bytes
    manifest: Mapping[str, Any]

    @property
    def model_id(self) -> bytes:
        return self.model.model_id

    @property
    def is_unsafe(self) -> bool:
        """Whether its maker says that somebody may know the secret of its powers of tau. A no is no proof."""
        return self.srs_kind == DEVELOPMENT

    @property
    def can_prove(self) -> bool:
        return all((self.folder / name).is_file() for name in PROVER_FILES)


def write_manifest(folder: Path, fields: Mapping[str, Any]) -> None:
    """Writes the manifest with sizes and hashes of the files that lie there."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in (*CHECK_FILES, *PROVER_FILES)
    }
    document = {"format": FORMAT, **fields, "files": files}
    write_atomically(folder / MANIFEST, json.dumps(document, indent=1).encode() + b"\n", mode=0o644)


def roots_of(folder: Path, program: EzklProgram, runtime: bytes) -> Model:
    """The model that an artefact proves; its hash is the modelId."""
    return Model(
        weights_root=keccak256(runtime),
        program_root=program.hash_struct(),
        tables_root=keccak256((folder / ENCODING).read_bytes()),
        tokenizer_hash=ZERO32,
        template_hash=keccak256((folder / LABELS).read_bytes()),
    )


def load_artefact(folder: Path, *, proving: bool = False) -> ProofArtefact:
    """Reads and checks an artefact.

    Args:
        proving: the prover's files must be there too.
    Raises:
        ConfigError: there is none. ArtefactError: codes ArtefactChanged, ModelIdMismatch, SrsMismatch,
            ArtefactMalformed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(
            f"There is no proof artefact in {folder}.", hint="Make one with `assay model prove-setup`."
        ) from None
    try:
        if manifest["format"] != FORMAT:
            raise ArtefactError(f"{folder} is of format {manifest['format']}.", code="ArtefactMalformed")
        _check_files(folder, manifest["files"], proving=proving)
        artefact = _read(folder, manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"The artefact in {folder} is malformed: {error!r}.", code="ArtefactMalformed") from None
    if manifest["srs"]["sha256"] != manifest["files"][SRS]["sha256"] or not is_in_verifier(
        folder / SRS, bytes.fromhex(json.loads((folder / VERIFIER).read_text(encoding="utf-8"))["runtime"])
    ):
        raise ArtefactError(
            f"The verifier in {folder} was not made with the powers of tau that lie beside it.",
            hint="Set it up again.",
            code="SrsMismatch",
        )
    stated = manifest["modelId"]
    if "0x" + artefact.model_id.hex() != stated:
        raise ArtefactError(
            f"The artefact in {folder} says {stated}, its parts make 0x{artefact.model_id.hex()}.",
            hint="Set it up again.",
            code="ModelIdMismatch",
        )
    return artefact


def check_powers(artefact: ProofArtefact, ceremony_sha256: str | None) -> None:
    """Before money depends on an artefact: its powers of tau are the ceremony's that the caller names, whatever its
    manifest says of them.

    Raises:
        SrsError: code UnsafeSrs (made for development, or no hash was named) or SrsMismatch.
    """
    if artefact.is_unsafe:
        raise SrsError(
            "This artefact's powers of tau were made on a machine that may know their secret, and whoever knows it can "
            "prove any answer; nothing was sent.",
            hint="Set it up again with a ceremony's file (--srs), or insist with --allow-unsafe.",
            code="UnsafeSrs",
        )
    if ceremony_sha256 is None:
        raise SrsError(
            "This artefact says that its powers of tau are a ceremony's; anybody can write that. Nothing was sent.",
            hint="Name the hash that the ceremony published of its file, with --srs-sha256.",
            code="UnsafeSrs",
        )
    found = artefact.manifest["srs"]["sha256"]
    if found != ceremony_sha256.lower().removeprefix("0x"):
        raise SrsError(
            f"This artefact's powers of tau are not the file that was named, their SHA-256 is {found}; nothing was "
            "sent.",
            hint="Do not use it, or get the hash from the ceremony itself.",
            code="SrsMismatch",
            expected=ceremony_sha256,
            got=found,
        )


def _check_files(folder: Path, files: Mapping[str, Any], *, proving: bool) -> None:
    for name in (*CHECK_FILES, *PROVER_FILES):
        path = folder / name
        if not path.is_file():
            if name in PROVER_FILES and not proving:
                continue
            raise ArtefactError(f"{path} is missing.", hint="Set the artefact up again.", code="ArtefactChanged")
        if sha256_of(path) != files[name]["sha256"]:
            raise ArtefactError(f"{path} was changed.", hint="Set the artefact up again.", code="ArtefactChanged")


def _read(folder: Path, manifest: Mapping[str, Any]) -> ProofArtefact:
    code = json.loads((folder / VERIFIER).read_text(encoding="utf-8"))
    encoding = json.loads((folder / ENCODING).read_text(encoding="utf-8"))
    program = EzklProgram(
        int(manifest["inputs"]),
        int(manifest["outputs"]),
        InputForm[str(manifest["inputForm"]).upper()],
        bytes.fromhex(manifest["weightsCommitment"].removeprefix("0x")),
    )
    runtime = bytes.fromhex(code["runtime"])
    return ProofArtefact(
        folder=folder,
        name=str(manifest["name"]),
        backend=str(encoding["backend"]),
        model=roots_of(folder, program, runtime),
        program=program,
        labels=tuple(json.loads((folder / LABELS).read_text(encoding="utf-8"))),
        input_scale=int(encoding["inputScale"]),
        output_scale=int(encoding["outputScale"]),
        srs_kind=str(manifest["srs"]["kind"]),
        creation=bytes.fromhex(code["creation"]),
        manifest=manifest,
    )
