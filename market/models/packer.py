"""Source + recipe → pack folder, tensor by tensor, and only if every bound is proved and the modelId is the
promised one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from market.hashing import STOP_TOKENS_MAX
from market.inference.model import Tables
from market.models import bounds, program, quantise, roots, tables
from market.models.errors import RecipeError, SourceError
from market.models.files import workshop
from market.models.gguf_source import GgufSource
from market.models.pack import FILES, MANIFEST, Pack, load_pack, map_model, read_program
from market.models.program import TensorSpec
from market.models.recipe import Recipe, integer_config
from market.models.safetensors_file import Writer
from market.models.snapshot_source import SnapshotSource
from market.models.source import Source, file_sha256
from market.types import Model

Progress = Callable[[str, int, int], None]  # what is being done, done, total


def silent(stage: str, done: int, total: int) -> None:
    """Reports to nobody."""


def open_source(path: Path) -> Source:
    """A GGUF file or a Hugging Face snapshot folder. Raises SourceError for anything else."""
    if path.is_dir():
        return SnapshotSource(path)
    if path.suffix == ".gguf" and path.is_file():
        return GgufSource(path)
    raise SourceError(path.name, "neither a .gguf file nor a snapshot folder" if path.exists() else "does not exist")


def write_pack(source: Source, recipe: Recipe, out: Path, progress: Progress = silent) -> Pack:
    """Packs ``source`` into the folder ``out``, which appears (or is replaced) only when everything holds.

    Raises RecipeError when the recipe belongs to another source or promises another modelId, SourceError,
    BoundError; ``out`` is then untouched. A killed run leaves a hidden folder that the next run removes.
    Memory: below 1 GB whatever the model.
    """
    _check(source, recipe)
    with workshop(out) as room:
        folder = room / "pack"
        folder.mkdir()
        _write_files(source, recipe, folder, progress)
        pack = load_pack(folder)
        if recipe.model_id and recipe.model_id != "0x" + pack.model_id.hex():
            raise RecipeError("model_id", recipe.model_id, "0x" + pack.model_id.hex())
        if out.exists():
            out.rename(room / "old")  # processes that mapped the old files keep them
        folder.rename(out)
    return load_pack(out)


def _check(source: Source, recipe: Recipe) -> None:
    shape = source.shape
    if recipe.source_sha256 and recipe.source_sha256 != source.sha256:
        raise RecipeError("source.sha256", recipe.source_sha256, f"{source.sha256} ({source.file})")
    if not 1 <= recipe.context <= shape.context:
        raise RecipeError("context", f"{recipe.context}", f"a source trained for {shape.context} positions")
    for name in ("query", "key", "value"):
        count = len(getattr(recipe.fractions, name))
        if count != shape.layers:
            raise RecipeError(f"fraction_bits.{name}", f"{count} numbers", f"a source of {shape.layers} layers")
    stop = recipe.stop_tokens or source.stop_tokens
    if len(stop) > STOP_TOKENS_MAX or any(token >= shape.vocabulary for token in stop):
        raise RecipeError("stop_tokens", f"{list(stop)}", f"a vocabulary of {shape.vocabulary}")
    if shape.head_size % 2 or shape.heads % shape.kv_heads or min(shape.layers, shape.vocabulary) < 1:
        raise SourceError("shape", "heads must be even-sized and a multiple of the key/value heads")
    try:
        tokens = Tokenizer.from_str(source.tokenizer.decode()).get_vocab_size(with_added_tokens=True)
    except Exception as error:
        raise SourceError("tokenizer.json", f"cannot be loaded ({error})") from error
    if tokens > shape.vocabulary:
        raise SourceError("tokenizer.json", f"has {tokens} tokens, the embedding {shape.vocabulary}")


def _write_files(source: Source, recipe: Recipe, folder: Path, progress: Progress) -> None:
    config, tied = integer_config(source.shape, recipe.context), source.shape.tied
    specs = program.tensors(config, tied)
    exponents = _write_weights(source, specs, folder / "weights.safetensors", progress)
    progress("computing tables", 0, 1)
    _write_tables(tables.build(config.context, config.head_size, source.shape.rope_base), folder / "tables.safetensors")
    operations = program.build(config, tied, exponents, recipe.fractions)
    _write_json(folder / "program.json", program.to_json(operations))
    (folder / "tokenizer.json").write_bytes(source.tokenizer)
    (folder / "template.jinja").write_bytes(source.template)
    model = map_model(folder, read_program(folder))
    progress("proving bounds", 0, 1)
    proved = bounds.prove(model)
    progress("hashing roots", 0, 1)
    model_roots = roots.model_of(model, specs, operations, source.tokenizer, source.template)
    _write_json(folder / MANIFEST, _manifest(source, recipe, folder, model_roots, proved))
    progress("packed", 1, 1)


def _write_weights(source: Source, specs: tuple[TensorSpec, ...], path: Path, progress: Progress) -> dict[str, int]:
    """Writes weights.safetensors one block of rows at a time; returns the exponent of each matrix."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for spec in specs:
        if spec.role == "gain":
            shapes[spec.name] = ("I32", (spec.columns,))
        else:
            shapes[f"{spec.name}.weight"] = ("I8", (spec.rows, spec.columns))
            shapes[f"{spec.name}.multiplier"] = ("I32", (spec.rows,))
    exponents: dict[str, int] = {}
    done, total = 0, sum(spec.rows * spec.columns for spec in specs)
    with Writer(path, shapes) as writer:
        for spec in specs:
            progress(f"quantising {spec.name}", done, total)
            if spec.role == "gain":
                for block in source.read(spec.name):
                    writer.write(_gains(spec.name, block[0]))
            else:
                maxima = []
                for block in source.read(spec.name):
                    rows, block_maxima = quantise.rows(block)
                    writer.write(rows)
                    maxima.append(block_maxima)
                multiplier, exponents[spec.name] = quantise.multipliers(np.concatenate(maxima))
                writer.write(multiplier)
            done += spec.rows * spec.columns
    return exponents


def _gains(name: str, values: quantise.FloatArray) -> Any:
    try:
        return quantise.gains(values)
    except OverflowError as error:
        raise SourceError(name, str(error)) from error


def _write_tables(integer_tables: Tables, path: Path) -> None:
    arrays = vars(integer_tables)
    with Writer(path, {name: ("I32", array.shape) for name, array in arrays.items()}) as writer:
        for array in arrays.values():
            writer.write(array)


def _manifest(
    source: Source, recipe: Recipe, folder: Path, model_roots: Model, proved: tuple[bounds.Bound, ...]
) -> dict[str, Any]:
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in FILES}
    return {
        "format": 1,
        "name": recipe.name,
        "modelId": "0x" + model_roots.model_id.hex(),
        "architecture": "llama",
        "roots": model_roots.to_json(),
        "files": files,
        "limits": {
            "context": recipe.context,
            "vocabulary": source.shape.vocabulary,
            "stopTokens": sorted(recipe.stop_tokens or source.stop_tokens),
        },
        "bounds": [bound.to_json() for bound in proved],
        "source": {"file": source.file, "sha256": source.sha256, "recipe": Path(recipe.path).name},
        "licence": recipe.licence,
    }


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
