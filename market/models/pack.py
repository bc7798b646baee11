"""A pack on disk: the checked, read-only way from a folder to an ``IntegerModel``.

Loading checks the sha256 of every file first, so a corrupted part is named before anything is read from it.
`verify_pack` also rebuilds the roots and proves the bounds again; it is what tells whether a pack is the
model its id names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from market.hashing import STOP_TOKENS_MAX
from market.inference.model import AnyArray, IntegerModel, Layer, Linear, Tables
from market.models import bounds, program, roots
from market.models.errors import PackError
from market.models.program import Program
from market.models.safetensors_file import Bytes, FormatError, map_file, tensors_of
from market.types import Model, parse_bytes32

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
TABLES = "tables.safetensors"
FILES = (WEIGHTS, TABLES, "program.json", "tokenizer.json", "template.jinja")
ROOTS = ("weightsRoot", "programRoot", "tablesRoot", "tokenizerHash", "templateHash")

Made = TypeVar("Made")


@dataclass(frozen=True)
class Limits:
    """What a request to this model must fit in."""

    context: int  # positions, prompt and output together
    vocabulary: int  # ids are below it
    stop_tokens: tuple[int, ...]  # ascending; the default of a request


@dataclass(frozen=True)
class Pack:
    """A loaded pack. Arrays of ``model`` are read-only maps of the files, shared between processes."""

    path: Path
    name: str
    licence: str
    roots: Model
    limits: Limits
    model: IntegerModel
    program: Program
    manifest: dict[str, Any]

    @property
    def model_id(self) -> bytes:
        """32 bytes: hashStruct of the five roots."""
        return self.roots.model_id

    def read_file(self, name: str) -> bytes:
        """A part of the pack, e.g. ``tokenizer.json``."""
        return (self.path / name).read_bytes()


def load_pack(path: Path | str) -> Pack:
    """Checks every file's sha256 and maps the weights. Raises PackError naming the part that is bad."""
    return load_pack_beside(path, lambda _: None)[0]


def load_pack_beside(path: Path | str, work: Callable[[Pack], Made]) -> tuple[Pack, Made]:
    """`load_pack` for those who cannot wait: ``work`` gets the mapped pack while the sha256 of the weights, by far the
    longest of the checks, is still being computed on a thread of its own.

    Returns the pack and what ``work`` returned, once every check held. Raises PackError if one did not, whatever
    ``work`` made of the bad weights or died of; the caller never sees it.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    mapped = {name: _mapped(folder, name, manifest["files"].get(name)) for name in FILES}
    for name in FILES:
        if name != WEIGHTS:
            _check(folder, name, mapped[name], manifest["files"][name])
    with ThreadPoolExecutor(1, "sha256") as other:
        # one call for the whole file: it leaves Python's lock alone, and its pages are those that the engine reads
        check = other.submit(_check, folder, WEIGHTS, mapped[WEIGHTS], manifest["files"][WEIGHTS])
        try:
            pack = _read(folder, manifest, mapped)
            made = work(pack)
        finally:
            check.result()
    return pack, made


def _read(folder: Path, manifest: dict[str, Any], mapped: Mapping[str, Bytes]) -> Pack:
    model_program = read_program(folder)
    pack = Pack(
        path=folder,
        name=str(manifest["name"]),
        licence=str(manifest["licence"]),
        roots=_roots(folder, manifest),
        limits=_limits(folder, manifest),
        model=model_of(folder, model_program, mapped),
        program=model_program,
        manifest=manifest,
    )
    stated = (pack.limits.context, pack.limits.vocabulary)
    if stated != (pack.model.config.context, pack.model.config.vocabulary):
        raise PackError(str(folder), MANIFEST, "states other limits than the program")
    return pack


def verify_pack(path: Path | str) -> Pack:
    """`load_pack`, then every root rebuilt from the data and every bound proved again.

    Raises PackError naming the root that differs, BoundError for a bound that does not hold.
    """
    pack = load_pack(path)
    specs = program.tensors(pack.model.config, pack.program.tied)
    tokenizer, template = pack.read_file("tokenizer.json"), pack.read_file("template.jinja")
    rebuilt = roots.model_of(pack.model, specs, pack.program.operations, tokenizer, template)
    for (_, name, _), stated, found in zip(Model.members(), pack.roots.values(), rebuilt.values(), strict=True):
        if stated != found:
            raise PackError(str(pack.path), name, f"is 0x{found.hex()}, the manifest says 0x{stated.hex()}")  # type: ignore[attr-defined]
    proved = [bound.to_json() for bound in bounds.prove(pack.model)]
    if proved != pack.manifest.get("bounds"):
        raise PackError(str(pack.path), "bounds", "in the manifest differ from the proved ones")
    return pack


def read_program(folder: Path) -> Program:
    """program.json. Raises PackError."""
    try:
        return program.read(json.loads((folder / "program.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise PackError(str(folder), "program.json", str(error)) from error


def map_model(folder: Path, model_program: Program) -> IntegerModel:
    """The weights and tables of a folder, mapped and checked for shape and type. Raises PackError."""
    return model_of(folder, model_program, {name: _map(folder, name) for name in (WEIGHTS, TABLES)})


def model_of(folder: Path, model_program: Program, mapped: Mapping[str, Bytes]) -> IntegerModel:
    """`map_model` of files that are mapped already."""
    config, exponents, fractions = model_program.config, model_program.exponents, model_program.fractions
    weights = _Tensors(folder, WEIGHTS, mapped[WEIGHTS])
    matrices: dict[str, Linear] = {}
    gains: dict[str, AnyArray] = {}
    for spec in program.tensors(config, model_program.tied):
        if spec.role == "gain":
            gains[spec.name] = weights.take(spec.name, np.int32, (spec.columns,))
        else:
            weight = weights.take(f"{spec.name}.weight", np.int8, (spec.rows, spec.columns))
            multiplier = weights.take(f"{spec.name}.multiplier", np.int32, (spec.rows,))
            matrices[spec.name] = Linear(weight, multiplier, exponents[spec.name])
    weights.finish()
    layers = tuple(
        Layer(
            attention_norm=gains[f"layers.{i}.attention_norm"],
            feed_forward_norm=gains[f"layers.{i}.feed_forward_norm"],
            query_fraction=fractions.query[i],
            key_fraction=fractions.key[i],
            value_fraction=fractions.value[i],
            **{
                name: matrices[f"layers.{i}.{name}"]
                for name in ("query", "key", "value", "attention_output", "gate", "up", "down")
            },
        )
        for i in range(config.layers)
    )
    tables = _Tensors(folder, TABLES, mapped[TABLES])
    rope = (config.context, config.head_size // 2)
    integer_tables = Tables(
        exp2_high=tables.take("exp2_high", np.int32, (256,)),
        exp2_low=tables.take("exp2_low", np.int32, (256,)),
        rope_cos=tables.take("rope_cos", np.int32, rope),
        rope_sin=tables.take("rope_sin", np.int32, rope),
    )
    tables.finish()
    head = matrices["embedding" if model_program.tied else "head"]
    return IntegerModel(config, matrices["embedding"], layers, gains["output_norm"], head, integer_tables)


class _Tensors:
    """The tensors of one file, each taken exactly once."""

    def __init__(self, folder: Path, file: str, data: Bytes) -> None:
        self._folder, self._file = str(folder), file
        try:
            self._entries = tensors_of(data)
        except FormatError as error:
            raise PackError(self._folder, file, f"is no safetensors file ({error})") from error

    def take(self, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> AnyArray:
        entry = self._entries.pop(name, None)
        if entry is None or entry.array.dtype != dtype or entry.array.shape != shape:
            raise PackError(self._folder, self._file, f"lacks {name} as {np.dtype(dtype).name}{list(shape)}")
        return entry.array

    def finish(self) -> None:
        if self._entries:
            raise PackError(self._folder, self._file, f"holds {min(self._entries)}, which the program has no place for")


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PackError(str(folder), MANIFEST, "is missing: this is no pack") from error
    except (OSError, ValueError) as error:
        raise PackError(str(folder), MANIFEST, "is unreadable or no JSON") from error
    if not isinstance(manifest, dict) or manifest.get("format") != 1 or manifest.get("architecture") != "llama":
        raise PackError(str(folder), MANIFEST, "is not a format 1 manifest of a llama model")
    for field, kind in (
        ("name", str),
        ("licence", str),
        ("modelId", str),
        ("files", dict),
        ("roots", dict),
        ("limits", dict),
    ):
        if not isinstance(manifest.get(field), kind):
            raise PackError(str(folder), MANIFEST, f"lacks {field}")
    return manifest


def _map(folder: Path, name: str) -> Bytes:
    try:
        return map_file(folder / name)
    except OSError as error:
        raise PackError(str(folder), name, "is missing or unreadable") from error


def _mapped(folder: Path, name: str, stated: object) -> Bytes:
    """A file of the size that the manifest states."""
    if not isinstance(stated, dict):
        raise PackError(str(folder), MANIFEST, f"does not list {name}")
    data = _map(folder, name)
    if data.nbytes != stated.get("bytes"):
        raise PackError(str(folder), name, f"has {data.nbytes} bytes, the manifest says {stated.get('bytes')}")
    return data


def _check(folder: Path, name: str, data: Bytes, stated: dict[str, object]) -> None:
    if hashlib.sha256(data.data).hexdigest() != stated.get("sha256"):
        raise PackError(str(folder), name, "is corrupted: its sha256 differs from the manifest's")


def _roots(folder: Path, manifest: dict[str, Any]) -> Model:
    stated = manifest["roots"]
    values = []
    for name in ROOTS:
        try:
            values.append(parse_bytes32(name, stated.get(name)))
        except Exception as error:  # WireError carries the path
            raise PackError(str(folder), MANIFEST, f"has no valid {name}") from error
    model = Model(*values)
    if manifest["modelId"] != "0x" + model.model_id.hex():
        raise PackError(str(folder), MANIFEST, "names a modelId that is not the hash of its roots")
    return model


def _limits(folder: Path, manifest: dict[str, Any]) -> Limits:
    limits = manifest["limits"]
    context, vocabulary, stop = limits.get("context"), limits.get("vocabulary"), limits.get("stopTokens")
    numbers = [context, vocabulary, *(stop if isinstance(stop, list) else [None])]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise PackError(str(folder), MANIFEST, "has malformed limits")
    if len(stop) > STOP_TOKENS_MAX or any(token >= vocabulary for token in stop):
        raise PackError(str(folder), MANIFEST, "has impossible stop tokens")
    return Limits(context, vocabulary, tuple(sorted(stop)))
